"""The page of texts shows what the loaders give, marks what is not English, and lets no text act as markup."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from gensrc.book.text_data import _plain, page
from gensrc.data import text
from gensrc.data.registry import PACK, cards

ROOT = Path(__file__).parents[2]
HAN = re.compile("[\u3040-\u30ff\u3400-\u9fff\uff00-\uffef\U00020000-\U0003ffff]")


@pytest.fixture(scope="module")
def found() -> str:
    return page(ROOT)


def section(found: str, name: str) -> str:
    return found.split(f"(text-{name})=\n")[1].split("\n(text-")[0]


def test_each_text_data_set_has_a_section_with_what_its_card_says(found: str) -> None:
    texts = [card for card in cards(PACK) if card.loader.startswith("gensrc.data.text.")]
    assert len(texts) == 6
    for card in texts:
        own = section(found, card.name)
        for words in (f"## {card.title}\n", card.about, card.quirks, card.attribution, card.licence_url, card.loader):
            assert words in own


def test_the_counts_are_those_of_the_loaders(found: str) -> None:
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
                lengths = sorted(map(len, getattr(loaded, column)))
                every |= set().union(*getattr(loaded, column))
                middle = next(
                    length for length in lengths if sum(other <= length for other in lengths) >= len(lengths) / 2
                )
                cells += [f"{sum(lengths):,}", f"{middle:,}"]
            assert f"| {' | '.join(cells)} |\n" in section(found, name)
        assert f"have {len(every):,} different characters." in section(found, name)


def test_the_examples_are_in_the_training_split(found: str) -> None:
    poems = text.poems("train")
    shown = re.findall('<span lang="zh-Hant">([^<]{7,16}。)</span>', section(found, "poems"))
    assert len(shown) == 6
    assert all(any(line in poem for poem in poems.texts) for line in shown)
    rows = re.findall(r'^\| (.+) \| <span lang="zh">(.+)</span> \|$', section(found, "interface-strings"), re.MULTILINE)
    strings = text.interface_strings("train")
    assert len(rows) == 6
    assert set(rows) <= set(zip(strings.sources, strings.targets, strict=True))
    synopses = re.findall(r"^> \*\*(.+)\*\* \(", section(found, "synopses"), re.MULTILINE)
    assert len(synopses) == 3
    assert set(synopses) <= set(text.synopses("train").synopses)
    assert "To-morrow, and to-morrow, and to-morrow,\nCreeps" in section(found, "shakespeare")


def test_every_chinese_or_japanese_text_is_marked(found: str) -> None:
    unmarked = re.sub('<span lang="(zh|zh-Hant|ja|de)">.*?</span>', "", found)
    assert not HAN.findall(unmarked)
    assert len(HAN.findall(found)) > 200


def test_a_text_is_never_markup() -> None:
    plain = r"*a* _b_ `c` $d$ [e](f) {g}`h` <i> | j\k ~l~ <!--m--> # n &amp; ^o^"
    (line,) = MarkdownIt().parseInline(_plain(plain))
    assert {token.type for token in line.children or []} == {"text"}
    assert "".join(token.content for token in line.children or []) == plain


def test_the_page_is_made_without_torch() -> None:
    program = (
        f"import sys, pathlib; from gensrc.book.text_data import page; page(pathlib.Path({str(ROOT)!r})); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
