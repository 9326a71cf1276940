"""Carry records of full runs over a change of code that changes no figure: what `gensrc-book carry` does.

A full run takes hours, and a record whose code has only been rearranged is still true. Whether it has is judged by the
quick runs: where a checkout from before the change and this repository store outputs that are the same to the bit, text
and pictures, the record gets the digest of the code as it is now, and the date of this as `carried`. Its figures and
their date stay. Code that the quick profile never runs is not seen by this: that is for whoever reviews the change.
"""

import datetime
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from gensrc import atomic
from gensrc.book import repository
from gensrc.book.checks import staleness
from gensrc.book.repository import BookError
from gensrc.book.run import records

# What notebook.source shows: the file and the code. A change of code may change it, and it is no result.
LISTING = re.compile(r"`[\w./-]+`\n\n```python\n.*\n```", re.DOTALL)
CURRENT = "current"


def carry(root: Path, before: Path, chapters: list[str], told: Path | None = None) -> dict[str, str]:
    """Carry over the records of `chapters` where that is sound; what became of each.

    before: a checkout from before the change, whose notebooks and records are compared with those in `root`.
    told: what `gensrc-book status` printed there; by default the checkout's own code is asked.
    """
    if not (before / "notebooks").is_dir() or before.resolve() == root.resolve():
        raise BookError(f"{before} must be another checkout of the book, with its notebooks.")
    states = read_status(told.read_text(encoding="utf8") if told else ask_status(before))
    prints = staleness.Fingerprints(root)
    return {chapter: _carry(prints, before, chapter, states.get(chapter, ("", ""))) for chapter in chapters}


def ask_status(checkout: Path) -> str:
    """What the machinery of another checkout says of its own chapters."""
    command = [sys.executable, "-P", "-m", "gensrc.book.cli", "status"]
    own = {"PYTHONPATH": str(checkout.resolve()), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONIOENCODING": "utf8"}
    environment = os.environ | own
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, encoding="utf8")
    if done.returncode not in (0, 1):  # 1: some chapter is stale
        raise BookError(f"`gensrc-book status` failed in {checkout}: {done.stderr.strip()}")
    return done.stdout


def read_status(table: str) -> dict[str, tuple[str, str]]:
    """Chapter -> its state and that of its full run, from the table that `gensrc-book status` prints."""
    head, *lines = table.splitlines() or [""]
    columns = [head.find(title) for title in ("state", "verified", "full run", "why")]
    if -1 in columns:
        raise BookError("this is no table of `gensrc-book status`: its first line must name the columns.")
    state, verified, full, why = columns
    return {line.split()[0]: (line[state:verified].strip(), line[full:why].strip()) for line in lines if line.strip()}


def _carry(prints: staleness.Fingerprints, before: Path, chapter: str, then: tuple[str, str]) -> str:
    path, old = record_path(prints.root, chapter), record_path(before, chapter)
    now = staleness.status(prints, chapter)
    if now.full in (CURRENT, "none"):
        return {CURRENT: "its record is current", "none": "it has no record"}[now.full]
    if then != ("fresh", CURRENT):
        return f"left: before, it was {then[0] or 'not there'} and its full run {then[1] or 'not there'}"
    record = records.load(path)
    if not old.is_file() or _without_carrying(records.load(old)) != _without_carrying(record):
        return "left: its record is not the one from before"
    if now.reasons:
        return "left: it is stale, so that there are no outputs of the new code to compare; execute it first"
    there, here = (repository.read_raw(repository.notebook_path(folder, chapter)) for folder in (before, prints.root))
    if apart := first_difference(outputs(there), outputs(here)):
        return f"left: {apart}"
    files = _files(prints.root, record["files"], there, here)
    parts = prints.parts(staleness.code_of(here), files, record["profile"], record["seed"])
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    atomic.write(path, records.dumps(record | {"hash": staleness.digest(parts), "files": files, "carried": today}))
    return "carried over"


def record_path(root: Path, chapter: str) -> Path:
    return repository.results_folder(root) / f"{chapter}.json"


def _without_carrying(record: records.Result) -> records.Result:
    """A record but for what carrying it over writes."""
    return {name: value for name, value in record.items() if name not in ("hash", "files", "carried")}


def _files(root: Path, recorded: list[str], there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """The data files that a full run would read now: those that it read, with new names for what has been renamed."""
    read_there, read_here = (set(nb["metadata"]["gensrc"]["files"]) for nb in (there, here))
    return sorted({file for file in recorded if (root / file).is_file()} | (read_here - read_there))


def outputs(nb: dict[str, Any]) -> list[Any]:
    """What a reader sees of a run, in order: printed text in one piece, and displays without listings of code."""
    shown: list[Any] = []
    for output in (output for cell in repository.code_cells(nb) for output in cell["outputs"]):
        if output["output_type"] == "stream":
            text = "".join(output["text"])
            if shown and isinstance(shown[-1], str):
                shown[-1] += text
            else:
                shown.append(text)
        else:
            data: dict[str, Any] = {
                mime: "".join(value) if isinstance(value, list) else value for mime, value in output["data"].items()
            }
            if not LISTING.fullmatch(data.get("text/markdown", "")):
                shown.append(data)
    return shown


def first_difference(there: list[Any], here: list[Any]) -> str:
    """Where two lists of outputs part, in words; "" if they are the same."""
    for number, (old, new) in enumerate(zip(there, here, strict=False), 1):
        if old != new:
            what = "a display" if isinstance(old, dict) or isinstance(new, dict) else _first_line(old, new)
            return f"output {number} differs from the one before: {what}"
    return "" if len(there) == len(here) else f"it shows {len(here)} outputs, {len(there)} before"


def _first_line(old: str, new: str) -> str:
    pairs = zip([*old.splitlines(), ""], [*new.splitlines(), ""], strict=False)
    return next((json.dumps(f"{one} | {other}", ensure_ascii=False) for one, other in pairs if one != other), "its end")
