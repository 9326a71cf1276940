"""A model chapter keeps the contract; each way of breaking it is found and named."""

from collections.abc import Callable
from typing import Any

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import gensrc
from gensrc.book import clean, repository
from gensrc.book.checks import chapter_rules, stamp
from gensrc.book.release import colab_cell

CHAPTER = "2-part/03-vae"
SECTIONS = ["The idea", "The mathematics", "The code", "The experiment", "What the article gets wrong"]
FIGURE = {"name": "loss", "caption": "Loss falls.", "alt": "A falling line, steep at first.", "kind": "plot"}


def code(source: str, *tags: str, outputs: tuple[NotebookNode, ...] = ()) -> NotebookNode:
    return new_code_cell(source, metadata={"tags": list(tags)} if tags else {}, outputs=list(outputs))


def shown(data: dict[str, str], figure: dict[str, str] | None = None) -> NotebookNode:
    return new_output("display_data", data=data, metadata={"gensrc": {"figure": figure}} if figure else {})


def model(address: str) -> NotebookNode:
    """A chapter as it should be. Cells 4 to 8 are its sections, 9 the exercises, 10 an answer, 11 the references."""
    cells = [
        new_markdown_cell("# A chapter\n\n```python\n# no heading\n```"),
        code(colab_cell.cell(address, gensrc.__version__), "colab", "hide-input"),
        code('profile = "quick"\nseed = 0', "parameters"),
        code("import numpy", outputs=(shown({"image/png": "AAAA"}, FIGURE),)),
        *[new_markdown_cell(f"## {title}") for title in SECTIONS],
        new_markdown_cell("## Exercises\n\n### 1. Try it\n\nWhat happens?"),
        code("print(1)", "hide-cell"),
        new_markdown_cell("## References\n\n[A paper](https://arxiv.org/abs/1312.6114)"),
    ]
    nb = new_notebook(cells=cells)
    number_cells(nb)
    return nb


def number_cells(nb: NotebookNode) -> None:
    for count, cell in enumerate((cell for cell in nb.cells if cell.cell_type == "code"), 1):
        cell.execution_count = count


def check(book: Any, change: Callable[[NotebookNode], Any], number: bool = True) -> list[str]:
    nb = model(repository.address(book.root))
    change(nb)
    if number:
        number_cells(nb)
    path = book.path(CHAPTER)
    path.parent.mkdir(exist_ok=True)
    nb = clean.clean(nb) if number else nb
    nb.metadata["gensrc"] = stamp.sealed({}, nb)
    text = clean.dumps(nb)
    path.write_text(text, encoding="utf8")
    return chapter_rules.check(book.root, CHAPTER)


def put(place: int, source: str) -> Callable[[NotebookNode], Any]:
    return lambda nb: nb.cells[place].update(source=source)


def output(*outputs: NotebookNode) -> Callable[[NotebookNode], Any]:
    return lambda nb: nb.cells[3].update(outputs=list(outputs))


def html(text: str) -> Callable[[NotebookNode], Any]:
    return output(shown({"text/html": text}))


def long_cell(lines: int) -> Callable[[NotebookNode], Any]:
    return put(3, "# a comment\n\n" + "x = 1\n" * lines)


def test_a_model_chapter_keeps_the_contract(book: Any) -> None:
    assert check(book, lambda nb: None) == []
    assert book.run("check", "03-vae") == (0, "All that was checked keeps the rules.\n")


