"""The console script: what it refuses, how it says so, and by which exit status."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gensrc.book import repository

A, B = "1-part/01-a", "2-part/02-b"


@pytest.fixture
def two(book: Any) -> Any:
    book.chapter(A, "print(1)")
    book.chapter(B, "print(2)")
    return book


@pytest.mark.parametrize("name", [B, "02-b", f"notebooks/{B}.ipynb", f"./notebooks/{B}.ipynb"])
def test_a_chapter_has_several_names(two: Any, name: str) -> None:
    assert repository.choose(two.root, [name]) == [B]
    assert repository.choose(two.root, [name, A, B]) == [B, A]


def test_an_unknown_chapter_is_refused_with_the_list_of_those_there_are(two: Any) -> None:
    assert two.run("execute", "09-x") == (
        2,
        f"gensrc-book: there is no chapter '09-x'; the chapters are: {A}, {B}.\n",
    )


def test_a_name_that_fits_two_chapters_is_refused(two: Any) -> None:
    two.chapter("3-part/02-b", "print(3)")
    status, said = two.run("clean", "02-b")
    assert (status, "more than one chapter is called '02-b'" in said) == (2, True)


@pytest.mark.parametrize("command", ["execute", "clean", "check", "chapters"])
def test_a_misspelt_chapter_is_refused_with_the_nearest(two: Any, command: str) -> None:
    for part in ("3-part/03-vae", "3-part/04-vae-applications"):
        two.chapter(part, "print(3)")
    before = {path: path.read_bytes() for path in two.root.rglob("*") if path.is_file()}
    for name in ("03-vaee", "03-VAE", "part/03-vae", "notebooks/3-part/03-vae-Copy1.ipynb"):
        status, said = two.run(command, "01-a", name)
        assert status == 2
        assert said.startswith(f"gensrc-book: there is no chapter '{name}'; the nearest are: 3-part/03-vae")
    assert {path: path.read_bytes() for path in two.root.rglob("*") if path.is_file()} == before


def test_the_notebooks_of_chapters_are_listed_and_never_none(two: Any) -> None:
    assert two.run("chapters") == (0, f"notebooks/{A}.ipynb\nnotebooks/{B}.ipynb\n")
    assert two.run("chapters", "02-b 01-a", "01-a") == (0, f"notebooks/{B}.ipynb\nnotebooks/{A}.ipynb\n")
    for pattern in ("*", "[12]-*/*", "0?-*"):
        assert two.run("chapters", pattern) == two.run("chapters")
    assert two.run("chapters", "2-*") == (0, f"notebooks/{B}.ipynb\n")
    for pattern in ("9-*", "*vae*"):
        assert f"there is no chapter '{pattern}'" in two.run("chapters", pattern)[1]
    status, said = two.run("chapters", " ")
    assert (status, "the name of a chapter is empty" in said) == (2, True)
    for chapter in (A, B):
        two.path(chapter).unlink()
    assert two.run("chapters") == (2, "gensrc-book: there are no chapters in notebooks/ yet.\n")


def test_a_relative_folder_of_data_counts_from_where_the_command_is_called(
    two: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value, whole in (("data", two.root / "data"), ("~/data/", two.root / "home" / "data"), ("", "")):
        monkeypatch.setenv("HOME", str(two.root / "home"))
        monkeypatch.setenv("GENSRC_DATA", value)
        two.run("chapters")
        assert os.environ["GENSRC_DATA"] == str(whole)


SCRATCH = [
    "Untitled",
    "1-part/Untitled",
    "1-part/Untitled1",
    "1-part/01-a-Copy1",
    "1-part/01-a (1)",
    "1-part/01-a copy",
    "1-part/deeper/01-a",
    "1-part/a",
    "drafts/01-a",
    "01-a",
]


def test_a_readers_own_notebooks_are_no_chapters_and_one_note_says_so(two: Any) -> None:
    _, without = two.run("status")
    for number, name in enumerate(SCRATCH):
        two.write(f"notebooks/{name}.ipynb", ("", "{", "[]", "{}")[number % 4])
    two.write("notebooks/1-part/.ipynb_checkpoints/Untitled-checkpoint.ipynb", "")
    (two.root / "notebooks/1-part/folder.ipynb").mkdir()
    assert repository.chapters(two.root) == [A, B]
    assert repository.scratch(two.root) == sorted(SCRATCH)
    status, said = two.run("status")
    note = (
        "note: no chapter, since it is not called notebooks/N-PART/NN-NAME.ipynb, and left alone: notebooks/01-a.ipynb"
    )
    assert (status, said.count(note), said.endswith(", ....\n")) == (1, 1, True)
    assert said.partition("note:")[0] == without
    for command in ("clean", "chapters"):
        assert two.run(command)[0] == 0
    status, said = two.run("execute", "Untitled")
    assert (status, said.count("note: no chapter"), "there is no chapter 'Untitled'" in said) == (2, 1, True)


def test_an_unknown_profile_is_refused_with_the_list(two: Any) -> None:
    assert two.run("execute", "--profile", "fast") == (
        2,
        "gensrc-book: there is no profile 'fast'; the profiles are: quick, full.\n",
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "it is not JSON"),
        ("[]", "it has no list of cells"),
        ('{"cells": [], "nbformat": 3, "nbformat_minor": 0}', "its format is 3, not 4"),
        ('{"cells": [{}], "nbformat": 4, "nbformat_minor": 5}', "one of its cells has no type or no source"),
        ("\xff", "it is not JSON"),
    ],
)
@pytest.mark.parametrize("command", ["status", "clean", "execute"])
def test_an_unreadable_notebook_is_named(two: Any, command: str, content: str, reason: str) -> None:
    two.path(B).write_bytes(content.encode("latin1"))
    status, said = two.run(command)
    assert status == 2
    *_, last = said.splitlines()  # `clean` may have cleaned the chapter before it
    assert last.startswith(f"gensrc-book: notebooks/{B}.ipynb is no readable notebook ({reason}")
    assert "Traceback" not in said


def test_a_notebook_against_the_schema_is_named(two: Any) -> None:
    path = two.path(B)
    path.write_text(path.read_text(encoding="utf8").replace('"outputs": []', '"outputs": 7'), encoding="utf8")
    status, said = two.run("clean")
    assert (status, f"notebooks/{B}.ipynb is no readable notebook" in said) == (2, True)


def test_outside_a_repository_it_says_so(
    book: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    status, said = book.run("status")
    assert status == 2
    assert "is not inside the book's repository" in said


def test_it_works_from_any_folder_below_the_root(two: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(two.root / "notebooks" / "1-part")
    assert repository.find_root() == two.root
    assert A in two.run("status")[1]


def test_without_constraints_it_says_what_is_missing(two: Any) -> None:
    (two.root / "constraints.txt").unlink()
    status, said = two.run("status")
    assert (status, "cannot read constraints.txt" in said) == (2, True)


def test_checkpoints_of_jupyter_are_no_chapters(two: Any) -> None:
    two.write("notebooks/1-part/.ipynb_checkpoints/01-a-checkpoint.ipynb", "{}")
    assert repository.chapters(two.root) == [A, B]


def test_a_log_on_a_full_disk_and_a_reader_that_has_gone_are_no_tracebacks(two: Any) -> None:
    command = [sys.executable, "-P", "-m", "gensrc.book.cli", "status"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert "could not be used (No space left on device): make room there" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as gone:
        done = subprocess.run(command, stdout=gone, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (141, "")


SITE = """
from gensrc.book import cli
from gensrc.book.site import build
build._build = lambda root: build.run(["sh", "-c", "sleep 100 & echo $!; wait"], cwd=root, what="the build")
raise SystemExit(cli.main(["site"]))
"""


def test_a_signal_ends_the_build_of_the_site_with_all_that_it_started_and_a_second_one_waits(two: Any) -> None:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    first = subprocess.Popen([sys.executable, "-P", "-c", SITE], **options)
    sleeping = int(first.stdout.readline())
    second = subprocess.Popen([sys.executable, "-P", "-c", SITE], **options)
    assert second.stdout.readline() == f"The site is being built by another process ({first.pid}): waiting for that.\n"
    first.send_signal(signal.SIGTERM)
    said, _ = first.communicate(timeout=30)
    assert (first.returncode, said.startswith("\ngensrc-book: interrupted")) == (143, True)
    state = Path(f"/proc/{sleeping}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z", "what was started has ended"
    assert int(second.stdout.readline()) != sleeping, "now the second builds"
    second.send_signal(signal.SIGTERM)
    second.communicate(timeout=30)
    assert second.returncode == 143
