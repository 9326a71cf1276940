"""Which pieces of gensrc can a chapter's code reach? Read from the source alone.

A module is a list of pieces: its functions, classes, constants and imported names, each of which is used only where
its name stands, and the rest, which runs with every import. From the names in a chapter's cells the reach grows: a
module that is imported adds what always runs, and a piece whose name has turned up anywhere adds the names that it
holds itself. So a function that is added to a shared module, or changed there, concerns only the chapters that could
call it. Names are compared by spelling alone, so that the reach is too large rather than too small; only a name that
is put together at run time is missed.
"""

import ast
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gensrc.book.repository import BookError

# The line with gensrc's version number changes with every release and decides nothing.
VERSION_LINE = re.compile(r"^__version__ *=.*\n?", re.MULTILINE)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Piece:
    """One statement of a module's top level, or one name of an import there."""

    binds: frozenset[str] | None  # the names under which it is used; None: it runs with every import
    text: str
    names: frozenset[str]  # every identifier in it
    imports: frozenset[str]  # dotted names of all that it may import


@dataclass(frozen=True)
class Reach:
    """What can be reached from some code."""

    pieces: dict[Path, list[Piece]] = field(default_factory=dict)  # in the order of the file
    imports: set[str] = field(default_factory=set)  # dotted names of what lies outside the package


class Reader:
    """Finds the reach of code within the package below `root`; reads each module at most once."""

    def __init__(self, root: Path, package: str) -> None:
        self.root, self.package = root, package
        self._modules: dict[Path, list[Piece]] = {}

    def reach(self, code: list[ast.Module]) -> Reach:
        """All that the trees in `code` may use. Raises BookError for a module that is no Python."""
        names = {name for tree in code for name in _identifiers(tree)}
        imports = {name for tree in code for name in imported(tree)}
        used: dict[Path, set[int]] = {}
        grown = True
        while grown:
            grown = False
            for path in {path for name in imports if self._inside(name) for path in self._on_the_way(name)}:
                taken = used.setdefault(path, set())
                for number, piece in enumerate(self._pieces(path)):
                    if number not in taken and (piece.binds is None or piece.binds & names):
                        taken.add(number)
                        names |= piece.names
                        imports |= piece.imports
                        grown = True
        pieces = {path: [self._pieces(path)[number] for number in sorted(taken)] for path, taken in used.items()}
        found = {path for name in imports if self._inside(name) for path in self._on_the_way(name)}
        return Reach({path: pieces.get(path, []) for path in found}, {n for n in imports if not self._inside(n)})

    def _inside(self, name: str) -> bool:
        return name.split(".")[0] == self.package

    def _on_the_way(self, name: str) -> set[Path]:
        """The files that Python runs to import `name`: every package's __init__ and the module itself."""
        steps = name.split(".")
        folders = [self.root.joinpath(*steps[:depth]) for depth in range(1, len(steps) + 1)]
        candidates = {path for folder in folders for path in (folder / "__init__.py", folder.with_suffix(".py"))}
        return {path for path in candidates if path in self._modules or path.is_file()}

    def _pieces(self, path: Path) -> list[Piece]:
        if path not in self._modules:
            inside = path.relative_to(self.root)
            source = VERSION_LINE.sub("", path.read_bytes().replace(b"\r\n", b"\n").decode("utf8"))
            try:
                tree = ast.parse(source)
            except SyntaxError as error:
                where = f"{inside.as_posix()} line {error.lineno}"
                raise BookError(f"{where} is not Python ({error.msg}): mend it first.") from error
            package = inside.with_suffix("").parts[:-1]  # also for __init__.py, whose package is its folder
            lines = source.splitlines()
            self._modules[path] = [piece for node in _body(tree) for piece in _take_apart(node, lines, package)]
        return self._modules[path]


def _body(tree: ast.Module) -> list[ast.stmt]:
    """The statements, without the module's docstring, which decides nothing."""
    return tree.body[1:] if ast.get_docstring(tree, clean=False) is not None else tree.body


def _take_apart(node: ast.stmt, lines: list[str], package: tuple[str, ...]) -> Iterator[Piece]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            one = ast.copy_location(_with_one_name(node, alias), node)
            # `import a.b` binds a; `from a import *` binds what cannot be told from here.
            binds = None if alias.name == "*" else frozenset({alias.asname or alias.name.split(".")[0]})
            names = frozenset(alias.name.split("."))
            yield Piece(binds, ast.unparse(one), names, frozenset(imported(one, package)))
        return
    first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])
    text = "\n".join(lines[first - 1 : node.end_lineno])
    yield Piece(_bound(node), text, frozenset(_identifiers(node)), frozenset(imported(node, package)))


def _with_one_name(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> ast.Import | ast.ImportFrom:
    if isinstance(node, ast.Import):
        return ast.Import(names=[alias])
    return ast.ImportFrom(module=node.module, names=[alias], level=node.level)


def _bound(node: ast.stmt) -> frozenset[str] | None:
    """The names that a definition or a plain assignment binds; None for whatever may do more than that."""
    if isinstance(node, Function | ast.ClassDef):
        return frozenset({node.name})
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    else:
        return None
    simple = all(isinstance(target, ast.Name) for target in targets)
    return frozenset(target.id for target in targets if isinstance(target, ast.Name)) if simple else None


def _identifiers(tree: ast.AST) -> Iterator[str]:
    """Every name in `tree`, also one that stands in a string of its own, as in getattr(module, "name")."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            yield node.value
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)


def imported(tree: ast.AST, package: tuple[str, ...] = ()) -> Iterator[str]:
    """Every dotted name that may be imported anywhere in `tree`, which stands in `package`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*above, *([node.module] if node.module else [])))
            yield base
            # `from gensrc.models import vae` may name a module or something in one; only files tell.
            yield from (f"{base}.{alias.name}" for alias in node.names if base)
        elif isinstance(node, ast.Call):
            yield from _constant_import(node, package)


def _constant_import(call: ast.Call, package: tuple[str, ...]) -> Iterator[str]:
    """importlib.import_module("a literal name")"""
    called = getattr(call.func, "attr", None) or getattr(call.func, "id", None)
    first = call.args[0] if call.args else None
    if called == "import_module" and isinstance(first, ast.Constant) and isinstance(first.value, str):
        yield importlib.util.resolve_name(first.value, ".".join(package)) if package else first.value
