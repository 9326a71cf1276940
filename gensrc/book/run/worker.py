"""The process that executes one notebook, as seen by whoever starts it."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from gensrc.book.run import kernel_process

SHOWN = 20  # last lines of what a process has printed that are shown if it dies


class Worker:
    """A process of `kernel_process`, told what to do by `spec`.

    It tells how it goes through a socket. What it, its kernel and their libraries print is read beside that, by a
    thread of its own, and only the end of it is kept, to be shown if they die.
    """

    def __init__(self, spec: dict[str, Any], *, folder: Path, environment: dict[str, str]):
        self.channel, theirs = socket.socketpair()
        try:
            with theirs:
                told = json.dumps(spec | {"channel": theirs.fileno()})
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-m", kernel_process.__name__, told],
                    cwd=folder,
                    env=environment,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C is for this process, which then stops the others
                )
        except BaseException:
            self.channel.close()
            raise
        assert self.process.stdout is not None
        self.noise = b""
        self.reader = threading.Thread(target=self._read, args=[self.process.stdout], daemon=True)
        self.reader.start()

    def _read(self, printed: IO[bytes]) -> None:
        with printed:
            while chunk := os.read(printed.fileno(), 2**16):
                self.noise = (self.noise + chunk)[-(2**14) :]

    def events(self) -> Iterator[dict[str, Any]]:
        """What the process tells, until its end."""
        with self.channel.makefile("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):  # else it died in the middle of it
                    yield json.loads(line)

    def end(self) -> None:
        """Ask the process to end its kernel and itself."""
        if self.process.poll() is None:
            self.process.terminate()

    def stop(self) -> None:
        """See the process end, by force if it has to be."""
        self.end()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        self.stop()
        self.channel.close()

    def how_it_ended(self) -> str:
        code = self.process.wait()
        return f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"

    def last_words(self) -> str:
        """The last lines that the process or its kernel printed."""
        self.reader.join(1)  # a process that the kernel has left behind may print on
        text = self.noise.decode(errors="replace").replace("\r\n", "\n")
        clean = "".join(sign if sign.isprintable() or sign in "\n\t" else "?" for sign in text)
        return "\n".join(clean.splitlines()[-SHOWN:])
