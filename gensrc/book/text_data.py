"""The page "Texts": examples and counts of the text data sets, out of the pack's files. Imports no torch.

What a set is good for is written here; every number and every example is read from the pack.
"""

import json
import lzma
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gensrc.data.registry import Card, cards

SPLITS = ("train", "validation", "test")
ENGLISH, CHINESE, TRADITIONAL, GERMAN = "en", "zh", "zh-Hant", "de"
Columns = dict[str, list[Any]]

INTRODUCTION = """\
# Texts

Six data sets of text: plays and poems to continue, names and phrases to translate, descriptions to sum up. Each has
three splits, fixed for good: one to learn from, one to choose settings by, one for the figures that a chapter reports.
Examples that are copies or near-copies of each other are kept in one split, so that no figure rests on memory; each
section says how that was made sure of. Files, checksums and sources are on the page of
[data sets and licences](datasets.md).

Texts become numbers by a vocabulary of characters, or by byte pairs, frequent runs of bytes that are learned from the
texts (these need the package tokenizers):

```python
from gensrc.data.text import shakespeare
from gensrc.data.vocabulary import BytePairs, Vocabulary

plays = shakespeare("train")
letters = Vocabulary.of(plays.texts)
letters.encode(plays.texts[0][:100])  # one token a character
pieces = BytePairs.of(plays.texts, size=1000)
pieces.encode(plays.texts[0][:100])  # one token a frequent piece
```

Both put the tokens 0 to 3 for padding, begin, end and unknown in front of their own, and both decode to the text that
was encoded. Byte pairs know every text; a vocabulary of characters raises an error for a character that it lacks, or
gives it the unknown token if it is made with `unknown="unk"`.
"""

# What a set is good for, and what it is not.
USES = {
    "shakespeare": """\
Good for language models of characters and small pieces: long-range order (who speaks, verse or prose), a small
alphabet, a text that every reader can judge. Not good for judging knowledge or present-day English, and too small for
anything but small models, which begin to learn it by heart.""",
    "poems": """\
Good for language models with a strict form that can be checked by counting: four verses of equal length, punctuation
in fixed places, rhyme. Not good for present-day Chinese. A model of characters meets many that it has seen once or
never.""",
    "emoji-names": """\
Good for translation in small: short names, quick to learn, in many languages; each belongs to a character, so words and
pictures can be brought together. Not good for sentences, and with fewer than two thousand pairs a model learns words
by heart rather than a language.""",
    "interface-strings": """\
Good for translation from a word up to a sentence, with few distinct words and a settled terminology, so that small
models get somewhere. Not good for everyday language, and scores on it say nothing about translation at large: most
texts are a few words long and about documents.""",
    "synopses": """\
Good for summaries of a known length, for pre-training on technical English, and for sorting texts into classes by their
sections, with few or many labels. Not good for claims about news or stories: many synopses can be read off the first
sentence, which is the baseline to beat.""",
    "multi30k": """\
Good for the figures that papers report on English and German, which the other sets cannot give. Not good offline: it is
fetched when it is first asked for. No example is shown here, as the archives state no licence.""",
}


def page(root: Path) -> str:
    """The MyST text of the page, from the pack in the repository `root`."""
    pack = root / "gensrc" / "data" / "files"
    found = {card.name: card for card in cards(pack)}
    return "\n".join([INTRODUCTION, *(_section(found[name], pack) for name in USES)])


def _section(card: Card, pack: Path) -> str:
    splits = {split: _columns(pack / card.name / f"{split}.json.xz") for split in SPLITS} if card.files else {}
    parts = [f"(text-{card.name})=", f"## {card.title}", "", card.about, ""]
    if splits:
        parts += [*_counts(card, splits), "", *EXAMPLES[card.name](splits["train"]), ""]
    return "\n".join([*parts, USES[card.name], "", card.quirks, "", _licence(card), ""])


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


def _counts(card: Card, splits: dict[str, Columns]) -> list[str]:
    """A table of the splits: examples, and for each column the number of characters, in all and of the middle one."""
    measured = MEASURED[card.name]
    titles = [f"{name}: characters | half are up to" for name in measured.values()]
    lines = [f"| Split | Examples | {' | '.join(titles)} |", "| --- |" + " ---: |" * (1 + 2 * len(measured))]
    for split, columns in splits.items():
        cells = [split, f"{card.counts[split]:,}"]
        for name in measured:
            lengths = sorted(map(len, columns[name]))
            cells += [f"{sum(lengths):,}", f"{lengths[(len(lengths) - 1) // 2]:,}"]
        lines.append(f"| {' | '.join(cells)} |")
    distinct = {text for columns in splits.values() for name in measured for text in columns[name]}
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


EXAMPLES: dict[str, Callable[[Columns], list[str]]] = {
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


def _licence(card: Card) -> str:
    where = f"Loader: `{card.loader}`. More on its source and files: [{card.title}](data-{card.name})."
    return f"Licence: [{card.licence}]({card.licence_url}). {card.attribution} {where}"
