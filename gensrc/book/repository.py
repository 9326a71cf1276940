"""Where things are: the repository's root, its chapters, its notebooks, its pins, its address.

Everything in `gensrc.book` that touches the repository comes through here. A problem that the person at the
keyboard can mend is a `BookError`, whose message is one sentence that says what is wrong and what to do.
"""

import ast
import difflib
import fnmatch
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbformat import NotebookNode

PROFILES = ("quick", "full")
# What a committed notebook's parameters cell says, and hence what its stored outputs were made with.
COMMITTED = {"profile": "quick", "seed": 0}


class BookError(Exception):
    """What is wrong and what to do, in one sentence; the command line prints it without a traceback."""


def find_root(start: Path | None = None) -> Path:
    """The nearest folder with `_config.yml` and `notebooks/`, upwards from `start` or the working folder."""
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "_config.yml").is_file() and (folder / "notebooks").is_dir():
            return folder
    raise BookError(
        f"{start} is not inside the book's repository (no folder above it holds _config.yml and notebooks/): "
        "change into a clone of it."
    )


CHAPTER = re.compile(r"[0-9]-[a-z0-9-]+/[0-9][0-9]-[a-z0-9-]+")  # 2-gans-to-transformers/03-vae


def chapters(root: Path) -> list[str]:
    """The names of all chapters, in the order of the book: paths below notebooks/ without .ipynb."""
    return [name for name in _notebooks(root) if CHAPTER.fullmatch(name)]


def scratch(root: Path) -> list[str]:
    """Notebooks below notebooks/ whose name or place is no chapter's: a reader's own, and copies. Left alone."""
    return [name for name in _notebooks(root) if not CHAPTER.fullmatch(name)]


def note_on_scratch(root: Path) -> str:
    """One sentence on notebooks that are no chapters; '' where there are none."""
    if not (found := scratch(root)):
        return ""
    names = ", ".join(f"notebooks/{name}.ipynb" for name in found[:5]) + (", ..." if len(found) > 5 else "")
    return f"note: no chapter, since it is not called notebooks/N-PART/NN-NAME.ipynb, and left alone: {names}."


def _notebooks(root: Path) -> list[str]:
    folder = root / "notebooks"
    paths = (path.relative_to(folder) for path in folder.rglob("*.ipynb") if path.is_file())
    visible = (path for path in paths if not any(part.startswith(".") for part in path.parts))
    return sorted(path.with_suffix("").as_posix() for path in visible)


def choose(root: Path, names: list[str]) -> list[str]:
    """The chapters that `names` mean: full names, paths of notebooks, last parts that only one has, patterns.

    A name may hold several, with spaces between them. Without any, all chapters. Raises BookError for one that means
    no chapter or, unless it is a pattern such as `*-vae*`, more than one.
    """
    known = chapters(root)
    if not names:
        return known
    asked = [name for given in names for name in given.split()]
    if not asked:
        raise BookError("the name of a chapter is empty: write one, such as 03-vae, or none at all.")
    return list(dict.fromkeys(chapter for name in asked for chapter in _chosen(name, known)))


def _chosen(name: str, known: list[str]) -> list[str]:
    wanted = name.removesuffix(".ipynb").rpartition("notebooks/")[2]
    if any(sign in wanted for sign in "*?["):
        fits = [chapter for chapter in known if any(fnmatch.fnmatchcase(c, wanted) for c in _names(chapter))]
    else:
        fits = [wanted] if wanted in known else [chapter for chapter in known if wanted in _names(chapter)]
        if len(fits) > 1:
            raise BookError(f"more than one chapter is called '{name}'; the chapters are: {', '.join(fits)}.")
    if not fits:
        raise BookError(f"there is no chapter '{name}'; {_nearest(wanted, known)}.")
    return fits


def _names(chapter: str) -> tuple[str, str]:
    """2-gans-to-transformers/03-vae goes by 03-vae too."""
    return chapter, chapter.rpartition("/")[2]


def _nearest(wanted: str, known: list[str]) -> str:
    """The chapters with a name like `wanted`, or all of them if none is alike, in words."""
    by_name = {name: chapter for chapter in known for name in _names(chapter)}
    close = difflib.get_close_matches(wanted.lower(), by_name, n=3, cutoff=0.6)
    if close:
        return f"the nearest are: {', '.join(dict.fromkeys(by_name[name] for name in close))}"
    return f"the chapters are: {', '.join(known) or 'none yet'}"


