"""Publish the chapters for Colab: a branch that holds the notebooks with the real address of the repository in them.

Source notebooks name a placeholder owner, and _config.yml is the one place that says which (the site's own links are
stamped when it is built, see gensrc.book.site.sphinx). Here a copy of the notebooks is stamped and, if asked, pushed.
The working tree stays as it is.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import gensrc
from gensrc import atomic
from gensrc.book import repository
from gensrc.book.release import colab_cell
from gensrc.book.repository import BookError

HOST = "https://github.com"
# What a chapter imports. While it is as in the tag, the tag still serves the chapters.
IMPORTED = ["gensrc", ":(exclude)gensrc/book"]
README = """\
# The published notebooks

The workflow `publish` writes this branch: the chapters of the book as Colab opens them, with this repository's address
in their first cell. Change them on the main branch, of which {tag} is the release that they install.
"""


def publish(root: Path, name: str, tag: str, out: Path, host: str = HOST) -> list[Path]:
    """Write every chapter into `out`, stamped for the repository `name` ("owner/name") at `host`; return the files.

    Raises BookError for a malformed name or the placeholder's, a tag that is not this version's, a folder that holds
    something, and a notebook whose first cell is not the one that `colab_cell.cell` gives.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise BookError(f"--repository is '{name}'; it must be OWNER/NAME.")
    if tag != colab_cell.tag(gensrc.__version__):
        raise BookError(f"the tag {tag} is not this version's: gensrc/__init__.py says {gensrc.__version__}.")
    if out.exists() and any(out.iterdir()):
        raise BookError(f"{out} is not empty: name a new folder.")
    old, new = repository.address(root), f"{host}/{name}"
    if old.split("/")[-2] == name.split("/")[0]:
        raise BookError(f"--repository is '{name}', the placeholder of the sources: give the owner's real name.")
    written = []
    for chapter in repository.chapters(root):
        path = repository.notebook_path(root, chapter)
        written.append(out / path.relative_to(root))
        atomic.write(written[-1], stamped(path, old, new))
    (out / "README.md").write_text(README.format(tag=tag), encoding="utf8")
    for licence in sorted(root.glob("LICENSE*")):
        shutil.copy(licence, out)
    return written


def stamped(path: Path, old: str, new: str) -> str:
    """The notebook's text with the address `new`, and its owner/name alone, for `old`; every other byte stays."""
    _check_first_cell(path, repository.read_raw(path), old)
    text = path.read_text(encoding="utf8")
    for before, after in ((old, new), (_name(old), _name(new))):
        text = re.sub(rf"{re.escape(before)}(?![\w-])", after, text)
    _check_first_cell(path, json.loads(text), new)
    return text


def _name(address: str) -> str:
    return "/".join(address.split("/")[-2:])


def _check_first_cell(path: Path, nb: dict[str, Any], address: str) -> None:
    cells = repository.code_cells(nb)
    expected = colab_cell.cell(address, gensrc.__version__, colab_cell.extra(nb))
    if not cells or repository.source(cells[0]) != expected:
        raise BookError(f"{path.name}: its first code cell is not the one that `gensrc-book cell --write` puts there.")


def push(root: Path, folder: Path, remote: str, tag: str) -> None:
    """Make the published branch of `remote` hold exactly `folder`, and have the tag there, all or nothing.

    A tag that exists stays where it is. Raises BookError if the code that it installs is not this commit's, since the
    chapters would then meet another gensrc than the one that they were checked with.
    """
    if changed := _git(root, "status", "--porcelain", "--", "notebooks", *IMPORTED).splitlines():
        raise BookError(f"{changed[0].split()[-1]} holds changes that are not committed: commit them first.")
    refs = [f"+{_commit(root, folder, tag)}:refs/heads/{repository.branch(root)}"]
    if not _git(root, "ls-remote", "--tags", remote, f"refs/tags/{tag}"):
        refs.append(f"HEAD:refs/tags/{tag}")
    else:
        _git(root, "fetch", "--quiet", "--no-tags", remote, f"refs/tags/{tag}")
        if changed := _git(root, "diff", "--name-only", "FETCH_HEAD", "HEAD", "--", *IMPORTED).splitlines():
            raise BookError(f"{changed[0]} has changed since {tag}: raise __version__ in gensrc/__init__.py.")
    _git(root, "push", "--quiet", "--atomic", remote, *refs)


def _commit(root: Path, folder: Path, tag: str) -> str:
    """A commit on top of HEAD, by HEAD's author, that holds exactly `folder`. No branch, index or file changes."""
    author, mail, commit = _git(root, "log", "-1", "--format=%an%n%ae%n%h").splitlines()
    with tempfile.TemporaryDirectory() as scratch:
        index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
        _git(folder, f"--git-dir={root / '.git'}", "--work-tree=.", "add", "--all", "--force", ".", **index)
        tree = _git(root, "write-tree", **index)
    identity = ("-c", f"user.name={author}", "-c", f"user.email={mail}")
    return _git(root, *identity, "commit-tree", tree, "-p", "HEAD", "-m", f"Publish the notebooks of {tag} at {commit}")


def _git(root: Path, *arguments: str, **environment: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        what = next(word for word in arguments if not word.startswith("-"))
        raise BookError(f"git {what} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()
