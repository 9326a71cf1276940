"""The headings of a chapter's or a page's Markdown, and the anchors by which links reach them.

One reader for all who ask: the check of chapters, the article map, the errata and the site. A line inside a fenced
block (``` or ~~~ for code, ::: for MyST's own) is no heading; a fence closes with at least as many of the same
character and nothing behind them, as CommonMark has it.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from gensrc.book import repository

FENCE = re.compile(r" {0,3}(`{3,}(?!.*`)|~{3,}|:{3,})(.*)")
HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+(.+?)(?:[ \t]+#+)?[ \t]*")
DEEPEST_ANCHOR = 4  # _config.yml: myst_heading_anchors


@dataclass(frozen=True)
class Heading:
    """One heading: its level, 1 to 6, its title as it is written, and its line in the text, counted from 0."""

    level: int
    title: str
    line: int

    @property
    def anchor(self) -> str:
        """What a link to it ends in."""
        return slug(self.title)


def headings(text: str) -> Iterator[Heading]:
    """The headings of a Markdown text, in order."""
    fence = ""
    for number, line in enumerate(text.splitlines()):
        mark = FENCE.fullmatch(line)
        if fence:
            if mark and mark[1].startswith(fence) and not mark[2].strip():
                fence = ""
        elif mark:
            fence = mark[1]
        elif found := HEADING.fullmatch(line):
            yield Heading(len(found[1]), found[2], number)


def of_cells(cells: Iterable[dict[str, Any]]) -> Iterator[Heading]:
    """The headings of a notebook's cells of prose, in order; their lines count from the beginning of their cells."""
    for cell in cells:
        if cell["cell_type"] == "markdown":
            yield from headings(repository.source(cell))


def anchors(nb: dict[str, Any]) -> set[str]:
    """What a link can point at in a notebook: the anchors of the headings that the site gives one.

    A heading needs no label of its own, which a reader of the notebook would see as stray text.
    """
    return {heading.anchor for heading in of_cells(nb["cells"]) if heading.level <= DEEPEST_ANCHOR}


def slug(title: str) -> str:
    """The anchor of a heading, in GitHub's manner, which is MyST's and Jupyter's too."""
    return re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")
