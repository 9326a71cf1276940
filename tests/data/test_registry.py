"""Finding, checking and fetching data files, and every failure of it. No request leaves this machine."""

import gzip
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlparse

import pooch
import pytest
from small_data import Mirror, send, write_card

from gensrc import provenance
from gensrc.data import registry
from gensrc.data.registry import DataError

LABELS = "mnist/t10k-labels-idx1-ubyte.xz"  # the smallest file of the pack
CONTENT = bytes(range(256)) * 1000
WRONG = CONTENT[:-1] + b"?"
NAME = "small/bytes.bin"


def refused() -> str:
    """An address at which no one listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/bytes.bin"


def on_demand(pack: Path, *urls: str) -> None:
    write_card(pack, "small", files={}, on_demand={"bytes.bin": (CONTENT, list(urls))})


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- The pack itself ------------------------------------------------------------------------------


def test_the_pack_holds_what_its_cards_list_and_no_more() -> None:
    for card in registry.cards(registry.PACK):
        listed = [Path(file.name).name for file in card.files] + ["LICENSE.txt", "card.json"]
        assert files_below(registry.PACK / card.name) == sorted(listed)
        for file in card.files:
            found = registry.PACK / file.name
            assert found.stat().st_size == file.size
            assert hashlib.sha256(found.read_bytes()).hexdigest() == file.sha256


def test_the_pack_stays_within_its_25_megabytes() -> None:
    assert sum(path.stat().st_size for path in registry.PACK.rglob("*") if path.is_file()) <= 25_000_000


def test_files_to_fetch_have_mirrors_at_two_hosts_or_more() -> None:
    for card in registry.cards(registry.PACK):
        for file in card.on_demand:
            assert len({urlparse(url).hostname for url in file.urls}) >= 2, file.name
            assert {Path(urlparse(url).path).name for url in file.urls} == {Path(file.name).name}


def test_importing_reads_no_file_and_loads_nothing_heavy() -> None:
    program = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
import gensrc.data, gensrc.data.registry
assert not {"torch", "pooch", "numpy"} & set(sys.modules)
assert not [name for name in opened if str(gensrc.data.registry.PACK) in name]
"""
    subprocess.run([sys.executable, "-c", program], env=environment(), check=True)


# --- Reading --------------------------------------------------------------------------------------


def test_an_unknown_file_is_named_with_the_sets_that_there_are() -> None:
    with pytest.raises(DataError, match=r"no data file 'mnist/nothing'.*fashion-mnist, .*mnist"):
        registry.path("mnist/nothing")


def damaged_copy(folder: Path, change: Callable[[bytes], bytes]) -> Path:
    copy = folder / LABELS
    copy.parent.mkdir(parents=True)
    copy.write_bytes(change((registry.PACK / LABELS).read_bytes()))
    return copy


