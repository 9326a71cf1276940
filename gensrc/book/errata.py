"""The errata of the five articles: book/errata.yml read, checked and made into a page.

`load` reads the file and rejects what it cannot mean, `problems` compares it with the chapters and the
bibliography, and `page` makes the MyST text of the errata page. The caller says where the files are.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from gensrc.book import articles

# What the articles hold, counted when they were checked line by line. A lost entry must not go unnoticed.
COUNTS = {"A0": 33, "A1": 38, "A2": 28, "A3": 26, "A4": 25}


@dataclass(frozen=True)
class Kind:
    """A kind of erratum: its name on the page, the class of its badge, and what it means."""

    label: str
    badge: str
    meaning: str


KINDS = {
    "stop": Kind("Stops", "danger", "the code raises an exception."),
    "wrong": Kind(
        "Wrong", "warning", "the code runs, or the formula reads well, and is wrong in mathematics or logic."
    ),
    "convention": Kind(
        "Convention",
        "info",
        "it can be defended, but departs from the paper, from common practice or from the article's own "
        "words, or breaks easily.",
    ),
    "prose": Kind("Prose", "primary", "a statement of the text that is not so."),
    "page": Kind("Page", "dark", "damage done by the web page, not by the author."),
}


@dataclass(frozen=True)
class Erratum:
    """One entry of errata.yml. The texts are MyST; `shown` is "" or "<chapter>#<anchor>"."""

    id: str
    kind: str
    line: str
    where: str
    printed: str
    happens: str
    right: str
    sources: tuple[str, ...]
    shown: str

    @property
    def article(self) -> str:
        """The article's id, for example "A0"."""
        return self.id.partition("-")[0]


FIELDS = tuple(field.name for field in fields(Erratum))
PATTERNS = {
    "id": (re.compile(r"A\d-E[1-9]\d*"), 'must look like "A0-E6"'),
    "line": (re.compile(r"\d+(-\d+)?(, \d+(-\d+)?)*"), 'must look like "131" or "158-162, 193"'),
    "shown": (re.compile(r"([^#\s]+#[^#\s]+)?"), 'must be "" or "<chapter>#<anchor>"'),
}


def load(path: Path) -> list[Erratum]:
    """The errata of `path`, in order. A ValueError names the file, the entry and the field at fault."""
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(entries, list):
        raise ValueError(f"{path} must hold a list of errata, but holds {type(entries).__name__}.")
    errata = [_erratum(path, number, entry) for number, entry in enumerate(entries, 1)]
    for identifier, times in Counter(erratum.id for erratum in errata).items():
        if times > 1:
            raise ValueError(f"{path}, entry {identifier}: the field 'id' is used {times} times; it must be unique.")
    return errata


def _erratum(path: Path, number: int, entry: Any) -> Erratum:
    if not isinstance(entry, dict):
        raise ValueError(f"{path}, entry {number}: must be a mapping with the fields {', '.join(FIELDS)}.")
    place = f"{path}, entry {number} ({entry.get('id', 'no id')})"
    for field in entry:
        if field not in FIELDS:
            raise ValueError(f"{place}: unknown field {field!r}; the fields are {', '.join(FIELDS)}.")
    for field in FIELDS:
        if field not in entry:
            raise ValueError(f"{place}: the field {field!r} is missing.")
        if fault := _fault(field, entry[field]):
            raise ValueError(f"{place}: the field {field!r} {fault}.")
    return Erratum(**{**entry, "sources": tuple(entry["sources"])})


def _fault(field: str, value: Any) -> str:
    """What is wrong with this value of this field, or ""."""
    if field == "sources":
        is_keys = isinstance(value, list) and all(isinstance(key, str) for key in value)
        return "" if is_keys else "must be a list of keys of references.bib, [] if there are none"
    if not isinstance(value, str):
        return f"must be text in quotes, not {value!r}"
    if field == "kind" and value not in KINDS:
        return f"is {value!r}; use one of {', '.join(KINDS)}"
    if field in PATTERNS:
        pattern, rule = PATTERNS[field]
        return "" if pattern.fullmatch(value) else f"is {value!r}; it {rule}"
    return "" if value.strip() else "is empty"


def problems(errata: Sequence[Erratum], anchors: Mapping[str, Collection[str]], keys: Collection[str]) -> list[str]:
    """What does not fit the rest of the book, one sentence each.

    `anchors` maps each chapter that exists to its anchors, `keys` are those of the bibliography.
    """
    found = []
    for article, count in COUNTS.items():
        expected = [f"{article}-E{number}" for number in range(1, count + 1)]
        ids = [erratum.id for erratum in errata if erratum.article == article]
        if ids != expected:
            missing = ", ".join(identifier for identifier in expected if identifier not in ids) or "none"
            found.append(f"{article}: expected E1 to E{count} in order, found {len(ids)}; missing: {missing}.")
    for erratum in errata:
        if erratum.article not in COUNTS:
            found.append(f"{erratum.id}: there is no article {erratum.article}.")
        found += [f"{erratum.id}: references.bib has no {key}." for key in erratum.sources if key not in keys]
        found += _shown_problems(erratum, anchors)
    return found


