"""Can a chapter's outputs have been made with other settings than it says? Judged by its code alone.

The cell tagged `parameters` sets profile and seed, and `notebook.start` is told them. Whatever else sets one of them,
and whatever a cell takes from the environment, would make other outputs than the chapter and its stamp speak of. What
no reading of the code can see, the run tells itself (`settings` in gensrc.book.run.kernel_process).
"""

import ast
import re
import symtable
from collections.abc import Iterator
from typing import Any

from gensrc.book import repository

PARAMETERS = 'one cell tagged parameters must hold profile = "quick" and seed = 0 and nothing else'
ENVIRONMENT_USED = "a cell uses the environment, on which no output may depend"
START = {"profile": "profile", "seed": "seed"}  # what `notebook.start` has to be told, by keyword
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
# IPython's own commands that change no settings and hide no code.
MAGICS = {"pip", "matplotlib", "time", "timeit"}
# Looking at every node of a book's cells takes a second; only those with such a word in them can break a rule.
SETS = re.compile(r"\b(profile|seed)\b")
DOES = re.compile(
    r"\.\s*(profile|seed)\s*(:.*)?[-+*/|&^%@<>]*=(?!=)"
    r"|environb?\b|(get|put|unset)env|get_ipython|^\s*[%!]|\b(exec|eval)\b"
    r"|\bstart\s*\(|profile\s*=",
    re.MULTILINE,
)


def problems(cells: list[dict[str, Any]], trees: list[ast.Module]) -> list[str]:
    """What in these code cells, parsed as `trees`, may change the settings of a run, in words."""
    tagged = [cell for cell in cells if "parameters" in repository.tags(cell)]
    if len(tagged) != 1:
        return [PARAMETERS]
    found = [] if repository.sets_parameters(tagged[0]) else [PARAMETERS]
    for cell, tree in zip(cells, trees, strict=True):
        if "injected-parameters" in repository.tags(cell):
            found.append("papermill has left a cell tagged injected-parameters: take it out")
        elif "parameters" not in repository.tags(cell):
            found += _of_cell(repository.source(cell), tree)
    return list(dict.fromkeys(found))


def _of_cell(source: str, tree: ast.Module) -> Iterator[str]:
    if SETS.search(source):
        for name in sorted(START.keys() & _assigned(source, tree)):
            yield f"a cell sets {name}, which the cell tagged parameters alone may set"
    for node in ast.walk(tree) if DOES.search(source) else ():
        if isinstance(node, ast.Attribute) and node.attr in START and _sets_for_all(node):
            yield f"a cell sets {ast.unparse(node)}, which the cell tagged parameters alone may set"
        if ENVIRONMENT & {getattr(node, field, None) for field in ("id", "attr", "name")}:
            yield ENVIRONMENT_USED
        if isinstance(node, ast.Call):
            yield from _of_call(node)


def _sets_for_all(node: ast.Attribute) -> bool:
    """Whether something is assigned to it, and not in an object of its own class."""
    return not isinstance(node.ctx, ast.Load) and ast.unparse(node.value) != "self"


def _assigned(source: str, tree: ast.Module) -> set[str]:
    """The names that the cell itself binds, in whatever way, and those that its functions declare global."""
    try:
        table = symtable.symtable(source, "cell", "exec")
    except SyntaxError:  # IPython's own syntax, of which `tree` is the Python
        try:
            table = symtable.symtable(ast.unparse(tree), "cell", "exec")
        except SyntaxError:  # as of an argument twice, at which the run will end
            return set()
    here = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    return here | {
        symbol.get_name() for inner in _inner(table) for symbol in inner.get_symbols() if symbol.is_declared_global()
    }


def _inner(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    for child in table.get_children():
        yield child
        yield from _inner(child)


def _of_call(call: ast.Call) -> Iterator[str]:
    called = ast.unparse(call.func)
    told = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if called.endswith("notebook.start") or (called == "start" and START.keys() & told.keys()):
        name = {"chapter": told.pop("chapter", "")} if "chapter" in told else call.args
        if told != START or len(name) != 1:
            yield "notebook.start must be told profile=profile and seed=seed, after the chapter's name"
    elif told.get("profile", "").strip("'\"") in repository.PROFILES and told["profile"] != "profile":
        yield f"a cell sets profile={told['profile']}, which the cell tagged parameters alone may set"
    if called in ("exec", "eval") and len(call.args) == 1 and not call.keywords:
        yield f"a cell calls {called} on its own names, where no check sees the code: give it a namespace"
    if called.startswith("get_ipython()."):
        yield from _of_ipython(called, call)


def _of_ipython(called: str, call: ast.Call) -> Iterator[str]:
    """What a line that begins with % or !, or a call of the same effect, may hide."""
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    words = [each.value for each in given if isinstance(each, ast.Constant)]
    if {"env", "set_env"} & {*words}:
        yield ENVIRONMENT_USED
    elif called != "get_ipython().run_line_magic" or not MAGICS & {*words}:
        yield "a cell uses %, %% or ! of IPython, behind which no check sees the code"
