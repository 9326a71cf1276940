"""Which pieces of gensrc can a chapter's code reach? Read from the source alone.

A module is a list of pieces: its functions, classes, constants and imported names, each of which is used only where
something refers to it, and the rest, which runs with every import. From a chapter's cells the reach grows by reference:
`vae.VAE` in a cell reaches the class VAE of the module that the cells import as vae, that class reaches what its own
code names, and so on, through imports and through packages that hand names on. So a function that is added to a shared
module, or changed there, concerns only the chapters that could call it.

Where a module is used as a value, as in getattr(module, "name"), whatever is spelled like one of its names counts, so
that the reach is too large rather than too small; only a name that is put together at run time is missed.
"""

import ast
import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from gensrc.book.repository import BookError

Function = ast.FunctionDef | ast.AsyncFunctionDef
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


class Binding(NamedTuple):
    """What one name of an import statement does: `import a.b` binds a and runs a.b."""

    name: str  # "*" for all
    target: str  # dotted name of what it is bound to
    runs: str  # dotted name of the module that it imports; the target may be another one in it

    @property
    def source(self) -> tuple[str, tuple[str, ...]]:
        """The module that is asked, and the name that it is asked for, if any."""
        if self.target.startswith(f"{self.runs}."):
            return self.runs, (self.target.removeprefix(f"{self.runs}."),)
        return self.target, ()

    @property
    def renames(self) -> bool:
        return self.name != self.target.rpartition(".")[2]


@dataclass(frozen=True, eq=False)
class Piece:
    """One statement of a module's top level, or one name of an import there; a cell is a piece as well."""

    node: ast.AST
    text: str
    binds: frozenset[str] | None  # the names under which it is used; None: it runs with every import
    package: tuple[str, ...] = ()  # where relative imports start

    @cached_property
    def uses(self) -> "Uses":
        return Uses(self.node, self.package)

    @cached_property
    def is_import(self) -> bool:
        return isinstance(self.node, ast.Import | ast.ImportFrom)


@dataclass
class Module:
    """A file of the package, taken apart."""

    pieces: list[Piece]

    @cached_property
    def by_name(self) -> dict[str, list[Piece]]:
        found: dict[str, list[Piece]] = {}
        for piece in self.pieces:
            for name in piece.binds or ():
                found.setdefault(name, []).append(piece)
        return found

    @cached_property
    def always(self) -> list[Piece]:
        return [piece for piece in self.pieces if piece.binds is None]

    @cached_property
    def nested(self) -> dict[str, list[Binding]]:
        """What imports in the pieces that always run bind: in a block (try: import x), or with `from x import *`."""
        found: dict[str, list[Binding]] = {}
        for binding in (each for piece in self.always for each in piece.uses.imports):
            found.setdefault(binding.name, []).append(binding)
        return found


@dataclass
class Reach:
    """What can be reached from some code."""

    pieces: dict[Path, list[Piece]] = field(default_factory=dict)  # in the order of the file
    imports: set[Binding] = field(default_factory=set)  # of what lies outside the package


class Reader:
    """Finds the reach of code within the package below `root`; reads each module at most once."""

    def __init__(self, root: Path, package: str) -> None:
        self.root, self.package = root, package
        self._modules: dict[Path, Module] = {}
        self._files: dict[str, Path | None] = {}

    def reach(self, cells: Iterable[ast.Module]) -> Reach:
        """All that the trees of `cells`, which share one namespace, may use.

        Raises BookError for a module that is no Python.
        """
        return _Search(self, [Piece(cell, "", None) for cell in cells]).reach()

    def file(self, name: str) -> Path | None:
        """The file that Python runs for the module `name` of the package; None if there is none."""
        if name not in self._files:
            place = self.root.joinpath(*name.split("."))
            candidates = (place / "__init__.py", place.with_suffix(".py"))
            self._files[name] = next((path for path in candidates if path.is_file()), None)
        return self._files[name]

    def module(self, path: Path) -> Module:
        if path not in self._modules:
            inside = path.relative_to(self.root)
            source = path.read_bytes().replace(b"\r\n", b"\n").decode("utf8")
            try:
                tree = ast.parse(source)
            except SyntaxError as error:
                where = f"{inside.as_posix()} line {error.lineno}"
                raise BookError(f"{where} is not Python ({error.msg}): mend it first.") from error
            package = inside.with_suffix("").parts[:-1]  # also for __init__.py, whose package is its folder
            lines = source.splitlines()
            pieces = [piece for node in _body(tree) for piece in _take_apart(node, lines, package)]
            self._modules[path] = Module(pieces)
        return self._modules[path]


