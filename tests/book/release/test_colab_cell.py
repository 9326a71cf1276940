"""`gensrc-book cell` prints the first code cell of a chapter and puts it where it is missing or old."""

import tomllib
from pathlib import Path
from typing import Any

import gensrc
from gensrc.book import repository
from gensrc.book.release import colab_cell

ROOT = Path(__file__).resolve().parents[3]
A, B = "1-part/01-a", "2-part/02-b"


def test_the_cell_names_the_address_of_the_sources_and_this_release(book: Any) -> None:
    status, said = book.run("cell")
    assert (status, said) == (0, colab_cell.cell(repository.address(book.root), gensrc.__version__) + "\n")
    assert 'address = "https://github.com/OWNER/a-book"\n' in said
    assert f"refs/tags/v{gensrc.__version__}.zip" in said


def test_write_changes_only_chapters_whose_cell_is_another(book: Any) -> None:
    for chapter in (A, B):
        book.chapter(chapter, "print(1)")
    assert book.run("cell", "--write") == (0, f"wrote the first cell of {A}\nwrote the first cell of {B}\n")
    assert book.read(A).cells[1].source == colab_cell.cell(repository.address(book.root), gensrc.__version__)
    nb = book.read(B)
    nb.cells[1].source = "pass"
    book.save(B, nb)
    before = book.path(A).read_bytes()
    assert book.run("cell", "--write") == (0, f"wrote the first cell of {B}\n")
    assert book.path(A).read_bytes() == before


def test_a_chapter_without_a_cell_for_it_is_named(book: Any) -> None:
    book.chapter(A, "print(1)")
    nb = book.read(A)
    del nb.cells[1]
    book.save(A, nb)
    status, said = book.run("cell", "--write")
    assert (status, said) == (
        2,
        f"gensrc-book: {A}: its first code cell is not tagged colab: add one with the tags colab and hide-input.\n",
    )


def test_a_chapter_that_needs_what_colab_lacks_asks_for_the_extra(book: Any) -> None:
    book.chapter(A, "from gensrc.evaluation import text_scores")
    book.chapter(B, "print(1)")
    book.run("cell", "--write")
    with_extra, without = (book.read(chapter).cells[1].source for chapter in (A, B))
    assert f'archive = f"gensrc[text] @ {{address}}/archive/refs/tags/v{gensrc.__version__}.zip"' in with_extra
    assert "%pip install '{archive}'" in with_extra
    assert "gensrc[text]" not in without


def test_every_extra_is_one_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(colab_cell.EXTRAS.values()) <= project["optional-dependencies"].keys()
    for module in colab_cell.EXTRAS:
        assert list((ROOT / "gensrc").rglob(f"{module}.py"))
