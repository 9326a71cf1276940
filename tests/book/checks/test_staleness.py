"""What makes a chapter stale and what does not, judged by files alone."""

import ast
import hashlib
import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from nbformat.v4 import new_code_cell as code_cell
from nbformat.v4 import new_output

from gensrc.book import repository
from gensrc.book.checks import meaning, staleness, stamp
from gensrc.book.repository import BookError

ROOT = Path(__file__).parents[3]
CHAPTER = "2-part/03-vae"
CELL = "from gensrc.models import vae\nfrom gensrc import data\nprint(data.load(), vae.train())"


def mark(book: Any, chapter: str = CHAPTER, files: tuple[str, ...] = ("gensrc/data/digits.txt",)) -> None:
    """Stamp the chapter as if it had just been executed."""
    nb = book.read(chapter)
    for number, cell in enumerate(nb.cells):
        if cell.cell_type == "code":
            cell.execution_count = number
    parts = staleness.Fingerprints(book.root).parts(staleness.code_of(nb), list(files), "quick", 0)
    facts = {
        "chapter": chapter,
        "hash": staleness.digest(parts),
        "files": list(files),
        "verified": "2026-11-21",
        "seconds": 61.4,
    }
    nb.metadata["gensrc"] = stamp.sealed({"parts": parts} | facts, nb)
    book.save(chapter, nb)


def reasons(book: Any, chapter: str = CHAPTER) -> list[str]:
    return staleness.status(staleness.Fingerprints(book.root), chapter).reasons


@pytest.fixture
def stamped(book: Any) -> Any:
    book.chapter(CHAPTER, CELL)
    mark(book)
    assert reasons(book) == []
    return book


def append(book: Any, path: str, text: str) -> None:
    with open(book.root / path, "a") as file:
        file.write(text)


@pytest.mark.parametrize(
    "path",
    [
        "gensrc/models/vae.py",  # imported by a cell
        "gensrc/models/__init__.py",  # run on the way to it
        "gensrc/training.py",  # imported by vae, relatively
        "gensrc/metrics.py",  # imported by training, inside a function
        "gensrc/data/__init__.py",
        "gensrc/trace.py",  # imported by data
        "gensrc/__init__.py",
        "gensrc/data/digits.txt",  # read by the last run
    ],
)
def test_a_change_in_what_it_uses_makes_it_stale(stamped: Any, path: str) -> None:
    append(stamped, path, "print('a change')\n")
    assert reasons(stamped) == [path]


@pytest.mark.parametrize("path", ["gensrc/models/gan.py", "gensrc/data/other.txt", "README.md"])
def test_a_change_elsewhere_does_not(stamped: Any, path: str) -> None:
    append(stamped, path, "print('a change')\n")
    assert reasons(stamped) == []


def change(book: Any, path: str, old: str, new: str) -> None:
    text = (book.root / path).read_text()
    assert old in text
    book.write(path, text.replace(old, new))


def test_a_change_in_a_function_that_it_calls_through_others_makes_it_stale(stamped: Any) -> None:
    change(stamped, "gensrc/training.py", "return metrics.ELBO", "return 2 * metrics.ELBO")
    assert reasons(stamped) == ["gensrc/training.py"]


def test_a_constant_that_it_reads_through_others_makes_it_stale(stamped: Any) -> None:
    change(stamped, "gensrc/metrics.py", "-104.1", "-104.2")
    assert reasons(stamped) == ["gensrc/metrics.py"]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("gensrc/metrics.py", "import torch\n\n\ndef frechet(a):\n    return torch.trace(a)\n"),
        ("gensrc/training.py", "class Trainer:\n    def fit_all(self):\n        from gensrc.models import gan\n"),
        ("gensrc/models/vae.py", "LADDER = 3\n# a remark\n"),
    ],
)
def test_what_a_module_gains_beside_what_it_uses_does_not(stamped: Any, path: str, text: str) -> None:
    append(stamped, path, text)
    assert reasons(stamped) == []


def test_what_a_module_gains_counts_for_the_chapter_that_uses_it(book: Any) -> None:
    book.chapter(CHAPTER, "from gensrc import metrics\nprint(getattr(metrics, 'frechet', 0))")
    mark(book)
    append(book, "gensrc/metrics.py", "def frechet():\n    return AUROC\n")
    assert reasons(book) == ["gensrc/metrics.py"]
    mark(book)
    change(book, "gensrc/metrics.py", "0.5", "0.6")
    assert reasons(book) == ["gensrc/metrics.py"]


