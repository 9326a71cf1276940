"""The measured line stands where the marks are, and says what stamp and record say."""

import json
from typing import Any

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from gensrc.book.run import cost_line

STAMP = {"seconds": 41.3, "peak_mb": 950, "hardware": "a CPU, 1 thread of 2 cores"}
RECORD = {"seconds": 1100.0, "peak_mb": 2048, "hardware": "a GPU"}


def notebook(text: str = f"# T\n\n> **Takes** {cost_line.OPEN}old{cost_line.CLOSE}. Nothing more.") -> dict:
    return new_notebook(cells=[new_code_cell(f"# {cost_line.OPEN}{cost_line.CLOSE}"), new_markdown_cell(text)])


def test_the_line_is_written_between_the_marks_and_nowhere_else():
    nb = notebook()
    cost_line.fill(nb, STAMP, RECORD)
    assert nb.cells[0].source == f"# {cost_line.OPEN}{cost_line.CLOSE}"
    assert nb.cells[1].source == (
        f"# T\n\n> **Takes** {cost_line.OPEN}41 s and 0.9 GB of memory in the quick profile "
        "(a CPU, 1 thread of 2 cores); 18 min and 2.0 GB of memory in the full one (a GPU)"
        f"{cost_line.CLOSE}. Nothing more."
    )
    again = nb.cells[1].source
    cost_line.fill(nb, STAMP, RECORD)
    assert nb.cells[1].source == again


def test_without_a_full_run_only_the_quick_one_is_told():
    nb = notebook()
    cost_line.fill(nb, STAMP, None)
    assert "full one" not in nb.cells[1].source


def test_a_notebook_without_marks_stays_as_it_is():
    nb = notebook("# T")
    cost_line.fill(nb, STAMP, None)
    assert nb.cells[1].source == "# T"


CHAPTER = "2-part/03-vae"


@pytest.fixture
def measured(book: Any, text_cell: Any) -> Any:
    """A book whose chapter and its record have been measured."""
    book.chapter(CHAPTER, text_cell(f"It takes {cost_line.OPEN}{cost_line.CLOSE}."))
    book.write(f"book/results/{CHAPTER}.json", json.dumps(RECORD | {"chapter": CHAPTER, "reports": []}))
    edit(book, lambda nb: (nb.metadata.update(gensrc=STAMP), cost_line.fill(nb, STAMP, RECORD)))
    return book


def edit(book: Any, change: Any) -> None:
    nb = book.read(CHAPTER)
    change(nb)
    book.save(CHAPTER, nb)


def test_what_was_measured_may_stand_there(measured):
    assert "18 min" in measured.path(CHAPTER).read_text()
    assert cost_line.problems(measured.root, CHAPTER) == []


@pytest.mark.parametrize(
    ("old", "new"), [("41 s", "4 s"), ("in the quick", "in any"), ("18 min", "1 min"), ("a GPU", "b")]
)
def test_what_was_not_measured_is_found(measured, old, new):
    edit(measured, lambda nb: nb.cells[-1].update(source=nb.cells[-1].source.replace(old, new)))
    assert f"{CHAPTER}: what it says of its cost is not what was measured" in measured.run("check", CHAPTER)[1]


def test_a_chapter_never_executed_says_nothing_of_its_cost_yet(book, text_cell):
    book.chapter(CHAPTER, text_cell(f"It takes {cost_line.OPEN}{cost_line.CLOSE}."))
    assert cost_line.problems(book.root, CHAPTER) == []


def test_the_machine_is_told_with_its_instructions_and_its_arithmetic():
    stamp = STAMP | {"instructions": "AVX512", "precision": "bfloat16", "environment": {"A": "b"}}
    told = "a CPU, 1 thread of 2 cores, AVX512 instructions, bfloat16, A=b"
    assert cost_line.line(stamp, RECORD).endswith(f"({told}); 18 min and 2.0 GB of memory in the full one (a GPU)")
