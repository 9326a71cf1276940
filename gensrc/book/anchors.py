"""What a link can point at in a chapter."""

import json
import re
from collections.abc import Iterable
from pathlib import Path


def anchors(notebook: Path) -> set[str]:
    """What a link can point at in a notebook: the slugs of its headings down to the third level, as MyST makes them.

    A heading needs no label of its own, which a reader of the notebook would see as stray text. ValueError if the file
    is no notebook.
    """
    try:
        cells = json.loads(notebook.read_text(encoding="utf8"))["cells"]
        texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{notebook} cannot be read as a notebook: {error!r}. Restore it or execute it again."
        ) from error
    return {slug(title) for text in texts for title in _headings(text)}


def slug(title: str) -> str:
    """The anchor of a heading, in GitHub's manner, which is MyST's and Jupyter's too."""
    return re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")


def _headings(text: str) -> Iterable[str]:
    fence = ""
    for line in text.splitlines():
        mark = re.match(r" {0,3}(`{3,}|~{3,})(.*)", line)
        if fence:
            # A fence closes with at least as many of the same character, and nothing after them.
            if mark and mark[1].startswith(fence) and not mark[2].strip():
                fence = ""
        elif mark:
            fence = mark[1]
        elif heading := re.fullmatch(r" {0,3}#{1,3} +(.+?) *#* *", line):
            yield heading[1]