@pytest.mark.parametrize(
    ("module", "spelled_alike"),
    [
        ("gensrc/metrics.py", "def fit(data):\n    return 0\n"),  # vae uses the fit of training
        ("gensrc/training.py", "def data():\n    return 0\n"),  # a parameter of fit has this name
        ("gensrc/training.py", "def train():\n    return 0\n"),  # vae has its own
        ("gensrc/__init__.py", "if TYPE_CHECKING:\n    import torch\n"),
    ],
)
def test_what_is_only_spelled_like_something_in_use_does_not_count(
    stamped: Any, module: str, spelled_alike: str
) -> None:
    append(stamped, module, spelled_alike)
    assert reasons(stamped) == []


@pytest.mark.parametrize(
    "cell",
    [
        "from gensrc import hub\nprint(hub.ELBO)",
        "from gensrc.hub import ELBO\nprint(ELBO)",
        "from gensrc import hub as h\nprint(getattr(h, 'ELBO'))",
        "import gensrc.hub\nprint(gensrc.hub.ELBO)",
        "def later():\n    from gensrc import hub\n    return [hub.ELBO for hub in [hub]]",
        "for module in [__import__('gensrc'), *modules()]:\n    pass\nfrom gensrc import hub\nx = [hub]\nx[0].ELBO",
    ],
)
@pytest.mark.parametrize(
    "hub",
    [
        "from gensrc.metrics import ELBO\n",
        "from .metrics import *\n",
        "try:\n    from gensrc.metrics import ELBO\nexcept ImportError:\n    ELBO = 0\n",
        "from gensrc import metrics\nELBO = metrics.ELBO\n",
    ],
)
def test_a_name_is_followed_through_a_module_that_hands_it_on(book: Any, cell: str, hub: str) -> None:
    book.write("gensrc/hub.py", hub)
    book.chapter(CHAPTER, cell)
    mark(book)
    change(book, "gensrc/metrics.py", "0.5", "0.6")
    assert reasons(book) == []
    change(book, "gensrc/metrics.py", "-104.1", "-104.2")
    assert reasons(book) == ["gensrc/metrics.py"]


def test_a_decorator_belongs_to_its_function(stamped: Any) -> None:
    change(stamped, "gensrc/training.py", "def fit", "@print\ndef fit")
    assert reasons(stamped) == ["gensrc/training.py"]


def edit(book: Any, change: Any) -> None:
    nb = book.read(CHAPTER)
    change(nb)
    book.save(CHAPTER, nb)


def test_a_changed_code_cell_makes_it_stale(stamped: Any) -> None:
    edit(stamped, lambda nb: nb.cells[-1].update(source=CELL + "\n# again"))
    assert reasons(stamped) == ["code cells"]


def test_the_order_of_code_cells_counts(book: Any) -> None:
    book.chapter(CHAPTER, "print(1)", "print(2)")
    mark(book)
    edit(book, lambda nb: nb.cells.append(nb.cells.pop(-2)))
    assert reasons(book) == ["code cells", stamp.CHANGED]


def test_prose_and_the_colab_cell_do_not_count(stamped: Any) -> None:
    def change(nb: Any) -> None:
        nb.cells[0].source = "# Another title <!-- and a comment -->"
        nb.cells[1].source = "%pip install gensrc==0.2"

    edit(stamped, change)
    assert reasons(stamped) == []


def test_the_version_number_of_gensrc_does_not_count(stamped: Any) -> None:
    stamped.write("gensrc/__init__.py", '__version__ = "0.2"\n')
    assert reasons(stamped) == []


def test_a_checkout_with_other_line_ends_is_the_same(book: Any) -> None:
    book.chapter(CHAPTER, CELL + "\nprint(1)\nprint(2)")
    book.write("gensrc/data/card.json", '{\n "a": 1\n}\n')
    book.write("gensrc/data/weights", "\0\n")
    mark(book, files=("gensrc/data/card.json", "gensrc/data/weights"))
    for path in [path for path in book.root.rglob("*") if path.is_file() and path.name != "weights"]:
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert reasons(book) == []
    book.root.joinpath("gensrc/data/weights").write_bytes(b"\0\r\n")
    assert reasons(book) == ["gensrc/data/weights"], "only in a text they mean the same"


