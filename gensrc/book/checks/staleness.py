"""Is a chapter's stored output that of the code beside it? Answered from content alone, without torch.

Both a quick run, whose outputs the notebook stores, and a full run, whose figures book/results records, are compared
with what lies in the repository now: a list of the parts that decide what the run prints, each with a short hash. They
are the code cells; the pieces of gensrc that these can reach (code_reach.py); the data and checkpoints that the run
read; the pinned versions of the packages in use; the profile and the seed. Prose, outputs and unrelated code are not in
the list. What counts as a change of code differs, since the two promise different things:

- The stored outputs show code as well (`notebook.source`). So the quick list goes by file, and by text: a changed
  comment or docstring of a piece in use, or its move to another file, makes the chapter stale.
- A record is a list of figures. So the full list goes by name, and by meaning: of a function, class or constant in use
  only what Python executes counts. Comments, docstrings and layout do not, nor where it stands: a file that is renamed,
  and a function that moves to another module unchanged, leave every record current. Of an import it counts what it
  binds, and under which name. And `run.pick(quick=A, full=B)` is B, so that budgets of the quick profile may change.

The outputs themselves have a hash of their own in the stamp (stamp.py), since they are what the run has made.

Left out of both: the cell tagged `colab`, which only installs gensrc where it is missing, the version number of gensrc,
and imports that are for type checkers only.
"""

import ast
import hashlib
import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gensrc.book import repository
from gensrc.book.checks import code_reach, meaning, settings, stamp
from gensrc.book.repository import BookError

PACKAGE = "gensrc"
MISSING = "missing"
# Import names that differ from their distribution's name by more than case and dashes.
DISTRIBUTIONS = {
    "IPython": "ipython",
    "PIL": "pillow",
    "cv2": "opencv-python",
    "dateutil": "python-dateutil",
    "mpl_toolkits": "matplotlib",
    "pylab": "matplotlib",
    "rouge_score": "rouge-score",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}

Parts = dict[str, str]


def digest(parts: Parts) -> str:
    """One hash for all parts."""
    return _short(json.dumps(parts, sort_keys=True).encode())


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


class Fingerprints:
    """Reads each file of a repository at most once; make a new one for a new look at it."""

    def __init__(self, root: Path):
        self.root = root
        self.pins = repository.pins(root)
        self._reader = code_reach.Reader(root, PACKAGE)
        self._files: dict[str, str] = {}
        self._reached: dict[tuple[str, ...], tuple[list[ast.Module], code_reach.Reach]] = {}
        self._meanings: dict[code_reach.Piece, str] = {}

    def parts(self, code: list[str], files: list[str], profile: str, seed: int) -> Parts:
        """Part -> short hash, for a chapter with these code cells, the last run of which read `files`."""
        reached = self.reached(code)
        found = self._by_name(code) if profile == "full" else self._by_file(code)
        found |= {"profile": profile, "seed": str(seed)}
        found |= {file: self._file(file) for file in files}
        found |= {f"pin {name}": self.pins[name] for name in distributions(reached) if name in self.pins}
        return dict(sorted(found.items()))

    def settings(self, nb: dict[str, Any]) -> list[str]:
        """What in the code of `nb` may run it with other settings than the committed ones, in words."""
        return settings.problems(counted(nb), self._read(code_of(nb))[0])

    def reached(self, code: list[str]) -> code_reach.Reach:
        """What of gensrc the cells can use, and which modules outside it are imported on the way."""
        return self._read(code)[1]

    def _read(self, code: list[str]) -> tuple[list[ast.Module], code_reach.Reach]:
        key = tuple(code)
        if key not in self._reached:
            trees = [_parse(cell, number) for number, cell in enumerate(code, 1)]
            self._reached[key] = trees, self._reader.reach(trees)
        return self._reached[key]

    def _by_file(self, code: list[str]) -> Parts:
        """The parts of the quick profile: the text of what can be reached in each file."""
        found = {"code cells": _short(json.dumps(code).encode())}
        for path, pieces in self.reached(code).pieces.items():
            texts = [piece.text for piece in pieces if not meaning.finds_its_own(piece, PACKAGE)]
            found[path.relative_to(self.root).as_posix()] = _short("\n".join(texts).encode())
        return found

    def _by_name(self, code: list[str]) -> Parts:
        """The parts of the full profile: the meaning of what can be reached under each name, wherever it stands."""
        trees, reached = self._read(code)
        cells = [meaning.of(tree.body, PACKAGE) for tree in trees]
        found = defaultdict(set)
        for piece in (piece for pieces in reached.pieces.values() for piece in pieces):
            if not meaning.finds_its_own(piece, PACKAGE):
                name = " ".join(sorted(piece.binds or ())) or "on import"
                found[f"code {name}"].add(self._meaning(piece))
        hashes = {name: _short(json.dumps(sorted(meanings)).encode()) for name, meanings in found.items()}
        return hashes | {"code cells": _short(json.dumps([cell for cell in cells if cell]).encode())}

    def _meaning(self, piece: code_reach.Piece) -> str:
        if piece not in self._meanings:
            self._meanings[piece] = meaning.of(piece.node, PACKAGE)
        return self._meanings[piece]

    def _file(self, file: str) -> str:
        if file not in self._files:
            path = self.root / file
            self._files[file] = _short(_checked_out(path.read_bytes())) if path.is_file() else MISSING
        return self._files[file]


