"""The article map: what the repository's own map promises, and what a broken one is told."""

import json
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

from gensrc.book.pages import articles
from gensrc.book.pages.articles import Written
from gensrc.book.repository import BookError

ROOT = Path(__file__).resolve().parents[3]
VAE = "2-gans-to-transformers/03-vae"


@pytest.fixture(scope="module")
def book() -> articles.ArticleMap:
    return articles.load(ROOT / "book" / "articles.yml")


# --- The repository's map ---


def test_every_heading_of_the_five_articles_is_listed(book):
    counts = {article.id: len(article.headings) for article in book.articles}
    assert counts == {"A0": 47, "A1": 40, "A2": 19, "A3": 19, "A4": 15}


def test_the_book_has_31_chapters_and_each_article_is_one_part(book):
    parts = [chapter.part for chapter in book.chapters]
    assert {part: parts.count(part) for part in parts} == {1: 4, 2: 10, 3: 7, 4: 5, 5: 5}
    assert sorted(article.part for article in book.articles) == [1, 2, 3, 4, 5]


def test_chapters_stand_in_the_order_in_which_the_site_shows_them(book):
    names = [chapter.name for chapter in book.chapters]
    assert names == sorted(names)


def test_every_system_has_a_chapter(book):
    built = {system for chapter in book.chapters for system in chapter.systems}
    # S03, the evaluation kit, is gensrc.metrics and belongs to all chapters.
    assert built == {f"S{number:02}" for number in range(1, 48)} - {"S03"}


def test_the_map_fits_the_notebooks_and_pages_that_exist():
    assert articles.problems_of(ROOT) == []


def test_a_page_that_is_not_there_is_a_problem(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "book" / "articles.yml").write_text(yaml.safe_dump(small()), encoding="utf8")
    assert articles.problems_of(tmp_path) == ["articles.yml: there is no page book/bibliography.md."]


def test_what_stands_under_a_heading_is_one_sentence(book):
    contents = [heading.content for article in book.articles for heading in article.headings]
    wrong = [text for text in contents if not text.endswith(".") or ". " in text]
    assert wrong == []


def test_a_heading_is_translated(book):
    for article in book.articles:
        for heading in article.headings:
            assert not any("\u4e00" <= letter <= "\u9fff" for letter in heading.en + heading.content), heading


# --- A broken map: the message names file, entry and field ---


def small() -> dict:
    """A map with two chapters and one article of three headings, as YAML would give it."""
    return {
        "chapters": [
            {"name": VAE, "title": "The VAE", "systems": ["S16"]},
            {"name": "2-gans-to-transformers/04-uses", "title": "Uses & <limits>", "systems": []},
        ],
        "articles": [
            {
                "id": "A0",
                "file": "000",
                "title": "从A到B",
                "english": "From A to B",
                "part": 2,
                "part_title": "From A to B",
                "content": "About all.",
                "headings": [
                    heading(1, 10, chapter=VAE),
                    heading(2, 20, chapter=VAE, also=["2-gans-to-transformers/04-uses"]),
                    heading(1, 30, page="book/bibliography"),
                ],
            }
        ],
    }


def heading(level: int, line: int, **fields) -> dict:
    return {"level": level, "line": line, "zh": f"题{line}", "en": f"H{line}", "content": f"C{line}."} | fields


def loaded(tmp_path: Path, content: object) -> articles.ArticleMap:
    path = tmp_path / "articles.yml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf8")
    return articles.load(path)


def first_heading(**changes):
    """A change to the first heading of the small map; None takes the field out."""

    def change(content: dict) -> None:
        fields = content["articles"][0]["headings"][0]
        fields.update(changes)
        for name in [name for name, value in changes.items() if value is None]:
            del fields[name]

    return change


def second_line(line: int):
    def change(content: dict) -> None:
        content["articles"][0]["headings"][1]["line"] = line

    return change


