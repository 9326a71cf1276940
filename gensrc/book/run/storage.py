"""Folders that long work will be written to: tried before it begins, and named where that fails."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from gensrc.book.repository import BookError

ENOUGH = 2**20  # bytes to try a folder with, about those of a chapter with its pictures
CURES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "have its disk mounted for writing",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
}


def said(error: OSError) -> str:
    """What failed, where, and what to do."""
    where = error.filename or "a file, or what is printed,"
    reason = error.strerror or str(error) or type(error).__name__
    return f"{where} could not be used ({reason}): {CURES.get(error.errno or 0, 'see to that')}."


def full(message: str, folders: Iterable[Path]) -> list[str]:
    """Where there is how much room, if `message`, by whomever, is of a full disk: it seldom says which."""
    if os.strerror(errno.ENOSPC) not in message:
        return []
    room = [f"{shutil.disk_usage(folder).free / 1e6:,.0f} MB in {folder}" for folder in [*folders, temporary()]]
    return [
        f"  Make room on that disk; TMPDIR can name another folder for temporary files. Free are {' and '.join(room)}."
    ]


def check(folders: Iterable[Path]) -> None:
    """Raise BookError if something cannot be written to one of `folders`, which need not be there yet."""
    for folder in dict.fromkeys([*folders, temporary()]):
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        try:
            with tempfile.TemporaryFile(dir=there) as file:
                file.write(bytes(ENOUGH))
        except OSError as error:
            error.filename = folder
            raise BookError(said(error)) from error


def temporary() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except OSError as error:
        raise BookError(
            f"no folder for temporary files can be written: {error.strerror}; name one in TMPDIR."
        ) from error
