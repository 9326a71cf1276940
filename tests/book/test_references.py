"""The bibliography: entries that can be found, under keys that say whose they are."""

import re
import unicodedata
from pathlib import Path

import pytest
from pybtex.database import Entry, parse_file

from gensrc.book.pages import errata as book
from gensrc.book.repository import BookError

ROOT = Path(__file__).parents[2]
FILE = ROOT / "book" / "references.bib"
ENTRIES: dict[str, Entry] = dict(parse_file(str(FILE), bib_format="bibtex").entries.items())


def letters(name: str) -> str:
    """The name in plain lower-case letters: "van den Oord" -> "vandenoord", "Libovický" -> "libovicky"."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z]", "", plain.lower())


@pytest.mark.parametrize("key", ENTRIES)
def test_a_key_is_the_first_author_and_the_year(key):
    name, year, _ = re.fullmatch(r"(\D+)(\d\d)([a-z]?)", key).groups()
    entry = ENTRIES[key]
    first = entry.persons["author"][0]
    assert letters("".join(first.prelast_names + first.last_names)) == letters(name)
    assert entry.fields["year"][2:] == year


@pytest.mark.parametrize("key", ENTRIES)
def test_an_entry_says_where_it_appeared(key):
    fields = ENTRIES[key].fields
    assert fields["title"]
    assert any(
        name in fields for name in ("booktitle", "journal", "publisher", "institution", "eprint", "howpublished")
    )


@pytest.mark.parametrize("key", [key for key, entry in ENTRIES.items() if "eprint" in entry.fields])
def test_an_arxiv_number_is_not_younger_than_its_paper(key):
    fields = ENTRIES[key].fields
    year, month = re.fullmatch(r"(\d\d)(\d\d)\.\d{4,5}", fields["eprint"]).groups()
    assert fields["archiveprefix"] == "arXiv"
    assert 1 <= int(month) <= 12
    # arXiv numbered with four digits until 2014 and with five since.
    assert len(fields["eprint"]) == (10 if int(year) >= 15 else 9)
    assert 2000 + int(year) <= int(fields["year"])


@pytest.mark.parametrize("key", [key for key, entry in ENTRIES.items() if "doi" in entry.fields])
def test_a_doi_is_a_bare_number(key):
    assert re.fullmatch(r"10\.\d{4,}/\S+", ENTRIES[key].fields["doi"])


def test_no_work_is_listed_twice():
    titles = [letters(entry.fields["title"]) for entry in ENTRIES.values()]
    assert len(titles) == len(set(titles))
    numbers = [e.fields[name] for e in ENTRIES.values() for name in ("eprint", "doi") if name in e.fields]
    assert len(numbers) == len(set(numbers))


def test_keys_are_read_from_the_file_and_a_broken_file_is_refused(tmp_path):
    assert book.bibliography_keys(FILE) == set(ENTRIES)
    broken = tmp_path / "broken.bib"
    broken.write_text("@article{Kingma14, title = {Auto")
    with pytest.raises(BookError, match=r"broken\.bib is not valid BibTeX"):
        book.bibliography_keys(broken)


def test_every_cited_source_is_listed():
    cited = {key for erratum in book.load(ROOT / "book" / "errata.yml") for key in erratum.sources}
    assert len(cited) > 60
    assert cited <= set(ENTRIES)


def test_the_page_lists_every_entry_not_only_those_that_the_errata_cite():
    assert "```{bibliography}\n:all:\n```" in (ROOT / "book" / "bibliography.md").read_text(encoding="utf-8")