H10 = r"articles\.yml, article A0, heading 10"
Z10 = r"articles\.yml: article A0, heading '题10' \(line 10\)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (first_heading(en=None), rf"{H10}: the field 'en' is missing"),
        (first_heading(en=""), rf"{H10}: the field 'en' must be a text in quotes that says something, not ''"),
        (first_heading(level="1"), rf"{H10}: the field 'level' must be a whole number from 1, not '1'"),
        (first_heading(level=True), rf"{H10}: the field 'level' must be a whole number from 1, not True"),
        (first_heading(level=0), rf"{H10}: the field 'level' must be a whole number from 1, not 0"),
        (first_heading(also=VAE), rf"{H10}: the field 'also' must be a list of texts"),
        (first_heading(also=[3]), rf"{H10}: the field 'also' must be a list of texts.*, not 3"),
        (first_heading(chaptr=VAE), rf"{H10}: there is no field 'chaptr'; the fields are level, line"),
        (first_heading(line=None), r"articles\.yml, article A0, heading number 1: the field 'line' is missing"),
        (first_heading(level=2), rf"{Z10}: field 'level' is 2, but can be 1 to 1 here"),
        (second_line(10), r"heading '题20' \(line 10\): field 'line' has to be above 10"),
        (first_heading(page="book/glossary"), rf"{Z10}: give either the field 'chapter' or the field 'page'"),
        (first_heading(chapter=None), rf"{Z10}: give either the field 'chapter' or the field 'page'"),
        (
            first_heading(chapter=None, page="book/glossary", anchor="sums"),
            rf"{Z10}: the field 'anchor' needs the field 'chapter'",
        ),
        (lambda c: c.pop("chapters"), r"articles\.yml: the field 'chapters' is missing"),
        (lambda c: c.update(chapters={}), r"articles\.yml: the field 'chapters' must be a list, not {}"),
        (lambda c: c["chapters"].append("x"), r"articles\.yml, chapter number 3: it must be a mapping with the fields"),
        (lambda c: c["chapters"].append(c["chapters"][0]), rf"articles\.yml: two chapters are called '{VAE}'"),
        (lambda c: c["chapters"][0].update(name="vae"), r"chapter vae: the field 'name' must be like 2-gans"),
        (lambda c: c["articles"].append(c["articles"][0]), r"articles\.yml: two articles are called 'A0'"),
        (lambda c: c["articles"][0].pop("headings"), r"articles\.yml, article A0: the field 'headings' is missing"),
    ],
)
def test_a_broken_entry_is_named(tmp_path, change, message):
    content = small()
    change(content)
    with pytest.raises(BookError, match=message):
        loaded(tmp_path, content)


def test_a_file_that_is_no_yaml_is_named(tmp_path):
    with pytest.raises(BookError, match=r"articles\.yml cannot be read as YAML"):
        loaded(tmp_path, "chapters: [")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BookError, match=r"articles\.yml cannot be read as YAML.*No such file"):
        articles.load(tmp_path / "articles.yml")


# --- The map against the notebooks ---


def written(*anchors: str) -> dict[str, Written]:
    return {VAE: Written("The variational autoencoder", frozenset(anchors))}


def test_a_map_that_fits_has_no_problems(tmp_path):
    content = small()
    first_heading(anchor="sums")(content)
    assert articles.problems(loaded(tmp_path, content), written("sums")) == []


def test_a_heading_to_an_unknown_chapter_is_a_problem(tmp_path):
    content = small()
    first_heading(also=["2-gans-to-transformers/09-lost"])(content)
    (found,) = articles.problems(loaded(tmp_path, content), {})
    assert found.endswith("heading '题10' (line 10): '2-gans-to-transformers/09-lost' is not in the list `chapters`.")


def test_an_anchor_that_the_chapter_lacks_is_a_problem(tmp_path):
    content = small()
    first_heading(anchor="sums")(content)
    (found,) = articles.problems(loaded(tmp_path, content), written("means"))
    assert found.endswith(f"(line 10): notebooks/{VAE}.ipynb has no heading with the anchor 'sums'.")


def test_an_anchor_into_a_chapter_that_is_not_written_is_a_problem(tmp_path):
    content = small()
    first_heading(anchor="sums")(content)
    (found,) = articles.problems(loaded(tmp_path, content), {})
    assert found.endswith(f"has the anchor 'sums', but chapter {VAE} is not written yet.")


