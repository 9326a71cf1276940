"""The errata: the file itself, the checks on it, and the page made from it."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from gensrc.book.pages import articles
from gensrc.book.pages import errata as book
from gensrc.book.repository import BookError

ROOT = Path(__file__).parents[3]
FILE = ROOT / "book" / "errata.yml"
CHAPTER = "2-gans-to-transformers/03-vae"
ARTICLES = [article.id for article in articles.load(ROOT / articles.FILE).articles]
TITLES = {article: f"Title of {article}" for article in ARTICLES}


@pytest.fixture(scope="module")
def errata() -> list[book.Erratum]:
    """The book's errata as if no chapter showed one yet; tests set `shown` where they need it."""
    return [replace(erratum, shown="") for erratum in book.load(FILE)]


# --- the file --------------------------------------------------------------------------------------------


def test_the_errata_of_every_article_are_listed_and_fit_the_book(errata):
    assert {erratum.article for erratum in errata} == set(ARTICLES)
    assert book.problems_of(ROOT) == []


def test_damage_by_the_web_page_is_told_from_what_the_author_wrote(errata):
    assert {"A0-E33", "A1-E1", "A3-E1", "A4-E1"} <= {e.id for e in errata if e.kind == "page"}


def test_texts_are_english_sentences_with_closed_code_and_mathematics(errata):
    for erratum in errata:
        for text in (erratum.printed, erratum.happens, erratum.right):
            assert re.search(r"[.:`$)]$", text), f"{erratum.id} does not end a sentence: {text}"
            open_marks = [mark for mark in "`$" if text.count(mark) % 2]
            assert not open_marks, f"{erratum.id} leaves {open_marks} open: {text}"


def test_nothing_of_the_articles_chinese_text_is_quoted():
    assert re.findall(r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]", FILE.read_text(encoding="utf8")) == []


def test_errata_refer_only_to_errata_that_exist(errata):
    ids = {erratum.id for erratum in errata}
    mentioned = set(re.findall(r"\bA\d-E\d+", " ".join(e.printed + e.happens + e.right for e in errata)))
    assert "A0-E13" in mentioned
    assert mentioned <= ids


# --- loading ---------------------------------------------------------------------------------------------

ENTRY = {
    "id": "A0-E1",
    "kind": "stop",
    "line": "131",
    "where": "A listing",
    "printed": "This.",
    "happens": "That.",
    "right": "The other.",
    "sources": ["Kingma14"],
    "shown": "",
}


def written(tmp_path: Path, *entries: object) -> Path:
    path = tmp_path / "errata.yml"
    path.write_text(yaml.safe_dump(list(entries)), encoding="utf8")
    return path


def test_an_entry_is_read_as_it_stands(tmp_path):
    [erratum] = book.load(written(tmp_path, ENTRY | {"shown": f"{CHAPTER}#erratum-a0-e1"}))
    assert erratum == book.Erratum(**ENTRY | {"sources": ("Kingma14",), "shown": f"{CHAPTER}#erratum-a0-e1"})
    assert erratum.article == "A0"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "wron"}, ["'kind'", "'wron'", "one of stop, wrong, convention, prose, page"]),
        ({"colour": "red"}, ["no field 'colour'", "id, kind, line"]),
        ({"id": "E6"}, ["'id'", "'E6'", "A0-E6"]),
        ({"line": 131}, ["'line'", 'a text like "131"', "131"]),
        ({"line": "near the end"}, ["'line'", "'near the end'"]),
        ({"right": "  "}, ["'right'", "that says something"]),
        ({"sources": "Kingma14"}, ["'sources'", "list of texts"]),
        ({"shown": CHAPTER}, ["'shown'", "<chapter>#<anchor>"]),
    ],
)
def test_a_bad_field_is_named_with_its_file_and_entry(tmp_path, change, words):
    entry = ENTRY | {"id": "A0-E2"} | change
    with pytest.raises(BookError) as caught:
        book.load(written(tmp_path, ENTRY, entry))
    for word in [f"errata.yml, entry {entry['id']}: ", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize("field", ENTRY)
def test_a_missing_field_is_named(tmp_path, field):
    entry = {name: value for name, value in ENTRY.items() if name != field}
    place = "entry number 1" if field == "id" else "entry A0-E1"
    with pytest.raises(BookError, match=rf"errata\.yml, {place}: the field '{field}' is missing"):
        book.load(written(tmp_path, entry))


def test_a_duplicate_id_is_named(tmp_path):
    with pytest.raises(BookError, match=r"errata\.yml: two entries are called 'A0-E1'"):
        book.load(written(tmp_path, ENTRY, ENTRY))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", r"errata\.yml cannot be read as YAML"),
        ("a: 1", r"errata\.yml: it must be a list, not {'a': 1}"),
        ("- just words", r"errata\.yml, entry number 1: it must be a mapping with the fields id, kind"),
    ],
)
def test_a_file_that_is_no_list_of_entries_is_refused(tmp_path, text, message):
    path = tmp_path / "errata.yml"
    path.write_text(text)
    with pytest.raises(BookError, match=message):
        book.load(path)


# --- problems --------------------------------------------------------------------------------------------


@pytest.fixture
def keys(errata) -> set[str]:
    return {key for erratum in errata for key in erratum.sources}


def found(errata, keys, shown: str) -> list[str]:
    first = replace(errata[0], shown=shown)
    return book.problems([first, *errata[1:]], {CHAPTER: {"erratum-a0-e1", "a0-e1"}}, keys, ARTICLES)


