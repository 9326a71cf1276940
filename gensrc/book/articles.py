"""The article map: every heading of the five articles, and the chapter of the book that answers it.

`book/articles.yml` holds the map. `load` reads and checks it, `written_chapters` tells which of its chapters
exist, `problems` compares the two, and `page` writes the page of the site.
"""

import html
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from gensrc.book import anchors, repository
from gensrc.book.repository import BookError

Record = TypeVar("Record")

NAME = re.compile(r"\d-[a-z0-9-]+/\d\d-[a-z0-9-]+")
TITLE_LINE = re.compile(r"^# +(.+?)\s*$", re.MULTILINE)


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
    file = path.name
    try:
        content = yaml.safe_load(path.read_text(encoding="utf8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BookError(f"{file} cannot be read as YAML: {error}") from error
    if not isinstance(content, dict) or content.keys() != {"chapters", "articles"}:
        raise BookError(f"{file} must hold exactly the two lists `chapters` and `articles`.")
    chapters = tuple(
        _record(Chapter, raw, f"{file}: {label}")
        for raw, label in _entries(content["chapters"], "chapter", "name", f"{file}: `chapters`")
    )
    for chapter in chapters:
        if not NAME.fullmatch(chapter.name):
            raise BookError(f"{file}: chapter {chapter.name}: field 'name' must be like 2-gans-to-transformers/03-vae.")
    articles = tuple(
        _article(raw, f"{file}: {label}")
        for raw, label in _entries(content["articles"], "article", "id", f"{file}: `articles`")
    )
    _refuse_twice((chapter.name for chapter in chapters), f"{file}: two chapters have the name")
    _refuse_twice((article.id for article in articles), f"{file}: two articles have the id")
    return ArticleMap(chapters, articles)


def written_chapters(root: Path) -> dict[str, Written]:
    """The chapters whose notebooks exist below `root`, by name. Raises BookError on a broken notebook."""
    return {name: _written(repository.notebook_path(root, name)) for name in repository.chapters(root)}


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


def page(root: Path) -> str:
    """The page of the site that shows the map of the repository at `root`, as MyST text."""
    return render(load(root / "book" / "articles.yml"), written_chapters(root))


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
            f"{_chinese(article.title)}\\\n*{article.english}*\n",
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
        f"- {_chinese(heading.zh)}\\",
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


def _chinese(text: str) -> str:
    """Chinese text, marked so that a screen reader changes its voice; MyST's own spans keep no `lang`."""
    return f'<span lang="zh">{_escape(text)}</span>'


def _escape(text: str) -> str:
    return html.escape(text, quote=False)


def _written(path: Path) -> Written:
    """Title and anchors of the notebook at `path`."""
    cells = repository.read_raw(path)["cells"]
    text = "\n\n".join(repository.source(cell) for cell in cells if cell["cell_type"] == "markdown")
    title = TITLE_LINE.search(text)
    if title is None:
        raise BookError(f"{path.parent.name}/{path.name} has no title: begin its first text cell with `# Title`.")
    return Written(title[1], frozenset(anchors.anchors(path)))


def _article(raw: Any, where: str) -> Article:
    """An article with its headings, checked one by one and in their order."""
    if not isinstance(raw, dict) or "headings" not in raw:
        raise BookError(f"{where}: field 'headings' is missing.")
    headings = tuple(
        _record(Heading, item, f"{where}, {label}")
        for item, label in _entries(raw["headings"], "heading", "line", f"{where}: field 'headings'")
    )
    article = _record(Article, raw | {"headings": headings}, where)
    level = line = 0
    for heading in headings:
        _check_heading(heading, level, line, f"{where.partition(':')[0]}: {_place(article.id, heading)}")
        level, line = heading.level, heading.line
    return article


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


def _record(cls: type[Record], raw: Any, where: str) -> Record:
    """`raw`, a mapping from YAML, as the dataclass `cls`. Raises BookError at the first wrong field."""
    if not isinstance(raw, dict):
        raise BookError(f"{where} must consist of fields with values, not {raw!r}.")
    known: dict[str, Field[Any]] = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
    if unknown := [name for name in raw if name not in known]:
        raise BookError(f"{where}: there is no field {unknown[0]!r}; the fields are {', '.join(known)}.")
    if missing := [name for name in known if name not in raw and known[name].default is MISSING]:
        raise BookError(f"{where}: field {missing[0]!r} is missing.")
    return cls(**{name: _value(known[name], value, where) for name, value in raw.items()})


def _value(field: Field[Any], value: Any, where: str) -> Any:
    """`value` if it is what the field asks for; a list of texts becomes a tuple."""
    if field.type in (int, str):
        # bool is an int to isinstance, and `level: yes` is no level.
        if type(value) is not field.type or (value == "" and field.default is MISSING):
            kind = "a whole number" if field.type is int else "a text"
            raise BookError(f"{where}: field {field.name!r} must be {kind}, not {value!r}.")
        return value
    if field.type == tuple[str, ...]:
        if not isinstance(value, list) or not all(type(item) is str for item in value):
            raise BookError(f"{where}: field {field.name!r} must be a list of texts, not {value!r}.")
        return tuple(value)
    return value


def _entries(value: Any, kind: str, key: str, where: str) -> Iterator[tuple[Any, str]]:
    """The entries of a list, each with what a message calls it: by its key, else by its place in the list."""
    if not isinstance(value, list):
        raise BookError(f"{where} must be a list, not {value!r}.")
    for number, raw in enumerate(value, start=1):
        has_key = isinstance(raw, dict) and key in raw
        yield raw, f"{kind} {raw[key]}" if has_key else f"{kind} number {number}"


def _place(article: str, heading: Heading) -> str:
    return f"article {article}, heading {heading.zh!r} (line {heading.line})"


def _refuse_twice(names: Iterable[str], complaint: str) -> None:
    """Raise BookError if a name comes twice."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BookError(f"{complaint} {twice[0]!r}.")
