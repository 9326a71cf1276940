"""CIFAR-10 is fetched, checked and read as its publisher describes, and what is no such file is refused."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_data import Mirror, write_card

from gensrc.data import registry
from gensrc.data.cifar import BATCHES, PICTURE, cifar10, read_batches, read_cifar
from gensrc.data.registry import DataError


def batch(*labels: int) -> bytes:
    """A file of pictures: red is 10, green 20 and blue 25 times the label, and 1 more at the first pixel."""
    planes = [bytes([shade * label + 1]) + bytes([shade * label]) * 1023 for label in labels for shade in (10, 20, 25)]
    return b"".join(bytes([label]) + b"".join(planes[3 * row : 3 * row + 3]) for row, label in enumerate(labels))


def archive(files: dict[str, bytes]) -> bytes:
    return gzip.compress(uncompressed(files))


def uncompressed(files: dict[str, bytes]) -> bytes:
    stored = io.BytesIO()
    with tarfile.open(fileobj=stored, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return stored.getvalue()


WHOLE = {f"data_batch_{number}.bin": batch(number, number + 1) for number in range(1, 6)} | {"test_batch.bin": batch(9)}


@pytest.fixture
def fetched(pack: Path, cache: Path, mirror: Mirror) -> Mirror:
    content = archive(WHOLE)
    mirror.files["/second"] = content
    urls = [mirror.url("/first"), mirror.url("/second")]
    write_card(pack, "cifar-10", files={}, on_demand={"cifar-10-binary.tar.gz": (content, urls)})
    return mirror


def test_cifar10_is_fetched_from_a_working_mirror_and_read_in_order(fetched: Mirror) -> None:
    train = cifar10("train", dtype=torch.uint8)
    assert train.images.shape == (10, 3, 32, 32)
    assert train.labels.tolist() == [1, 2, 2, 3, 3, 4, 4, 5, 5, 6]
    assert train.names[6] == "frog"
    assert train.images[1, :, 5, 7].tolist() == [20, 40, 50]
    assert train.images[1, :, 0, 0].tolist() == [21, 41, 51]
    test = cifar10("test")
    assert test.labels.tolist() == [9]
    assert test.images[0, :, 31, 31].tolist() == pytest.approx([90 / 255, 180 / 255, 225 / 255])


def test_the_card_names_the_publishers_archive_and_other_mirrors() -> None:
    (card,) = [card for card in registry.cards(registry.PACK) if card.name == "cifar-10"]
    (file,) = card.on_demand
    assert file.size == 170_052_171
    assert len({url.split("/")[2] for url in file.urls}) == 3
    assert card.on_demand_counts == {"train": 50_000, "test": 10_000}
    assert sum(map(len, BATCHES.values())) == 6


def test_other_arguments_are_errors_before_anything_is_fetched(fetched: Mirror) -> None:
    with pytest.raises(ValueError, match="split has to be 'train' or 'test', not 'valid'"):
        cifar10("valid")
    with pytest.raises(ValueError, match=r"torch\.float32 or torch\.uint8, not torch\.float16"):
        cifar10(dtype=torch.float16)
    assert not list(Path(registry.PACK).parent.rglob("*.gz"))


WRONG = {
    "nothing": (b"", "0 bytes are no whole number of 3073"),
    "half a picture": (bytes(4000), "4000 bytes are no whole number of 3073"),
    "another label": (b"\x0a" + bytes(PICTURE - 1), "it has the label 10, and the last is 9"),
}


@pytest.mark.parametrize("case", WRONG)
def test_files_that_hold_no_pictures_are_refused(case: str) -> None:
    content, message = WRONG[case]
    with pytest.raises(DataError, match=message):
        read_cifar(content)


def test_an_archive_that_lacks_a_file_or_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "small.tar.gz"
    path.write_bytes(archive({"test_batch.bin": batch(1)}))
    with pytest.raises(
        DataError, match=r"is no archive of CIFAR-10 \(.*data_batch_1\.bin.*\): delete it and run again"
    ):
        read_batches(path, BATCHES["train"])
    path.write_bytes(archive(WHOLE)[:-40])
    with pytest.raises(DataError, match="is no archive of CIFAR-10"):
        read_batches(path, BATCHES["test"])
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match="is no archive of CIFAR-10"):
        read_batches(path, BATCHES["test"])


@given(st.binary(max_size=64), st.integers(0, 3), st.integers(0, 2 * PICTURE), st.integers(0, 2 * PICTURE))
def test_any_bytes_give_pictures_or_the_documented_error(other: bytes, label: int, start: int, end: int) -> None:
    whole = batch(label, 9 - label)
    for content in (other, whole[:start], whole[:start] + other + whole[end:], other * 200):
        try:
            images, labels = read_cifar(content)
        except DataError:
            continue
        assert len(content) == len(images) * PICTURE
        assert images[0].flatten().numpy().tobytes() == content[1:PICTURE]
        assert labels.max() <= 9


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=64), st.integers(0, 600), st.integers(0, 600))
def test_any_archive_gives_files_or_the_documented_error(tmp_path: Path, other: bytes, start: int, end: int) -> None:
    plain = uncompressed({"test_batch.bin": batch(1, 2)})
    whole = gzip.compress(plain)
    for content in (other, whole[:start] + other + whole[end:], gzip.compress(plain[:start] + other + plain[end:])):
        (tmp_path / "any.tar.gz").write_bytes(content)
        try:
            found = read_batches(tmp_path / "any.tar.gz", BATCHES["test"])
        except DataError:
            continue
        assert len(found) <= 2 * PICTURE