def test_an_erratum_shown_at_an_existing_anchor_is_no_problem(errata, keys):
    assert found(errata, keys, f"{CHAPTER}#erratum-a0-e1") == []


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        ("2-gans/99-none#x", "A0-E1: `shown` names the chapter 2-gans/99-none, which does not exist."),
        (f"{CHAPTER}#gone", f"A0-E1: the chapter {CHAPTER} has no heading with the anchor gone."),
    ],
)
def test_an_anchor_that_leads_nowhere_is_a_problem(errata, keys, shown, words):
    assert found(errata, keys, shown) == [words]


def test_a_lost_an_exchanged_and_a_foreign_erratum_are_problems(errata, keys):
    def told(changed):
        return book.problems(changed, {}, keys, ARTICLES)

    lost = [e for e in errata if e.id != "A2-E7"]
    assert told(lost) == ["A2-E8: the errata of A2 must be numbered in order; A2-E7 belongs here."]
    exchanged = [errata[1], errata[0], *errata[2:]]
    assert told(exchanged) == ["A0-E2: the errata of A0 must be numbered in order; A0-E1 belongs here."]
    foreign = [*errata, replace(errata[0], id="A7-E1")]
    assert told(foreign) == ["A7-E1: articles.yml has no article A7."]


def test_a_new_erratum_needs_nothing_but_its_entry(errata, keys):
    last = max(int(e.id.partition("-E")[2]) for e in errata if e.article == "A3")
    new = replace(errata[0], id=f"A3-E{last + 1}")
    assert book.problems([*errata, new], {}, keys, ARTICLES) == []
    text = book.render([*errata, new], TITLES, {})
    assert f"lists the {len(errata) + 1} faults" in text
    assert f"### A3-E{last + 1}\n" in text


def test_an_unknown_source_is_a_problem(errata, keys):
    known = keys - {"Goodfellow14"}
    assert "A0-E4: references.bib has no Goodfellow14." in book.problems(errata, {}, known, ARTICLES)


# --- the page --------------------------------------------------------------------------------------------


def test_the_page_says_of_each_erratum_what_the_file_says(errata):
    text = book.render(errata, TITLES, {})
    for erratum in errata:
        start = text.index(f"({erratum.id})=\n### {erratum.id}\n")
        own = text[start : text.find("\n(A", start)]
        assert book.KINDS[erratum.kind].label in own
        assert erratum.where in own
        # A mention of another erratum has become a link.
        plain = re.sub(r"\[(A\d-E\d+)\]\(#\1\)", r"\1", own)
        assert all(part in plain for part in (erratum.printed, erratum.happens, erratum.right))
        assert all(key in own for key in erratum.sources)
        assert "Not shown yet." in own
    assert "the scale that belongs there ([A0-E13](#A0-E13))" in text


def test_the_table_counts_by_article_and_kind_and_is_narrow(errata):
    shown = [replace(e, shown=f"{CHAPTER}#erratum-{e.id.lower()}") if e.id == "A1-E3" else e for e in errata]
    text = book.render(shown, TITLES, {CHAPTER: "The VAE"})
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == ["", *(f"[A{n}](#errata-A{n})" for n in range(5)), "All"]
    for label, chosen in (("All", errata), ("Page", [e for e in errata if e.kind == "page"])):
        counts = [sum(e.article == article for e in chosen) for article in ARTICLES]
        assert [label, *map(str, [*counts, sum(counts)])] in rows
    assert ["Shown so far", "0", "1", "0", "0", "0", "1"] in rows
    assert f"Shown in [The VAE](/notebooks/{CHAPTER}.ipynb#erratum-a1-e3)." in text
    assert text.count("Not shown yet.") == len(errata) - 1


def test_one_line_is_singular_and_several_are_plural(errata):
    text = book.render(errata, TITLES, {})
    assert "Discriminator listing, first line (line 131)" in text
    assert "VAE listing and its loss (lines 250–292)" in text
    assert "labels of the real batch (lines 177, 179)" in text


CONF = """
extensions = ["myst_parser", "sphinx_design", "sphinxcontrib.bibtex"]
source_suffix = {".md": "markdown", ".ipynb": "markdown"}
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath", "colon_fence", "linkify"]
bibtex_bibfiles = ["references.bib"]
html_theme = "basic"
"""


def test_the_page_builds_strictly_and_its_links_lead_somewhere(errata, tmp_path):
    """The page, a chapter that it points at and the bibliography, with every warning an error."""
    shown = [replace(errata[0], shown=f"{CHAPTER}#a0-e1-shown-here"), *errata[1:]]
    (tmp_path / "conf.py").write_text(CONF)
    (tmp_path / "references.bib").write_bytes((ROOT / "book" / "references.bib").read_bytes())
    (tmp_path / "errata.md").write_text(book.render(shown, TITLES, {CHAPTER: "The VAE"}), encoding="utf8")
    chapter = tmp_path / "notebooks" / f"{CHAPTER}.ipynb"
    chapter.parent.mkdir(parents=True)
    chapter.write_text("# VAE\n\n## A0-E1: shown here\n\nSee {ref}`A0-E6` and [](#A4-E25).\n")
    (tmp_path / "index.md").write_text(
        f"# Book\n\n```{{toctree}}\nerrata\nnotebooks/{CHAPTER}\n```\n\n```{{bibliography}}\n:all:\n```\n"
    )
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "-n",
        "--keep-going",
        "-q",
        str(tmp_path),
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "out" / "errata.html").read_text(encoding="utf8")
    assert set(re.findall(r'id="(a\d-e\d+)"', html)) == {erratum.id.lower() for erratum in errata}
    assert f'href="notebooks/{CHAPTER}.html#a0-e1-shown-here"' in html
    assert 'href="https:' not in html.split("<body>")[1].split('class="sphinxsidebar"')[0]
