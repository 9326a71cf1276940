"""What every committed chapter keeps, whatever it is about: `gensrc-book check`.

Each rule is a function that takes the notebook and yields what is wrong, in words; `RULES` lists them. Cells are
named as In[n] would be: code cells counted from 1.
"""

import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from gensrc import alt_text
from gensrc.book import clean, repository
from gensrc.book.checks import staleness, stamp
from gensrc.book.headings import of_cells
from gensrc.book.release import colab_cell
from gensrc.report_lines import ABOUT, PLUS_MINUS, Report

Notebook = dict[str, Any]
Problems = Iterator[str]

MOST_LINES = 25
MOST_BYTES = 3 * 2**20
# The idea, the mathematics, the code and the experiment have headings of their own making.
FREE_SECTIONS = 4
LAST_SECTIONS = ("What the article gets wrong", "Exercises", "References")
FOLDED = {"hide-cell", "hide-input"}
# Others could keep a cell from being run or compared, or its output from being shown.
TAGS = {*FOLDED, "remove-input", "colab", "parameters"}


def check(root: Path, chapter: str) -> list[str]:
    """All that is wrong with a chapter; empty if it keeps the contract."""
    path = repository.notebook_path(root, chapter)
    nb = repository.read_notebook(path)
    problems = [problem for rule in RULES for problem in rule(nb)]
    size = path.stat().st_size
    if size > MOST_BYTES:
        problems.append(f"the file holds {size / 2**20:.1f} MB, at most {MOST_BYTES / 2**20:.0f} MB may be stored")
    if clean.dumps(clean.clean(nb)) != path.read_text(encoding="utf8"):
        problems.append("the file holds noise of an execution or an editor: run gensrc-book clean")
    cells = repository.code_cells(nb)
    if not cells or repository.source(cells[0]) != colab_cell.expected(root, nb):
        problems.append("the first code cell is not the one that belongs there: gensrc-book cell --write")
    prints = staleness.Fingerprints(root)
    problems += prints.settings(nb)
    used = staleness.distributions(prints.reached(staleness.code_of(nb)))
    for name in sorted(used - {*prints.pins, "pip"}):
        problems.append(f"it uses {name}, which constraints.txt does not pin")
    return problems


def clashes(root: Path) -> list[str]:
    """Names that figures of two chapters share: a link could not tell which one is meant."""
    first: dict[str, str] = {}
    problems = []
    for chapter in repository.chapters(root):
        for cell in repository.code_cells(repository.read_raw(repository.notebook_path(root, chapter))):
            name = cell["metadata"].get("mystnb", {}).get("figure", {}).get("name")
            if name and first.setdefault(name, chapter) != chapter:
                problems.append(f"{chapter}: {first[name]} has a figure named {name.removeprefix('fig-')!r} too")
    return problems


def first_cells(nb: Notebook) -> Problems:
    first = repository.code_cells(nb)[:1]
    if not first or not {"colab", "hide-input"} <= {*repository.tags(first[0])}:
        yield "the first code cell must be tagged colab and hide-input"


def kernel(nb: Notebook) -> Problems:
    name = nb["metadata"].get("kernelspec", {}).get("name")
    if name != "python3":
        yield f"its kernel must be python3, not {name}"


def short_cells(nb: Notebook) -> Problems:
    for number, cell in _numbered(nb):
        lines = _lines_of_code(repository.source(cell))
        if lines > MOST_LINES:
            yield f"code cell {number} has {lines} lines of code, at most {MOST_LINES} are allowed"


def _lines_of_code(code: str) -> int:
    """Lines that are neither blank nor comment."""
    return sum(1 for line in code.splitlines() if line.strip() and not line.lstrip().startswith("#"))


def known_tags(nb: Notebook) -> Problems:
    for number, cell in _numbered(nb):
        for tag in sorted({*repository.tags(cell)} - TAGS):
            yield f"code cell {number} is tagged {tag}; the tags of a chapter are {', '.join(sorted(TAGS))}"