def test_what_is_allowed(book: Any) -> None:
    assert check(book, long_cell(25)) == []
    assert check(book, html('<a href="https://example.org">a link</a><img src="data:image/png;base64,AA//AA">')) == []
    assert check(book, put(10, "print(1)\n# https://example.org")) == []
    assert check(book, put(9, "## Exercises\n\n### 1. Try it\n\n#### A hint\n\nLook closely.")) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (put(1, "import torch"), "is not the one that belongs there"),
        (lambda nb: nb.cells[1].metadata.update(tags=["colab"]), "must be tagged colab and hide-input"),
        (put(2, 'profile = "full"\nseed = 0'), 'must hold profile = "quick" and seed = 0'),
        (put(2, 'profile = "quick"\nseed = 0\nsteps = 5'), "and nothing else"),
        (lambda nb: nb.cells[2].metadata.clear(), "one cell tagged parameters"),
        (long_cell(26), "code cell 3 has 26 lines of code, at most 25 are allowed"),
        (output(shown({"image/png": "AAAA"})), "code cell 3 shows a picture without description"),
        (output(shown({"image/png": "AAAA"}, FIGURE | {"alt": "A line."})), "needs an alt text of 20 characters"),
        (output(shown({"image/png": "AAAA"}, FIGURE | {"caption": " "})), "code cell 3 needs a caption"),
        (output(*[shown({"image/png": "AAAA"}, FIGURE)] * 2), "code cell 3 shows 2 figures"),
        (
            lambda nb: nb.cells[3].metadata.update(tags=["nbval-skip"]),
            "code cell 3 is tagged nbval-skip; the tags of a",
        ),
        (output(new_output("error", ename="ValueError", evalue="no")), "stores an error: ValueError: no"),
        (
            output(new_output("stream", name="stdout", text="end\ngain ≈ 0.40 nats (±0.6)\n")),
            "cell 3 reports gain ≈ 0.40 nats within ±0.6, which zero or next to it would meet too",
        ),
        (output(shown({"image/svg+xml": "A" * 3 * 2**20})), "the file holds 3.0 MB, at most 3 MB"),
        (put(3, "import seaborn"), "it uses seaborn, which constraints.txt does not pin"),
        (put(0, "## Not a title"), "must begin with its title"),
        (put(4, "## The idea\n\n# A second title"), "it has 2"),
        (put(8, "## What we think"), "must end with the sections What the article gets wrong, Exercises, References"),
        (lambda nb: nb.cells.insert(4, nb.cells.pop(11)), "in this order; it has ['References'"),
        (lambda nb: nb.cells.pop(4), "for the idea, the mathematics, the code and the experiment"),
        (put(11, "## References\n\n## More"), "its last section must be References, not More"),
        (lambda nb: nb.cells[10].metadata.clear(), "the exercise '1. Try it' has no answer"),
        (put(9, "## Exercises\n\n### 1. Try it\n\n### 2. Again"), "the exercise '1. Try it' has no answer"),
        (put(9, "## Exercises\n\nTry it."), "a heading of level 3 for each exercise; there is none"),
        (html('<img src="https://example.org/a.png">'), "code cell 3 would load https://example.org/a.png"),
        (html('<script src="//cdn.example/x.js"></script>'), "would load //cdn.example/x.js"),
        (html('<link rel="stylesheet" href="http://example.org/a.css">'), "would load http://example.org/a.css"),
        (html('<img srcset="a.png 1x, https://example.org/b.png 2x">'), "would load https://example.org/b.png"),
        (html("<style>p {background: url('https://example.org/b.png')}</style>"), "load https://example.org/b.png"),
        (output(shown({"text/markdown": "![x](https://example.org/c.png)"})), "load https://example.org/c.png"),
        (put(4, "## The idea\n\n![x](https://example.org/d.png)"), "the prose would load https://example.org/d.png"),
    ],
)
def test_what_is_not(book: Any, change: Callable[[NotebookNode], Any], problem: str) -> None:
    problems = check(book, change)
    assert any(problem in found for found in problems), problems
    assert len(problems) == 1, problems


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda nb: nb.cells[3].update(execution_count=None), "their counts are [1, 2, None, 4]"),
        (lambda nb: nb.cells[3].update(execution_count=9), "their counts are [1, 2, 9, 4]"),
        (output(new_output("stream", name="stderr", text="Warning: x\ny\n")), "on stderr: Warning: x"),
        (
            lambda nb: nb.metadata.update(kernelspec={"name": "julia", "display_name": "J"}),
            "must be python3, not julia",
        ),
        (lambda nb: nb.metadata.update(widgets={}), "run gensrc-book clean"),
    ],
)
def test_what_cleaning_or_executing_would_mend(book: Any, change: Callable[[NotebookNode], Any], problem: str) -> None:
    problems = check(book, change, number=False)
    assert any(problem in found for found in problems), problems


MAP = """
chapters:
  - {name: 2-part/03-vae, title: A chapter, systems: []}
articles:
  - id: A0
    file: "000"
    title: T
    english: T
    part: 2
    part_title: T
    content: C.
    headings:
      - {level: 1, line: 1, zh: T, en: T, content: C., chapter: 2-part/03-vae, anchor: the-idea}
"""
ERRATUM = """
- {id: A0-E1, kind: stop, line: "1", where: W, printed: P., happens: H., right: R., sources: [Me26], shown: ""}
"""
QUESTION = """
- {id: why, en: "Why?", zh: "为什么？", answer: So., shown: ["2-part/03-vae#the-idea"]}
"""


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("book/articles.yml", "", "", "All that was checked keeps the rules."),
        ("book/articles.yml", "the-idea", "no-idea", "03-vae.ipynb has no heading with the anchor 'no-idea'."),
        ("book/errata.yml", "A0-E1", "A0-E2", "A0-E2: the errata of A0 must be numbered in order; A0-E1 belongs here."),
        ("book/errata.yml", 'shown: ""', "shown: 2-part/03-vae#gone", "no heading with the anchor gone."),
        ("book/references.bib", "Me26", "You26", "A0-E1: references.bib has no Me26."),
        ("book/questions.yml", "#the-idea", "#gone", "questions.yml, why: the chapter 2-part/03-vae has no heading"),
        ("gensrc/data/files/x/card.json", "{}", "[]", "x/card.json: it must be a mapping"),
    ],
)
def test_without_a_name_all_that_people_write_by_hand_is_checked_too(
    book: Any, file: str, old: str, new: str, problem: str
) -> None:
    check(book, lambda nb: None)
    files = {"book/articles.yml": MAP, "book/errata.yml": ERRATUM, "book/questions.yml": QUESTION}
    files["book/references.bib"] = "@misc{Me26, title = {T}}\n"
    if "card" in file:
        files[file] = "{}"
    for name, text in files.items():
        book.write(name, text.replace(old, new) if name == file else text)
    status, said = book.run("check")
    assert (status, problem in said) == (int("All" not in problem), True), said
    assert len(said.splitlines()) == 1, said
    assert book.run("check", "03-vae")[0] == 0, "a chapter alone is checked alone"


def test_the_command_names_the_chapter(book: Any) -> None:
    check(book, long_cell(26))
    assert book.run("check", "03-vae") == (
        1,
        f"{CHAPTER}: code cell 3 has 26 lines of code, at most 25 are allowed\n",
    )


def test_two_chapters_with_a_figure_of_one_name_are_told(book: Any, code_cell: Callable[..., NotebookNode]) -> None:
    for chapter, name in (("2-part/03-vae", "loss"), ("2-part/04-uses", "loss"), ("2-part/05-more", "gain")):
        cell = code_cell("pass")
        cell.metadata["mystnb"] = {"figure": {"name": f"fig-{name}"}}
        book.chapter(chapter, cell)
    assert chapter_rules.clashes(book.root) == ["2-part/04-uses: 2-part/03-vae has a figure named 'loss' too"]
