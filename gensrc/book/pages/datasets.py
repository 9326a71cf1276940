"""The page "Data sets", a section for each card of the data pack, and what is wrong with a card. Imports no torch.

A card alone makes a section; pages/examples adds, for the sets that it knows, what can be seen, heard or read.
"""

from pathlib import Path
from urllib.parse import urlparse

from gensrc.book.pages import schema
from gensrc.book.pages.examples import EXAMPLES
from gensrc.book.repository import BookError
from gensrc.data.registry import Card, File, Source, cards

PACK = "gensrc/data/files"
PACKAGES = {
    "npm": "npm package",
    "pip": "Python package",
    "apt": "Debian package",
    "apt-lists": "the list of packages of Debian",
}
INTRODUCTION = """\
# Data sets

Every chapter runs offline from the data pack, which is a part of the package gensrc: {sets}, {size} in all. Each file
is checked by its SHA-256 whenever it is read. What is too large for the pack is fetched once, when a chapter's full
profile asks for it, and kept in the user's cache; the environment variable GENSRC_DATA names a folder that is searched
first and that fetched files go to instead. `tools/make_data_pack.py` makes the pack again, byte by byte, from the
packages named here.

A loader gives tensors or texts, and each says here how many. Splits are fixed, and no example of one is in another;
each section says how near they come all the same.

```python
from gensrc.data.captions import captioned_digits
from gensrc.data.images import mnist
from gensrc.data.speech import RATE, speech
from gensrc.data.text import shakespeare
from gensrc.data.vocabulary import BytePairs, Vocabulary

digits = mnist("train")
digits.images, digits.labels  # levels in [0, 1], with dtype=torch.uint8 the stored bytes; a class for each
scenes = captioned_digits("train", 20_000, seed=0)
scenes.images, scenes.captions  # as many as are asked for, and what each shows
prompts = speech("train")
prompts.waves[0], prompts.codes[0]  # in [-1, 1], 8,000 samples a second; the same as whole numbers, 0 to 255
plays = shakespeare("train")
letters = Vocabulary.of(plays.texts)
letters.encode(plays.texts[0][:100])  # one token a character
pieces = BytePairs.of(plays.texts, size=1000)
pieces.encode(plays.texts[0][:100])  # one token a frequent run of bytes; needs the package tokenizers
```

Both ways from text to numbers put the tokens 0 to 3 for padding, begin, end and unknown in front of their own, and both
decode to the text that was encoded. Byte pairs know every text; a vocabulary of characters raises an error for a
character that it lacks, or gives it the unknown token if it is made with `unknown="unk"`.
"""


COUNTS = {
    "type": "object",
    "additionalProperties": {"type": "integer", "description": "a whole number"},
    "description": "a mapping of splits to numbers",
}
SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "64 hexadecimal digits"}
SIZE = {"type": "integer", "minimum": 1, "description": "a number of bytes"}
SOURCE = schema.fields(
    {
        "client": {"enum": list(PACKAGES), "description": f"one of {', '.join(PACKAGES)}"},
        "package": schema.TEXT,
        "version": schema.TEXT,
        "sha256": SHA256,
    }
)
FILE = schema.fields({"name": schema.TEXT, "size": SIZE, "sha256": SHA256}, {"urls": schema.TEXTS})
CARD = schema.fields(
    {name: schema.TEXT for name in ("name", "title", "about", "loader")}
    | {"counts": COUNTS, "on_demand_counts": COUNTS}
    | {name: schema.TEXT for name in ("licence", "licence_url", "attribution", "cut", "use", "quirks")}
    | {"source": {"oneOf": [SOURCE, {"type": "null"}], "description": "a package, or null"}}
    | {"files": schema.entries(FILE), "on_demand": schema.entries(FILE)},
    {"more_sources": schema.entries(SOURCE)},
)
NAMES = {"files": ("file", "name"), "on_demand": ("file", "name"), "more_sources": ("package", "package")}


def problems_of(root: Path) -> list[str]:
    """What is wrong with the cards in the repository `root`, one sentence each."""
    found = []
    for path in sorted((root / PACK).glob("*/card.json")):
        try:
            card = schema.load(path, CARD, NAMES)
        except BookError as error:
            found.append(f"{path.parent.name}/{error}")
            continue
        if card["name"] != path.parent.name:
            found.append(f"{path.parent.name}/card.json: the field 'name' must be that of the folder.")
        module = root.joinpath(*card["loader"].split(".")[:-1]).with_suffix(".py")
        if not module.is_file():
            found.append(f"{path.parent.name}/card.json: the loader's module {module.relative_to(root)} is not there.")
    return found


def page(root: Path) -> str:
    """The MyST text of the page, from the cards in the repository `root`."""
    found = cards(root / PACK)
    return text(found, {card.name: EXAMPLES[card.name](root) for card in found if card.name in EXAMPLES})


def text(found: list[Card], examples: dict[str, list[str]]) -> str:
    """The MyST text of the page for these cards, with what is to be shown of a set by its name."""
    size = sum(file.size for card in found for file in card.files)
    introduction = INTRODUCTION.format(sets=_and([card.title for card in found if card.files]), size=_size(size))
    return "\n".join([introduction, *(_section(card, examples.get(card.name, [])) for card in found)])


def _section(card: Card, examples: list[str]) -> str:
    rows = {
        "Loader": f"`{card.loader}`",
        "Examples": _counts(card.counts),
        "On demand": _counts(card.on_demand_counts) if card.on_demand else "",
        "Licence": f"[{card.licence}]({card.licence_url})",
        "Attribution": card.attribution,
        "Source": _and([_source(source) for source in (card.source, *card.more_sources) if source]),
        "How it was made": card.cut,
        "Good to know": card.quirks,
    }
    parts = [
        f"(data-{card.name})=\n## {card.title}\n",
        card.about + "\n",
        *examples,
        card.use + "\n",
        _properties(rows),
    ]
    if card.files:
        parts += [_files(card.files)]
    if card.on_demand:
        hosts = [urlparse(url).hostname or "" for url in card.on_demand[0].urls]
        parts += [f"On demand, from the first of these hosts that has them: {', '.join(hosts)}.\n"]
        parts += [_files(card.on_demand)]
    return "\n".join(parts)


def _properties(rows: dict[str, str]) -> str:
    lines = [line for name, value in rows.items() if value for line in (f"* - {name}", f"  - {value}")]
    return "\n".join(["```{list-table}", ":stub-columns: 1", ":widths: 20 80", "", *lines, "```", ""])


def _source(source: Source) -> str:
    return f"{PACKAGES[source.client]} `{source.package}`, version {source.version}"


def _files(files: tuple[File, ...]) -> str:
    lines = [f"| `{file.name}` | {_size(file.size)} | `{file.sha256[:12]}` |" for file in files]
    return "\n".join(["| File | Size | SHA-256 begins with |", "| --- | ---: | --- |", *lines, ""])


def _counts(counts: dict[str, int]) -> str:
    return _and([f"{count:,} {split}" for split, count in counts.items()])


def _and(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"