def executed_in_order(nb: Notebook) -> Problems:
    counts = [cell.get("execution_count") for _, cell in _numbered(nb)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"its code cells must have been executed once, from top to bottom; their counts are {counts}"


def as_the_run_left_it(nb: Notebook) -> Problems:
    for problem in stamp.problems(nb):
        yield f"{problem}: execute it again, since only `gensrc-book execute` may change what it shows"


def quiet_outputs(nb: Notebook) -> Problems:
    for number, output in _outputs(nb):
        if output["output_type"] == "error":
            yield f"code cell {number} stores an error: {output['ename']}: {output['evalue']}"
        if output.get("name") == "stderr":
            yield f"code cell {number} stores output on stderr: {output['text'].strip().splitlines()[0]}"


def telling_reports(nb: Notebook) -> Problems:
    """A tolerance must not hold zero, else the line says nothing of its number. Zero itself is another matter."""
    for number, output in _outputs(nb):
        for line in output.get("text", "").splitlines():
            report = Report.parse(line)
            if report is not None and report.void:
                yield (
                    f"code cell {number} reports {report.label} {ABOUT} {report} within {PLUS_MINUS}{report.bound}, "
                    "which zero or next to it would meet too: narrow the tolerance, or claim a bound"
                )


def described_figures(nb: Notebook) -> Problems:
    for number, output in _outputs(nb):
        if "image/png" not in output.get("data", {}):
            continue
        figure = output["metadata"].get("gensrc", {}).get("figure")
        if figure is None:
            yield f"code cell {number} shows a picture without description: show it with notebook.figure"
        elif not alt_text.says_enough(figure.get("alt", "")):
            yield f"the figure in code cell {number} needs an alt text of {alt_text.LEAST} characters at least"
        elif not figure.get("caption", "").strip():
            yield f"the figure in code cell {number} needs a caption"
    for number, cell in _numbered(nb):
        shown = len(clean.figures(cell))
        if shown > 1:
            yield f"code cell {number} shows {shown} figures: one a cell, since the site numbers cells"


def seven_parts(nb: Notebook) -> Problems:
    headings = [(heading.level, heading.title) for heading in of_cells(nb["cells"])]
    titles = [title for level, title in headings if level == 1]
    if len(titles) != 1 or headings[0][0] != 1:
        yield f"it must begin with its title and have no other heading of level 1; it has {len(titles)}"
    sections = [title for level, title in headings if level == 2]
    last = [title for title in sections if title in LAST_SECTIONS]
    if tuple(last) != LAST_SECTIONS:
        yield f"it must end with the sections {', '.join(LAST_SECTIONS)}, in this order; it has {last or 'none'}"
    elif sections.index(LAST_SECTIONS[0]) < FREE_SECTIONS:
        yield (
            f"before '{LAST_SECTIONS[0]}' there must be a section each for the idea, the mathematics, the code "
            f"and the experiment; it has {sections[: sections.index(LAST_SECTIONS[0])]}"
        )
    elif sections[-1] != LAST_SECTIONS[-1]:
        yield f"its last section must be {LAST_SECTIONS[-1]}, not {sections[-1]}"


def folded_answers(nb: Notebook) -> Problems:
    """Each exercise, a heading of level 3, has an answer that is executed and folded away."""
    inside = False
    answered: dict[str, bool] = {}  # by exercise, in order
    for cell in nb["cells"]:
        for heading in of_cells([cell]):
            inside = heading.title == "Exercises" if heading.level <= 2 else inside
            if inside and heading.level == 3:
                answered[heading.title] = False
        if inside and answered and cell["cell_type"] == "code" and FOLDED & {*repository.tags(cell)}:
            answered[list(answered)[-1]] = True
    if not answered:
        yield "under Exercises there must be a heading of level 3 for each exercise; there is none"
    for title in (title for title, done in answered.items() if not done):
        yield f"the exercise '{title}' has no answer in a code cell tagged hide-cell or hide-input"


def nothing_from_elsewhere(nb: Notebook) -> Problems:
    """What a reader's browser would fetch from another host. Links that a reader may follow are no matter."""
    for number, output in _outputs(nb):
        for mime in ("text/html", "text/markdown", "image/svg+xml"):
            for address in fetched(output.get("data", {}).get(mime, "")):
                yield f"the output of code cell {number} would load {address}"
    for cell in nb["cells"]:
        if cell["cell_type"] == "markdown":
            for address in fetched(repository.source(cell)):
                yield f"the prose would load {address}"


OUTSIDE = r"""(?:https?:)?//[^\s"'()>,]+"""
IN_TEXT = re.compile(rf"""(?:url\(\s*["']?|@import\s+["']|!\[[^\]]*\]\(\s*<?)({OUTSIDE})""")
LOADED_BY_HREF = {"link", "image", "use", "feimage"}


def fetched(text: str) -> list[str]:
    """The addresses on other hosts that showing this HTML, Markdown or SVG loads by itself."""
    parser = _Fetches()
    parser.feed(text)
    return [*parser.found, *IN_TEXT.findall(text)]


class _Fetches(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            loads = name in ("src", "srcset", "poster") or (name == "data" and tag == "object")
            if loads or (name in ("href", "xlink:href") and tag in LOADED_BY_HREF):
                self.found += re.findall(rf"(?:^|[\s,])({OUTSIDE})", value or "")


RULES: tuple[Callable[[Notebook], Problems], ...] = (
    first_cells,
    kernel,
    short_cells,
    known_tags,
    executed_in_order,
    as_the_run_left_it,
    quiet_outputs,
    telling_reports,
    described_figures,
    seven_parts,
    folded_answers,
    nothing_from_elsewhere,
)


def _numbered(nb: Notebook) -> Iterator[tuple[int, dict[str, Any]]]:
    return enumerate(repository.code_cells(nb), 1)


def _outputs(nb: Notebook) -> Iterator[tuple[int, dict[str, Any]]]:
    return ((number, output) for number, cell in _numbered(nb) for output in cell["outputs"])
