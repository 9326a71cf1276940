"""Which shipped files did this run read? Loaders note them here; the notebook's stamp hashes them.

A chapter is stale when a data file or a checkpoint that it loads has changed. Only the run itself knows which files
those are, so whoever runs a chapter sets GENSRC_TRACE to a file, and every loader adds a line to it.
"""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def record(path: Path) -> None:
    """Note that `path` was read. Only files inside the package count: they alone change with the repository."""
    trace = os.environ.get("GENSRC_TRACE")
    path = Path(path).resolve()
    if not trace or not path.is_relative_to(PACKAGE):
        return
    with open(trace, "a", encoding="utf8") as lines:
        lines.write(path.relative_to(PACKAGE.parent).as_posix() + "\n")


def recorded(trace: Path) -> list[str]:
    """The distinct files noted in `trace`, as sorted paths relative to the repository's root."""
    return sorted(set(trace.read_text(encoding="utf8").splitlines())) if trace.exists() else []