def _shown_problems(erratum: Erratum, anchors: Mapping[str, Collection[str]]) -> list[str]:
    chapter, _, anchor = erratum.shown.partition("#")
    if not chapter:
        return []
    if chapter not in anchors:
        return [f"{erratum.id}: `shown` names the chapter {chapter}, which does not exist."]
    if anchor not in anchors[chapter]:
        return [f"{erratum.id}: the chapter {chapter} has no heading with the anchor {anchor}."]
    return []


def bibliography_keys(path: Path) -> set[str]:
    """The keys of a BibTeX file. ValueError if it cannot be parsed."""
    from pybtex.database import PybtexError, parse_file  # heavy, and only the checks need it

    try:
        return set(parse_file(str(path), bib_format="bibtex").entries.keys())
    except PybtexError as error:
        raise ValueError(f"{path} is not valid BibTeX: {error}") from error


def page(root: Path) -> str:
    """The errata page of the repository at `root`, as MyST text."""
    book = articles.load(root / "book" / "articles.yml")
    titles = {article.id: article.english for article in book.articles}
    chapters = {name: written.title for name, written in articles.written_chapters(root).items()}
    return render(load(root / "book" / "errata.yml"), titles, chapters)


def render(errata: Sequence[Erratum], titles: Mapping[str, str], chapters: Mapping[str, str]) -> str:
    """The errata page as MyST text.

    `titles` maps an article ("A0") to its English title, `chapters` a chapter's name to its title.
    """
    articles = sorted({erratum.article for erratum in errata})
    parts = [_opening(errata), _table(errata, articles)]
    for article in articles:
        own = [erratum for erratum in errata if erratum.article == article]
        parts.append(f"(errata-{article})=\n## {article}: {titles[article]}")
        parts += [_entry(erratum, chapters) for erratum in own]
    return "\n\n".join(parts) + "\n"


def _opening(errata: Sequence[Erratum]) -> str:
    kinds = "\n".join(f"- {_badge(name)} {kind.meaning}" for name, kind in KINDS.items())
    return f"""\
# Errata

This book follows five web articles and corrects them. Each of their 18 listings was put back into a file
with its white space restored, and run. Each statement that can be checked was checked, by running it or
against the paper that it is about. This page lists the {len(errata)} faults that were found. What the
articles get right, and that is much, is not listed.

Each entry says in our own words what is printed, what happens, and what is right. The figures come from
those first runs: a CPU, Python 3.11, torch 2.13, small data (for the digits, 4,000 to train on and 1,000
to test on), mostly a single seed. They show that a fault is real. A chapter that shows an erratum
measures it again with the book's own code, and that figure is the one to quote. Line numbers count the
lines of the article's plain text.

There are five kinds:

{kinds}"""


def _badge(kind: str) -> str:
    return f"{{bdg-{KINDS[kind].badge}}}`{KINDS[kind].label}`"


def _table(errata: Sequence[Erratum], articles: Sequence[str]) -> str:
    """Counts by kind (rows) and article (columns): few columns, so that the table fits a phone."""

    def row(label: str, chosen: Iterable[Erratum]) -> str:
        counts = Counter(erratum.article for erratum in chosen)
        cells = [str(counts[article]) for article in articles]
        return f"| {label} | {' | '.join(cells)} | {counts.total()} |"

    heads = [f"[{article}](#errata-{article})" for article in articles]
    lines = [f"| | {' | '.join(heads)} | All |", "|:--|" + "--:|" * (len(articles) + 1)]
    lines += [row(KINDS[kind].label, (e for e in errata if e.kind == kind)) for kind in KINDS]
    lines += [row("All", errata), row("Shown so far", (e for e in errata if e.shown))]
    return "\n".join(lines)


def _entry(erratum: Erratum, chapters: Mapping[str, str]) -> str:
    lines = "lines" if re.search("[-,]", erratum.line) else "line"
    last = f"Sources: {{cite:p}}`{','.join(erratum.sources)}`. " if erratum.sources else ""
    return f"""\
({erratum.id})=
### {erratum.id}

{_badge(erratum.kind)} {erratum.where} ({lines} {erratum.line.replace("-", "–")})

**Printed.** {_linked(erratum.printed)}

**What happens.** {_linked(erratum.happens)}

**Right.** {_linked(erratum.right)}

{last}{_shown(erratum, chapters)}"""


def _linked(text: str) -> str:
    """The text with each mention of another erratum made a link to it."""
    return re.sub(r"\bA\d-E\d+\b", lambda mention: f"[{mention[0]}](#{mention[0]})", text)


def _shown(erratum: Erratum, chapters: Mapping[str, str]) -> str:
    if not erratum.shown:
        return "Not shown yet."
    chapter, _, anchor = erratum.shown.partition("#")
    return f"Shown in [{chapters[chapter]}](/notebooks/{chapter}.ipynb#{anchor})."
