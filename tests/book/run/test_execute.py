"""Executing chapters: what is stored, what is kept of a failure, what is said.

A kernel takes seconds to start, so what only concerns the storing of a run is tried with cells that run here instead.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
import torch
from nbformat.v4 import new_output

from gensrc import atomic, notebook, training
from gensrc.book.checks import settings, stamp
from gensrc.book.repository import BookError
from gensrc.book.run import environment, execute, kernel_process, lock, progress, storage

ROOT = Path(__file__).parents[3]
INTERRUPTED = "gensrc-book: interrupted; what had not come to its end is as it was."
A, B = "1-part/01-a", "2-part/01-b"
WORK = "from gensrc import data\nfrom tqdm.auto import tqdm\nfor step in tqdm(range(3)): pass\nprint(data.load())"
REPORT = "print('test ELBO ≈ -104.1 nats (±5 %)')\nprint('✓ it is so')\nprofile, seed"


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever libraries that other tests load have set."""
    for name in environment.steering(os.environ):
        monkeypatch.delenv(name)


@pytest.fixture
def chapter(book: Any) -> Any:
    book.chapter(A, WORK, REPORT)
    return book


@pytest.fixture
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells run in this process, and print; nothing else of a kernel is needed for what is stored."""

    def work(run: execute.Run, folder: Path, trace: Path) -> dict[str, Any]:
        nb = nbformat.read(run.path, as_version=4)
        names: dict[str, Any] = {}
        for count, cell in enumerate((cell for cell in nb.cells if cell.cell_type == "code"), 1):
            with contextlib.redirect_stdout(io.StringIO()) as said:
                exec(cell.source, names)
            if "parameters" in cell.metadata.get("tags", []):
                names |= run._spec(folder)["parameters"]
            cell.execution_count = count
            cell.outputs = [new_output("stream", name="stdout", text=said.getvalue())] if said.getvalue() else []
        run.made[".ipynb"] = nbformat.writes(nb)
        seen = f"profile {names['profile']!r} and seed {names['seed']!r}"
        facts = {"python": "3.11.0", "torch": "", "gpu": "", "gpu_peak_mb": 0, "settings": [seen]}
        facts["environment"] = {} if run.plan.committed else {**os.environ}
        facts |= {"instructions": "", "precision": "", "threads": 0}
        return facts | {"prefix": sys.prefix, "seconds": 1.0, "peak_mb": 100}

    monkeypatch.setattr(execute.Run, "_work", work)


def printed(nb: Any) -> str:
    return "".join(output.get("text", "") for cell in nb.cells for output in cell.get("outputs", []))


def test_a_quick_run_replaces_the_notebook_and_stamps_it(chapter: Any) -> None:
    nb = chapter.read(A)
    nb.cells.insert(3, nbformat.v4.new_code_cell("import os, gensrc\nprint(os.getcwd())\nprint(gensrc.__file__)"))
    chapter.save(A, nb)
    status, said = chapter.run("execute")
    assert (status, said.splitlines()[0]) == (0, f"… {A}: 5 code cells")
    assert f"✓ {A}: " in said
    assert "MB, outputs stored" in said
    nb = chapter.read(A)
    folder, module, *lines = printed(nb).splitlines()
    assert lines == ["0123456789", "test ELBO ≈ -104.1 nats (±5 %)", "✓ it is so"]
    assert folder == str(chapter.path(A).parent), "the notebook's own folder"
    assert module == str(chapter.root / "gensrc/__init__.py"), "the repository's module"
    facts = nb.metadata.gensrc
    assert (facts.chapter, facts.profile, facts.seed, facts.files) == (A, "quick", 0, ["gensrc/data/digits.txt"])
    assert facts.python == ".".join(map(str, sys.version_info[:3]))
    assert 0 < facts.seconds < 60
    assert 10 < facts.peak_mb < 2000
    assert "1 thread of" in facts.hardware
    assert chapter.run("status")[0] == 0
    assert chapter.run("execute") == (0, "Nothing to execute: no chapter is stale.\n")


def test_executing_twice_leaves_the_file_as_it_is(chapter: Any) -> None:
    chapter.run("execute")
    nb = chapter.read(A)
    nb.metadata.gensrc.verified = "2020-01-01"  # another day, another machine
    nb.metadata.gensrc.seconds = 1e6
    nb.metadata["gensrc"] = stamp.sealed(nb.metadata.gensrc, nb)
    chapter.save(A, nb)
    before = chapter.path(A).read_bytes()
    status, said = chapter.run("execute", A)
    assert status == 0
    assert "outputs unchanged" in said
    assert chapter.path(A).read_bytes() == before


@pytest.mark.usefixtures("no_kernel")
def test_another_output_brings_a_new_stamp(book: Any) -> None:
    chapter = book
    chapter.chapter(A, "print('as computed')")
    chapter.run("execute")
    nb = chapter.read(A)
    nb.metadata.gensrc.verified = "2020-01-01"
    nb.cells[-1].outputs[0].text = "edited by hand\n"
    chapter.save(A, nb)
    chapter.run("execute", "--all")
    assert chapter.read(A).metadata.gensrc.verified > "2020-01-01"
    assert "edited" not in printed(chapter.read(A))


@pytest.mark.usefixtures("no_kernel")
def test_what_was_edited_in_a_chapter_is_executed_away(book: Any) -> None:
    book.chapter(A, "print('as computed')")
    book.run("execute")
    for edit in (
        lambda nb: nb.cells[-1].outputs[0].update(text="edited by hand\n"),
        lambda nb: nb.metadata.gensrc.update(hardware="a faster machine"),
        lambda nb: nb.metadata.gensrc.pop("outputs"),
    ):
        nb = book.read(A)
        edit(nb)
        book.save(A, nb)
        assert book.run("status")[0] == 1
        assert book.run("execute")[0] == 0
        assert book.run("status")[0] == 0
        assert "a faster machine" not in book.path(A).read_text()


def test_a_full_run_leaves_the_notebook_and_records_its_figures(chapter: Any) -> None:
    before = chapter.path(A).read_bytes()
    status, said = chapter.run("execute", "--profile", "full")
    assert status == 0
    assert f"copy in _build/full/{A}.ipynb" in said
    assert chapter.path(A).read_bytes() == before
    copy = json.loads((chapter.root / f"_build/full/{A}.ipynb").read_text(encoding="utf8"))
    assert copy["cells"][-1]["outputs"][-1]["data"]["text/plain"] == ["('full', 0)"]
    record = json.loads((chapter.root / f"book/results/{A}.json").read_text(encoding="utf8"))
    assert record["reports"] == [
        {"label": "test ELBO", "value": -104.1, "printed": "-104.1", "unit": "nats", "rel": 0.05, "bound": "5 %"}
    ]
    assert (record["claims"], record["profile"], record["chapter"]) == (1, "full", A)
    assert {"hardware", "torch", "python", "gensrc", "date", "commit", "seconds", "peak_mb", "hash"} <= {*record}
    assert chapter.run("execute", "--profile", "full") == (0, "Nothing to execute: no chapter is stale.\n")


@pytest.mark.usefixtures("no_kernel")
def test_another_seed_touches_neither_notebook_nor_record(book: Any) -> None:
    chapter = book
    chapter.chapter(A, "print((profile, seed))")
    before = chapter.path(A).read_bytes()
    assert chapter.run("execute", A, "--seed", "3")[0] == 0
    assert chapter.run("execute", A, "--seed", "3", "--profile", "full", "--results", "elsewhere")[0] == 0
    assert chapter.path(A).read_bytes() == before
    assert not (chapter.root / "book/results").exists()
    copy = (chapter.root / f"_build/quick-seed-3/{A}.ipynb").read_text(encoding="utf8")
    assert "('quick', 3)" in copy
    assert json.loads((chapter.root / f"elsewhere/{A}.json").read_text(encoding="utf8"))["seed"] == 3


@pytest.mark.usefixtures("no_kernel")
def test_a_record_names_its_commit(book: Any) -> None:
    chapter = book
    chapter.chapter(A, "print(1)")
    git = ["git", "-c", "user.name=n", "-c", "user.email=e", "-C", str(chapter.root)]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    chapter.run("execute", "--profile", "full")
    record = json.loads((chapter.root / f"book/results/{A}.json").read_text(encoding="utf8"))
    assert record["commit"] == head[:12]


def test_a_failing_cell_leaves_the_notebook_and_is_told(chapter: Any) -> None:
    chapter.chapter(B, "print('so far')", "def inner():\n    return 1 / 0\ninner()", "print('never')")
    before = chapter.path(B).read_bytes()
    status, said = chapter.run("execute")
    assert status == 1
    assert f"✗ {B}: code cell 4 failed: ZeroDivisionError: division by zero" in said
    assert "return 1 / 0" in said
    assert f"The run is kept in _build/failed/{B}.ipynb." in said
    assert chapter.path(B).read_bytes() == before
    kept = (chapter.root / f"_build/failed/{B}.ipynb").read_text(encoding="utf8")
    assert "so far" in kept
    assert "_gensrc_probe" not in kept
    assert f"✓ {A}" in said  # the other chapter was stored all the same


def test_a_chapter_that_takes_too_long_is_stopped(book: Any) -> None:
    book.chapter(A, "import time\ntime.sleep(60)")
    started = time.monotonic()
    status, said = book.run("execute", "--timeout", "4")
    assert time.monotonic() - started < 30
    assert status == 1
    assert f"✗ {A}: code cell 3 failed: the time limit of 4 s was reached" in said


def test_the_limit_is_for_the_chapter_not_for_each_cell(book: Any) -> None:
    book.chapter(A, *["import time\ntime.sleep(1.5)"] * 4)
    status, said = book.run("execute", "--timeout", "4")
    assert status == 1
    assert "the time limit of 4 s was reached" in said


def test_a_kernel_that_dies_is_told(book: Any) -> None:
    book.chapter(A, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    book.chapter(B, "raise SystemExit(0)", "print('never')")
    status, said = book.run("execute", "--jobs", "2")
    assert status == 1
    assert f"✗ {A}: code cell 3 failed: DeadKernelError" in said
    assert f"✗ {B}: code cell 3 failed: it ended the kernel, so that the cells after it never ran" in said


def test_a_worker_that_dies_is_told(book: Any) -> None:
    book.chapter(A, "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)")
    status, said = book.run("execute")
    assert status == 1
    assert f"✗ {A}: the process that ran it was ended by signal 9." in said


NOISE = """
import os, threading, time
def noise():
    while True:
        print('{"peak_mb": 3}\\n{', flush=True)
        os.write(1, b'\\n\\x1egensrc {"facts": {}}\\n{"facts": {}}\\n\\xff\\x00 no end')
        os.write(2, b'a warning\\x1egensrc {"cell"')
        time.sleep(0.001)
