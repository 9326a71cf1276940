"""The examples of texts are what the loaders give, what is not English is marked, and no text acts as markup."""

import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from gensrc.book.pages.examples.texts import EXAMPLES, _plain
from gensrc.data import text

ROOT = Path(__file__).parents[4]
HAN = re.compile("[\u3040-\u30ff\u3400-\u9fff\uff00-\uffef\U00020000-\U0003ffff]")


@pytest.fixture(scope="module")
def found() -> dict[str, str]:
    """What is shown of each data set, by its name."""
    return {name: "\n".join(make(ROOT)) for name, make in EXAMPLES.items()}


def test_the_counts_are_those_of_the_loaders(found: dict[str, str]) -> None:
    sets: list[tuple[str, Callable[[str], Any], list[str]]] = [
        ("shakespeare", text.shakespeare, ["texts"]),
        ("poems", text.poems, ["texts"]),
        ("emoji-names", text.emoji_names, ["sources", "targets"]),
        ("interface-strings", text.interface_strings, ["sources", "targets"]),
        ("synopses", text.synopses, ["descriptions", "synopses"]),
    ]
    for name, load, columns in sets:
        every: set[str] = set()
        for split in text.SPLITS:
            loaded = load(split)
            cells = [split, f"{len(loaded):,}"]
            for column in columns:
                lengths = list(map(len, getattr(loaded, column)))
                every |= set().union(*getattr(loaded, column))
                cells += [f"{sum(lengths):,}", f"{statistics.median_low(lengths):,}"]
            assert f"| {' | '.join(cells)} |\n" in found[name]
        assert f"have {len(every):,} different characters." in found[name]


def test_the_examples_are_in_the_training_split(found: dict[str, str]) -> None:
    poems = text.poems("train")
    shown = re.findall('<span lang="zh-Hant">([^<]{7,16}。)</span>', found["poems"])
    assert len(shown) == 6
    assert all(any(line in poem for poem in poems.texts) for line in shown)
    rows = re.findall(r'^\| (.+) \| <span lang="zh">(.+)</span> \|$', found["interface-strings"], re.MULTILINE)
    strings = text.interface_strings("train")
    assert len(rows) == 6
    assert set(rows) <= set(zip(strings.sources, strings.targets, strict=True))
    synopses = re.findall(r"^> \*\*(.+)\*\* \(", found["synopses"], re.MULTILINE)
    assert len(synopses) == 3
    assert set(synopses) <= set(text.synopses("train").synopses)
    assert "To-morrow, and to-morrow, and to-morrow,\nCreeps" in found["shakespeare"]


def test_every_chinese_or_japanese_text_is_marked(found: dict[str, str]) -> None:
    shown = "\n".join(found.values())
    unmarked = re.sub('<span lang="(zh|zh-Hant|ja|de)">.*?</span>', "", shown)
    assert not HAN.findall(unmarked)
    assert len(HAN.findall(shown)) > 200


def test_a_text_is_never_markup() -> None:
    plain = r"*a* _b_ `c` $d$ [e](f) {g}`h` <i> | j\k ~l~ <!--m--> # n &amp; ^o^"
    (line,) = MarkdownIt().parseInline(_plain(plain))
    assert {token.type for token in line.children or []} == {"text"}
    assert "".join(token.content for token in line.children or []) == plain
