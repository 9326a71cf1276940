"""The measured line in the box at the top of a chapter: what a run costs, written by machine, never by hand.

The box holds the two marks below, each an HTML comment that no reader sees. What stands between them is made from the
stamp of the quick run and, once there is one, from the record of the full run.
"""

from pathlib import Path
from typing import Any

from gensrc.book import repository
from gensrc.book.run import records

OPEN, CLOSE = "<!-- measured -->", "<!-- /measured -->"


def fill(nb: dict[str, Any], stamp: dict[str, Any], record: dict[str, Any] | None) -> None:
    """Write the line into the first markdown cell that has the marks; a notebook without them stays as it is."""
    for cell in nb["cells"]:
        before, opened, rest = repository.source(cell).partition(OPEN)
        _, closed, after = rest.partition(CLOSE)
        if cell["cell_type"] == "markdown" and opened and closed:
            cell["source"] = f"{before}{OPEN}{line(stamp, record)}{CLOSE}{after}"
            return


def problems(root: Path, chapter: str) -> list[str]:
    """Says so if the line of an executed chapter is not the one that its stamp and its record give."""
    nb = repository.read_raw(repository.notebook_path(root, chapter))
    if not (stamp := nb.get("metadata", {}).get("gensrc")):
        return []
    before = [repository.source(cell) for cell in nb["cells"]]
    fill(nb, stamp, recorded(root, chapter))
    same = before == [repository.source(cell) for cell in nb["cells"]]
    return [] if same else ["what it says of its cost is not what was measured: execute it again"]


def recorded(root: Path, chapter: str) -> dict[str, Any] | None:
    """The record of the chapter's full run, if there is one."""
    path = repository.results_folder(root) / f"{chapter}.json"
    return records.load(path) if path.exists() else None


def line(stamp: dict[str, Any], record: dict[str, Any] | None) -> str:
    """For example "41 s and 0.9 GB of memory in the quick profile (a CPU); 18 min and ... in the full one (a GPU)"."""
    quick = f"{_cost(stamp)} in the quick profile ({records.machine(stamp)})"
    return quick if record is None else f"{quick}; {_cost(record)} in the full one ({records.machine(record)})"


def _cost(run: dict[str, Any]) -> str:
    return f"{_time(run['seconds'])} and {run['peak_mb'] / 1024:.1f} GB of memory"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