threading.Thread(target=noise, daemon=True).start()
"""
NO_FOLDER = "import os, pathlib, shutil; shutil.rmtree(pathlib.Path(vars(os)['environ']['GENSRC_TRACE']).parent)"


def test_noise_of_libraries_and_a_lost_folder_cut_nothing(book: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does what is asked of Python's warnings: it is for the process that is asked."""
    for name, value in {"PYTHONUNBUFFERED": "1", "PYTHONDEVMODE": "1", "PYTHONWARNINGS": "error"}.items():
        monkeypatch.setenv(name, value)
    book.chapter(A, NO_FOLDER, NOISE, "time.sleep(0.3)", "7 * 6")
    status, said = book.run("execute")
    assert (status, f"✓ {A}" in said) == (0, True), said
    nb = book.read(A)
    assert 10 < nb.metadata.gensrc.peak_mb < 2000
    assert {"text/plain": "42"} in [output.get("data") for output in nb.cells[-1].outputs]


def test_facts_are_what_the_probe_displays_and_nothing_else() -> None:
    printed = new_output("stream", text='{"peak_mb": 3}\n')
    assert kernel_process.facts_in([printed, new_output("display_data", {"text/plain": "{}"})]) is None
    shown = new_output("display_data", {kernel_process.FACTS: {"peak_mb": 4}})
    assert kernel_process.facts_in([printed, shown, printed]) == {"peak_mb": 4}


