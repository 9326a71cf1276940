"""What code refers to, by Python's own rules of scope, and where that leads."""

import ast
from pathlib import Path

import pytest

from gensrc.book.checks.code_reach import Reader, Uses


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("a.b.c(d)[e].f", "a.b.c d e"),
        ("def f(a, /, *b, c=d, **e) -> g:\n    return a, b, c, e, h", "d g h"),
        ("def f():\n    x = y = 1\n    for z in w: del z\n    return x + y + z", "w"),
        ("def f():\n    global x\n    x = x + 1", "x"),
        ("def f(a):\n    def g(b):\n        return a, b, c\n    return g", "c"),
        ("def f():\n    try: pass\n    except E as e: print(e)", "E print"),
        ("def f(x):\n    match x:\n        case [A(b), *c]: return b, c", "A"),
        ("[a.b for a in a.c for d in a]", "a.c"),
        ("{a: b for a, b in c if d(a)}", "c d"),
        ("def f():\n    return [m for m in n], m", "m n"),
        ("lambda a, b=c: a + b + d", "c d"),
        ("class A(B, k=C):\n    d: E = e\n    @f\n    def g(self): return self.h", "B C E e f"),
        ("x += y", "x y"),
        ("def f():\n    import a\n    return a.b", "a.b"),
    ],
)
def test_only_names_from_outside_are_referred_to(code: str, names: str) -> None:
    assert {".".join(chain) for chain in Uses(ast.parse(code), ()).chains} == set(names.split())


@pytest.fixture
def package(tmp_path: Path) -> Path:
    files = {
        "__init__.py": "",
        "tools.py": "A, B = 1, 2\nC = D = 3\nE: int = 4\nif A:\n    F = 5\ndef g(): return B\nA2 = [A]\n",
        "lazy.py": "def __getattr__(name): return h(name)\ndef h(name): return 1\ndef i(): return 2\n",
        "packed/__init__.py": "from .inner import j\nfrom . import inner as k\n",
        "same/__init__.py": "from p.same.same import same\nfrom p.same import other\nfrom . import same as again\n",
        "same/same.py": "def same(): return n()\ndef n(): return 1\ndef o(): return 2\n",
        "same/other.py": "def r(): return 1\n",
        "packed/inner.py": "def j(): return l()\ndef l(): return 1\ndef m(): return 2\n",
    }
    for name, text in files.items():
        path = tmp_path / "p" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("from p import tools\ntools.C", "A B C D"),  # what runs on import needs A, which is bound together with B
        ("from p import tools\ntools.E, tools.g", "A B E g"),
        ("from p import lazy\nlazy.anything", "__getattr__ h"),
        ("from p.same import same\nsame()", "same n"),
        ("from p import same\nsame.same.same()", "same n"),
        ("from p.same import other\nother.r()", "other r"),
        ("from p.packed import j", "j l"),
        ("from p import packed\npacked.k.m()", "k m"),
        ("import p.packed.inner\np.packed.inner.m()", "m"),
        ("from p.packed import inner as q\nprint(vars(q), 'm')", "m"),
    ],
)
def test_what_is_referred_to_is_followed_to_where_it_is_defined(package: Path, code: str, names: str) -> None:
    found = Reader(package, "p").reach([ast.parse(code)])
    bound = {name for pieces in found.pieces.values() for piece in pieces for name in piece.binds or ()}
    assert bound - {"j", "k"} == set(names.split()) - {"j", "k"}
    assert {"j", "k"} & set(names.split()) <= bound