CHANGES = {
    "corrupt": lambda content: content[:100] + bytes([content[100] ^ 1]) + content[101:],
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_damaged_file_of_ones_own_is_named_and_never_read(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = damaged_copy(tmp_path, CHANGES[change])
    monkeypatch.setenv("GENSRC_DATA", str(tmp_path))
    with pytest.raises(DataError) as caught:
        registry.read(LABELS)
    actual = hashlib.sha256(copy.read_bytes()).hexdigest()
    expected = hashlib.sha256((registry.PACK / LABELS).read_bytes()).hexdigest()
    for word in (str(copy), actual, expected, f"{copy.stat().st_size} bytes of 4040", "delete it"):
        assert word in str(caught.value)


def test_a_damaged_file_of_the_pack_asks_for_a_new_install(pack: Path, cache: Path) -> None:
    write_card(pack, "small", files={"bytes.bin": CONTENT})
    (pack / NAME).write_bytes(WRONG)
    with pytest.raises(DataError, match=r"bytes\.bin is damaged.*install gensrc again"):
        registry.path(NAME)


def test_a_missing_file_of_the_pack_asks_for_a_new_install(pack: Path, cache: Path) -> None:
    write_card(pack, "small", files={"bytes.bin": CONTENT})
    with pytest.raises(DataError, match=r"small/bytes\.bin is missing.*install gensrc again"):
        registry.path(NAME)


def test_a_file_is_checked_again_each_time(pack: Path, cache: Path) -> None:
    write_card(pack, "small", files={"bytes.bin": CONTENT})
    (pack / NAME).write_bytes(CONTENT)
    assert registry.read(NAME) == CONTENT
    (pack / NAME).write_bytes(WRONG)
    with pytest.raises(DataError, match="damaged"):
        registry.read(NAME)


def test_ones_own_folder_is_searched_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = damaged_copy(tmp_path, lambda content: content)
    assert registry.path(LABELS) == registry.PACK / LABELS
    monkeypatch.setenv("GENSRC_DATA", str(tmp_path))
    assert registry.path(LABELS) == copy
    assert registry.path(LABELS.replace("labels-idx1", "images-idx3")).is_relative_to(registry.PACK)


def test_a_folder_of_ones_own_that_is_not_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENSRC_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"GENSRC_DATA names .*nowhere, which is no folder: create it, or unset"):
        registry.path(LABELS)


def test_ones_own_folder_may_be_written_in_each_way_that_a_shell_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = damaged_copy(tmp_path / "own [x] #", lambda content: content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("own [x] #", "./own [x] #/", "~/own [x] #", "~/own [x] #//", str(tmp_path / "own [x] #") + "/"):
        monkeypatch.setenv("GENSRC_DATA", value)
        found = registry.path(LABELS)
        assert found.is_absolute(), value
        assert found.samefile(copy), value


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("data", "GENSRC_DATA names data, which is no folder: create it, or write its whole path"),
        (
            "a-file",
            "GENSRC_DATA names a-file, which is a file: name the folder that it lies in, or write its whole path",
        ),
        ("~nobody-here/data", "GENSRC_DATA names ~nobody-here/data, which is no folder: create it"),
        (" ", "which is no folder"),
    ],
)
def test_what_is_no_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, told: str) -> None:
    (tmp_path / "a-file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENSRC_DATA", value)
    with pytest.raises(DataError, match=re.escape(told)):
        registry.path(LABELS)


def test_a_run_depends_on_the_packs_file_wherever_it_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = tmp_path / "trace"
    monkeypatch.setenv("GENSRC_TRACE", str(trace))
    damaged_copy(tmp_path, lambda content: content)
    monkeypatch.setenv("GENSRC_DATA", str(tmp_path))
    registry.read(LABELS)
    assert provenance.recorded(trace) == [f"gensrc/data/files/{LABELS}"]


def test_a_python_without_lzma_raises_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lzma", None)
    with pytest.raises(DataError, match=r"without the module lzma.*install liblzma"):
        registry.read(LABELS)


# --- Fetching -------------------------------------------------------------------------------------


def test_a_file_is_fetched_once_with_a_progress_bar(
    pack: Path, cache: Path, mirror: Mirror, capsys: pytest.CaptureFixture[str]
) -> None:
    on_demand(pack, mirror.url("/bytes.bin"))
    mirror.files["/bytes.bin"] = CONTENT
    assert registry.path(NAME) == cache / NAME
    assert registry.read(NAME) == CONTENT
    assert mirror.requests == ["/bytes.bin"]
    assert NAME in capsys.readouterr().err
    assert files_below(cache) == [NAME]


def test_a_compressed_file_is_unpacked_by_read_alone(pack: Path, cache: Path, mirror: Mirror) -> None:
    """Some servers send a .gz file as text that is compressed on the way, if the client says that it can unpack it."""

    def in_transit(handler: BaseHTTPRequestHandler) -> None:
        packed = "gzip" in handler.headers.get("Accept-Encoding", "")
        send(handler, archive, {"Content-Encoding": "gzip"} if packed else {})

    archive = gzip.compress(CONTENT, mtime=0)
    write_card(pack, "small", files={}, on_demand={"bytes.gz": (archive, [mirror.url("/bytes.gz")])})
    mirror.files["/bytes.gz"] = in_transit
    assert registry.read("small/bytes.gz") == CONTENT
    assert (cache / "small/bytes.gz").read_bytes() == archive


