"""One process at a time: a lock that ends with the process that holds it, however that ends."""

import fcntl
import os
from pathlib import Path
from typing import TextIO


class TakenError(Exception):
    """Another process holds the lock; the text is its number."""


def take(path: Path, *, wait: bool = False) -> TextIO:
    """Hold the lock `path` until the returned file is closed or this process is gone.

    If another process holds it, either waits for that or raises TakenError. A file system that knows no locks keeps
    nobody out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a+", encoding="utf8")  # noqa: SIM115 (the caller closes it)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        with file:
            file.seek(0)
            raise TakenError(file.read().strip() or "unknown") from None
    except OSError:
        return file
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
