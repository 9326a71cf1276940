"""The maintainers' script makes the same bytes each time, from the package that the card pins and no other."""

import gzip
import hashlib
import importlib.util
import io
import json
import tarfile
from pathlib import Path
from types import ModuleType

import pytest
import torch
from small_data import write_card

from gensrc.data.images import read_idx

SCRIPT = Path(__file__).parents[2] / "tools" / "make_data_pack.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_data_pack", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def packages(tmp_path: Path, pack: Path, tool: ModuleType) -> Path:
    """A folder with the package "small" 1.0.0 of four small files, which the card of "mnist" pins."""
    folder = tmp_path / "packages"
    folder.mkdir()
    with tarfile.open(folder / "small-1.0.0.tgz", "w:gz") as tar:
        for number, name in enumerate(tool.IDX_FILES):
            entry = tarfile.TarInfo(f"package/data/{name}")
            content = tool.write_idx(torch.full((5,), number, dtype=torch.uint8))
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    write_card(pack, "mnist", files={})
    pin(pack, hashlib.sha256((folder / "small-1.0.0.tgz").read_bytes()).hexdigest())
    return folder


def pin(pack: Path, sha256: str) -> None:
    path = pack / "mnist" / "card.json"
    card = json.loads(path.read_text(encoding="utf8"))
    card["source"]["sha256"] = sha256
    path.write_text(json.dumps(card), encoding="utf8")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_making_it_again_gives_the_same_bytes(
    tool: ModuleType, pack: Path, packages: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main(["mnist", "--packages", str(packages)], pack) == 0
    first = contents(pack)
    assert len(first) == 5
    printed = capsys.readouterr().out
    for file in json.loads(first["card.json"])["files"]:
        content = first[Path(file["name"]).name]
        assert (file["size"], file["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
        assert f"{len(content)} bytes  {file['name']}" in printed
    assert tool.main(["mnist", "--packages", str(packages)], pack) == 0
    assert contents(pack) == first


def test_check_reports_a_file_that_differs_and_changes_nothing(
    tool: ModuleType, pack: Path, packages: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool.main(["mnist", "--packages", str(packages)], pack)
    check = ["mnist", "--check", "--packages", str(packages)]
    assert tool.main(check, pack) == 0
    assert "byte for byte" in capsys.readouterr().out
    changed = pack / "mnist" / "t10k-labels-idx1-ubyte.xz"
    changed.write_bytes(tool.lzma.compress(tool.lzma.decompress(changed.read_bytes()), preset=0))
    (pack / "mnist" / "train-labels-idx1-ubyte.xz").write_bytes(tool.compress(b"other"))
    before = contents(pack)
    assert tool.main(check, pack) == 1
    printed = capsys.readouterr().out
    assert "t10k-labels-idx1-ubyte.xz: the same content, but other bytes" in printed
    assert "train-labels-idx1-ubyte.xz: other content" in printed
    assert "images" not in printed.split("other bytes")[1]
    assert contents(pack) == before


def test_a_package_other_than_the_pinned_one_is_refused(tool: ModuleType, pack: Path, packages: Path) -> None:
    pin(pack, "1" * 64)
    with pytest.raises(tool.PackError, match=rf"small-1\.0\.0\.tgz has SHA-256 .*pins {'1' * 64}"):
        tool.main(["mnist", "--packages", str(packages)], pack)
    assert list(contents(pack)) == ["card.json"]


def test_a_missing_client_is_named(
    tool: ModuleType, pack: Path, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (packages / "small-1.0.0.tgz").unlink()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(tool.PackError, match="needs the program npm: install it"):
        tool.main(["mnist", "--packages", str(packages)], pack)


def test_the_first_of_each_class_are_kept_in_their_order(tool: ModuleType) -> None:
    labels = torch.tensor([2, 0, 0, 2, 1, 0, 2, 1, 1])
    assert tool.first_of_each_class(labels, 2).tolist() == [0, 1, 2, 3, 4, 7]


def test_idx_files_are_read_back_as_written(tool: ModuleType) -> None:
    array = torch.arange(2 * 3 * 4).reshape(2, 3, 4).to(torch.uint8)
    assert torch.equal(read_idx(tool.write_idx(array[:, ::2])), array[:, ::2])


def test_a_gzip_files_name_and_time_can_be_put_back(tool: ModuleType) -> None:
    def packed(name: str, time: int) -> bytes:
        buffer = io.BytesIO()
        with gzip.GzipFile(name, "wb", 6, buffer, time) as stream:
            stream.write(b"pixels")
        return buffer.getvalue()

    published = bytearray(packed("pictures", 1504176606))
    published[9] = 3  # the publisher's gzip names its system, Python's does not
    assert tool.with_name_and_time(packed("", 0), "pictures", 1504176606) == published
