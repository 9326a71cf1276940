"""The first code cell of every chapter: it installs gensrc where it is missing, and touches nothing else.

Most install failures that readers of notebooks report come from a package that upgraded numpy or torch under a running
kernel. So the cell tells pip to keep the version of everything that is installed: pip then adds what is missing, or
fails with a sentence, but never replaces a package. Where the gensrc of the notebook is importable, the cell does and
prints nothing; where it is another version, a sentence names both. The sources name a placeholder for the owner of the
repository, from which nothing can be installed: there the cell says at once which kernel to choose. A chapter that
needs packages which Colab lacks asks for gensrc with the extra that brings them.
"""

from pathlib import Path
from typing import Any

import gensrc
from gensrc import atomic
from gensrc.book import clean, repository
from gensrc.book.repository import BookError

TAGS = ["colab", "hide-input"]
EXTRAS = {"text_scores": "text"}  # a module of gensrc that needs what Colab lacks -> the extra that brings it
# Not wider than other code in chapters (notebooks/ruff.toml).
TEMPLATE = """\
# Only where gensrc is missing (on Colab, say): install it, and leave every package that
# is there as it is.
import importlib.util

address = "{address}"
archive = f"{wanted}{{address}}/archive/refs/tags/{tag}.zip"
cure = "choose the kernel of .venv, made by `make book`; on Colab, the branch published"
cure = cure if "/OWNER/" in address else f"`%pip install {quote}{{archive}}{quote}`; restart"
if importlib.util.find_spec("gensrc") is None and "/OWNER/" not in address:
    import subprocess
    import sys
    import tempfile

    def pip(*arguments):
        command = [sys.executable, "-m", "pip", "--no-color", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = f"{{archive}}; pip says:\\n{{done.stderr[-1000:]}}"
            raise RuntimeError(f"gensrc could not be installed from {{reason}}")
        return done.stdout

    with tempfile.NamedTemporaryFile("w", suffix=".txt") as kept:
        kept.write(pip("list", "--format=freeze"))
        kept.flush()
        pip("install", "--quiet", "--constraint", kept.name, archive)
    importlib.invalidate_caches()
here = importlib.util.find_spec("gensrc") and importlib.import_module("gensrc")
found = getattr(here, "__version__", "none")
if found != "{version}":
    raise RuntimeError(f"needs gensrc {version}, this kernel has {{found}}: {{cure}}.")
"""


def cell(address: str, version: str, extra: str = "") -> str:
    """The source of the cell, for the repository at `address` and the release of gensrc that the chapter belongs to."""
    wanted, quote = (f"gensrc[{extra}] @ ", "'") if extra else ("", "")
    return TEMPLATE.format(address=address, tag=tag(version), version=version, wanted=wanted, quote=quote).rstrip("\n")


def extra(nb: dict[str, Any]) -> str:
    """The extra of gensrc that the notebook's cells need on Colab, by the modules that they name; mostly none."""
    code = "\n".join(repository.source(cell) for cell in repository.code_cells(nb))
    return next((extra for module, extra in EXTRAS.items() if module in code), "")


def tag(version: str) -> str:
    return f"v{version}"


def expected(root: Path, nb: dict[str, Any]) -> str:
    """The cell as the sources must have it: for the placeholder's address, and the release that the module says."""
    return cell(repository.address(root), gensrc.__version__, extra(nb))


def write_all(root: Path) -> list[str]:
    """Put the cell into every chapter's cell tagged colab; the chapters that it has changed.

    Raises BookError for a chapter whose first code cell has no such tag.
    """
    changed = []
    for chapter in repository.chapters(root):
        path = repository.notebook_path(root, chapter)
        nb = repository.read_notebook(path)
        first = repository.code_cells(nb)[:1]
        if not first or "colab" not in repository.tags(first[0]):
            raise BookError(
                f"{chapter}: its first code cell is not tagged colab: add one with the tags {' and '.join(TAGS)}."
            )
        source = expected(root, nb)
        if first[0]["source"] != source:
            first[0]["source"] = source
            atomic.write(path, clean.dumps(nb))
            changed.append(chapter)
    return changed
