"""What the nbval plugin lets pass, what it must not, and what it says. One notebook, one kernel: a cell a case."""

import operator
import os
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from gensrc.book.checks import tolerance
from gensrc.book.checks.tolerance import Tolerant, disagreements
from gensrc.report_lines import Report

ROOT = Path(__file__).parents[3]
WIDGET = "application/vnd.jupyter.widget-view+json"
ELBO = "test ELBO ≈ {} nats (±5 %)"


def stdout(text: str) -> Any:
    return new_output("stream", name="stdout", text=text)


def display(data: dict[str, str], **metadata: Any) -> Any:
    return new_output("display_data", data=data, metadata=metadata)


def printing(stored: str, computed: str) -> tuple[str, list[Any]]:
    return f"print({computed!r})", [stdout(stored + "\n")]


def showing(stored: dict[str, str], computed: dict[str, str]) -> tuple[str, list[Any]]:
    return f"from IPython.display import display; display({computed!r}, raw=True)", [display(stored)]


# name: (source, stored outputs)
PASSING = {
    "inside, relative": printing(ELBO.format("-104.1"), ELBO.format("-109.3")),
    "inside, absolute": printing("accuracy ≈ 0.912 (±0.02)", "accuracy ≈ 0.931 (±0.02)"),
    "beside exact lines": printing(f"10 digits\n{ELBO.format(-100)}\nend", f"10 digits\n{ELBO.format(-104)}\nend"),
    "in text/plain": showing({"text/plain": ELBO.format("-104.1")}, {"text/plain": ELBO.format("-103.9")}),
    "stderr differs": ("import sys; print('later', file=sys.stderr)", []),
    "progress bar computed": ("from tqdm.auto import tqdm\nfor step in tqdm(range(3)): pass", []),
    "progress bar stored": (
        "pass",
        [display({WIDGET: "{}", "text/plain": "  0%|          | 0/3 [00:00<?, ?it/s]"})],
    ),
    "picture inside HTML": showing(
        {"text/html": '<figure><img src="data:image/png;base64,AAAA" alt="x"></figure>'},
        {"text/html": '<figure><img src="data:image/png;base64,BBBB==" alt="x"></figure>'},
    ),
    "glued record": showing(
        {"application/papermill.record/text/plain": "1.234"}, {"application/papermill.record/text/plain": "1.235"}
    ),
    "empty cell": ("", []),
}
FAILING = {
    "outside, relative": (
        *printing(ELBO.format("-104.1"), ELBO.format("-120.3")),
        '"test ELBO": stored -104.1 nats, computed -120.3 nats; off by 16.2, the declared tolerance ±5 % allows 5.255',
    ),
    "outside, absolute": (
        *printing("accuracy ≈ 0.912 (±0.02)", "accuracy ≈ 0.933 (±0.02)"),
        '"accuracy": stored 0.912, computed 0.933; off by 0.021, the declared tolerance ±0.02 allows 0.0205',
    ),
    "in text/plain": (
        *showing({"text/plain": ELBO.format("-104.1")}, {"text/plain": ELBO.format("-10.4")}),
        "stored -104.1 nats, computed -10.4 nats",
    ),
    "changed integer": (*printing("parameters 652824", "parameters 652825"), "stored line: parameters 652824 |"),
    "changed word": (*printing("seven hills", "seven bells"), "computed line: seven bells"),
    "changed number without tolerance": (*printing("loss 1.000", "loss 1.001"), "stored line: loss 1.000"),
    "changed label": (
        *printing("test ELBO ≈ 1.0 nats (±5 %)", "train ELBO ≈ 1.0 nats (±5 %)"),
        "computed line: train ELBO",
    ),
    "changed unit": (*printing("rate ≈ 1.0 nats (±5 %)", "rate ≈ 1.0 bits (±5 %)"), "1.0 bits"),
    "changed tolerance": (*printing("rate ≈ 1.0 nats (±5 %)", "rate ≈ 1.0 nats (±50 %)"), "±50 %"),
    "computed NaN": (*printing(ELBO.format("-104.1"), ELBO.format("nan")), "computed nan nats; what is not finite"),
    "NaN in both": (*printing(ELBO.format("nan"), ELBO.format("nan")), "what is not finite equals nothing"),
    "infinity in both": (*printing(ELBO.format("-inf"), ELBO.format("-inf")), "what is not finite equals nothing"),
    "missing line": (*printing(f"one\n{ELBO.format(1)}", "one"), "computed line:"),
    "missing last line": (
        "print('one\\ntwo', end='')",
        [stdout("one\ntwo\nthree")],
        "missing line: three",
    ),
    "extra line": ("print('one\\ntwo', end='')", [stdout("one")], "line that was not there: two"),
    "missing output": ("pass", [stdout("one\n")], "Missing output fields"),
    "picture gone": ("pass", [display({"image/png": "AAAA"})], "Missing output fields"),
    "text of an explorer": (
        *showing({"text/html": "<p>10 frames</p>"}, {"text/html": "<p>11 frames</p>"}),
        "<p>11 frames</p>",
    ),
    "a display that is no bar": (
        *showing({"text/plain": "at 50%"}, {"text/plain": "at 60%", WIDGET: "{}"}),
        "computed line: at 60%",
    ),
}
UNRUN = "This cell was never executed"


