"""A record is carried over a change of code only where the quick outputs are the same to the bit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nbformat.v4 import new_output

from gensrc.book import repository
from gensrc.book.checks import staleness
from gensrc.book.checks.stamp import sealed
from gensrc.book.repository import BookError
from gensrc.book.run import carry

ROOT = Path(__file__).parents[3]
CHAPTER = "2-part/03-vae"
CELL = "from gensrc.models import vae\nvae.train()"
STATUS = f"chapter        state  verified    seconds  full run  why\n{CHAPTER}  fresh  2026-11-21  61       current\n"
LISTING = "`gensrc/training.py`\n\n```python\ndef fit(data):\n    return 1\n```"


def shown(text: str = "one\ntwo\n", png: str = "AAAA", listing: str = LISTING) -> list[Any]:
    return [
        new_output("stream", name="stdout", text=text),
        new_output("display_data", data={"image/png": png, "text/plain": "[figure x]"}, metadata={"a": "b"}),
        new_output("display_data", data={"text/markdown": listing, "text/plain": "<Markdown>"}),
    ]


def stamp(book: Any, outputs: list[Any], files: list[str]) -> None:
    """Store `outputs` as those of a quick run that has just been made."""
    nb = book.read(CHAPTER)
    for number, cell in enumerate((cell for cell in nb.cells if cell.cell_type == "code"), 1):
        cell.execution_count = number
    nb.cells[-1].outputs = outputs
    parts = staleness.Fingerprints(book.root).parts(staleness.code_of(nb), files, "quick", 0)
    nb.metadata["gensrc"] = sealed({"parts": parts, "hash": staleness.digest(parts), "files": files}, nb)
    book.save(CHAPTER, nb)


@pytest.fixture
def rearranged(book: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A book whose chapter calls a function that has been written anew, and a checkout from before that."""
    book.chapter(CHAPTER, CELL)
    files = ["gensrc/data/digits.txt"]
    stamp(book, shown(), files)
    digest = staleness.digest(staleness.Fingerprints(book.root).parts([CELL], files, "full", 0))
    figures = {"reports": [{"label": "x", "printed": "1.0", "unit": "", "bound": "1", "value": 1.0, "abs": 1.0}]}
    facts = {"chapter": CHAPTER, "profile": "full", "seed": 0, "files": files, "hash": digest, "date": "2026-11-01"}
    book.write(f"book/results/{CHAPTER}.json", json.dumps(facts | figures))
    before = tmp_path_factory.mktemp("before") / "book"
    shutil.copytree(book.root, before)
    book.write("gensrc/training.py", "def fit(data):\n    from gensrc import metrics\n    return 0 or metrics.ELBO\n")
    stamp(book, shown(listing=LISTING.replace("return 1", "return 0 or 1")), files)
    return book, before


def record(book: Any) -> dict[str, Any]:
    return json.loads((book.root / f"book/results/{CHAPTER}.json").read_text())


def carried(book: Any, before: Path, status: str = STATUS) -> str:
    told = book.write("status.txt", status)
    return carry.carry(book.root, before, [CHAPTER], told)[CHAPTER]


def full_run(book: Any) -> str:
    return staleness.status(staleness.Fingerprints(book.root), CHAPTER).full


def test_the_record_keeps_its_figures_and_gets_the_digest_of_the_code_as_it_is(rearranged: Any) -> None:
    book, before = rearranged
    old = record(book)
    assert full_run(book) == "older code"
    status, said = book.run("carry", str(before), "03-vae", "--current", str(book.write("status.txt", STATUS)))
    assert (status, said) == (0, f"{CHAPTER}: carried over\n")
    assert full_run(book) == "current"
    new = record(book)
    assert {name for name in new if new.get(name) != old.get(name)} == {"hash", "carried"}
    assert carried(book, before) == "its record is current"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda book: stamp(book, shown(text="one\n2\n"), []), 'output 1 differs from the one before: "two | 2"'),
        (lambda book: stamp(book, shown(png="BBBB"), []), "output 2 differs from the one before: a display"),
        (lambda book: stamp(book, shown()[:1], []), "it shows 1 outputs, 2 before"),
        (lambda book: book.write("gensrc/metrics.py", "ELBO = 2\n"), "it is stale"),
        (
            lambda book: book.write(f"book/results/{CHAPTER}.json", json.dumps(record(book) | {"date": "2026-11-20"})),
            "its record is not the one from before",
        ),
    ],
)
def test_where_anything_else_differs_the_record_is_left(
    rearranged: Any, change: Callable[[Any], Any], why: str
) -> None:
    book, before = rearranged
    change(book)
    text = (book.root / f"book/results/{CHAPTER}.json").read_text()
    assert carried(book, before).startswith(f"left: {why}")
    assert (book.root / f"book/results/{CHAPTER}.json").read_text() == text


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("current", "older code", "before, it was fresh and its full run older code"),
        ("fresh", "stale", "before, it was stale and its full run current"),
        (CHAPTER, "9-part/9-other", "before, it was not there and its full run not there"),
    ],
)
def test_what_was_not_current_before_is_left(rearranged: Any, old: str, new: str, why: str) -> None:
    assert carried(*rearranged, STATUS.replace(old, new)) == f"left: {why}"


def test_printed_text_may_come_from_other_cells_than_before() -> None:
    one = {"cells": [{"cell_type": "code", "source": "x", "outputs": shown()}]}
    two = {"cells": [{"cell_type": "code", "source": "x", "outputs": [output]} for output in shown("one\n")]}
    two["cells"].insert(1, {"cell_type": "code", "source": "x", "outputs": shown("two\n")[:1]})
    assert carry.outputs(one) == carry.outputs(two)


def test_a_data_file_that_has_been_renamed_is_followed(rearranged: Any) -> None:
    book, before = rearranged
    (book.root / "gensrc/data/digits.txt").rename(book.root / "gensrc/data/figures.txt")
    stamp(book, shown(), ["gensrc/data/figures.txt"])
    assert carried(book, before) == "carried over"
    assert (record(book)["files"], full_run(book)) == (["gensrc/data/figures.txt"], "current")


def test_the_other_checkout_is_asked_by_its_own_code() -> None:
    states = carry.read_status(carry.ask_status(ROOT))
    assert list(states) == repository.chapters(ROOT)
    assert {state for state, _ in states.values()} <= {"fresh", "stale"}
    assert {full for _, full in states.values()} <= {"current", "older code", "none"}


def test_a_folder_that_is_no_other_checkout_and_a_text_that_is_no_table_are_refused(rearranged: Any) -> None:
    book, before = rearranged
    for folder in (book.root, before / "gensrc"):
        with pytest.raises(BookError, match="must be another checkout of the book"):
            carry.carry(book.root, folder, [CHAPTER])
    with pytest.raises(BookError, match="is no table"):
        carried(book, before, "all is well")
