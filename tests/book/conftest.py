"""A small book in a temporary folder: what the machinery sees of a repository, without torch or real chapters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ADDRESS = "https://github.com/OWNER/a-book"
MODULES = {
    "__init__.py": '__version__ = "0.1"\n',
    "trace.py": (
        "import os\n"
        "from pathlib import Path\n"
        "def read(name):\n"
        "    with open(os.environ['GENSRC_TRACE'], 'a') as trace:\n"
        "        trace.write(f'gensrc/data/{name}\\n')\n"
        "    return (Path(__file__).parent / 'data' / name).read_text()\n"
    ),
    "data/__init__.py": "from gensrc import trace\ndef load():\n    return trace.read('digits.txt')\n",
    "data/digits.txt": "0123456789",
    "data/other.txt": "never read",
    "models/__init__.py": "",
    "models/vae.py": "import numpy\nfrom ..training import fit\ndef train():\n    return fit(numpy.zeros(3))\n",
    "models/gan.py": "import torch\n",
    "training.py": "def fit(data):\n    from gensrc import metrics\n    return metrics.ELBO\n",
    "metrics.py": "ELBO = -104.1\nAUROC = 0.5\n",
}


class FakeBook:
    """Builds the repository file by file; `run` is the console script."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]):
        self.root, self.capsys = root, capsys
        self.write("_config.yml", f"title: A book\nrepository:\n  url: {ADDRESS}\n  branch: main\n")
        self.write("constraints.txt", "# pinned\nnumpy==2.3.0\ntorch==2.13.0\nscikit-learn==1.7.0\n")
        (root / "notebooks").mkdir()
        for name, text in MODULES.items():
            self.write(f"gensrc/{name}", text)

    def write(self, path: str, text: str) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf8")
        return target

    def path(self, chapter: str) -> Path:
        return self.root / "notebooks" / f"{chapter}.ipynb"

    def chapter(self, chapter: str, *cells: str | NotebookNode) -> Path:
        """Write a chapter never executed: a title, the Colab cell, the parameters, then `cells`."""
        parameters = code('profile = "quick"\nseed = 0', "parameters")
        body = [cell if isinstance(cell, NotebookNode) else code(cell) for cell in cells]
        self.save(chapter, new_notebook(cells=[text("# A chapter"), code("pass", "colab"), parameters, *body]))
        return self.path(chapter)

    def read(self, chapter: str) -> NotebookNode:
        return nbformat.read(self.path(chapter), as_version=4)

    def save(self, chapter: str, nb: NotebookNode) -> None:
        self.path(chapter).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nb, self.path(chapter))

    def run(self, *arguments: str) -> tuple[int, str]:
        """The exit status of `gensrc-book ARGUMENTS` and all that it printed."""
        from gensrc.book import cli

        self.capsys.readouterr()
        try:
            status = cli.main(list(arguments))
        except SystemExit as leave:
            status = int(leave.code or 0)
        printed = self.capsys.readouterr()
        return status, printed.out + printed.err


def code(source: str, *tags: str, **more: Any) -> NotebookNode:
    return new_code_cell(source, metadata={"tags": list(tags)} if tags else {}, **more)


def text(source: str) -> NotebookNode:
    return new_markdown_cell(source)


@pytest.fixture
def book(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> FakeBook:
    """An empty book; the working folder is its root."""
    monkeypatch.chdir(tmp_path)
    return FakeBook(tmp_path, capsys)


@pytest.fixture
def code_cell() -> Callable[..., NotebookNode]:
    return code


@pytest.fixture
def text_cell() -> Callable[[str], NotebookNode]:
    return text
