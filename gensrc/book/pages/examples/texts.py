"""Examples and counts of the text data sets, for the page of data sets: all read from the pack. Imports no torch."""

import json
import lzma
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

SPLITS = ("train", "validation", "test")
ENGLISH, CHINESE, TRADITIONAL, GERMAN = "en", "zh", "zh-Hant", "de"
Columns = dict[str, list[Any]]


def examples(root: Path, name: str) -> list[str]:
    """A table of the splits of the text data set `name` and some of its examples, read from the pack."""
    folder = root / "gensrc" / "data" / "files" / name
    splits = {split: _columns(folder / f"{split}.json.xz") for split in SPLITS}
    return [*_counts(name, splits), "", *SHOWN[name](splits["train"]), ""]


def _columns(path: Path) -> Columns:
    columns = json.loads(lzma.decompress(path.read_bytes()))
    kept = [at for at, toned in enumerate(columns.pop("skin_tone", [])) if not toned]  # as the loader has it by default
    return {name: [values[at] for at in kept] for name, values in columns.items()} if kept else columns


# --- Counts ----------------------------------------------------------------------------------------

# Data set -> the columns that are measured, and what to call them.
MEASURED = {
    "shakespeare": {"texts": "Play"},
    "poems": {"texts": "Poem"},
    "emoji-names": {"en": "English name", "zh": "Chinese name"},
    "interface-strings": {"sources": "English", "targets": "Chinese"},
    "synopses": {"descriptions": "Description", "synopses": "Synopsis"},
}


def _counts(name: str, splits: dict[str, Columns]) -> list[str]:
    """A table of the splits: examples, and for each column the number of characters, in all and of the middle one."""
    measured = MEASURED[name]
    titles = [f"{title}: characters | half are up to" for title in measured.values()]
    lines = [f"| Split | Examples | {' | '.join(titles)} |", "| --- |" + " ---: |" * (1 + 2 * len(measured))]
    for split, columns in splits.items():
        cells = [split, f"{len(next(iter(columns.values()))):,}"]
        for column in measured:
            lengths = sorted(map(len, columns[column]))
            cells += [f"{sum(lengths):,}", f"{lengths[(len(lengths) - 1) // 2]:,}"]
        lines.append(f"| {' | '.join(cells)} |")
    distinct = {text for columns in splits.values() for column in measured for text in columns[column]}
    return [*lines, "", f"All splits together have {len(set().union(*distinct)):,} different characters."]


# --- Examples --------------------------------------------------------------------------------------


def _play(train: Columns) -> list[str]:
    at = train["titles"].index("MACBETH")
    start = train["texts"][at].index("SEYTON.\nThe queen, my lord, is dead.")
    return ["From *Macbeth*:", "", *_verbatim(train["texts"][at][start:].split("\n\n")[:2])]


def _poems(train: Columns) -> list[str]:
    shown = []
    for at in _spread(len(train["texts"]), 3):
        lines = "<br>".join(_in(TRADITIONAL, line) for line in train["texts"][at].split("\n"))
        shown += [
            f"> {_in(TRADITIONAL, train['titles'][at])}, {_in(TRADITIONAL, train['authors'][at])}:<br>{lines}",
            "",
        ]
    return shown[:-1]


def _names(train: Columns) -> list[str]:
    rows = ["| | English | Chinese | Traditional | Japanese | German |", "| --- | --- | --- | --- | --- | --- |"]
    pictures = [at for at, emoji in enumerate(train["emoji"]) if len(emoji) == 1 and emoji >= "\U0001f300"]
    for at in (pictures[number] for number in _spread(len(pictures), 6)):
        names = [_in(language, train[language][at]) for language in (CHINESE, TRADITIONAL, "ja", GERMAN)]
        rows.append(f"| {train['emoji'][at]} | {train['en'][at]} | {' | '.join(names)} |")
    return rows


def _strings(train: Columns) -> list[str]:
    rows = ["| English | Chinese |", "| --- | --- |"]
    at_most = [at for at, text in enumerate(train["sources"]) if len(text) <= 90]
    for at in (at_most[number] for number in _spread(len(at_most), 6)):
        rows.append(f"| {_plain(train['sources'][at])} | {_in(CHINESE, train['targets'][at])} |")
    return rows


def _synopses(train: Columns) -> list[str]:
    short = [at for at, text in enumerate(train["descriptions"]) if len(text) <= 320]
    shown = []
    for at in (short[number] for number in _spread(len(short), 3)):
        shown += [f"> **{_plain(train['synopses'][at])}** ({train['packages'][at]}, {train['sections'][at]})"]
        shown += [f">\n> {_plain(line)}" for line in train["descriptions"][at].split("\n")] + [""]
    return shown[:-1]


SHOWN: dict[str, Callable[[Columns], list[str]]] = {
    "shakespeare": _play,
    "poems": _poems,
    "emoji-names": _names,
    "interface-strings": _strings,
    "synopses": _synopses,
}


def _spread(length: int, count: int) -> list[int]:
    """`count` places in a list of `length`, one in the middle of each of as many equal parts."""
    return [(2 * part + 1) * length // (2 * count) for part in range(count)]


def _in(language: str, text: str) -> str:
    return f'<span lang="{language}">{_plain(text)}</span>'


def _plain(text: str) -> str:
    """`text` with a backslash before each sign that MyST would take for markup."""
    return re.sub(r"[\\`*_{}\[\]$|<>~#&^@]", r"\\\g<0>", text)


def _verbatim(paragraphs: list[str]) -> list[str]:
    return ["```text", "\n\n".join(paragraphs), "```"]


EXAMPLES: dict[str, Callable[[Path], list[str]]] = {name: partial(examples, name=name) for name in SHOWN}
