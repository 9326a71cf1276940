"""What readers ask most: book/questions.yml read, checked and made into a page.

Each question stands there in a reader's words, in English and in Chinese, with a short answer and the place in a
chapter that shows it by running code.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gensrc.book.pages import articles, schema

FILE = "book/questions.yml"
OPENING = """\
# Questions

What readers ask most about these models, with a short answer and the place where running code shows it. The
figures stand there, each with the tolerance within which it is checked."""


@dataclass(frozen=True)
class Question:
    """One entry of questions.yml. The answer is MyST; `shown` are places, "<chapter>#<anchor>"."""

    id: str
    en: str
    zh: str
    answer: str
    shown: tuple[str, ...]


A_PLACE = {"type": "string", "pattern": f"^{articles.PLACE}$", "description": 'a list of "<chapter>#<anchor>"'}
ENTRY = schema.fields(
    {
        "id": {"type": "string", "pattern": r"^[a-z0-9]+(-[a-z0-9]+)*$", "description": "like kl-sign"},
        **{name: schema.TEXT for name in ("en", "zh", "answer")},
        "shown": {"type": "array", "items": A_PLACE, "minItems": 1, "description": A_PLACE["description"]},
    }
)


def load(path: Path) -> list[Question]:
    """The questions of `path`, in order. A BookError names the file, the entry and the field at fault."""
    content = schema.load(path, schema.entries(ENTRY), {"": ("entry", "id")})
    found = [Question(**entry | {"shown": tuple(entry["shown"])}) for entry in content]
    schema.refuse_twice(path, "entries", (question.id for question in found))
    return found


def problems_of(root: Path) -> list[str]:
    """What in the questions of the repository at `root` does not fit its chapters, one sentence each."""
    anchors = {name: written.anchors for name, written in articles.written_chapters(root).items()}
    return problems(load(root / FILE), anchors)


def problems(questions: Sequence[Question], anchors: Mapping[str, Collection[str]]) -> list[str]:
    """What does not fit; `anchors` maps each chapter that exists to its anchors."""
    faults = (
        (question.id, articles.place_problem(place, anchors)) for question in questions for place in question.shown
    )
    return [f"questions.yml, {name}: {fault}" for name, fault in faults if fault]


def page(root: Path) -> str:
    """The page of the repository at `root`, as MyST text."""
    titles = {name: written.title for name, written in articles.written_chapters(root).items()}
    return render(load(root / FILE), titles)


def render(questions: Sequence[Question], titles: Mapping[str, str]) -> str:
    """The page as MyST text; `titles` maps a chapter's name to its title."""
    return "\n\n".join([OPENING, *(_entry(question, titles) for question in questions)]) + "\n"


def _entry(question: Question, titles: Mapping[str, str]) -> str:
    places = "; ".join(_place(place, titles) for place in question.shown)
    return f"""\
(question-{question.id})=
## {question.en}

{articles.chinese(question.zh)}

{question.answer.strip()}

Shown in {places}."""


def _place(place: str, titles: Mapping[str, str]) -> str:
    """A link under the heading's own words, which MyST fills in, and the chapter's title after it."""
    chapter, _, anchor = place.partition("#")
    return f"[](/notebooks/{chapter}.ipynb#{anchor}) in *{titles[chapter]}*"
