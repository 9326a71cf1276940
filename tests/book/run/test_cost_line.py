"""The measured line stands where the marks are, and says what stamp and record say."""

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
