"""nbval with the tolerance that the author declared: a pytest plugin for the notebooks of this book.

A chapter prints a measured number with its tolerance, `test ELBO ≈ -104.1 nats (±5 %)`. nbval compares text
and would fail on another processor's last digits. With this plugin such a line passes if the label, the unit
and the tolerance are the stored ones and the number lies within the tolerance of the stored number. All other
text stays exact.

pytest loads the plugin wherever gensrc is installed, so it has to know whose notebook it sees: it acts on one that
has the stamp of an execution (`metadata.gensrc`), on one that imports gensrc, and on whatever lies in the book's
notebooks/. Everybody else's notebooks are compared as nbval compares them.
"""

import ast
import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from gensrc.book import clean
from gensrc.report_lines import Report


def disagreements(stored: str, computed: str) -> Iterator[str]:
    """What makes a computed text differ from the stored one, line by line, in words."""
    for old, new in zip_longest(stored.split("\n"), computed.split("\n")):
        if old is None or new is None:
            yield f"missing line: {old}" if new is None else f"line that was not there: {new}"
            continue
        report, other = Report.parse(old), Report.parse(new)
        if report is None or other is None or report.bound != other.bound:
            if old != new:
                yield f"stored line: {old} | computed line: {new}"
        elif not report.accepts(other):
            same = (report.label, report.unit) == (other.label, other.unit)
            yield report.quarrel(other) if same else f"stored line: {old} | computed line: {new}"


class Tolerant(str):
    """Text that nbval finds different only where `disagreements` are; it keeps them in `notes`.

    nbval asks `stored != computed`. Equality proper stays that of str.
    """

    notes: list[str]

    def __ne__(self, computed: object) -> bool:
        found = list(disagreements(self, str(computed)))
        self.notes += found
        return bool(found)


RECORD = "application/papermill.record/"  # glue keeps the value itself there, beside what it shows
EMBEDDED = re.compile(r"data:[\w.+-]+/[^\"'()<>]*")  # a picture inside HTML, not compared like all pictures


def comparable(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The outputs without what is no statement: stderr, progress bars, glued records, pixels."""
    bare = [
        _without_pixels(output)
        for output in outputs
        if output.get("name") != "stderr" and not clean.is_progress_bar(output)
    ]
    return [output for output in bare if output.get("data") != {}]


def _without_pixels(output: dict[str, Any]) -> dict[str, Any]:
    if "data" not in output:
        return output
    data = {mime: value for mime, value in output["data"].items() if not mime.startswith(RECORD)}
    if not {"image/png", "image/jpeg"}.isdisjoint(data):
        data["picture"] = "shown"  # nbval skips pictures, also one that is gone
    if isinstance(data.get("text/html"), str):
        data["text/html"] = EMBEDDED.sub("data:", data["text/html"])
    return type(output)(output, data=data)


# nbval waits so long for an output that is still on its way; its own 5 seconds are too short beside other work.
OUTPUT_TIMEOUT = 60


def pytest_itemcollected(item: Any) -> None:
    """Teach a cell of ours that nbval has collected to compare with tolerance. Does nothing to any other test."""
    is_cell = any((kind.__module__, kind.__name__) == ("nbval.plugin", "IPyNbCell") for kind in type(item).__mro__)
    if is_cell and is_ours(item.parent.nb, item.parent.path):
        item.output_timeout = OUTPUT_TIMEOUT
        _compare_with_tolerance(item)
        _demand_execution(item)


def is_ours(nb: dict[str, Any], path: Path) -> bool:
    """Whether a notebook belongs to the book: stamped by it, using its module, or one of its files, run or not."""
    if "gensrc" in nb["metadata"]:
        return True
    if any(cell["cell_type"] == "code" and _imports_gensrc(cell["source"]) for cell in nb["cells"]):
        return True
    above = [folder.parent for folder in path.parents if folder.name == "notebooks"]
    return any((root / "gensrc" / "book" / "checks" / "tolerance.py").is_file() for root in above)


def _imports_gensrc(source: str) -> bool:
    """Whether this code imports the module; lines of IPython's own are passed over, a cell of another language too."""
    if "gensrc" not in source or source.lstrip().startswith("%%"):
        return False
    python = re.sub(r"^([ \t]*)[%!?].*$", r"\1pass", source, flags=re.MULTILINE)
    try:
        nodes = [*ast.walk(ast.parse(python))]
    except SyntaxError:
        return False
    named = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    named += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return any(name.partition(".")[0] == "gensrc" for name in named)


def _compare_with_tolerance(cell: Any) -> None:
    notes: list[str] = []
    sanitize, compare = cell.sanitize, cell.compare_outputs

    def tolerant(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        text = Tolerant(sanitize(value))
        text.notes = notes
        return text

    def compare_outputs(test: Any, ref: Any, skip_compare: Any = None) -> bool:
        notes.clear()
        same = compare(comparable(test), comparable(ref), skip_compare)
        if not same:
            cell.comparison_traceback[:0] = [f"Cell {cell.cell_num}: {note}" for note in notes]
        return same

    cell.sanitize, cell.compare_outputs = tolerant, compare_outputs


def _demand_execution(cell: Any) -> None:
    """nbval compares nothing, and passes, where the stored cell was never executed; such a cell fails here."""
    run = cell.runtest

    def runtest() -> None:
        run()  # first, since later cells build on it
        meant = "skip-execution" in cell.cell.metadata.get("tags", [])
        if cell.cell.execution_count is None and cell.cell.source.strip() and cell.options["check"] and not meant:
            cell.raise_cell_error(
                "This cell was never executed, so there is no stored output to compare with: "
                "execute the notebook and save it."
            )

    cell.runtest = runtest
