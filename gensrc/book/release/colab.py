"""Every published chapter alone in a folder, installed as a reader of Colab does: what `gensrc-book colab` runs.

It is meant for the image that Colab itself uses; the first cell of a chapter, which installs gensrc there, is in
colab_cell.py.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gensrc
from gensrc.book.release import colab_cell, publish
from gensrc.book.repository import BookError


def run_all(root: Path, name: str, out: Path) -> Iterator[tuple[str, dict[str, str] | BookError]]:
    """Publish the chapters for the repository `name` into the folder `out` and run each there, one after the other.

    Yields for each chapter the packages that its first cell has installed, or why it does not run.
    """
    for notebook in publish.publish(root, name, colab_cell.tag(gensrc.__version__), out):
        chapter = notebook.relative_to(out / "notebooks").with_suffix("").as_posix()
        try:
            yield chapter, run_alone(notebook, out / "executed" / chapter)
        except BookError as error:
            yield chapter, error
        except Exception as error:  # a kernel that does not start, a full disk: the other chapters are run all the same
            yield chapter, BookError(f"it could not be run: {type(error).__name__}: {error}")


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