def test_a_notebook_that_cannot_be_saved_on_the_way_is_kept_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    kept = kernel_process.Kept("before")
    kept.write("after", f"{kept.SCHEME}{tmp_path}/file/notebook.ipynb")
    assert kept.read("") == "after"
    kept.write("later", f"{kept.SCHEME}{tmp_path}/notebook.ipynb")
    assert (tmp_path / "notebook.ipynb").read_text() == "later"


def test_a_kernel_that_cannot_start_says_why(book: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "import sys; sys.exit('ImportError: the kernel lacks something')"
    spec = {"argv": [sys.executable, "-c", words], "display_name": "broken", "language": "python"}
    book.write("jupyter/kernels/python3/kernel.json", json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(book.root / "jupyter"))
    book.chapter(A, "print(1)")
    status, said = book.run("execute")
    assert status == 1
    assert f"✗ {A}: it could not be started: " in said
    assert "    ImportError: the kernel lacks something\n" in said
    assert "kept" not in said


@pytest.mark.usefixtures("no_kernel")
@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (ValueError("odd"), "gensrc-book itself failed, at test_execute.py:"),
        (OSError(28, "No space left on device"), "could not be used (No space left on device): make room there."),
        (BookError("It is so."), "It is so."),
    ],
)
def test_an_error_ends_one_chapter_not_the_run(
    book: Any, monkeypatch: pytest.MonkeyPatch, problem: Exception, message: str
) -> None:
    def fail(files: Any, *, before: Any = execute.Run._stamp) -> Any:
        def stamp(run: execute.Run, *arguments: Any) -> Any:
            if run.chapter == A:
                raise problem
            return before(run, *arguments)

        return stamp

    book.chapter(A, "print(1)")
    book.chapter(B, "print(2)")
    monkeypatch.setattr(execute.Run, "_stamp", fail(None))
    status, said = book.run("execute", "--jobs", "1")
    assert status == 1
    assert f"✗ {A}: " in said
    assert message in said
    assert f"The run is kept in _build/failed/{A}.ipynb." in said
    assert f"✓ {B}: " in said


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders on a disk that is full by the time that something is stored there."""
    folders: list[Path] = []
    write = atomic._write

    def refuse(path: Path, data: bytes) -> None:
        if any(path.is_relative_to(folder) for folder in folders):
            raise OSError(28, "No space left on device")
        write(path, data)

    monkeypatch.setattr(atomic, "_write", refuse)
    return folders


@pytest.mark.usefixtures("no_kernel")
@pytest.mark.parametrize("also_full", [[], ["_build"], ["_build", "tmp"]])
def test_what_cannot_be_stored_is_kept_elsewhere(
    book: Any, full: list[Path], monkeypatch: pytest.MonkeyPatch, also_full: list[str]
) -> None:
    places = {"_build": book.root / "_build", "tmp": book.root / "tmp", "home": book.root / "home"}
    for folder in ("tmp", "home"):
        places[folder].mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(places["tmp"]))
    monkeypatch.setenv("HOME", str(places["home"]))
    book.chapter(A, "print('made in hours')")
    before = book.path(A).read_bytes()
    full += [book.root / "notebooks", book.root / "book", *(places[name] for name in also_full)]
    kept_in = next(folder for name, folder in places.items() if name not in also_full)
    for profile in ("quick", "full") if not also_full else ("quick",):
        status, said = book.run("execute", "--profile", profile)
        assert status == 1
        assert f"{A}.{'json' if profile == 'full' else 'ipynb'} could not be used (No space left on device)" in said
        [kept] = kept_in.rglob("failed*/**/*.ipynb") if not also_full else kept_in.rglob("*.ipynb")
        place = f"notebooks/{A}.ipynb" if profile == "quick" else f"_build/full/{A}.ipynb"
        assert f"The run is kept in {kept.relative_to(book.root)}: copy it to {place} instead of running it" in said
        nb = nbformat.read(kept, as_version=4)
        assert "made in hours" in printed(nb)
        assert nb.metadata.gensrc.profile == profile
        assert (
            kept.with_suffix(".json").exists() == (profile == "full") == (f"to book/results/{A}.json instead" in said)
        )
    assert book.path(A).read_bytes() == before


@pytest.mark.parametrize("profile", ["quick", "full"])
def test_a_folder_that_cannot_be_written_is_named_before_anything_starts(
    book: Any, monkeypatch: pytest.MonkeyPatch, profile: str
) -> None:
    book.chapter(A, "print(1)")
    (book.root / "results").touch()
    if profile == "full":
        for shelf in ("checkpoints", "recordings"):
            assert book.root / "gensrc" / shelf in execute.plan(book.root, profile="full").targets([A])
    open_file = tempfile.TemporaryFile

    def read_only(dir: Path) -> Any:
        if dir == book.path(A).parent:
            raise OSError(30, "Read-only file system", str(dir / "tmpabc"))
        return open_file(dir=dir)

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    status, said = book.run("execute", "--profile", profile, "--results", "results/below")
    assert status == 2
    assert said.startswith("gensrc-book: ")
    if profile == "full":
        assert "results/below could not be used (Not a directory)" in said
    else:
        assert f"{book.path(A).parent} could not be used (Read-only file system): have its disk mounted" in said
    assert not (book.root / "_build").exists()


def test_without_room_for_temporary_files_nothing_starts(book: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr("tempfile.gettempdir", none)
    book.chapter(A, "print(1)")
    status, said = book.run("execute")
    assert status == 2
    assert "can be written: No usable temporary directory found in ['/tmp']; name one in TMPDIR." in said


def test_a_full_disk_that_a_cell_meets_is_told_with_the_room_there_is(tmp_path: Path) -> None:
    [told] = storage.full("OSError: [Errno 28] No space left on device", [tmp_path])
    assert f" MB in {tmp_path} and " in told
    assert storage.full("ValueError: odd", [tmp_path]) == []


class Gone(io.StringIO):
    """A terminal that was closed, or a log on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