def nbval(folder: Path, mode: str = "--nbval") -> dict[str, str]:
    """Cell -> failure message ('' for a pass) of `pytest --nbval` on cases.ipynb, with this plugin."""
    plugins = ["-p", "nbval.plugin", "-p", "gensrc.book.checks.tolerance"]
    environment = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, "--color=no", mode, "--junitxml=out.xml", "cases.ipynb"],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert (folder / "out.xml").exists(), result.stdout + result.stderr
    found = {}
    for case in ElementTree.parse(folder / "out.xml").getroot().iter("testcase"):
        failures = [problem.text or "" for kind in ("failure", "error") for problem in case.iter(kind)]
        found[case.attrib["name"]] = "".join(failures)
    return found


def write(folder: Path, cells: list[Any], **metadata: Any) -> None:
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel | metadata), folder / "cases.ipynb")


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("nbval")
    cases = [*((f"passes: {name}", case) for name, case in PASSING.items())]
    cases += [(f"fails: {name}", case[:2]) for name, case in FAILING.items()]
    cells = [new_code_cell(source, outputs=outputs, execution_count=1) for _, (source, outputs) in cases]
    cells += [
        new_code_cell("value = 3"),
        new_code_cell("print(value)", outputs=[stdout("3\n")], execution_count=2),
        new_code_cell("pass", metadata={"tags": ["skip-execution"]}),
    ]
    names = [name for name, _ in cases] + ["never executed", "after it", "meant not to run"]
    write(folder, cells, gensrc={})
    found = nbval(folder)
    return {name: found[f"Cell {number}"] for number, name in enumerate(names)}


@pytest.mark.parametrize("name", PASSING)
def test_passes(verdicts: dict[str, str], name: str) -> None:
    assert verdicts[f"passes: {name}"] == ""


@pytest.mark.parametrize("name", FAILING)
def test_fails_and_says_why(verdicts: dict[str, str], name: str) -> None:
    assert FAILING[name][2] in verdicts[f"fails: {name}"]


def test_the_message_names_the_cell(verdicts: dict[str, str]) -> None:
    number = len(PASSING)  # the first failing case
    assert f'Cell {number}: "test ELBO": stored' in verdicts["fails: outside, relative"]


def test_a_cell_never_executed_fails_but_still_runs(verdicts: dict[str, str]) -> None:
    assert UNRUN in verdicts["never executed"]
    assert verdicts["after it"] == ""
    assert verdicts["meant not to run"] == ""


def test_lax_mode_checks_only_what_it_is_asked_to(tmp_path: Path) -> None:
    checked = "# NBVAL_CHECK_OUTPUT\n"
    source, outputs = printing(ELBO.format("-104.1"), ELBO.format("-120.3"))
    cells = [
        new_code_cell(source, outputs=outputs, execution_count=1),
        new_code_cell(checked + source, outputs=outputs, execution_count=2),
        new_code_cell("pass"),
    ]
    write(tmp_path, cells, gensrc={})
    found = nbval(tmp_path, "--nbval-lax")
    assert [bool(found[f"Cell {number}"]) for number in range(3)] == [False, True, False]


