"""The page "Data sets and licences", from the cards of the data pack. Imports no torch."""

from pathlib import Path
from urllib.parse import urlparse

from gensrc.data.registry import Card, File, Source, cards

PACKAGES = {
    "npm": "npm package",
    "pip": "Python package",
    "apt": "Debian package",
    "apt-lists": "the list of packages of Debian",
}
INTRODUCTION = """\
# Data sets and licences

Every chapter runs offline from the data pack, which is a part of the package gensrc: {sets}, {size} in all. Each file
is checked by its SHA-256 whenever it is read. What is too large for the pack is fetched once, when a chapter's full
profile asks for it, and kept in the user's cache; the environment variable GENSRC_DATA names a folder that is searched
first and that fetched files go to instead. `tools/make_data_pack.py` makes the pack again, byte by byte, from the
packages named here.
"""


def page(root: Path) -> str:
    """The MyST text of the page, from the cards in the repository `root`."""
    return text(cards(root / "gensrc" / "data" / "files"))


def text(found: list[Card]) -> str:
    """The MyST text of the page for these cards."""
    size = sum(file.size for card in found for file in card.files)
    introduction = INTRODUCTION.format(sets=_and([card.title for card in found if card.files]), size=_size(size))
    return "\n".join([introduction, *(_section(card) for card in found)])


def _section(card: Card) -> str:
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
    parts = [f"(data-{card.name})=\n## {card.title}\n", card.about + "\n", _properties(rows)]
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