class _Search:
    """One search: what is taken so far, and what is still to be looked through."""

    def __init__(self, reader: Reader, cells: list[Piece]) -> None:
        self.reader = reader
        self.found = Reach()
        self.run: dict[Path, Module] = {}  # the modules that are imported
        self.taken: set[Piece] = set()
        self.waiting: list[tuple[Piece, Path | None]] = [(cell, None) for cell in cells]
        self.spelled: set[str] = set()
        self.values: set[Path] = set()  # modules that are used as values
        self.followed: set[tuple[Path, tuple[str, ...]]] = set()
        self.of_cells: dict[str, list[Binding]] = {}
        for cell in cells:
            for binding in cell.uses.imports:
                self.of_cells.setdefault(binding.name, []).append(binding)
                if reader.file(binding.target) is None:
                    self._follow(binding, ())  # a cell may use it in a way that is not Python, as %timeit does

    def reach(self) -> Reach:
        while self.waiting:
            while self.waiting:
                self._look_through(*self.waiting.pop())
            for path in list(self.values):
                module = self.reader.module(path)
                for name in (module.by_name.keys() | module.nested.keys()) & self.spelled:
                    self._follow_name(path, (name,))
        for path, module in self.run.items():
            self.found.pieces[path] = [piece for piece in module.pieces if piece in self.taken]
        return self.found

    def _look_through(self, piece: Piece, path: Path | None) -> None:
        uses = piece.uses
        self.spelled |= uses.spelled
        for binding in uses.imports:
            self._import(binding)
        for chain in uses.chains:
            # A function's own imports come first, then what the module (or some cell) binds.
            own = [binding for binding in uses.imports if binding.name == chain[0]]
            own = own or (self.of_cells.get(chain[0], []) if path is None else [])
            for binding in own:
                self._follow(binding, chain[1:])
            if not own and path is not None:
                self._follow_name(path, chain)

    def _import(self, binding: Binding) -> None:
        """What an import does by itself, whether its name is used or not."""
        if not self._inside(binding.runs):
            self.found.imports.add(binding)
            return
        for name in (binding.runs, binding.target):
            if path := self.reader.file(name):
                self._run(name, path)

    def _inside(self, name: str) -> bool:
        return name.split(".")[0] == self.reader.package

    def _run(self, name: str, path: Path) -> None:
        """Importing a module runs what always runs in it and in the packages that it is in."""
        if path in self.run:
            return
        module = self.run[path] = self.reader.module(path)
        self._take(module.always, path)
        outer = name.rpartition(".")[0]
        if outer and (above := self.reader.file(outer)):
            self._run(outer, above)

    def _take(self, pieces: Iterable[Piece], path: Path) -> None:
        for piece in pieces:
            if piece not in self.taken:
                self.taken.add(piece)
                if not piece.is_import:
                    self.waiting.append((piece, path))

    def _follow(self, binding: Binding, rest: tuple[str, ...]) -> None:
        """Take what the attributes `rest` of an imported name refer to, or the name itself if there are none."""
        module, names = binding.source
        self._follow_path(module, (*names, *rest))

    def _follow_path(self, module: str, names: tuple[str, ...]) -> None:
        """Take what `names`, read one from the other, refer to in a module, given by its dotted name."""
        path = self.reader.file(module) if self._inside(module) else None
        if path is None:
            return
        self._run(module, path)
        if not names:
            self._use_as_value(path)
            return
        self._follow_name(path, names)  # a name of the module's own, or
        self._follow_path(f"{module}.{names[0]}", names[1:])  # a module in it, if it is a package

    def _use_as_value(self, path: Path) -> None:
        """Whatever is spelled like a name of this module counts from now on, also what `from x import *` hands on."""
        if path in self.values:
            return
        self.values.add(path)
        for binding in self.reader.module(path).nested.get("*", []):
            if self._inside(binding.runs):
                self._follow_path(binding.runs, ())

    def _follow_name(self, path: Path, chain: tuple[str, ...]) -> None:
        """Take what `chain` refers to in the module at `path`: a piece, or what an import there binds."""
        if (path, chain) in self.followed:
            return
        self.followed.add((path, chain))
        module = self.reader.module(path)
        pieces = module.by_name.get(chain[0], []) or module.by_name.get("__getattr__", [])
        self._take(pieces, path)
        imports = [binding for piece in pieces if piece.is_import for binding in piece.uses.imports]
        imports += [*module.nested.get(chain[0], []), *module.nested.get("*", [])]
        for binding in imports:
            self._import(binding)
            if binding.name == "*":
                self._follow_path(binding.runs, chain)
            else:
                self._follow(binding, chain[1:])


