"""The first code cell of every chapter: it installs gensrc where it is missing, and touches nothing else.

Most install failures that readers of notebooks report come from a package that upgraded numpy or torch under a running
kernel. So the cell tells pip to keep the version of everything that is installed: pip then adds what is missing, or
fails with a sentence, but never replaces a package. Where gensrc is importable, the cell does and prints nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import gensrc
from gensrc.book import repository
from gensrc.book.repository import BookError

TAGS = ["colab", "hide-input"]
# Not wider than other code in chapters (notebooks/ruff.toml).
TEMPLATE = """\
# Only where gensrc is missing (on Colab, say): install it, and leave every package that
# is there as it is.
import importlib.util

if importlib.util.find_spec("gensrc") is None:
    import pathlib
    import subprocess
    import sys
    import tempfile

    address = "{address}"
    archive = f"{{address}}/archive/refs/tags/{tag}.zip"

    def pip(*arguments):
        command = [sys.executable, "-m", "pip", "--no-color", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = f"{{archive}}; pip says:\\n{{done.stderr[-1000:]}}"
            raise RuntimeError(f"gensrc could not be installed from {{reason}}")
        return done.stdout

    with tempfile.TemporaryDirectory() as folder:
        kept = pathlib.Path(folder, "kept.txt")
        kept.write_text(pip("list", "--format=freeze"))
        pip("install", "--quiet", "--constraint", str(kept), archive)
    importlib.invalidate_caches()
"""


def cell(address: str, version: str) -> str:
    """The source of the cell, for the repository at `address` and the release of gensrc that the chapter belongs to."""
    return TEMPLATE.format(address=address, tag=tag(version)).rstrip("\n")


def tag(version: str) -> str:
    return f"v{version}"


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `cell` and `colab` to the command line."""
    text = "print the first code cell that every chapter must have"
    one = commands.add_parser("cell", help=text, description=f"{text.capitalize()}.")
    one.add_argument("--write", action="store_true", help="put it into every chapter's cell tagged colab")
    one.set_defaults(run=run_cell)

    text = "run each published chapter alone in a folder, installing gensrc as a reader of Colab does"
    one = commands.add_parser("colab", help=text, description=f"{text.capitalize()}.")
    one.add_argument("--repository", required=True, metavar="OWNER/NAME", help="where the release is published")
    one.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="a new or empty folder")
    one.set_defaults(run=run_colab)


def run_cell(options: argparse.Namespace) -> int:
    from gensrc.book import clean, publish

    root = repository.find_root()
    source = cell(publish.address(root), gensrc.__version__)
    if not options.write:
        print(source)
        return 0
    for chapter in repository.chapters(root):
        path = repository.notebook_path(root, chapter)
        nb = repository.read_notebook(path)
        first = repository.code_cells(nb)[:1]
        if not first or "colab" not in repository.tags(first[0]):
            raise BookError(
                f"{chapter}: its first code cell is not tagged colab: add one with the tags {' and '.join(TAGS)}."
            )
        if first[0]["source"] != source:
            first[0]["source"] = source
            repository.write_atomically(path, clean.dumps(nb))
            print(f"wrote the first cell of {chapter}")
    return 0


def run_colab(options: argparse.Namespace) -> int:
    from gensrc.book import publish

    root = repository.find_root()
    notebooks = publish.publish(root, options.repository, tag(gensrc.__version__), options.out)
    failures = 0
    for notebook in notebooks:
        name = notebook.relative_to(options.out / "notebooks").with_suffix("").as_posix()
        try:
            added = run_alone(notebook, options.out / "executed" / name)
            print(f"{name}: runs; installed {', '.join(f'{name} {version}' for name, version in added.items())}")
        except BookError as error:
            print(f"{name}: {error}")
            failures += 1
    return 1 if failures else 0


def run_alone(notebook: Path, folder: Path, python: str = sys.executable, timeout: int = 1800) -> dict[str, str]:
    """Run a copy of `notebook` in the new `folder` with `python`, and take away again what its first cell installed.

    Returns the packages that came: name -> version. Raises BookError if a cell fails or takes more than `timeout`
    seconds, and if a package that was there has another version afterwards or is gone.
    """
    import nbformat

    before = installed(python)
    folder.mkdir(parents=True)
    nb = nbformat.read(notebook, as_version=4)
    try:
        _execute(nb, folder, python, timeout)
    finally:
        nbformat.write(nb, folder / notebook.name)
        after = installed(python)
        added = {name: version for name, version in after.items() if name not in before}
        if added:
            subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", *added], check=True)
    changed = [
        f"{name} {old} became {after.get(name, 'nothing')}" for name, old in before.items() if after.get(name) != old
    ]
    if changed:
        raise BookError(f"the first cell changed what was installed: {', '.join(changed)}.")
    return added


def installed(python: str) -> dict[str, str]:
    """What pip sees in the environment of `python`: name -> version."""
    command = [python, "-m", "pip", "--disable-pip-version-check", "list", "--format=json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {package["name"]: package["version"] for package in json.loads(done.stdout)}


def _execute(nb: Any, folder: Path, python: str, timeout: int) -> None:
    """Run the cells of `nb`, in place, in a kernel of `python` that knows nothing of this repository."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GENSRC"))}
    with tempfile.TemporaryDirectory() as specs:
        spec = {"argv": [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "alone"}
        (Path(specs) / "alone").mkdir()
        (Path(specs) / "alone" / "kernel.json").write_text(json.dumps(spec | {"language": "python"}))
        manager = AsyncKernelManager(
            kernel_name="alone", kernel_spec_manager=KernelSpecManager(kernel_dirs=[specs], ensure_native_kernel=False)
        )
        client = NotebookClient(nb, km=manager, timeout=timeout, resources={"metadata": {"path": str(folder)}})
        try:
            client.execute(env=environment)
        except CellExecutionError as error:
            raise BookError(f"a cell failed with {error.ename}: {error.evalue}") from error
        except (CellTimeoutError, DeadKernelError) as error:
            raise BookError(f"a cell did not end: {str(error).splitlines()[0]}") from error