def test_a_file_goes_to_ones_own_folder_if_there_is_one(
    pack: Path, cache: Path, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_demand(pack, mirror.url("/bytes.bin"))
    mirror.files["/bytes.bin"] = CONTENT
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setenv("GENSRC_DATA", str(own))
    assert registry.path(NAME) == own / NAME
    assert not cache.exists()


def broken_off(handler: BaseHTTPRequestHandler) -> None:
    send(handler, CONTENT[:1000], length=len(CONTENT))


BAD_MIRRORS: dict[str, Any] = {
    "dead": None,
    "missing": None,
    "wrong": WRONG,
    "broken off": broken_off,
    "short": CONTENT[:-1],
}


@pytest.mark.parametrize("bad", BAD_MIRRORS)
def test_the_second_mirror_is_used_when_the_first_is_bad(
    bad: str, pack: Path, cache: Path, mirror: Mirror, caplog: pytest.LogCaptureFixture
) -> None:
    first = refused() if bad == "dead" else mirror.url("/first")
    on_demand(pack, first, mirror.url("/second"))
    if bad not in ("dead", "missing"):
        mirror.files["/first"] = BAD_MIRRORS[bad]
    mirror.files["/second"] = CONTENT
    assert registry.read(NAME) == CONTENT
    assert files_below(cache) == [NAME]
    assert first in caplog.text


def test_a_mirror_that_sends_nothing_times_out(
    pack: Path, cache: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    over, waited = threading.Event(), []

    def stall(handler: BaseHTTPRequestHandler) -> None:
        send(handler, CONTENT[:1000], length=len(CONTENT))
        over.wait(10)
        waited.append(handler)

    monkeypatch.setattr(registry, "TIMEOUT", 0.2)
    on_demand(pack, mirror.url("/first"), mirror.url("/second"))
    mirror.files |= {"/first": stall, "/second": CONTENT}
    assert registry.read(NAME) == CONTENT
    assert not waited  # it was not the mirror that gave up
    over.set()


def test_when_all_mirrors_are_bad_each_is_listed_with_its_cause(pack: Path, cache: Path, mirror: Mirror) -> None:
    urls = [refused(), mirror.url("/missing"), mirror.url("/wrong")]
    on_demand(pack, *urls)
    mirror.files["/wrong"] = WRONG
    with pytest.raises(DataError) as caught:
        registry.path(NAME)
    head, dead, missing, wrong = str(caught.value).splitlines()
    assert head.startswith("small/bytes.bin (0.3 MB) could be had from no mirror")
    assert "GENSRC_DATA" in head
    assert urls[0] in dead
    assert "refused" in dead
    assert urls[1] in missing
    assert "404" in missing
    assert urls[2] in wrong
    assert hashlib.sha256(WRONG).hexdigest() in wrong
    assert hashlib.sha256(CONTENT).hexdigest() in wrong
    assert files_below(cache) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_raises_a_clear_error(
    pack: Path, cache: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_demand(pack, mirror.url("/bytes.bin"), mirror.url("/second"))
    mirror.files["/bytes.bin"] = CONTENT
    monkeypatch.setattr(registry.uuid, "uuid4", lambda: SimpleNamespace(hex="chosen"))
    (cache / "small").mkdir(parents=True)
    (cache / f"{NAME}.chosen.part").symlink_to("/dev/full")  # writing to it fails as on a full disk
    with pytest.raises(DataError, match=r"small/bytes\.bin \(0\.3 MB\).*No space left.*GENSRC_DATA"):
        registry.path(NAME)
    assert mirror.requests == ["/bytes.bin"]  # another mirror would not help
    assert list((cache / "small").iterdir()) == []
    assert Path("/dev/full").exists()


@contextmanager
def not_root() -> Iterator[None]:
    """Permissions bind everyone but root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that other users can enter, unlike pytest's own, in the place of the pack, with a cache below it."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    (folder / "cache").mkdir()
    monkeypatch.delenv("GENSRC_DATA", raising=False)
    monkeypatch.setattr(registry, "PACK", folder)
    monkeypatch.setattr(pooch, "os_cache", lambda project: folder / "cache")
    yield folder
    (folder / "cache").chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs Unix permissions")
@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_cache_that_may_not_be_written_is_named(mode: int, open_folder: Path, mirror: Mirror) -> None:
    on_demand(open_folder, mirror.url("/bytes.bin"))
    (open_folder / "cache").chmod(mode)
    with not_root(), pytest.raises(DataError) as caught:
        registry.path(NAME)
    for word in (str(open_folder / "cache"), "Permission denied", "GENSRC_DATA"):
        assert word in str(caught.value)
    assert mirror.requests == []


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs Unix permissions")
def test_a_file_that_may_not_be_read_is_named(open_folder: Path) -> None:
    write_card(open_folder, "small", files={"bytes.bin": CONTENT})
    (open_folder / NAME).write_bytes(CONTENT)
    (open_folder / NAME).chmod(0o000)
    with not_root(), pytest.raises(DataError, match=r"small/bytes\.bin cannot be read \(Permission denied\)"):
        registry.path(NAME)


# --- Several processes, and such as are stopped -----------------------------------------------------

PROGRAM = """
import hashlib, sys
from pathlib import Path
from gensrc.data import registry
registry.PACK = Path(sys.argv[1])
print(hashlib.sha256(registry.read(sys.argv[2])).hexdigest())
"""


def environment(own: Path | None = None) -> dict[str, str]:
    found = os.environ | {"PYTHONPATH": str(provenance.PACKAGE.parent)}
    found.pop("GENSRC_DATA", None)
    return found | ({"GENSRC_DATA": str(own)} if own else {})


def start(pack: Path, own: Path) -> subprocess.Popen[str]:
    own.mkdir(exist_ok=True)
    command = [sys.executable, "-c", PROGRAM, str(pack), NAME]
    return subprocess.Popen(command, env=environment(own), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_that_fetch_at_once_both_get_the_file(pack: Path, mirror: Mirror, tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=60)

    def together(handler: BaseHTTPRequestHandler) -> None:
        send(handler, CONTENT[:1000], length=len(CONTENT))
        both.wait()  # each has half a file now
        handler.wfile.write(CONTENT[1000:])

    on_demand(pack, mirror.url("/bytes.bin"))
    mirror.files["/bytes.bin"] = together
    processes = [start(pack, tmp_path / "own") for _ in range(2)]
    printed = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert printed == [hashlib.sha256(CONTENT).hexdigest()] * 2
    assert files_below(tmp_path / "own") == [NAME]


@pytest.mark.skipif(sys.platform == "win32", reason="needs Unix signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_download_leaves_no_file(
    how: signal.Signals, pack: Path, mirror: Mirror, tmp_path: Path
) -> None:
    halfway, over = threading.Event(), threading.Event()

    def half(handler: BaseHTTPRequestHandler) -> None:
        send(handler, CONTENT[: len(CONTENT) // 2], length=len(CONTENT))
        halfway.set()
        over.wait(60)

    on_demand(pack, mirror.url("/bytes.bin"))
    mirror.files["/bytes.bin"] = half
    own = tmp_path / "own"
    process = start(pack, own)
    assert halfway.wait(60)
    until(lambda: any(path.stat().st_size for path in own.rglob("*.part")))
    process.send_signal(how)
    process.communicate(timeout=60)
    over.set()
    assert process.returncode != 0
    assert not (own / NAME).exists()
    if how == signal.SIGINT:
        assert files_below(own) == []
    mirror.files["/bytes.bin"] = CONTENT
    output, errors = start(pack, own).communicate(timeout=60)
    assert output.strip() == hashlib.sha256(CONTENT).hexdigest(), errors
    shutil.rmtree(own)


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
