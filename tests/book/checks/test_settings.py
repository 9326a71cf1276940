"""Whatever may run a chapter with other settings than the committed ones is found in its code, and nothing else is."""

from typing import Any

import pytest

from gensrc.book.checks import settings, staleness

CHAPTER = "2-part/03-vae"
START = "from gensrc import notebook\nrun = notebook.start('2-part/03-vae', profile=profile, seed=seed)"


def problems(book: Any, *cells: Any) -> list[str]:
    book.chapter(CHAPTER, *cells)
    return staleness.Fingerprints(book.root).settings(book.read(CHAPTER))


@pytest.mark.parametrize(
    "cell",
    [
        START,
        "seeds = [seed + number for seed in range(3)]\nprint(run.seed, run.profile)",
        "def play(seed, profile=None):\n    seed += 1\n    return seed",
        "batches = Batches(x, seed=run.seed)\nenv = environment = 3\nlabel = 'os.environ'",
        "thread.start()\nstart = race.start(7)",
        "%matplotlib inline\nprint(seed)",
        "class Draws:\n    def __init__(self, seed):\n        self.seed = seed",
        "plot(profile=wide)\nmake(profile=run.profile)\nsampler.start(seed=3)",
        "notebook.start(chapter='2-part/03-vae', profile=profile, seed=seed)",
        "exec(listing, {})\nexec(listing, place := {})",
        "def f(seed, seed): pass",  # whoever runs it will be told
    ],
)
def test_what_chapters_do_with_their_settings_is_no_problem(book: Any, cell: str) -> None:
    assert problems(book, cell) == []


@pytest.mark.parametrize("name", ["profile", "seed"])
@pytest.mark.parametrize(
    "cell",
    [
        "{} = 7",
        "{}: int = 7",
        "{} += 7",
        "a, (b, *{}) = 1, (2, 3)",
        "for {} in (1, 2):\n    pass",
        "if True:\n    while ({} := 7) < 3: pass",
        "[({} := x) for x in (1, 2)]",
        "with open('x') as {}:\n    pass",
        "import os as {}",
        "from x import {}",
        "def {}():\n    pass",
        "class {}:\n    pass",
        "def f():\n    global {}\n    {} = 7",
        "def f():\n    def g():\n        global {}",
        "try:\n    pass\nexcept ValueError as {}:\n    pass",
        "match 3:\n    case {}:\n        pass",
        "del {}",
        "%matplotlib inline\n{} = 7",
        "{} = !date",
    ],
)
def test_only_the_parameters_cell_may_set_them(book: Any, cell: str, name: str) -> None:
    found = problems(book, START, cell.replace("{}", name))
    assert found[:1] == [f"a cell sets {name}, which the cell tagged parameters alone may set"]


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ("run.profile = 'full'", "a cell sets run.profile, "),
        ("notebook.begun[-1].seed += 1", "a cell sets notebook.begun[-1].seed, "),
        ("import os\nos.environ['GENSRC_PRECISION'] = 'float32'", "a cell uses the environment, "),
        ("from os import environ as e\ne.update(A='b')", "a cell uses the environment, "),
        ("import os\nos.putenv('A', 'b')", "a cell uses the environment, "),
        ("import os\nseven = int(os.getenv('SEVEN', 7))", "a cell uses the environment, "),
        ("%env GENSRC_PRECISION=float32", "a cell uses the environment, "),
        ("%set_env GENSRC_PRECISION float32", "a cell uses the environment, "),
        ("get_ipython().run_line_magic('env', 'A=b')", "a cell uses the environment, "),
        ("get_ipython().run_line_magic(magic_name='env', line='A=b')", "a cell uses the environment, "),
        ("%%capture\nprofile = 'full'", "a cell uses %, %% or ! of IPython, "),
        ("%run -i other.py", "a cell uses %, %% or ! of IPython, "),
        ("!python other.py", "a cell uses %, %% or ! of IPython, "),
        ("get_ipython().run_cell('seed = 7')", "a cell uses %, %% or ! of IPython, "),
        ("get_ipython().push({'seed': 7})", "a cell uses %, %% or ! of IPython, "),
        ("exec('seed = 7')", "a cell calls exec on its own names, "),
        ("run = notebook.start('x', profile='full', seed=seed)", "notebook.start must be told "),
        ("run = notebook.start('x', profile=profile, seed=7)", "notebook.start must be told "),
        ("run = gensrc.notebook.start('x')", "notebook.start must be told "),
        ("from gensrc.notebook import start\nstart('x', profile='full', seed=seed)", "notebook.start must be told "),
        ("run = notebook.Run('x', profile='full', seed=0, device=device)", "a cell sets profile='full', "),
        ("run = dataclasses.replace(run, profile='full')", "a cell sets profile='full', "),
        ("run = notebook.start('x', **mine)", "notebook.start must be told "),
    ],
)
def test_every_other_way_to_change_them_is_named(book: Any, cell: str, found: str) -> None:
    (problem,) = problems(book, cell)
    assert problem.startswith(found)


@pytest.mark.parametrize(
    "source",
    [
        'profile = "full"\nseed = 0',
        'profile = "quick"\nseed = 7',
        'profile = "quick"\nseed = 0.0',
        'profile = "quick"\nseed = False',
        'profile = "quick"\nseed = 0\nprint("full")',
        'profile = "quick"\nseed = 0\nseed += 7',
        'profile = "quick"\nseed = 0\nif True: profile = "full"',
        'profile = "quick"\nseed = 0\nprofile: str = "full"',
        'profile = "quick"',
        "%env A=b",
        "",
    ],
)
def test_the_parameters_cell_sets_what_is_committed_and_does_nothing_else(
    book: Any, code_cell: Any, source: str
) -> None:
    book.chapter(CHAPTER, START)
    nb = book.read(CHAPTER)
    nb.cells[2] = code_cell(source, "parameters")
    book.save(CHAPTER, nb)
    assert staleness.Fingerprints(book.root).settings(nb) == [settings.PARAMETERS]


def test_a_comment_in_the_parameters_cell_is_free(book: Any, code_cell: Any) -> None:
    book.chapter(CHAPTER, START)
    nb = book.read(CHAPTER)
    nb.cells[2] = code_cell("# Settings\nseed = 0  # or another\nprofile = 'quick'", "parameters")
    assert staleness.Fingerprints(book.root).settings(nb) == []


def test_what_papermill_has_left_is_named_everywhere(book: Any, code_cell: Any) -> None:
    injected = code_cell('profile = "full"\nseed = 7', "injected-parameters")
    left = "papermill has left a cell tagged injected-parameters"
    assert left in problems(book, injected, START)[0]
    assert left in staleness.status(staleness.Fingerprints(book.root), CHAPTER).reasons[0]
    assert left in book.run("check", CHAPTER)[1]
    assert left in book.run("execute")[1]


def test_a_second_cell_tagged_colab_counts_as_any_other(book: Any, code_cell: Any) -> None:
    assert problems(book, code_cell("profile = 'full'", "colab")) != []