def notebook_path(root: Path, chapter: str) -> Path:
    return root / "notebooks" / f"{chapter}.ipynb"


def results_folder(root: Path) -> Path:
    """Where the figures of recorded full runs are kept, one file a chapter."""
    return root / "book" / "results"


def read_notebook(path: Path) -> "NotebookNode":
    """The notebook at `path`, validated, in the newest minor format.

    Raises BookError when the file cannot be read or is no valid notebook.
    """
    import nbformat

    data = read_raw(path)
    try:
        # Older minor formats know no cell ids; `clean` replaces the random ones that this adds.
        nb = nbformat.v4.upgrade(nbformat.v4.nbjson.JSONReader().to_notebook(data), from_minor=data["nbformat_minor"])
        nbformat.validate(nb)
    except Exception as error:  # a malformed file can break the reader in any way
        reason = str(getattr(error, "message", error)).splitlines()[0][:200]
        raise _unreadable(path, reason) from error
    return nb


def read_raw(path: Path) -> dict[str, Any]:
    """The notebook's JSON, checked only as far as to be one of format 4 with cells: a tenth of the time."""
    try:
        data = json.loads(path.read_text(encoding="utf8"))
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    except ValueError as error:
        raise _unreadable(path, f"it is not JSON, {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("cells"), list):
        raise _unreadable(path, "it has no list of cells")
    if data.get("nbformat") != 4 or not isinstance(data.get("nbformat_minor"), int):
        raise _unreadable(path, f"its format is {data.get('nbformat')}, not 4")
    if not all(isinstance(cell, dict) and "cell_type" in cell and "source" in cell for cell in data["cells"]):
        raise _unreadable(path, "one of its cells has no type or no source")
    return data


def _unreadable(path: Path, reason: str) -> BookError:
    return BookError(f"{_shown(path)} is no readable notebook ({reason}): restore it from git or save it again.")


def _shown(path: Path) -> str:
    """A path as a person would write it: relative to the working folder where it lies below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def source(cell: dict[str, Any]) -> str:
    """A cell's source as one string: files keep it as a list of lines."""
    text = cell["source"]
    return text if isinstance(text, str) else "".join(text)


def tags(cell: dict[str, Any]) -> list[str]:
    return cell.get("metadata", {}).get("tags", [])


def code_cells(nb: dict[str, Any]) -> list[dict[str, Any]]:
    """The code cells that hold something."""
    return [cell for cell in nb["cells"] if cell["cell_type"] == "code" and source(cell).strip()]


def sets_parameters(cell: dict[str, Any]) -> bool:
    """Whether a cell sets what is committed, as literals, and does nothing else; comments are free."""
    try:
        body = ast.parse(source(cell)).body
    except SyntaxError:
        return False
    return sorted(map(ast.unparse, body)) == sorted(f"{name} = {value!r}" for name, value in COMMITTED.items())


def config(root: Path) -> dict[str, Any]:
    """The entry `repository` of _config.yml, the one place that names the repository's address."""
    import yaml

    entry = (yaml.safe_load((root / "_config.yml").read_text(encoding="utf8")) or {}).get("repository") or {}
    if not re.fullmatch(r"https://[^/\s]+/[\w.-]+/[\w.-]+", str(entry.get("url"))) or not entry.get("branch"):
        raise BookError("_config.yml must give repository.url as https://HOST/OWNER/NAME, and repository.branch.")
    return entry


def address(root: Path) -> str:
    """The repository's address as the sources have it, with the placeholder for its owner."""
    return config(root)["url"]


def branch(root: Path) -> str:
    """The branch that Colab opens."""
    return config(root)["branch"]


PIN = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^\s;#]+)\s*(?P<marker>;[^#]*)?(#.*)?")


def pins(root: Path) -> dict[str, str]:
    """Distribution (normalised) -> pinned version, from constraints.txt; pins under markers are joined."""
    path = root / "constraints.txt"
    try:
        lines = path.read_text(encoding="utf8").splitlines()
    except OSError as error:
        raise BookError(f"cannot read constraints.txt, which pins the versions ({error.strerror}).") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = PIN.fullmatch(line.strip())
        if match is None:
            raise BookError(
                f"constraints.txt line {number} is no exact pin: write name==version, not '{line.strip()}'."
            )
        name = normalised(match["name"])
        version = match["version"] + (match["marker"] or "").strip()
        found[name] = f"{found[name]}, {version}" if name in found else version
    return found


def normalised(distribution: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()
