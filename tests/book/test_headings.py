"""Headings are read one way, and a notebook's anchors are those that MyST gives to its headings."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from gensrc.book import headings
from gensrc.book.headings import Heading

ROOT = Path(__file__).resolve().parents[2]
FENCED = "````md\n## fenced\n```\n# still fenced\n````"
COLON = ":::{note}\n# in a note\n:::"


def read(text: str) -> list[tuple[int, str]]:
    return [(heading.level, heading.title) for heading in headings.headings(text)]


def test_a_heading_has_its_level_title_line_and_anchor() -> None:
    assert list(headings.headings("Text.\n\n  ### A0-E6: a loss, `sum` or mean? ##  ")) == [
        Heading(3, "A0-E6: a loss, `sum` or mean?", 2)
    ]
    assert Heading(3, "A0-E6: a loss, `sum` or mean?", 2).anchor == "a0-e6-a-loss-sum-or-mean"


@pytest.mark.parametrize("text", ["an # inline one", "#no", "    # code", "####### seven", "#", "# "])
def test_other_lines_are_no_headings(text: str) -> None:
    assert read(text) == []


@pytest.mark.parametrize("text", [FENCED, COLON, "~~~\n# fenced\n~~~", "```\n# never closed"])
def test_a_line_in_a_fenced_block_is_no_heading(text: str) -> None:
    assert read(text) == []


def test_a_fence_ends_only_at_its_own_mark() -> None:
    assert read("```\n# in\n~~~\n# in\n```md\n# in\n```` \n# out\n``` not a fence`\n# out too") == [
        (1, "out"),
        (1, "out too"),
    ]


@pytest.mark.parametrize("text", ["# A\n\n## B ##\n\n#### C#\n", FENCED + "\n# after", "# `x` # y\n"])
def test_markdown_it_finds_the_same_headings(text: str) -> None:
    tokens = MarkdownIt().parse(text)
    theirs = [
        (int(token.tag[1]), tokens[at + 1].content) for at, token in enumerate(tokens) if token.type == "heading_open"
    ]
    assert read(text) == theirs


def cell(kind: str, source: str) -> dict[str, Any]:
    return {"cell_type": kind, "source": source.splitlines(keepends=True)}


def test_anchors_are_those_of_prose_down_to_the_level_that_the_site_links() -> None:
    cells = [cell("markdown", "# The title\n\n#### Deep\n\n##### Too deep"), cell("code", "# a comment\n")]
    assert headings.anchors({"cells": [*cells, cell("markdown", "## Other")]}) == {"the-title", "deep", "other"}
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf8"))
    assert config["sphinx"]["config"]["myst_heading_anchors"] == headings.DEEPEST_ANCHOR
