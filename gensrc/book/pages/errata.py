"""The errata of the five articles: book/errata.yml read, checked and made into a page.

`load` reads the file and rejects what it cannot mean, `problems` compares it with the articles, the chapters and the
bibliography, and `page` makes the MyST text of the errata page. How many errata there are is said nowhere: those of an
article are numbered from 1 without a gap, and the page counts them.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gensrc.book.pages import articles, schema
from gensrc.book.repository import BookError

FILE = "book/errata.yml"


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


ENTRY = schema.fields(
    {
        "id": {"type": "string", "pattern": r"^A\d-E[1-9]\d*$", "description": "like A0-E6"},
        "kind": {"enum": list(KINDS), "description": f"one of {', '.join(KINDS)}"},
        "line": {
            "type": "string",
            "pattern": r"^\d+(-\d+)?(, \d+(-\d+)?)*$",
            "description": 'a text like "131" or "158-162, 193"',
        },
        **{name: schema.TEXT for name in ("where", "printed", "happens", "right")},
        "sources": schema.TEXTS,
        "shown": {"type": "string", "pattern": f"^({articles.PLACE})?$", "description": '"" or "<chapter>#<anchor>"'},
    }
)


def load(path: Path) -> list[Erratum]:
    """The errata of `path`, in order. A BookError names the file, the entry and the field at fault."""
    content = schema.load(path, schema.entries(ENTRY), {"": ("entry", "id")})
    errata = [Erratum(**entry | {"sources": tuple(entry["sources"])}) for entry in content]
    schema.refuse_twice(path, "entries", (erratum.id for erratum in errata))
    return errata


def problems_of(root: Path) -> list[str]:
    """What in the errata of the repository at `root` does not fit the rest of the book, one sentence each."""
    anchors = {name: written.anchors for name, written in articles.written_chapters(root).items()}
    known = [article.id for article in articles.load(root / articles.FILE).articles]
    return problems(load(root / FILE), anchors, bibliography_keys(root / "book" / "references.bib"), known)


def problems(
    errata: Sequence[Erratum], anchors: Mapping[str, Collection[str]], keys: Collection[str], known: Sequence[str]
) -> list[str]:
    """What does not fit the rest of the book, one sentence each.

    `anchors` maps each chapter that exists to its anchors, `keys` are those of the bibliography, `known` the articles.
    """
    found = []
    for article in dict.fromkeys(erratum.article for erratum in errata):
        ids = [erratum.id for erratum in errata if erratum.article == article]
        expected = [f"{article}-E{number}" for number in range(1, len(ids) + 1)]
        if article not in known:
            found.append(f"{ids[0]}: articles.yml has no article {article}.")
        elif ids != expected:
            wrong = next(has for has, wanted in zip(ids, expected, strict=True) if has != wanted)
            wanted = expected[ids.index(wrong)]
            found.append(f"{wrong}: the errata of {article} must be numbered in order; {wanted} belongs here.")
    for erratum in errata:
        found += [f"{erratum.id}: references.bib has no {key}." for key in erratum.sources if key not in keys]
        if erratum.shown and (fault := articles.place_problem(erratum.shown, anchors)):
            found.append(f"{erratum.id}: {fault}")
    return found


def bibliography_keys(path: Path) -> set[str]:
    """The keys of a BibTeX file. BookError if it cannot be parsed."""
    from pybtex.database import PybtexError, parse_file  # heavy, and only the checks need it

    try:
        return set(parse_file(str(path), bib_format="bibtex").entries.keys())
    except PybtexError as error:
        raise BookError(f"{path.name} is not valid BibTeX: {error}") from error


def page(root: Path) -> str:
    """The errata page of the repository at `root`, as MyST text."""
    book = articles.load(root / articles.FILE)
    titles = {article.id: article.english for article in book.articles}
    chapters = {name: written.title for name, written in articles.written_chapters(root).items()}
    return render(load(root / FILE), titles, chapters)


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
