"""What `gensrc-book execute` says while chapters run side by side."""

import shutil
import threading
from typing import TextIO


class Progress:
    """One line a chapter; on a terminal also one that shows what is running.

    That it cannot be written (the terminal is closed, the disk of the log full) ends no chapter: `lost` tells of it.
    """

    def __init__(self, out: TextIO):
        self.out = out
        self.live = out.isatty()
        self.running: dict[str, str] = {}
        self.lost: OSError | None = None
        self.lock = threading.Lock()

    def say(self, line: str) -> None:
        with self.lock:
            self._print(line)

    def started(self, chapter: str, cells: int) -> None:
        if not self.live:
            self.say(f"… {chapter}: {cells} code cells")

    def at(self, chapter: str, cell: int, cells: int) -> None:
        with self.lock:
            self.running[chapter] = f"{chapter} cell {cell}/{cells}"
            self._draw()

    def ended(self, chapter: str, line: str) -> None:
        with self.lock:
            self.running.pop(chapter, None)
            self._print(line)
            self._draw()

    def _print(self, line: str) -> None:
        self._write(("\r\x1b[K" if self.live else "") + line + "\n")

    def _draw(self) -> None:
        if self.live:
            self._write("\r\x1b[K" + " · ".join(self.running.values())[: shutil.get_terminal_size().columns - 1])

    def _write(self, text: str) -> None:
        if self.lost:
            return
        try:
            print(text, end="", file=self.out, flush=True)
        except OSError as error:
            error.filename = "what it prints"
            self.lost = error