def test_a_changed_pin_in_use_makes_it_stale(stamped: Any) -> None:
    stamped.write("constraints.txt", "numpy==2.4.0\ntorch==2.13.0\nscikit-learn==1.7.0\n")
    assert reasons(stamped) == ["pin numpy 2.3.0 -> 2.4.0"]


def test_a_changed_pin_not_in_use_does_not(stamped: Any) -> None:
    stamped.write("constraints.txt", "numpy==2.3.0\ntorch==2.14.0\nscikit-learn==1.8.0\n")
    assert reasons(stamped) == []


def test_import_names_lead_to_distributions(book: Any) -> None:
    book.chapter(CHAPTER, "from sklearn.decomposition import PCA\nimport torch.nn.functional as F, os")
    nb = book.read(CHAPTER)
    parts = staleness.Fingerprints(book.root).parts(staleness.code_of(nb), [], "quick", 0)
    assert [part for part in parts if part.startswith("pin ")] == ["pin scikit-learn", "pin torch"]


def test_a_data_file_that_is_gone_is_named(stamped: Any) -> None:
    (stamped.root / "gensrc/data/digits.txt").unlink()
    assert reasons(stamped) == ["gensrc/data/digits.txt is missing"]


def test_modules_that_come_and_go_are_named(stamped: Any) -> None:
    stamped.write("gensrc/models/vae.py", "import numpy\nfrom . import gan\ntrain = gan.torch, numpy\n")
    assert reasons(stamped) == [
        "gensrc/metrics.py (no longer used)",
        "gensrc/models/gan.py (not used before)",
        "gensrc/models/vae.py",
        "gensrc/training.py (no longer used)",
        "pin torch (not used before)",
    ]


def test_a_chapter_never_executed_is_stale(book: Any) -> None:
    book.chapter(CHAPTER, CELL)
    assert reasons(book) == ["never executed"]


@pytest.mark.parametrize(
    "change",
    [
        lambda nb: nb.cells[-1].outputs[0].update(text="loss ≈ 0.30 nats (±5 %)\n✓ it falls\n"),
        lambda nb: nb.cells[-1].outputs[0].update(text="loss ≈ 0.31 nats (±5 %)\n"),  # a claim is gone
        lambda nb: nb.cells[-1].outputs[1].data.update({"image/png": "BBBB"}),
        lambda nb: nb.cells[-1].outputs[1].data.update({"text/html": "<p>more</p>"}),
        lambda nb: nb.cells[-1].outputs[1].metadata["gensrc"]["figure"].update(caption="It rises."),
        lambda nb: nb.cells[-1].metadata.update(mystnb={"figure": {"caption": "It rises."}}),
        lambda nb: nb.cells[-1].outputs.pop(),
        lambda nb: nb.cells[-1].outputs.reverse(),
        lambda nb: nb.cells[-1].update(execution_count=57),  # run again by hand
        lambda nb: nb.cells[2].update(outputs=[nb.cells[-1].outputs.pop()]),  # shown by another cell
        lambda nb: nb.cells.insert(4, code_cell("", outputs=[new_output("stream", name="stdout", text="also\n")])),
    ],
)
def test_outputs_that_no_run_has_left_are_noticed(book: Any, change: Any) -> None:
    book.chapter(CHAPTER, CELL)
    figure = new_output("display_data", {"image/png": "AAAA"}, metadata={"gensrc": {"figure": {"caption": "Falls."}}})
    text = new_output("stream", name="stdout", text="loss ≈ 0.31 nats (±5 %)\n✓ it falls\n")
    edit(book, lambda nb: nb.cells[-1].update(outputs=[text, figure]))
    mark(book)
    assert reasons(book) == []
    edit(book, change)
    assert reasons(book) == [stamp.CHANGED]


@pytest.mark.parametrize(("fact", "value"), [("seconds", 1.0), ("verified", "2026-12-24"), ("hardware", "a GPU")])
def test_a_stamp_that_was_edited_is_noticed(stamped: Any, fact: str, value: object) -> None:
    edit(stamped, lambda nb: nb.metadata["gensrc"].update({fact: value}))
    assert reasons(stamped) == [stamp.EDITED]


