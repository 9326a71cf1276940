"""The first code cell of every chapter: it installs gensrc where it is missing, and touches nothing else.

Most install failures that readers of notebooks report come from a package that upgraded numpy or torch under a running
kernel. So the cell tells pip to keep the version of everything that is installed: pip then adds what is missing, or
fails with a sentence, but never replaces a package. Where gensrc is importable, the cell does and prints nothing.
"""

TAGS = ["colab", "hide-input"]
TEMPLATE = """\
# Only where gensrc is missing (on Colab, say): install it, and leave every package that is there as it is.
import importlib.util

if importlib.util.find_spec("gensrc") is None:
    import pathlib
    import subprocess
    import sys
    import tempfile

    archive = "{archive}"

    def pip(*arguments):
        done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"gensrc could not be installed from {{archive}}; pip says:\\n{{done.stderr[-1000:]}}")
        return done.stdout

    with tempfile.TemporaryDirectory() as folder:
        kept = pathlib.Path(folder, "kept.txt")
        kept.write_text(pip("list", "--format=freeze"))
        pip("install", "--quiet", "--constraint", str(kept), archive)
    importlib.invalidate_caches()
"""


def cell(address: str, version: str) -> str:
    """The source of the cell, for the repository at `address` and the release of gensrc that the chapter belongs to."""
    return TEMPLATE.format(archive=f"{address}/archive/refs/tags/{tag(version)}.zip").rstrip("\n")


def tag(version: str) -> str:
    return f"v{version}"
