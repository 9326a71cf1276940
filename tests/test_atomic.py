"""A file is written whole or not at all, by whoever writes one."""

import os
from pathlib import Path
from typing import Any

import pytest

from gensrc import atomic


def full_disk(*arguments: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("failing", ["os.replace", "os.fsync", "os.chmod"])
def test_a_failure_leaves_the_old_content_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "note.txt"
    path.write_text("old")
    monkeypatch.setattr(failing, full_disk)
    with pytest.raises(OSError, match="No space"):
        atomic.write(path, "new")
    assert [file.name for file in tmp_path.iterdir()] == ["note.txt"]
    assert path.read_text() == "old"


def test_a_failure_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a full disk's own message does not."""
    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left on device") as failed:
        atomic.write(tmp_path / "note.txt", "new")
    assert failed.value.filename == str(tmp_path / "note.txt")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as failed:
        atomic.write(tmp_path / "file" / "folder" / "note.txt", "new")
    assert failed.value.filename == str(tmp_path / "file" / "folder" / "note.txt")


@pytest.mark.parametrize("content", ["naïve\r\n≈", b"\x00\xff"])
def test_bytes_and_texts_are_written_as_they_are_and_the_mode_stays(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "note.txt"
    path.write_text("old")
    path.chmod(0o640)
    atomic.write(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_new_file_gets_its_folder_and_the_mode_that_the_umask_says(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        atomic.write(tmp_path / "new" / "note.txt", "new")
    finally:
        os.umask(mask)
    assert (tmp_path / "new" / "note.txt").stat().st_mode & 0o777 == 0o640