def test_a_copied_chapter_and_code_beside_it_are_noticed(stamped: Any) -> None:
    copy = stamped.path(CHAPTER).with_name("99-copied.ipynb")
    copy.write_bytes(stamped.path(CHAPTER).read_bytes())
    (found,) = (row.reasons for row in staleness.of_book(stamped.root) if row.chapter.endswith("99-copied"))
    assert found == [f"its stamp is that of {CHAPTER}"]
    copy.with_name("helper.py").touch()
    assert reasons(stamped) == ["beside it lies helper.py, of which no stamp tells"]


def test_a_stamp_that_does_not_tell_of_its_outputs_is_stale(stamped: Any) -> None:
    edit(stamped, lambda nb: nb.metadata["gensrc"].pop("outputs"))
    assert reasons(stamped) == [stamp.UNSEALED]


def test_a_cell_without_execution_count_is_stale(stamped: Any) -> None:
    edit(stamped, lambda nb: nb.cells[2].update(execution_count=None))
    assert reasons(stamped) == ["code cell 2 has no execution count"]


@pytest.mark.parametrize(
    "cell",
    [
        "import gensrc.models.gan",
        "import gensrc.models.gan as g",
        "from gensrc.models import gan, vae",
        "from gensrc.models.gan import Generator",
        "def later():\n    from gensrc.models import gan",
        "if True:\n    !pip list\nfrom gensrc.models import gan",
        "%matplotlib inline\nfrom gensrc.models import gan",
        "import importlib\nimportlib.import_module('gensrc.models.gan')",
    ],
)
def test_every_way_to_import_is_seen(book: Any, cell: str) -> None:
    modules = staleness.Fingerprints(book.root).reached([cell]).pieces
    assert book.root / "gensrc/models/gan.py" in modules
    assert book.root / "gensrc/models/__init__.py" in modules


def test_circular_imports_end(book: Any) -> None:
    book.write("gensrc/metrics.py", "from gensrc.models import vae\nELBO = vae.train\n")
    modules = staleness.Fingerprints(book.root).reached(["from gensrc.metrics import ELBO"]).pieces
    assert {path.name for path in modules} == {"__init__.py", "vae.py", "training.py", "metrics.py"}


def test_a_cell_that_is_no_python_is_named(book: Any) -> None:
    book.chapter(CHAPTER, CELL, "print(")
    mark_without_parts = book.read(CHAPTER)
    mark_without_parts.metadata["gensrc"] = {"parts": {"x": "y"}}
    book.save(CHAPTER, mark_without_parts)
    with pytest.raises(BookError, match=r"2-part/03-vae: code cell 3 is not Python, line 1"):
        reasons(book)


def test_a_module_that_is_no_python_is_named(stamped: Any) -> None:
    append(stamped, "gensrc/training.py", "def (\n")
    with pytest.raises(BookError, match=r"gensrc/training.py line 4 is not Python"):
        reasons(stamped)


def record(book: Any, *files: str) -> None:
    """Record a full run of the chapter as if it had just been made."""
    kept = {"profile": "full", "seed": 0, "files": list(files)}
    code = staleness.code_of(book.read(CHAPTER))
    kept["hash"] = staleness.digest(staleness.Fingerprints(book.root).parts(code, list(files), "full", 0))
    book.write(f"book/results/{CHAPTER}.json", json.dumps(kept))


def full_run(book: Any) -> str:
    return staleness.status(staleness.Fingerprints(book.root), CHAPTER).full


