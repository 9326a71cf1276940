import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nbformat.v4 import new_output

import gensrc
from gensrc.book import repository
from gensrc.book.checks import staleness, stamp
from gensrc.book.release import colab_cell, publish
from gensrc.book.repository import BookError

OLD = "https://github.com/OWNER/generative-ai-from-source"
TAG = f"v{gensrc.__version__}"


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Author", "-c", "user.email=author@example.org", "-c", "init.defaultBranch=main")
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def notebook(first: str) -> str:
    button = "[Colab](https://colab.research.google.com/github/OWNER/generative-ai-from-source/blob/published/a.ipynb)"
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": [f"{button}, not OWNER/generative-ai-from-source-2 ≈"]},
        {"cell_type": "code", "metadata": {"tags": colab_cell.TAGS}, "outputs": [], "source": first.splitlines(True)},
    ]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, ensure_ascii=False) + "\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with one chapter."""
    root = tmp_path / "repository"
    (root / "notebooks" / "1-part").mkdir(parents=True)
    (root / "gensrc" / "book").mkdir(parents=True)
    (root / "_config.yml").write_text(f"repository:\n  url: {OLD}\n  branch: published\n")
    (root / "notebooks/1-part/01-chapter.ipynb").write_text(notebook(colab_cell.cell(OLD, gensrc.__version__)))
    (root / "gensrc/model.py").write_text("one\n")
    (root / "LICENSE").write_text("MIT\n")
    git(root, "init", "--quiet")
    (root / ".git/info/exclude").write_text("LICENSE\n")  # a person's own rules are none of the branch's
    git(root, "add", "--force", ".")
    git(root, "commit", "--quiet", "-m", "First")
    return root


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet", "--bare", "remote")
    return tmp_path / "remote"


def test_only_the_address_changes_in_a_published_notebook(root: Path, tmp_path: Path) -> None:
    source = root / "notebooks/1-part/01-chapter.ipynb"
    before = source.read_text()

    (written,) = publish.publish(root, "some-one/their.fork", TAG, tmp_path / "out")

    text = written.read_text()
    assert written == tmp_path / "out/notebooks/1-part/01-chapter.ipynb"
    assert text.count("some-one/their.fork") == 2
    assert "OWNER/generative-ai-from-source-2 ≈" in text, "another repository's name was stamped"
    assert text.replace("some-one/their.fork", "OWNER/generative-ai-from-source") == before == source.read_text()
    first = "".join(json.loads(text)["cells"][1]["source"])
    assert first == colab_cell.cell("https://github.com/some-one/their.fork", gensrc.__version__)