@pytest.mark.usefixtures("no_kernel")
def test_what_cannot_be_said_ends_no_chapter(book: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    book.chapter(A, "print(1)")
    book.chapter(B, "print(2)")
    monkeypatch.setattr(sys, "stdout", Gone())
    status, said = book.run("execute")
    assert status == 2
    assert "what it prints could not be used (No space left on device): make room there" in said
    assert book.run("status")[0] == 2  # which prints too
    monkeypatch.undo()
    monkeypatch.chdir(book.root)
    assert book.run("status")[0] == 0, "both were executed and stored"


@pytest.mark.usefixtures("no_kernel")
def test_a_chapter_that_another_process_executes_is_left_to_it_and_waited_for(
    book: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    book.chapter(A, "print(1)")
    book.chapter(B, "print(2)")
    before, take = book.path(A).read_bytes(), lock.take
    with take(book.root / f"_build/executing/quick-{A.replace('/', '-')}.lock") as held:
        assert book.run("execute", "--profile", "full", A)[0] == 0, "what stores elsewhere is no double work"

        def ended(path: Path, *, wait: bool = False) -> Any:
            if wait:
                held.close()  # as the other process does when it ends
            return take(path, wait=wait)

        monkeypatch.setattr(lock, "take", ended)
        status, said = book.run("execute")
    assert f"– {A}: it is being executed by another process ({os.getpid()}), and is left to that.\n" in said
    assert f"✓ {B}: " in said
    assert (status, f"✗ {A}: the other process has left it stale.\n" in said) == (1, True)
    assert book.path(A).read_bytes() == before
    assert f"✓ {A}: " in book.run("execute")[1]


@pytest.mark.usefixtures("no_kernel")
def test_a_number_that_is_not_finite_is_not_stored(book: Any) -> None:
    book.chapter(A, "print('loss ≈ nan nats (±5 %)')")
    before = book.path(A).read_bytes()
    status, said = book.run("execute")
    assert status == 1
    assert "it reports loss ≈ nan, which no later run can equal" in said
    assert book.path(A).read_bytes() == before


@pytest.mark.usefixtures("no_kernel")
def test_a_notebook_that_is_edited_before_its_turn_is_not_run(book: Any) -> None:
    book.chapter(A, f"open({str(book.path(B))!r}, 'a').write(' ')")
    book.chapter(B, "print('never')")
    status, said = book.run("execute", "--jobs", "1")
    assert status == 1
    assert f"✗ {B}: its notebook was changed before its turn, so it stays as it is: execute it again.\n" in said
    assert f"✓ {A}: " in said
    assert not (book.root / "_build/failed").exists()


@pytest.mark.usefixtures("no_kernel")
def test_a_notebook_that_someone_edits_meanwhile_is_not_overwritten(book: Any) -> None:
    book.chapter(A, f"open({str(book.path(A))!r}, 'a').write(' ')")
    status, said = book.run("execute")
    assert status == 1
    assert "its notebook was changed while it ran, so it stays as it is" in said
    assert f"The run is kept in _build/failed/{A}.ipynb." in said
    assert nbformat.read(book.root / f"_build/failed/{A}.ipynb", as_version=4).metadata.gensrc.chapter == A
    assert book.path(A).read_text(encoding="utf8").endswith(" ")


def test_a_module_edited_meanwhile_leaves_the_chapter_stale(book: Any) -> None:
    module = book.root / "gensrc/models/vae.py"
    book.chapter(
        A, f"from gensrc import models\nopen({str(module)!r}, 'a').write('print()')", "from gensrc.models import vae"
    )
    assert book.run("execute")[0] == 0
    status, said = book.run("status")
    assert status == 1
    assert said.rstrip().endswith("gensrc/models/vae.py")


def test_two_jobs_run_side_by_side_in_processes_of_their_own(book: Any) -> None:
    wait = "import pathlib, time\nmine, other = pathlib.Path({!r}), pathlib.Path({!r})\nmine.touch()\n"
    wait += "while not other.exists(): time.sleep(0.05)"
    here, there = str(book.root / "here"), str(book.root / "there")
    book.chapter(A, wait.format(here, there), "print(1)")
    book.chapter(B, wait.format(there, here))
    status, said = book.run("execute", "--jobs", "2", "--timeout", "60")
    assert status == 0, said


@pytest.mark.usefixtures("no_kernel")
def test_versions_other_than_the_pinned_ones_are_noted(book: Any) -> None:
    book.write("constraints.txt", "nbformat==0.1\n")
    book.chapter(A, "import nbformat")
    assert "note: nbformat " in book.run("execute")[1]


@pytest.mark.parametrize(("jobs", "threads"), [(1, 4), (2, 2), (3, 1), (8, 1), (None, 1)])
def test_jobs_share_the_cores(book: Any, monkeypatch: pytest.MonkeyPatch, jobs: int | None, threads: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(4), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert execute.plan(book.root, jobs=jobs).threads == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert execute.plan(book.root, jobs=jobs).threads == 3


@pytest.mark.parametrize(("asked", "threads"), [("2", 2), (" 2 ", 2), ("4,2", 4), ("3, 1", 3), ("", 1), (" ", 1)])
def test_the_environment_decides_on_threads(
    book: Any, monkeypatch: pytest.MonkeyPatch, asked: str, threads: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert execute.plan(book.root).threads == threads


@pytest.mark.parametrize("asked", ["abc", "0", "-1", ",2", "1.5", "²", "9" * 5000])
def test_a_number_of_threads_that_cannot_be_is_named(book: Any, monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    status, said = book.run("execute")
    assert status == 2
    assert said.startswith(f"gensrc-book: OMP_NUM_THREADS is '{asked}': set it to a whole number from 1 to 9999, or")


@pytest.mark.usefixtures("no_kernel")
@pytest.mark.parametrize("encoding", ["ascii", "gbk", "latin1"])
def test_a_terminal_without_the_tick_ends_nothing(book: Any, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    book.chapter(A, "print('✓ it is so')")
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    status, _ = book.run("execute")
    terminal.seek(0)
    assert status == 0
    assert f"? {A}: 1 s, 100 MB, outputs stored\n" in terminal.read()
    assert "✓ it is so" in printed(book.read(A))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"profile": "fast"}, "there is no profile 'fast'; the profiles are: quick, full."),
        ({"jobs": 0}, "--jobs and --timeout must be greater than zero."),
        ({"timeout": -1.0}, "--jobs and --timeout must be greater than zero."),
        ({"timeout": float("nan")}, "--jobs and --timeout must be greater than zero."),
        ({"timeout": float("inf")}, "--timeout must be at most 100,000,000 seconds."),
        ({"seed": -1}, "--seed must be a whole number from 0 to 2\\*\\*32 - 1."),
    ],
)
def test_a_plan_that_cannot_be_is_refused(book: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BookError, match=message):
        execute.plan(book.root, **options)


def test_nothing_starts_if_one_chapter_cannot_be_run(chapter: Any, code_cell: Any) -> None:
    nb = chapter.read(A)
    nb.cells[2].source = 'profile = "full"\nseed = 0'
    chapter.path(B).parent.mkdir()
    chapter.save(B, nb)
    status, said = chapter.run("execute", "--all")
    assert status == 2
    assert said == f"gensrc-book: {B}: {settings.PARAMETERS}.\n"


@pytest.mark.usefixtures("no_kernel")
@pytest.mark.parametrize(
    "cell", ["exec('profile = \"full\"', globals())", "globals().update(seed=7)", "vars()['seed'] = 0.0"]
)
def test_a_run_that_saw_other_settings_is_not_stored(book: Any, cell: str) -> None:
    book.chapter(A, cell, "print(seed, profile)")
    before = book.path(A).read_bytes()
    status, said = book.run("execute")
    assert status == 1
    assert f"✗ {A}: it was to run with profile 'quick' and seed 0, but a cell changed that to profile " in said
    assert book.path(A).read_bytes() == before


def test_a_run_whose_kernel_saw_a_setting_of_the_environment_is_not_stored(
    book: Any, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As a kernelspec may set it."""
    share = tmp_path_factory.mktemp("share")
    spec = {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "language": "python"}
    spec |= {"display_name": "mine", "env": {"GENSRC_PRECISION": "float32"}}
    (share / "kernels/python3").mkdir(parents=True)
    (share / "kernels/python3/kernel.json").write_text(json.dumps(spec), encoding="utf8")
    monkeypatch.setenv("JUPYTER_PATH", str(share))
    book.chapter(A, "print(1)")
    status, said = book.run("execute")
    assert (status, "its kernel saw GENSRC_PRECISION=float32, set by a kernelspec" in said) == (1, True)


@pytest.mark.parametrize(
    ("cell", "seen"),
    [
        ("", ["profile 'quick' and seed 0"]),
        ("begin(profile='full', seed=0)", ["profile 'full' and seed 0"]),
        ("begin(profile='quick', seed=7); begin(profile=profile, seed=seed)", ["profile 'quick' and seed 7"]),
        ("run = begin(profile=profile, seed=seed); object.__setattr__(run, 'seed', 7)", ["profile 'quick' and seed 7"]),
        ("import gensrc.notebook\nmine = gensrc.notebook.Run('x', 'full', 0, 'cpu')", ["profile 'full' and seed 0"]),
        ("profile = 'full'", ["profile 'full' and seed 0"]),
    ],
)
def test_the_kernel_tells_what_settings_its_cells_saw(
    monkeypatch: pytest.MonkeyPatch, cell: str, seen: list[str]
) -> None:
    monkeypatch.setattr(notebook, "begun", [])
    names: dict[str, Any] = {"profile": "quick", "seed": 0, "begin": partial(notebook.start, "x")}
    exec(cell, names)
    exec(kernel_process.SETTINGS, names)
    facts = names["_gensrc_settings"]()
    assert {*seen} <= {*facts["settings"]} <= {*seen, "profile 'quick' and seed 0"}
    assert facts["precision"] == str(training.precision(training.device()))


@pytest.mark.usefixtures("no_kernel")
def test_a_committed_run_is_made_with_the_default_environment_and_says_so(
    book: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (steering := ["ATEN_CPU_CAPABILITY", "GENSRC_PRECISION", "MKL_ENABLE_INSTRUCTIONS"]):
        monkeypatch.setenv(name, "x")
    for name in (free := ["GENSRC_DATA", "KMP_INIT_AT_FORK", "OMP_NUM_THREADS"]):
        monkeypatch.setenv(name, "1")
    seen = environment.for_run(os.environ, True, Path("folder"))
    assert not {*steering} & {*seen}
    assert {"PATH", *free} <= {*seen}
    book.chapter(A, "print(1)")
    notes = [line for line in book.run("execute")[1].splitlines() if line.startswith("note")]
    assert notes == [f"note: {name} is left out: stored outputs are made without it." for name in steering]
    assert book.read(A).metadata.gensrc.environment == {}


def test_nobodys_own_startup_files_and_styles_come_into_a_run(
    book: Any, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("home")
    startup = home / "profile_default/startup/00.py"
    startup.parent.mkdir(parents=True)
    for path in (startup, home / "first.py"):
        path.write_text("print('mine')\nmine = 7\n")
    (home / "matplotlibrc").write_text("font.size: 3\n")
    monkeypatch.setenv("IPYTHONDIR", str(home))
    monkeypatch.setenv("PYTHONSTARTUP", str(home / "first.py"))
    monkeypatch.setenv("MATPLOTLIBRC", str(home))
    book.chapter(A, "import matplotlib\nprint('mine' in globals(), matplotlib.rcParams['font.size'])")
    assert book.run("execute")[0] == 0
    assert printed(book.read(A)) == "False 10.0\n"


def test_the_stamp_names_the_instruction_set_the_precision_and_the_threads_that_were_used(
    chapter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = torch.backends.cpu.get_cpu_capability()  # torch looks once, when it is asked
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    arithmetic = "def device(): return 'cpu'\ndef precision(device): return 'float32 on ' + device\n"
    chapter.write("gensrc/training.py", arithmetic)
    chapter.chapter(A, "import torch\nfrom gensrc import training\ntorch.set_num_threads(2)")
    assert chapter.run("execute")[0] == 0
    facts = chapter.read(A).metadata.gensrc
    assert (facts.instructions, facts.precision) == (here, "float32 on cpu")
    assert ", 2 threads of" in facts.hardware
    assert chapter.run("execute", "--profile", "full")[0] == 0
    record = json.loads((chapter.root / f"book/results/{A}.json").read_text(encoding="utf8"))
    assert record["instructions"] == "DEFAULT"


@pytest.mark.usefixtures("no_kernel")
def test_a_full_run_keeps_its_environment_and_its_record_tells_it(book: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENSRC_PRECISION", "float32")
    assert environment.for_run(os.environ, False, Path("folder"))["GENSRC_PRECISION"] == "float32"
    book.chapter(A, "print(1)")
    book.run("execute", "--profile", "full")
    record = json.loads((book.root / f"book/results/{A}.json").read_text(encoding="utf8"))
    assert record["environment"] == {"GENSRC_PRECISION": "float32"}
    assert {"instructions", "precision"} <= {*record}
    assert not {"outputs", "seal"} & {*record}, "of the notebook alone"


@pytest.mark.parametrize(
    ("signals", "status"),
    [
        pytest.param([signal.SIGINT, signal.SIGINT], 130, id="Ctrl-C twice"),
        pytest.param([signal.SIGTERM], 143, id="SIGTERM"),
        pytest.param([signal.SIGKILL], -9, id="SIGKILL"),
    ],
)
def test_whatever_ends_it_leaves_no_process_and_the_notebook(book: Any, signals: list[int], status: int) -> None:
    told = "open('pids', 'w').write(f'{os.getpid()} {os.getppid()} .')"
    book.chapter(A, f"import os, time\nprint('so far')\n{told}\ntime.sleep(100)")
    before = book.path(A).read_bytes()
    process = _started(book, "execute")
    file = book.path(A).parent / "pids"
    assert _comes_true(lambda: file.exists() and file.read_text().endswith("."))
    kernel, worker, _ = file.read_text().split()
    for number in signals:
        process.send_signal(number)
        time.sleep(0.05)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == status
    assert said.splitlines()[1:] == (["", INTERRUPTED] if status > 0 else [])
    assert _comes_true(lambda: not _alive(int(kernel)) and not _alive(int(worker)))
    assert book.path(A).read_bytes() == before
    with lock.take(book.root / f"_build/executing/quick-{A.replace('/', '-')}.lock"):
        assert status < 0 or "time.sleep(100)" in (book.root / f"_build/failed/{A}.ipynb").read_text(encoding="utf8")


def test_the_server_of_the_site_ends_by_a_signal_too(book: Any) -> None:
    book.write("_build/html/index.html", "<p>")
    process = _started(book, "serve", "--port", "0")
    assert process.stdout.readline().startswith("http://")
    process.send_signal(signal.SIGHUP)
    said, _ = process.communicate(timeout=30)
    assert (process.returncode, said) == (129, f"\n{INTERRUPTED}\n")


def _started(book: Any, *arguments: str) -> Any:
    """The console script in a process of its own, in which every warning is an error."""
    return subprocess.Popen(
        [sys.executable, "-P", "-u", "-X", "dev", "-W", "error", "-m", "gensrc.book.cli", *arguments],
        cwd=book.root,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Whoever runs the tests in the background has Ctrl-C ignored, and a child would inherit that.
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGHUP)],
    )


def _comes_true(condition: Callable[[], object], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"  # a container may bury nobody


def test_a_terminal_shows_the_running_cell(book: Any) -> None:
    master, slave = os.openpty()
    with open(slave, "w", encoding="utf8") as terminal:
        one_line = progress.Progress(terminal)
        one_line.started(A, 4)
        one_line.at(A, 3, 4)
        one_line.ended(A, "✓ done")
        shown = ""
        while "✓ done\r\n" not in shown:  # a terminal hands out what it has, not what was written
            shown += os.read(master, 1000).decode()
    os.close(master)
    assert f"{A} cell 3/4" in shown
    assert shown.rstrip("\r\x1b[K").endswith("✓ done\r\n")


def test_the_kernel_tells_of_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        get_device_name=lambda: "A fast GPU",
        max_memory_allocated=lambda: 3 * 2**30,
    )
    fake = SimpleNamespace(__version__="2.13.0+cu130", cuda=cuda, get_num_threads=lambda: 3)
    fake.backends = SimpleNamespace(cpu=SimpleNamespace(get_cpu_capability=lambda: "AVX2"))
    monkeypatch.setitem(sys.modules, "torch", fake)
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(new_output("display_data", data)))
    exec(kernel_process.PROBE, {})
    facts = kernel_process.facts_in([new_output("stream", text='{"peak_mb": 3}'), *shown])
    assert facts
    assert (facts["gpu"], facts["gpu_peak_mb"], facts["torch"]) == ("A fast GPU", 3072, "2.13.0+cu130")
    assert (facts["instructions"], facts["threads"]) == ("AVX2", 3)
    assert execute._hardware(facts, 2).startswith("A fast GPU, ")
