"""What Python executes of a piece of code, as one text: no comments, docstrings, layout or places.

The text is made from the syntax tree and is the same on every supported Python, which `ast.dump` and `ast.unparse` are
not; a test pins it.
"""

import ast
from typing import Any

from gensrc.book.checks.code_reach import Piece, bindings

# Fields of the tree that say nothing about what is executed; what is empty is not told either, as versions differ.
SILENT = {"ctx", "kind", "type_comment", "type_ignores"}


def of(node: Any, package: str) -> str:
    """The meaning of a tree for a full run, "" if there is nothing to execute.

    Imports out of `package` are told by what they bind, and `run.pick(quick=A, full=B)` is B.
    """
    if isinstance(node, list):
        return ",".join([text for each in node if (text := of(each, package))])
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.Import | ast.ImportFrom):
        return _import(node, package)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return ""  # a docstring, or a text that stands alone as a remark
    if isinstance(node, ast.JoinedStr):
        return f"JoinedStr({_merged(node.values, package)})"
    if isinstance(node, ast.Call) and (full := _picked(node)):
        return of(full, package)
    if isinstance(node, ast.Constant):
        return repr(node.value)
    told = [type(node).__name__]
    for name in node._fields:
        value = getattr(node, name, None)
        if value is not None and value != [] and name not in SILENT:
            told.append(f"{name}=[{of(value, package)}]")
    return f"({' '.join(told)})"


def _picked(call: ast.Call) -> ast.expr | None:
    """What a full run takes where the call is `run.pick(quick=A, full=B)`."""
    if not (isinstance(call.func, ast.Attribute) and call.func.attr == "pick"):
        return None
    return next((keyword.value for keyword in call.keywords if keyword.arg == "full"), None)


def _import(node: ast.Import | ast.ImportFrom, package: str) -> str:
    """Each name with what it stands for; nothing for a name of the package that is bound as what it is called."""
    inside = isinstance(node, ast.ImportFrom) and node.level > 0
    told = []
    for binding in bindings(node):
        own = inside or binding.runs.split(".")[0] == package
        if not own:
            told.append(f"{binding.name}={binding.target}")
        elif binding.renames:
            told.append(f"{binding.name}={binding.target.rpartition('.')[2]}")
    return f"Import({','.join(told)})" if told else ""


def _merged(values: list[ast.expr], package: str) -> str:
    """The parts of an f-string: Python's versions cut the text between the braces differently."""
    told: list[str] = []
    text = ""
    for value in values:
        if isinstance(value, ast.Constant):
            text += str(value.value)
            continue
        told += [repr(text), of(value, package)]
        text = ""
    return ",".join([*told, repr(text)])


def finds_its_own(piece: Piece, package: str) -> bool:
    """Whether a piece is an import that says nothing by itself: what it binds is reached under its own name."""
    return piece.is_import and not of(piece.node, package)
