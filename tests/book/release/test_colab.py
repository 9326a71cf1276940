"""The first cell of a chapter, and the whole of one, on a machine that has what Colab has."""

import functools
import http.server
import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import gensrc
from gensrc.book import repository
from gensrc.book.checks import chapter_rules
from gensrc.book.release import colab, colab_cell, publish
from gensrc.book.repository import BookError, notebook_path

ROOT = Path(__file__).resolve().parents[3]
CHAPTER = "2-gans-to-transformers/03-vae"
# What Colab preloads of what a chapter needs. All of it has our pins, and so comes from this environment, except the
# packages that are small to fetch and that Colab holds back at much older versions.
PRELOADED = [
    *["torch", "numpy", "matplotlib", "ipywidgets", "ipykernel", "tqdm", "safetensors", "pooch"],
    *["scikit-learn", "statsmodels"],
]
HELD_BACK = [
    *["ipython==7.34.0", "backcall", "decorator", "pickleshare"],
    *["ipywidgets==7.7.1", "widgetsnbextension==3.6.10", "ipython_genutils"],
]
# Colab has it because ipywidgets 7 requires it. No chapter imports it, so that here a name that pip sees is enough.
NAMED = "notebook-6.5.7"
LACKING = {"gensrc", "jaxtyping", "wadler_lindig"}


def closure(names: list[str]) -> set[str]:
    """The installed distributions that `names` need, by canonical name."""
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            needs = map(Requirement, importlib.metadata.requires(name) or [])
            waiting += [canonicalize_name(n.name) for n in needs if not n.marker or n.marker.evaluate({"extra": ""})]
    return found


def lend(name: str, target: Path) -> None:
    """Put the installed distribution `name` into another site-packages, by hard links.

    Nothing is downloaded or copied (torch has a gigabyte), pip over there sees a package like any other, and if it
    replaces or removes one, it takes away the link and leaves the file here as it is.
    """
    source = Path(sysconfig.get_path("purelib"))
    for file in importlib.metadata.files(name) or []:
        path = Path(str(file.locate()))
        if ".." not in file.parts and path.is_file() and path.is_relative_to(source):
            copy = target / file
            copy.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, copy)
            except OSError:  # another file system
                shutil.copy2(path, copy)