class Uses(ast.NodeVisitor):
    """What a piece of code refers to: global names with the attributes read from them, imports, spelled names."""

    def __init__(self, node: ast.AST, package: tuple[str, ...]) -> None:
        self.chains: set[tuple[str, ...]] = set()
        self.imports: list[Binding] = []
        self.spelled: set[str] = set()  # every identifier, also one in a string of its own
        self._package = package
        self._local: list[set[str]] = []
        self.visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self._refer(node.id, ())

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self._refer(node.target.id, ())  # is read before it is written
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        attributes: list[str] = []
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            attributes.insert(0, inner.attr)
            inner = inner.value
        self.spelled.update(attributes)
        if isinstance(inner, ast.Name):
            self._refer(inner.id, tuple(attributes))
        else:
            self.visit(inner)

    def _refer(self, name: str, attributes: tuple[str, ...]) -> None:
        self.spelled.add(name)
        if not any(name in scope for scope in self._local):
            self.chains.add((name, *attributes))

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and node.value.isidentifier():
            self.spelled.add(node.value)

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        self.imports += bindings(node, self._package)

    visit_ImportFrom = visit_Import  # noqa: N815

    def visit_Call(self, node: ast.Call) -> None:
        """importlib.import_module("a literal name") imports too, and gives the module as a value."""
        called = getattr(node.func, "attr", None) or getattr(node.func, "id", None)
        first = node.args[0] if node.args else None
        if called == "import_module" and isinstance(first, ast.Constant) and isinstance(first.value, str):
            package = ".".join(self._package)
            name = importlib.util.resolve_name(first.value, package) if package else first.value
            self.imports.append(Binding(f"import_module {name}", name, name))
            self.chains.add((f"import_module {name}",))
        self.generic_visit(node)

    def visit_FunctionDef(self, node: Function) -> None:
        for outside in (*node.decorator_list, node.args, *([node.returns] if node.returns else [])):
            self.visit(outside)
        self._inside(_parameters(node.args) | _assigned(node.body), node.body)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit(node.args)
        self._inside(_parameters(node.args), [node.body])

    def visit_ListComp(self, node: Comprehension) -> None:
        self.visit(node.generators[0].iter)  # is evaluated outside
        targets = [each.target for each in node.generators]
        names = {each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)}
        self._inside(names, ast.iter_child_nodes(node))

    visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_ListComp  # noqa: N815

    def _inside(self, local: set[str], nodes: Iterable[ast.AST]) -> None:
        self._local.append(local)
        for node in nodes:
            self.visit(node)
        self._local.pop()


def bindings(node: ast.Import | ast.ImportFrom, package: tuple[str, ...] = ()) -> list[Binding]:
    """What an import statement of a module in `package` binds."""
    if isinstance(node, ast.Import):
        return [
            Binding(alias.asname, alias.name, alias.name)
            if alias.asname
            else Binding(alias.name.split(".")[0], alias.name.split(".")[0], alias.name)
            for alias in node.names
        ]
    above = package[: len(package) - node.level + 1] if node.level else ()
    base = ".".join((*above, *([node.module] if node.module else [])))
    return [Binding(alias.asname or alias.name, f"{base}.{alias.name}", base) for alias in node.names]


def _parameters(arguments: ast.arguments) -> set[str]:
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return {each.arg for each in named if each}


def _assigned(body: list[ast.stmt]) -> set[str]:
    """The names that a function makes its own, but for those that it imports, which are followed."""
    found: set[str] = set()
    shared: set[str] = set()
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Global):
            shared.update(node.names)
        elif isinstance(node, Function | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            found.add(node.name)
        if not isinstance(node, Function | ast.ClassDef | ast.Lambda | Comprehension):
            waiting += ast.iter_child_nodes(node)
    return found - shared


def _body(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements, without what decides nothing: docstrings, the version number, imports for type checkers only."""
    for node in tree.body:
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for_checkers = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if not is_text and not for_checkers and _bound(node) != {"__version__"}:
            yield node


def _take_apart(node: ast.stmt, lines: list[str], package: tuple[str, ...]) -> Iterator[Piece]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            one = _with_one_name(node, alias)
            # `import a.b` binds a; `from a import *` binds what cannot be told from here.
            binds = None if alias.name == "*" else frozenset({alias.asname or alias.name.split(".")[0]})
            yield Piece(one, ast.unparse(one), binds, package)
        return
    first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])
    yield Piece(node, "\n".join(lines[first - 1 : node.end_lineno]), _bound(node), package)


def _with_one_name(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> ast.Import | ast.ImportFrom:
    if isinstance(node, ast.Import):
        return ast.Import(names=[alias])
    return ast.ImportFrom(module=node.module, names=[alias], level=node.level)


def _bound(node: ast.stmt) -> frozenset[str] | None:
    """The names that a definition or a plain assignment binds; None for whatever may do more than that."""
    if isinstance(node, Function | ast.ClassDef):
        return frozenset({node.name})
    if not isinstance(node, ast.Assign | ast.AnnAssign):
        return None
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    flat = [each for target in targets for each in (target.elts if isinstance(target, ast.Tuple) else [target])]
    simple = all(isinstance(target, ast.Name) for target in flat)
    return frozenset(target.id for target in flat if isinstance(target, ast.Name)) if simple else None