def test_other_peoples_notebooks_are_compared_as_nbval_does(tmp_path: Path) -> None:
    """Theirs may lie in a folder notebooks/ of a Jupyter Book, speak of gensrc, and hold what looks like a report."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (tmp_path / "_config.yml").touch()
    source, outputs = printing(ELBO.format("-104.1"), ELBO.format("-103.9"))
    noisy, stored = (
        "import sys; print('later', file=sys.stderr)",
        [new_output("stream", name="stderr", text="sooner\n")],
    )
    cells = [
        new_code_cell("# import gensrc would be nice\n'from gensrc'", metadata={"gensrc": 1}),
        new_code_cell(source, outputs=outputs, execution_count=1),
        new_code_cell(noisy, outputs=stored, execution_count=2),
    ]
    write(folder, cells)
    found = nbval(folder)
    assert [bool(found[f"Cell {number}"]) for number in range(3)] == [False, True, True]


STAMP: dict[str, Any] = {"gensrc": {}}


@pytest.mark.parametrize(
    ("metadata", "source", "path", "ours"),
    [
        (STAMP, "1", "a.ipynb", True),
        ({}, "import torch\nfrom gensrc.data import images", "a.ipynb", True),
        ({}, "if True:\n    import gensrc", "a.ipynb", True),
        ({}, "1", str(ROOT / "notebooks/1-foundations/99-new.ipynb"), True),
        ({}, "1", str(ROOT / "tests/notebook.ipynb"), False),
        ({}, "1", "notebooks/a.ipynb", False),
        ({}, "import torch, gensrc.data as data", "a.ipynb", True),
        ({}, "%matplotlib inline\nif True:\n    !ls\n    import gensrc", "a.ipynb", True),
        ({}, "import gensrc_of_another\nprint('import gensrc')", "a.ipynb", False),
        ({}, "text = '''\nimport gensrc here\n'''", "a.ipynb", False),
        ({}, "%%bash\nimport gensrc", "a.ipynb", False),
        ({}, "import gensrc-x", "a.ipynb", False),
    ],
)
def test_a_notebook_is_ours_by_its_stamp_its_imports_or_its_place(
    tmp_path: Path, metadata: dict[str, Any], source: str, path: str, ours: bool
) -> None:
    nb = new_notebook(cells=[new_code_cell(source)], metadata=metadata)
    assert tolerance.is_ours(nb, tmp_path / path) is ours


def test_a_chapter_never_executed_fails_without_a_stamp(tmp_path: Path) -> None:
    write(tmp_path, [new_code_cell("from gensrc import report_lines")])
    assert UNRUN in nbval(tmp_path)["Cell 0"]


def test_an_output_that_is_late_is_waited_for() -> None:
    """nbval gives it five seconds, which a machine with other work exceeds."""
    nbval_plugin = type("IPyNbCell", (), {"__module__": "nbval.plugin"})
    file = SimpleNamespace(nb=new_notebook(metadata=STAMP), path=Path("a.ipynb"))
    ours, theirs = (nbval_plugin() for _ in range(2))
    for cell in (ours, theirs):
        cell.parent, cell.output_timeout = file, 5
        cell.sanitize = cell.compare_outputs = cell.runtest = None
    theirs.parent = SimpleNamespace(nb=new_notebook(), path=Path("a.ipynb"))
    for cell in (ours, theirs):
        tolerance.pytest_itemcollected(cell)
    assert (ours.output_timeout, theirs.output_timeout) == (60, 5)


def test_without_nbval_other_tests_and_notebooks_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path, [new_code_cell("1 / 0")])
    (tmp_path / "test_other.py").write_text("def test_other():\n    assert 'a ≈ 1 (±1)' != 'a ≈ 2 (±1)'\n")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "gensrc.book.checks.tolerance"],
        cwd=tmp_path,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "1 passed" in result.stdout


def test_loading_the_plugin_loads_neither_nbval_nor_torch() -> None:
    """It is loaded by every pytest run of whoever has gensrc installed."""
    heavy = {"nbval", "torch", "nbformat", "numpy", "yaml"}
    program = f"import sys, gensrc.book.checks.tolerance; print(sorted({heavy} & {{*sys.modules}}))"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_installing_gensrc_registers_the_plugin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
    assert project["entry-points"]["pytest11"] == {"gensrc-tolerance": tolerance.__name__}


@pytest.mark.parametrize(
    ("line", "label", "value", "unit", "bound", "limit"),
    [
        ("test ELBO ≈ -104.1 nats (±5 %)", "test ELBO", "-104.1", "nats", "5 %", "0.05"),
        ("5-NN accuracy ≈ 0.912 (±0.02)", "5-NN accuracy", "0.912", "", "0.02", "0.02"),
        ("rate ≈ 1.50e-05 bits per step (±1e-06)", "rate", "1.50e-05", "bits per step", "1e-06", "1e-06"),
        ("weights ≈ 3,576,704 (±10%)", "weights", "3576704", "", "10%", "0.1"),
        ("minus ≈ −3 m/s (±0.5 %)", "minus", "-3", "m/s", "0.5 %", "0.005"),
        ("a ≈ b ≈ 2 (±1)", "a ≈ b", "2", "", "1", "1"),
    ],
)
def test_a_report_line_is_read(line: str, label: str, value: str, unit: str, bound: str, limit: str) -> None:
    report = Report.parse(line)
    assert report == Report(label, report.printed, unit, bound)
    assert (report.value, report.tolerance) == (Decimal(value), Decimal(limit))


@pytest.mark.parametrize("line", ["a = 1 (±1)", "a ≈ one (±1)", "≈ 1 (±1)", "a ≈ 1", "a ≈ 1 nats", "a ≈ 1 (5 %)"])
def test_other_lines_are_not_reports(line: str) -> None:
    assert Report.parse(line) is None


@pytest.mark.parametrize("value", [-2.5, 1e-7, 123456.789, 0.5, 98765432.0])
@pytest.mark.parametrize("bound", [{"rel": 0.05}, {"rel": 1e-3}, {"abs": 0.02}, {"abs": 3.0}])
def test_what_gensrc_prints_is_read_back(
    value: float, bound: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    from gensrc import notebook

    notebook.report("a label, with (brackets)", value, "nats per pixel", **bound)
    report = Report.parse(capsys.readouterr().out)
    assert report is not None
    assert (report.label, report.unit) == ("a label, with (brackets)", "nats per pixel")
    assert float(report.tolerance) == pytest.approx(*bound.values())
    assert abs(float(report.value) - value) <= float(report.allowed)


def test_the_border_is_the_tolerance_and_half_a_digit() -> None:
    stored = Report("x", "100.0", "", "5 %")
    accepted = [
        text for text in ("105.0", "105.05", "105.06", "94.95", "94.94") if stored.accepts(Report("x", text, "", "5 %"))
    ]
    assert accepted == ["105.0", "105.05", "94.95"]


@pytest.mark.parametrize(
    ("stored", "bound", "computed"),
    [
        ("0.312", "5 %", "0"),
        ("0.312", "5 %", "0.0"),
        ("0.312", "5 %", "0.6"),  # printed with fewer digits, as numbers of another size are
        ("0.139", "0.01", "0"),
        ("-7", "20", "0"),  # a tolerance wider than the number itself
        ("-7", "20", "0.6"),
        ("0.40", "0.6", "0.01"),
        ("0.0050", "200 %", "0.0000"),
        ("0", "5 %", "0.4"),  # half a unit of a last digit is no tolerance that someone gave
        ("0.002", "1 %", "0.0024"),
        ("1.000e-14", "0.1 %", "0.00000000000000"),
    ],
)
def test_a_number_does_not_equal_zero_nor_what_is_printed_more_coarsely(stored, bound, computed) -> None:  # type: ignore[no-untyped-def]
    old, new = (Report("recall", number, "", bound) for number in (stored, computed))
    assert not old.accepts(new)
    assert "not the same" in old.quarrel(new) or "off by" in old.quarrel(new)


def test_a_number_near_zero_may_have_another_sign() -> None:
    assert Report("gain", "0.004", "", "0.02").accepts(Report("gain", "-0.003", "", "0.02"))
    assert Report("KL", "0.0000", "nats", "0.001").accepts(Report("KL", "0.0008", "nats", "0.001"))


@pytest.mark.parametrize(
    ("number", "bound", "void"),
    [
        ("0.4", "0.6", True),
        ("-7", "20", True),
        ("12", "100 %", True),
        ("0.15", "0.14", True),
        ("0.20", "0.14", False),
        ("0.40", "50 %", False),
        ("-104.1", "5 %", False),
        ("0.0000", "0.001", False),  # zero itself, to the tolerance
    ],
)
def test_a_tolerance_that_holds_zero_says_nothing(number: str, bound: str, void: bool) -> None:
    assert Report("x", number, "", bound).void is void


def test_equality_proper_stays_exact() -> None:
    text = Tolerant("x ≈ 1.00 (±1)")
    text.notes = []
    other = "x ≈ 1.01 (±1)"
    assert (operator.ne(text, other), operator.eq(text, other)) == (False, False)


def test_disagreements_are_told_line_by_line() -> None:
    assert list(disagreements("a\nb\nc", "a\nB")) == ["stored line: b | computed line: B", "missing line: c"]
