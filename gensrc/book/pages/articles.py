"""The article map: every heading of the five articles, and the chapter of the book that answers it.

`book/articles.yml` holds the map. `load` reads and checks it, `written_chapters` tells which of its chapters
exist, `problems` compares the two, and `page` writes the page of the site.
"""

import html
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gensrc.book import headings, repository
from gensrc.book.pages import schema
from gensrc.book.repository import BookError

FILE = "book/articles.yml"
PLACE = r"[^#\s]+#[^#\s]+"  # a heading of a chapter: "<chapter>#<anchor>"
NUMBER = {"type": "integer", "minimum": 1, "description": "a whole number from 1"}
NAME = {
    "type": "string",
    "pattern": r"^\d-[a-z0-9-]+/\d\d-[a-z0-9-]+$",
    "description": "like 2-gans-to-transformers/03-vae",
}
CHAPTER = schema.fields({"name": NAME, "title": schema.TEXT, "systems": schema.TEXTS})
HEADING = schema.fields(
    {"level": NUMBER, "line": NUMBER, "zh": schema.TEXT, "en": schema.TEXT, "content": schema.TEXT},
    {name: schema.MAY_BE_EMPTY for name in ("chapter", "anchor", "page")} | {"also": schema.TEXTS},
)
ARTICLE = schema.fields(
    {name: schema.TEXT for name in ("id", "file", "title", "english")}
    | {"part": NUMBER, "part_title": schema.TEXT, "content": schema.TEXT, "headings": schema.entries(HEADING)}
)
SCHEMA = schema.fields({"chapters": schema.entries(CHAPTER), "articles": schema.entries(ARTICLE)})
NAMES = {"chapters": ("chapter", "name"), "articles": ("article", "id"), "headings": ("heading", "line")}


@dataclass(frozen=True)
class Chapter:
    """A chapter of the book, written or planned. `name` is its path below notebooks/ without .ipynb."""

    name: str
    title: str
    systems: tuple[str, ...]

    @property
    def part(self) -> int:
        return int(self.name[0])

    @property
    def number(self) -> str:
        """The number that the site gives to the chapter: 2-gans-to-transformers/03-vae is 2.3."""
        return f"{self.part}.{int(self.name.partition('/')[2][:2])}"


@dataclass(frozen=True)
class Heading:
    """A heading of an article, and the chapter or the page of the book that answers it."""

    level: int
    line: int
    zh: str
    en: str
    content: str
    chapter: str = ""
    anchor: str = ""
    page: str = ""
    also: tuple[str, ...] = ()

    @property
    def chapters(self) -> tuple[str, ...]:
        """The names of all chapters that take this heading up, the one that mirrors it first."""
        return (self.chapter, *self.also) if self.chapter else self.also


@dataclass(frozen=True)
class Article:
    """One article, which became part `part` of the book, with its headings in the order of the text."""

    id: str
    file: str
    title: str
    english: str
    part: int
    part_title: str
    content: str
    headings: tuple[Heading, ...]


@dataclass(frozen=True)
class ArticleMap:
    """All chapters of the book and all articles."""

    chapters: tuple[Chapter, ...]
    articles: tuple[Article, ...]


@dataclass(frozen=True)
class Written:
    """What the notebook of a chapter offers to link to: its title, and the anchors of its headings."""

    title: str
    anchors: frozenset[str]


def load(path: Path) -> ArticleMap:
    """The map in the file at `path`. Raises BookError where an entry is wrong or two disagree."""
    content = schema.load(path, SCHEMA, NAMES)
    chapters = tuple(Chapter(**raw | {"systems": tuple(raw["systems"])}) for raw in content["chapters"])
    articles = tuple(_article(raw, path.name) for raw in content["articles"])
    schema.refuse_twice(path, "chapters", (chapter.name for chapter in chapters))
    schema.refuse_twice(path, "articles", (article.id for article in articles))
    return ArticleMap(chapters, articles)


def written_chapters(root: Path) -> dict[str, Written]:
    """The chapters whose notebooks exist below `root`, by name. Raises BookError on a broken notebook."""
    return {name: _written(repository.notebook_path(root, name)) for name in repository.chapters(root)}


def problems_of(root: Path) -> list[str]:
    """What in the map of the repository at `root` does not fit the chapters and the pages: one sentence each."""
    book = load(root / FILE)
    pages = {heading.page for article in book.articles for heading in article.headings} - {""}
    lost = [
        f"articles.yml: there is no page {page}.md."
        for page in sorted(pages)
        if not page.startswith("book/generated/") and not (root / f"{page}.md").is_file()
    ]
    return problems(book, written_chapters(root)) + lost


def problems(book: ArticleMap, written: Mapping[str, Written]) -> list[str]:
    """What in the map does not fit the chapters: one sentence each, none if all is well."""
    names = [chapter.name for chapter in book.chapters]
    found = [
        f"notebooks/{name}.ipynb is no chapter of articles.yml: add it to `chapters` or rename it."
        for name in written
        if name not in names
    ]
    reached: set[str] = set()
    for article in book.articles:
        for heading in article.headings:
            found += _heading_problems(heading, f"articles.yml: {_place(article.id, heading)}", names, written)
            reached.update(heading.chapters)
    found += [f"articles.yml: no heading leads to chapter {name}." for name in names if name not in reached]
    return found