@pytest.fixture
def recorded(stamped: Any) -> Any:
    record(stamped, "gensrc/data/other.txt")
    assert full_run(stamped) == "current"
    return stamped


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("gensrc/metrics.py", "-104.1", "-104.2"),  # read through others
        ("gensrc/training.py", "return metrics.ELBO", "return 2 * metrics.ELBO"),
        ("gensrc/training.py", "def fit(data)", "def fit(data, more=1)"),
        ("gensrc/training.py", "def fit", "@print\ndef fit"),
        ("gensrc/training.py", "def fit", "print()\ndef fit"),  # runs with every import
        ("gensrc/models/vae.py", "import numpy\n", "import torch as numpy\n"),
        ("gensrc/models/vae.py", "zeros(3)", "zeros(3.0)"),
        ("gensrc/models/vae.py", "from ..training import fit", "from ..metrics import AUROC as fit"),
        ("gensrc/data/other.txt", "never", "once"),
        ("constraints.txt", "numpy==2.3.0", "numpy==2.4.0"),
    ],
)
def test_a_record_is_old_once_a_full_run_would_execute_something_else(
    recorded: Any, path: str, old: str, new: str
) -> None:
    change(recorded, path, old, new)
    assert full_run(recorded) == "older code"


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("gensrc/models/gan.py", "import torch", "print()"),  # not in use
        ("gensrc/metrics.py", "AUROC = 0.5", "AUROC = 0.6"),
        ("gensrc/training.py", "def fit(data):\n", 'def fit(data):\n    """Fit."""\n    # to the data\n'),
        ("gensrc/training.py", "fit(data)", "fit(\n    data,\n)"),
        ("gensrc/models/vae.py", "from ..training import fit", "from gensrc.training import fit"),
        ("gensrc/models/vae.py", "import numpy\n", "import numpy\nfrom gensrc.models import gan\n"),
        ("gensrc/__init__.py", "0.1", "0.2"),
    ],
)
def test_a_record_stays_current_over_what_python_does_not_execute(recorded: Any, path: str, old: str, new: str) -> None:
    change(recorded, path, old, new)
    assert full_run(recorded) == "current"


def test_a_changed_docstring_makes_the_stored_outputs_stale_which_may_show_it(recorded: Any) -> None:
    change(recorded, "gensrc/training.py", "def fit(data):\n", 'def fit(data):\n    """Fit."""\n')
    assert (reasons(recorded), full_run(recorded)) == (["gensrc/training.py"], "current")


def test_a_file_that_moves_leaves_the_record_current(recorded: Any) -> None:
    (recorded.root / "gensrc/training").mkdir()
    (recorded.root / "gensrc/training.py").rename(recorded.root / "gensrc/training/loop.py")
    recorded.write("gensrc/training/__init__.py", "from gensrc.training.loop import fit\n")
    (recorded.root / "gensrc/models/vae.py").rename(recorded.root / "gensrc/models/latent.py")
    change(recorded, "gensrc/models/latent.py", "..training", "gensrc.training")
    edit(recorded, lambda nb: nb.cells[-1].update(source=CELL.replace("import vae", "import latent as vae")))
    record_before = full_run(recorded)
    edit(recorded, lambda nb: nb.cells[-1].update(source=CELL.replace("models import vae", "vae import vae")))
    recorded.write("gensrc/vae/__init__.py", "")
    (recorded.root / "gensrc/models/latent.py").rename(recorded.root / "gensrc/vae/vae.py")
    assert (record_before, full_run(recorded)) == ("older code", "current"), "another name is a change, a path is none"


def test_a_function_that_moves_to_another_module_leaves_the_record_current(recorded: Any) -> None:
    change(recorded, "gensrc/training.py", "def fit(data):\n    from gensrc import metrics\n", "def fit(data):\n")
    change(recorded, "gensrc/training.py", "def fit", "from gensrc import metrics\n\n\ndef fit")
    record(recorded, "gensrc/data/other.txt")
    text = (recorded.root / "gensrc/training.py").read_text()
    recorded.write("gensrc/training.py", "import os\n\ndef data():\n    return os\n")
    append(recorded, "gensrc/models/gan.py", text.replace("from gensrc import metrics", "from .. import metrics"))
    change(recorded, "gensrc/models/vae.py", "..training", "gensrc.models.gan")
    assert full_run(recorded) == "current"
    assert reasons(recorded), "what notebook.source shows has changed, as it names the file"


def test_two_things_of_one_name_both_count(book: Any) -> None:
    book.write("gensrc/models/gan.py", "def train():\n    return 1\n")
    book.chapter(CHAPTER, "from gensrc.models import gan, vae\nvae.train(), gan.train()")
    mark(book)
    record(book)
    change(book, "gensrc/models/gan.py", "return 1", "return 2")
    assert full_run(book) == "older code"


def test_the_meaning_of_code_is_the_same_text_on_every_python() -> None:
    code = """
@cached(size=3)
def f(a: int, *, b: "str" = 'x', **c) -> None:
    'Documented.'
    from torch import nn as n, optim
    from gensrc.models import vae as v, gan
    s = f"{a!r:>{b}} and {{}} {c['d']}" "more"
    with open(s) as one, two: return lambda x, /, y=-1: (x, *y[1:, ...])
    try: yield {1: 2, **c}
    except* (A, B) as e: raise X from e
    match a:
        case [P(q=1), *_] | {"k": None}: pass
"""
    told = meaning.of(ast.parse(code).body, "gensrc")
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == "4cee9531fbb32a29"
    assert "Documented" not in told
    assert "Import(n=torch.nn,optim=torch.optim)" in told
    assert "Import(v=vae)" in told


