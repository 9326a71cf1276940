"""The machinery's modules: each says what it is, knows only what lies below it, and has its tests."""

import ast
import graphlib
from pathlib import Path

import pytest

from gensrc.book.checks import code_reach

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "gensrc" / "book"
# From the lowest: a module may import from its own folder and from those before it.
ORDER = ("", "release", "checks", "run", "pages", "site", "cli")
FILES = sorted(BOOK.rglob("*.py"))


def name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """The modules of the machinery that a module imports, also inside functions."""
    uses = code_reach.Uses(ast.parse(path.read_text(encoding="utf8")), path.relative_to(ROOT).parts[:-1])
    names = {name(other) for other in FILES}
    return {each for binding in uses.imports for each in (binding.target, binding.runs) if each in names} - {
        "gensrc.book",
        name(path),
    }


def folder(module: str) -> str:
    steps = module.split(".")[2:]
    return "cli" if steps == ["cli"] else steps[0] if len(steps) > 1 or (steps and module in PACKAGES) else ""


PACKAGES = {name(path) for path in FILES if path.name == "__init__.py"}


def test_no_module_imports_itself_by_way_of_others() -> None:
    order = list(graphlib.TopologicalSorter({name(path): imported(path) - PACKAGES for path in FILES}).static_order())
    assert order.index("gensrc.book.repository") < order.index("gensrc.book.cli")


@pytest.mark.parametrize("path", FILES, ids=name)
def test_arrows_point_one_way(path: Path) -> None:
    rank = ORDER.index(folder(name(path)))
    assert not [other for other in imported(path) if ORDER.index(folder(other)) > rank]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_module_says_at_its_top_what_it_is(path: Path) -> None:
    documented = ast.get_docstring(ast.parse(path.read_text(encoding="utf8"))) or ""
    assert len(documented.split()) >= 5


def test_the_tests_stand_in_the_same_folders() -> None:
    tests = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests" / "book").rglob("test_*.py")}
    assert tests == {path.parent.relative_to(ROOT / "gensrc") for path in FILES}


def test_only_the_machinery_knows_its_tools() -> None:
    tools = {"sphinx", "papermill", "nbval", "nbclient", "jsonschema", "yaml"}
    for path in sorted((ROOT / "gensrc").rglob("*.py")):
        uses = code_reach.Uses(ast.parse(path.read_text(encoding="utf8")), path.relative_to(ROOT).parts[:-1])
        known = {binding.runs.split(".")[0] for binding in uses.imports}
        inside = path.is_relative_to(BOOK)
        assert inside or not known & tools, path
        assert inside or not [binding for binding in uses.imports if binding.runs.startswith("gensrc.book")], path