def _heading_problems(heading: Heading, where: str, names: list[str], written: Mapping[str, Written]) -> Iterator[str]:
    for name in heading.chapters:
        if name not in names:
            yield f"{where}: {name!r} is not in the list `chapters`."
    if not heading.anchor:
        return
    if heading.chapter not in written:
        yield f"{where}: has the anchor {heading.anchor!r}, but chapter {heading.chapter} is not written yet."
    elif heading.anchor not in written[heading.chapter].anchors:
        yield f"{where}: notebooks/{heading.chapter}.ipynb has no heading with the anchor {heading.anchor!r}."


def place_problem(place: str, anchors: Mapping[str, Collection[str]]) -> str:
    """Why "<chapter>#<anchor>" leads nowhere, or "": `anchors` maps each chapter that exists to its anchors."""
    chapter, _, anchor = place.partition("#")
    if chapter not in anchors:
        return f"`shown` names the chapter {chapter}, which does not exist."
    return "" if anchor in anchors[chapter] else f"the chapter {chapter} has no heading with the anchor {anchor}."


def page(root: Path) -> str:
    """The page of the site that shows the map of the repository at `root`, as MyST text."""
    return render(load(root / FILE), written_chapters(root))


def render(book: ArticleMap, written: Mapping[str, Written]) -> str:
    """The map as MyST text. Chapters in `written` are linked to, the others are marked as planned."""
    count = sum(chapter.name in written for chapter in book.chapters)
    opening = (
        "# The article map\n\n"
        f"This book grew out of {len(book.articles)} Chinese articles on generative AI; each became one of "
        "its parts. This page follows the articles heading by heading: the heading as it is printed, "
        "our translation, a sentence of ours on what stands there, and the chapter that answers it. "
        f"Written so far: {count} of {len(book.chapters)} chapters; the others are marked as planned.\n"
    )
    parts = sorted(book.articles, key=lambda article: article.part)
    return "\n".join([opening, *(_section(article, book, written) for article in parts)])


def _section(article: Article, book: ArticleMap, written: Mapping[str, Written]) -> str:
    """One article: its titles, the chapters of its part, its headings as a nested list."""
    chapters = {chapter.name: chapter for chapter in book.chapters}
    own = [f"- {_link(chapter, written)}" for chapter in book.chapters if chapter.part == article.part]
    return "\n".join(
        [
            f"## Part {article.part}. {article.part_title}\n",
            f"{chinese(article.title)}\\\n*{article.english}*\n",
            f"{article.content}\n",
            f"### Chapters of part {article.part}\n",
            *own,
            f"\n### The article behind part {article.part}\n",
            *(_item(heading, chapters, written) for heading in article.headings),
            "",
        ]
    )


def _item(heading: Heading, chapters: Mapping[str, Chapter], written: Mapping[str, Written]) -> str:
    """One heading as an item of the nested list: both its forms, the sentence, and where it is answered."""
    answers = [f"[](/{heading.page}.md)"] if heading.page else []
    for name in heading.chapters:
        answers.append(_link(chapters[name], written, heading.anchor if name == heading.chapter else ""))
    lines = [
        f"- {chinese(heading.zh)}\\",
        f"  **{heading.en}**\\",
        f"  {heading.content}\\",
        f"  → {', '.join(answers)}",
    ]
    indent = "  " * (heading.level - 1)
    return "\n".join(indent + line for line in lines)


def _link(chapter: Chapter, written: Mapping[str, Written], anchor: str = "") -> str:
    """A link to the chapter, or to its heading `anchor`; of a chapter that is only planned, its title."""
    if chapter.name not in written:
        return f'<span class="gensrc-planned">planned: {chapter.number} {_escape(chapter.title)}</span>'
    target = f"/notebooks/{chapter.name}.ipynb{'#' if anchor else ''}{anchor}"
    return f"[{chapter.number} {written[chapter.name].title}]({target})"


def chinese(text: str) -> str:
    """Chinese text, marked so that a screen reader changes its voice; MyST's own spans keep no `lang`."""
    return f'<span lang="zh">{_escape(text)}</span>'


def _escape(text: str) -> str:
    return html.escape(text, quote=False)


def _written(path: Path) -> Written:
    """Title and anchors of the notebook at `path`."""
    nb = repository.read_raw(path)
    title = next((heading.title for heading in headings.of_cells(nb["cells"]) if heading.level == 1), None)
    if title is None:
        raise BookError(f"{path.parent.name}/{path.name} has no title: begin its first text cell with `# Title`.")
    return Written(title, frozenset(headings.anchors(nb)))


def _article(raw: dict[str, Any], file: str) -> Article:
    """An article with its headings, whose order is checked."""
    found = tuple(Heading(**item | {"also": tuple(item.get("also", ()))}) for item in raw["headings"])
    level = line = 0
    for heading in found:
        _check_heading(heading, level, line, f"{file}: {_place(raw['id'], heading)}")
        level, line = heading.level, heading.line
    return Article(**raw | {"headings": found})


def _check_heading(heading: Heading, level: int, line: int, where: str) -> None:
    """Raise BookError unless `heading` can follow a heading of that level on that line."""
    if not 1 <= heading.level <= level + 1:
        raise BookError(f"{where}: field 'level' is {heading.level}, but can be 1 to {level + 1} here.")
    if heading.line <= line:
        raise BookError(f"{where}: field 'line' has to be above {line}, the line of the heading before.")
    if bool(heading.chapter) == bool(heading.page):
        raise BookError(f"{where}: give either the field 'chapter' or the field 'page'.")
    if heading.anchor and not heading.chapter:
        raise BookError(f"{where}: the field 'anchor' needs the field 'chapter'.")


def _place(article: str, heading: Heading) -> str:
    return f"article {article}, heading {heading.zh!r} (line {heading.line})"