def test_a_notebook_that_the_map_does_not_know_is_a_problem(tmp_path):
    extra = {"2-gans-to-transformers/11-more": Written("More", frozenset())}
    (found,) = articles.problems(loaded(tmp_path, small()), extra)
    assert found.startswith("notebooks/2-gans-to-transformers/11-more.ipynb is no chapter of articles.yml")


def test_a_chapter_that_no_heading_reaches_is_a_problem(tmp_path):
    content = small()
    del content["articles"][0]["headings"][1]["also"]
    (found,) = articles.problems(loaded(tmp_path, content), {})
    assert found == "articles.yml: no heading leads to chapter 2-gans-to-transformers/04-uses."


# --- What a notebook offers ---


def notebook(root: Path, *cells: dict) -> Path:
    path = root / "notebooks" / f"{VAE}.ipynb"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


def cell(kind: str, source: str) -> dict:
    return {"cell_type": kind, "source": source.splitlines(keepends=True), "metadata": {}}


def test_title_and_anchors_of_a_notebook(tmp_path):
    notebook(
        tmp_path,
        cell("code", "# not a title"),
        cell("markdown", "# The variational autoencoder\n\nText."),
        cell("markdown", "## Sums, not means\n\nText."),
    )
    expected = frozenset({"the-variational-autoencoder", "sums-not-means"})
    assert articles.written_chapters(tmp_path) == {VAE: Written("The variational autoencoder", expected)}


def test_a_notebook_without_a_title_is_named(tmp_path):
    notebook(tmp_path, cell("markdown", "Text."))
    with pytest.raises(BookError, match=r"2-gans-to-transformers/03-vae\.ipynb has no title: begin"):
        articles.written_chapters(tmp_path)


def test_a_notebook_that_cannot_be_read_is_named(tmp_path):
    notebook(tmp_path).write_text("{")
    with pytest.raises(BookError, match=r"03-vae\.ipynb is no readable notebook"):
        articles.written_chapters(tmp_path)


# --- The page ---


def test_a_written_chapter_is_linked_to_and_a_planned_one_is_named(tmp_path):
    text = articles.render(loaded(tmp_path, small()), written())
    assert f"→ [2.3 The variational autoencoder](/notebooks/{VAE}.ipynb)\n" in text
    assert '<span class="gensrc-planned">planned: 2.4 Uses &amp; &lt;limits&gt;</span>' in text
    assert "[](/book/bibliography.md)" in text
    assert "1 of 2 chapters" in text


def test_an_anchor_is_linked_to(tmp_path):
    content = small()
    first_heading(anchor="sums")(content)
    text = articles.render(loaded(tmp_path, content), written("sums"))
    assert f"→ [2.3 The variational autoencoder](/notebooks/{VAE}.ipynb#sums)\n" in text


def test_headings_are_nested_as_in_the_article(tmp_path):
    """Read the page as Markdown and note how deep in lists each translation stands."""
    depths, depth = {}, 0
    for token in MarkdownIt().parse(articles.render(loaded(tmp_path, small()), {})):
        depth += {"bullet_list_open": 1, "bullet_list_close": -1}.get(token.type, 0)
        for number in (10, 20, 30):
            if token.type == "inline" and f"**H{number}**" in token.content:
                depths[number] = depth
    assert depths == {10: 1, 20: 2, 30: 1}


def test_chinese_text_is_marked_for_screen_readers(book):
    text = articles.render(book, {})
    marked = "".join(part.partition("</span>")[0] for part in text.split('<span lang="zh">')[1:])
    chinese = [letter for letter in text if "\u4e00" <= letter <= "\u9fff"]
    assert chinese == [letter for letter in marked if "\u4e00" <= letter <= "\u9fff"]


def test_parts_come_in_the_order_of_the_book(book):
    headings = [line for line in articles.render(book, {}).splitlines() if line.startswith("## ")]
    assert [line[:10] for line in headings] == [f"## Part {number}." for number in range(1, 6)]


def test_the_page_of_the_repository_can_be_made():
    assert articles.page(ROOT).startswith("# The article map\n")