def _checked_out(content: bytes) -> bytes:
    """A file's bytes, a text with the line ends that git stores: on Windows it may check out others."""
    return content if b"\0" in content else content.replace(b"\r\n", b"\n")


def distribution(module: str) -> str:
    """The distribution that most likely brings `module`, '' for the standard library."""
    top = module.split(".")[0]
    return "" if top in sys.stdlib_module_names else DISTRIBUTIONS.get(top, repository.normalised(top))


def distributions(reached: code_reach.Reach) -> set[str]:
    """The distributions that bring what lies outside gensrc."""
    return {distribution(binding.runs) for binding in reached.imports} - {""}


def _parse(code: str, number: int) -> ast.Module:
    try:
        return ast.parse(code)
    except SyntaxError:
        return _parse_magic(code, number)


def _parse_magic(code: str, number: int) -> ast.Module:
    """A cell with IPython's own syntax (%magic, !command); IPython, slow to import, makes Python of it."""
    from IPython.core.inputtransformer2 import TransformerManager

    try:
        return ast.parse(TransformerManager().transform_cell(code))
    except SyntaxError as error:
        raise BookError(
            f"code cell {number} is not Python, line {error.lineno} of it: {error.msg}; mend it first."
        ) from error


def code_of(nb: dict[str, Any]) -> list[str]:
    """The sources of the cells that count."""
    return [repository.source(cell) for cell in counted(nb)]


def counted(nb: dict[str, Any]) -> list[dict[str, Any]]:
    """All code cells that hold something, but for the one that serves Colab, which is the first."""
    cells = repository.code_cells(nb)
    return cells[1:] if cells and "colab" in repository.tags(cells[0]) else cells


@dataclass(frozen=True)
class Status:
    """What `gensrc-book status` says about one chapter."""

    chapter: str
    reasons: list[str]  # empty: fresh
    verified: str
    seconds: float | None
    full: str  # whether book/results holds a full run of this very content: current, older code or none


def of_book(root: Path) -> list[Status]:
    """The status of every chapter, in the order of the book."""
    prints = Fingerprints(root)
    return [status(prints, chapter) for chapter in repository.chapters(root)]


def status(prints: Fingerprints, chapter: str) -> Status:
    """Compare a chapter's stamp with what lies in the repository now."""
    nb = repository.read_raw(repository.notebook_path(prints.root, chapter))
    stored = nb.get("metadata", {}).get(PACKAGE) or {}
    code = code_of(nb)
    try:
        reasons = _reasons(prints, nb, stored, code)
        if stored.get("chapter", chapter) != chapter:
            reasons.append(f"its stamp is that of {stored['chapter']}")
        folder = repository.notebook_path(prints.root, chapter).parent
        reasons += [f"beside it lies {path.name}, of which no stamp tells" for path in sorted(folder.glob("*.py"))]
        full = _full_run(prints, chapter, code)
    except BookError as error:
        raise BookError(f"{chapter}: {error}") from error
    return Status(chapter, reasons, stored.get("verified", ""), stored.get("seconds"), full)


def _reasons(prints: Fingerprints, nb: dict[str, Any], stored: dict[str, Any], code: list[str]) -> list[str]:
    if not stored.get("parts"):
        return [*prints.settings(nb), "never executed"]
    profile, seed = str(repository.COMMITTED["profile"]), int(str(repository.COMMITTED["seed"]))
    now = prints.parts(code, stored.get("files", []), profile, seed)
    cells = repository.code_cells(nb)
    unrun = [
        f"code cell {number} has no execution count"
        for number, cell in enumerate(cells, 1)
        if cell.get("execution_count") is None
    ]
    return prints.settings(nb) + differences(stored["parts"], now) + (unrun or stamp.problems(nb))


def differences(before: Parts, now: Parts) -> list[str]:
    """What has changed from one list of parts to the other, in words."""
    return [
        _difference(part, before.get(part), now.get(part))
        for part in sorted({*before, *now})
        if before.get(part) != now.get(part)
    ]


def _difference(part: str, before: str | None, now: str | None) -> str:
    if now == MISSING:
        return f"{part} is missing"
    if part.startswith("pin ") and before and now:
        return f"{part} {before} -> {now}"
    if before is None or now is None:
        return f"{part} ({'not used before' if before is None else 'no longer used'})"
    return part


def _full_run(prints: Fingerprints, chapter: str, code: list[str]) -> str:
    path = repository.results_folder(prints.root) / f"{chapter}.json"
    if not path.is_file():
        return "none"
    try:
        recorded = json.loads(path.read_text(encoding="utf8"))
        now = prints.parts(code, recorded["files"], recorded["profile"], recorded["seed"])
        return "current" if recorded["hash"] == digest(now) else "older code"
    except (ValueError, KeyError, TypeError) as error:
        where = path.relative_to(prints.root).as_posix()
        raise BookError(f"{where} is no record of a full run ({error}): restore it or execute again.") from error


def table(rows: list[Status]) -> str:
    """The table that `gensrc-book status` prints."""
    cells = [("chapter", "state", "verified", "seconds", "full run", "why")]
    for row in rows:
        seconds = "" if row.seconds is None else f"{row.seconds:.0f}"
        state = "stale" if row.reasons else "fresh"
        cells.append((row.chapter, state, row.verified, seconds, row.full, ", ".join(row.reasons)))
    widths = [max(len(line[column]) for line in cells) for column in range(5)]
    return "\n".join(
        "  ".join([*(text.ljust(width) for text, width in zip(line, widths, strict=False)), line[5]]).rstrip()
        for line in cells
    )
