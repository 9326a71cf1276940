"""The measured line stands where the marks are, and says what stamp and record say."""

from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from gensrc.book import box

STAMP = {"seconds": 41.3, "peak_mb": 950, "hardware": "a CPU, 1 thread of 2 cores"}
RECORD = {"seconds": 1100.0, "peak_mb": 2048, "hardware": "a GPU"}


def notebook(text: str = f"# T\n\n> **Takes** {box.OPEN}old{box.CLOSE}. Nothing more.") -> dict:
    return new_notebook(cells=[new_code_cell(f"# {box.OPEN}{box.CLOSE}"), new_markdown_cell(text)])


def test_the_line_is_written_between_the_marks_and_nowhere_else():
    nb = notebook()
    box.fill(nb, STAMP, RECORD)
    assert nb.cells[0].source == f"# {box.OPEN}{box.CLOSE}"
    assert nb.cells[1].source == (
        f"# T\n\n> **Takes** {box.OPEN}41 s and 0.9 GB of memory in the quick profile (a CPU, 1 thread of 2 cores); "
        f"18 min and 2.0 GB of memory in the full one (a GPU){box.CLOSE}. Nothing more."
    )
    again = nb.cells[1].source
    box.fill(nb, STAMP, RECORD)
    assert nb.cells[1].source == again


def test_without_a_full_run_only_the_quick_one_is_told():
    nb = notebook()
    box.fill(nb, STAMP, None)
    assert "full one" not in nb.cells[1].source


def test_a_notebook_without_marks_stays_as_it_is():
    nb = notebook("# T")
    box.fill(nb, STAMP, None)
    assert nb.cells[1].source == "# T"