@pytest.fixture
def python() -> str:
    """The interpreter of a new environment with what Colab preloads, and neither gensrc nor the book's tools."""
    folder = ROOT / "_build" / "colab-environment"  # on the file system of this environment, if it is .venv
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    interpreter = str(folder / "bin" / "python")
    command = [interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    subprocess.run(
        [interpreter, "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools"], check=True
    )  # of Python 3.11
    held_back = {canonicalize_name(Requirement(line).name) for line in HELD_BACK}
    for name in closure(PRELOADED) - held_back:
        lend(name, packages)
    install = [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", *HELD_BACK]
    subprocess.run(install, check=True)
    name, version = NAMED.split("-")
    (packages / f"{NAMED}.dist-info").mkdir()
    (packages / f"{NAMED}.dist-info/METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return interpreter


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    """A server on this machine that offers the working tree as the archive of the version's tag, as GitHub does."""
    archive = tmp_path / "host/owner/name/archive/refs/tags" / f"{colab_cell.tag(gensrc.__version__)}.zip"
    archive.parent.mkdir(parents=True)
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    with zipfile.ZipFile(archive, "w") as zipped:
        for file in files:
            if (ROOT / file).is_file():
                zipped.write(ROOT / file, f"name-{gensrc.__version__}/{file}")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "host"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_chapter_runs_where_colab_is_and_pip_changes_nothing(python: str, host: str, tmp_path: Path) -> None:
    """Building the archive needs the package index, and no index is a failure: readers have one."""
    publish.publish(ROOT, "owner/name", colab_cell.tag(gensrc.__version__), tmp_path / "published", host)
    assert "gensrc" not in colab.installed(python)

    added = colab.run_alone(notebook_path(tmp_path / "published", CHAPTER), tmp_path / "empty", python)

    assert added.pop("gensrc") == gensrc.__version__
    assert set(added) == LACKING - {"gensrc"}
    assert "gensrc" not in colab.installed(python), "run_alone left its traces"
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["03-vae.ipynb"], "the chapter wrote files"


def execute(source: str, *path: Path) -> subprocess.CompletedProcess[str]:
    """Run a cell's source as a program that can import only from `path` and the standard library, and pip from here."""
    program = f"import sys; sys.path[:1] = {[str(folder) for folder in path]}\n{source}"
    environment = os.environ | {"PIP_NO_INDEX": "1", "PIP_RETRIES": "0", "PYTHONPATH": ""}
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)


def test_the_cell_does_and_says_nothing_where_gensrc_is() -> None:
    source = colab_cell.cell("http://127.0.0.1:9/owner/name", "0.1.0")
    done = execute(f"{source}\nassert 'subprocess' not in globals()", ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture
def without_gensrc(tmp_path: Path) -> str:
    """Code that hides an installed gensrc from the cell."""
    return "import importlib.util; importlib.util.find_spec = lambda name: None\n"


def test_a_failed_installation_is_one_error_that_says_what_pip_says(without_gensrc: str) -> None:
    done = execute(without_gensrc + colab_cell.cell("http://127.0.0.1:9/owner/name", "0.1.0"))
    last = done.stderr[done.stderr.index("RuntimeError") :]
    assert (
        "gensrc could not be installed from http://127.0.0.1:9/owner/name/archive/refs/tags/v0.1.0.zip; pip says:"
        in last
    )
    assert "ERROR: " in last
    assert done.stdout == ""


@pytest.mark.parametrize("there", ["0.0.9", "9.9", None])
@pytest.mark.parametrize("owner", ["OWNER", "some-one"])
def test_a_gensrc_of_another_version_is_named_with_the_command(tmp_path: Path, there: str | None, owner: str) -> None:
    (tmp_path / "gensrc").mkdir()
    (tmp_path / "gensrc/__init__.py").write_text(f"__version__ = {there!r}\n" if there else "")
    done = execute(colab_cell.cell(f"https://github.com/{owner}/name", "0.1.0"), tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    archive = f"https://github.com/{owner}/name/archive/refs/tags/v0.1.0.zip"
    cures = {"OWNER": "choose the kernel of .venv, made by `make book`", "some-one": f"`%pip install {archive}`"}
    assert last.startswith(f"RuntimeError: needs gensrc 0.1.0, this kernel has {there or 'none'}: {cures[owner]}")


def test_the_sources_notebook_without_gensrc_says_which_kernel_and_starts_no_pip(without_gensrc: str) -> None:
    no_pip = "import subprocess; subprocess.run = None\n"
    done = execute(no_pip + without_gensrc + colab_cell.cell("https://github.com/OWNER/name", "0.1.0"))
    assert done.stderr.strip().splitlines()[-1] == (
        "RuntimeError: needs gensrc 0.1.0, this kernel has none: choose the kernel of .venv, made by `make book`; "
        "on Colab, the branch published."
    )


def test_the_placeholder_of_the_cell_is_that_of_the_sources() -> None:
    assert "/OWNER/" in repository.address(ROOT)


def test_the_cell_names_the_tag_of_its_version() -> None:
    source = colab_cell.cell("https://example.org/o/n", "1.2.3")
    lines = [line.strip() for line in source.splitlines() if line.strip().startswith(("address =", "archive ="))]
    names: dict[str, str] = {}
    exec("\n".join(lines), names)
    assert names["archive"] == "https://example.org/o/n/archive/refs/tags/v1.2.3.zip"


@pytest.mark.parametrize("extra", ["", "text"])
def test_the_cell_keeps_the_rules_for_code_in_chapters(extra: str) -> None:
    source = colab_cell.cell("https://github.com/OWNER/generative-ai-from-source", gensrc.__version__, extra)
    lines = [line for line in source.splitlines() if line.strip() and not line.strip().startswith("#")]
    assert len(lines) <= chapter_rules.MOST_LINES
    for command in (["format", "-"], ["check", "--output-format=concise", "-"]):
        options = ["--config", str(ROOT / "notebooks/ruff.toml"), "--stdin-filename", "notebooks/cell.py"]
        ruff = [sys.executable, "-m", "ruff", command[0], *options, *command[1:]]
        done = subprocess.run(ruff, input=source + "\n", capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
        assert command[0] == "check" or done.stdout == source + "\n"


def chapter(folder: Path, *cells: str) -> Path:
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbformat.write(nb, folder / "01-tiny.ipynb")
    return folder / "01-tiny.ipynb"


def test_a_failing_cell_is_told_and_its_output_kept(tmp_path: Path) -> None:
    notebook = chapter(tmp_path, "print('so far')", "1 / 0")
    with pytest.raises(BookError, match="a cell failed with ZeroDivisionError: division by zero"):
        colab.run_alone(notebook, tmp_path / "alone")
    assert "so far" in (tmp_path / "alone/01-tiny.ipynb").read_text()


def test_a_cell_without_end_is_told(tmp_path: Path) -> None:
    notebook = chapter(tmp_path, "import time; time.sleep(60)")
    with pytest.raises(BookError, match="a cell did not end"):
        colab.run_alone(notebook, tmp_path / "alone", timeout=1)


def test_a_chapter_alone_sees_nothing_of_this_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("GENSRC_DATA", str(ROOT))
    notebook = chapter(tmp_path, "import os; assert not [n for n in os.environ if n.startswith(('PYTHON', 'GENSRC'))]")
    assert colab.run_alone(notebook, tmp_path / "alone") == {}


@pytest.mark.parametrize(
    ("after", "message"), [({"numpy": "2.4.6"}, r"numpy 2\.1\.0 became 2\.4\.6"), ({}, r"numpy 2\.1\.0 became nothing")]
)
def test_a_package_that_changed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: dict[str, str], message: str
) -> None:
    seen = iter([{"numpy": "2.1.0"}, after])
    monkeypatch.setattr(colab, "installed", lambda python: next(seen))
    with pytest.raises(BookError, match=message):
        colab.run_alone(chapter(tmp_path, "1"), tmp_path / "alone")


def test_a_chapter_that_cannot_be_run_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_alone(notebook: Path, folder: Path) -> dict[str, str]:
        if notebook.stem == "01-a":
            raise RuntimeError("Kernel died before replying to kernel_info")
        return {}

    paths = [tmp_path / "notebooks" / "1-part" / name for name in ("01-a.ipynb", "02-b.ipynb")]
    monkeypatch.setattr(colab.publish, "publish", lambda *arguments: paths)
    monkeypatch.setattr(colab, "run_alone", run_alone)
    [(_, problem), last] = colab.run_all(tmp_path, "someone/a-book", tmp_path)
    assert str(problem) == "it could not be run: RuntimeError: Kernel died before replying to kernel_info"
    assert last == ("1-part/02-b", {})
