"""Write a file whole or not at all: a reader sees the old content or the new one, never a part of it."""

import os
import tempfile
from pathlib import Path


def write(path: Path, content: bytes | str) -> None:
    """Put `content` (a text as UTF-8, with line ends as they are) into the file `path`; its folder is made if missing.

    A file that exists keeps its mode, a new one gets what the umask says. Raises OSError, which names `path`, with the
    old file untouched and nothing left beside it, when the disk is full or the folder may not be written.
    """
    try:
        _write(path, content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # the system's names a passing file, or none


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a crash could leave the new name with no content
        os.chmod(name, path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())  # mkstemp gives 0600
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