def test_nobody_publishes_as_the_placeholder(root: Path, tmp_path: Path) -> None:
    with pytest.raises(BookError, match="'OWNER/x', the placeholder of the sources: give the owner's real name"):
        publish.publish(root, "OWNER/x", TAG, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_licence_travels_with_the_notebooks(root: Path, tmp_path: Path) -> None:
    publish.publish(root, "a/b", TAG, tmp_path / "out")
    assert (tmp_path / "out/LICENSE").read_text() == "MIT\n"
    assert TAG in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize("name", ["", "owner", "a/b/c", "a b/c", "https://github.com/a/b"])
def test_a_malformed_repository_is_refused(root: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(BookError, match="must be OWNER/NAME"):
        publish.publish(root, name, TAG, tmp_path / "out")


def test_the_tag_of_another_version_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(
        BookError, match=rf"v9\.9\.9 is not this version's: gensrc/__init__.py says {gensrc.__version__}"
    ):
        publish.publish(root, "a/b", "v9.9.9", tmp_path / "out")


def test_nothing_is_written_among_other_files(root: Path, tmp_path: Path) -> None:
    with pytest.raises(BookError, match="not empty"):
        publish.publish(root, "a/b", TAG, root)


@pytest.mark.parametrize(
    "first", ["import gensrc", colab_cell.cell(OLD, "0.0.9"), colab_cell.cell(OLD + "x", gensrc.__version__)]
)
def test_a_chapter_that_would_install_something_else_is_refused(root: Path, tmp_path: Path, first: str) -> None:
    (root / "notebooks/1-part/01-chapter.ipynb").write_text(notebook(first))
    with pytest.raises(BookError, match=r"01-chapter\.ipynb: its first code cell is not the one that"):
        publish.publish(root, "a/b", TAG, tmp_path / "out")


@pytest.mark.parametrize(
    "text", ["", "repository: {url: github.com/a/b, branch: c}", "repository: {url: https://g.h/a/b}"]
)
def test_a_config_without_the_address_is_refused(root: Path, text: str) -> None:
    (root / "_config.yml").write_text(text)
    with pytest.raises(BookError, match=r"_config\.yml must give repository\.url"):
        repository.address(root)


def published(root: Path, remote: Path, out: Path) -> None:
    publish.publish(root, "some-one/fork", TAG, out)
    publish.push(root, out, str(remote), TAG)


def test_push_makes_the_branch_and_the_tag_and_leaves_the_clone_alone(root: Path, remote: Path, tmp_path: Path) -> None:
    head, refs = git(root, "rev-parse", "HEAD"), git(root, "for-each-ref")

    published(root, remote, tmp_path / "out")

    files = git(remote, "ls-tree", "-r", "--name-only", "published").splitlines()
    assert files == ["LICENSE", "README.md", "notebooks/1-part/01-chapter.ipynb"]
    assert "some-one/fork" in git(remote, "show", "published:notebooks/1-part/01-chapter.ipynb")
    assert git(remote, "rev-parse", TAG) == head == git(remote, "rev-parse", "published^")
    assert (
        git(remote, "log", "-1", "--format=%an %s", "published")
        == f"Author Publish the notebooks of {TAG} at {head[:7]}"
    )
    assert (git(root, "rev-parse", "HEAD"), git(root, "for-each-ref")) == (head, refs)
    assert git(root, "status", "--porcelain") == ""


def test_corrected_prose_is_published_under_the_same_tag(root: Path, remote: Path, tmp_path: Path) -> None:
    published(root, remote, tmp_path / "one")
    tagged = git(remote, "rev-parse", TAG)
    path = root / "notebooks/1-part/01-chapter.ipynb"
    path.write_text(path.read_text().replace("≈", "about"))
    (root / "gensrc/book/site.py").write_text("the machinery is no part of what a chapter imports\n")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "Correct")

    published(root, remote, tmp_path / "two")

    assert "about" in git(remote, "show", "published:notebooks/1-part/01-chapter.ipynb")
    assert git(remote, "rev-parse", TAG) == tagged


def test_a_changed_module_needs_a_new_version(root: Path, remote: Path, tmp_path: Path) -> None:
    published(root, remote, tmp_path / "one")
    before = git(remote, "rev-parse", "published")
    (root / "gensrc/model.py").write_text("two\n")
    git(root, "commit", "--quiet", "-am", "Change")

    with pytest.raises(BookError, match=rf"gensrc/model\.py has changed since {TAG}: raise __version__"):
        published(root, remote, tmp_path / "two")
    assert git(remote, "rev-parse", "published") == before


def test_what_is_not_committed_is_not_pushed(root: Path, remote: Path, tmp_path: Path) -> None:
    publish.publish(root, "a/b", TAG, tmp_path / "out")
    (root / "gensrc/model.py").write_text("two\n")
    with pytest.raises(BookError, match=r"gensrc/model\.py holds changes that are not committed"):
        publish.push(root, tmp_path / "out", str(remote), TAG)


def test_a_remote_that_is_not_there_is_told(root: Path, tmp_path: Path) -> None:
    publish.publish(root, "a/b", TAG, tmp_path / "out")
    with pytest.raises(BookError, match=r"git ls-remote failed: .*nowhere"):
        publish.push(root, tmp_path / "out", str(tmp_path / "nowhere"), TAG)


@pytest.fixture
def executed(book: Any) -> Any:
    """A book whose chapter has just been executed."""
    book.chapter("1-part/01-a", "print(1)")
    nb = book.read("1-part/01-a")
    for number, cell in enumerate(nb.cells[1:], 1):
        cell.execution_count = number
    nb.cells[-1].outputs = [new_output("stream", name="stdout", text="1\n")]
    parts = staleness.Fingerprints(book.root).parts(staleness.code_of(nb), [], "quick", 0)
    nb.metadata["gensrc"] = stamp.sealed({"parts": parts, "files": []}, nb)
    book.save("1-part/01-a", nb)
    colab_cell.write_all(book.root)
    return book


def test_what_was_executed_last_is_published(executed: Any) -> None:
    assert executed.run("publish", "--repository", "a/b", "--out", "out")[0] == 0
    assert (executed.root / "out/notebooks/1-part/01-a.ipynb").exists()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda nb: nb.cells[-1].update(source="print(2)"), "code cells"),
        (lambda nb: nb.cells[-1].outputs[0].update(text="2\n"), "outputs were changed after the run"),
        (lambda nb: nb.cells[-1].update(execution_count=None), "code cell 3 has no execution count"),
        (lambda nb: nb.cells[2].update(source='profile = "full"\nseed = 0'), "one cell tagged parameters must hold"),
        (lambda nb: nb.cells[3].update(source="seed = 7\nprint(1)"), "a cell sets seed"),
        (lambda nb: nb.cells[3].metadata.update(tags=["injected-parameters"]), "papermill has left a cell"),
        (lambda nb: nb.metadata.gensrc.update(precision="float32"), "its stamp was changed after the run"),
        (lambda nb: nb.metadata.pop("gensrc"), "never executed"),
    ],
)
def test_what_no_run_has_made_as_it_stands_is_not_published(
    executed: Any, change: Callable[[Any], Any], why: str
) -> None:
    nb = executed.read("1-part/01-a")
    change(nb)
    executed.save("1-part/01-a", nb)
    status, said = executed.run("publish", "--repository", "a/b", "--out", "out")
    assert status == 2
    assert f"1-part/01-a is stale ({why}" in said
    assert not (executed.root / "out").exists()