@pytest.mark.parametrize(
    ("before", "after", "full"),
    [
        ("quick=400", "quick=(100, 200)", "current"),
        ("quick=400", "quick=n // 2", "current"),
        ("run.pick(quick=400, full=9)", "9", "current"),
        ("full=9", "full=8", "older code"),
        ("run.pick", "run.choose", "older code"),
        ("more(quick=1)", "more(quick=2)", "older code"),
    ],
)
def test_a_full_run_does_not_depend_on_the_quick_budgets(stamped: Any, before: str, after: str, full: str) -> None:
    cell = "n = 400\nsteps = run.pick(quick=400, full=9)\nmore(quick=1)"
    stamped.chapter(CHAPTER, cell)
    record(stamped)
    stamped.chapter(CHAPTER, cell.replace(before, after))
    assert full_run(stamped) == full
    quick = [
        staleness.Fingerprints(stamped.root).parts([text], [], "quick", 0)
        for text in (cell, cell.replace(before, after))
    ]
    assert quick[0] != quick[1]


def test_a_damaged_record_is_named(stamped: Any) -> None:
    stamped.write(f"book/results/{CHAPTER}.json", "{}")
    with pytest.raises(BookError, match=r"book/results/2-part/03-vae.json is no record of a full run"):
        reasons(stamped)


def test_status_prints_a_table_and_says_by_its_exit_what_it_found(stamped: Any) -> None:
    status, printed = stamped.run("status")
    assert status == 0
    assert printed.splitlines()[1].split() == [CHAPTER, "fresh", "2026-11-21", "61", "none"]
    append(stamped, "gensrc/training.py", "print('a change')\n")
    stamped.write("constraints.txt", "numpy==2.4.0\n")
    status, printed = stamped.run("status")
    assert status == 1
    assert printed.splitlines()[1].endswith("none      gensrc/training.py, pin numpy 2.3.0 -> 2.4.0")


def test_pins_are_read_whatever_their_spelling(book: Any) -> None:
    book.write("constraints.txt", 'Scikit_Learn==1.7  # why\n\nnumpy==2.2; python_version < "3.12"\nnumpy==2.3\n')
    assert repository.pins(book.root) == {"scikit-learn": "1.7", "numpy": '2.2; python_version < "3.12", 2.3'}


@pytest.mark.parametrize("line", ["numpy>=2", "numpy", "-r other.txt"])
def test_a_line_that_pins_nothing_is_named(book: Any, line: str) -> None:
    book.write("constraints.txt", f"torch==2.13.0\n{line}\n")
    status, printed = book.run("status")
    assert status == 2
    assert printed == f"gensrc-book: constraints.txt line 2 is no exact pin: write name==version, not '{line}'.\n"


def test_status_of_a_whole_book_takes_two_seconds_of_a_processor_at_most_and_no_torch(book: Any) -> None:
    """31 chapters of 1 MB each on the real gensrc, all of which read the whole data pack and all checkpoints."""
    (book.root / "pack").write_bytes(bytes(55 * 2**20))
    (book.root / "gensrc").rename(book.root / "fake")
    (book.root / "gensrc").symlink_to(ROOT / "gensrc")
    cell = "from gensrc import notebook, training, metrics, plots\nfrom gensrc.models import vae"
    first = "2-part/00"
    book.chapter(first, *[cell] * 15)
    nb = book.read(first)
    nb.cells[-1].outputs = [new_output("display_data", data={"image/png": "A" * 2**20})]
    book.save(first, nb)
    mark(book, first, files=("pack",))
    for number in range(1, 31):
        shutil.copy(book.path(first), book.path(f"2-part/{number:02d}"))
    program = (
        "import sys; from gensrc.book import cli; status = cli.main(['status']);"
        "sys.exit(3 if 'torch' in sys.modules else status)"
    )
    seconds = []
    for _ in range(2):  # the better of two, since other tests may run beside this one
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": str(ROOT)}, cwd=book.root)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert result.returncode == 0
    assert min(seconds) < 2
