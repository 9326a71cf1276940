"""The questions: the file itself, the checks on it, and the page made from it."""

import re
from pathlib import Path

import pytest
import yaml

from gensrc.book.pages import questions as book
from gensrc.book.repository import BookError

ROOT = Path(__file__).parents[3]
CHAPTER = "2-gans-to-transformers/03-vae"
ENTRY = {"id": "kl-sign", "en": "Why?", "zh": "为什么？", "answer": "So.", "shown": [f"{CHAPTER}#the-code"]}


def written(tmp_path: Path, *entries: object) -> Path:
    path = tmp_path / "questions.yml"
    path.write_text(yaml.safe_dump(list(entries)), encoding="utf8")
    return path


def test_every_question_of_the_book_is_shown_where_it_says():
    assert book.problems_of(ROOT) == []


def test_each_is_asked_in_both_languages_and_answered_without_figures():
    for question in book.load(ROOT / book.FILE):
        assert re.search(r"[\u4e00-\u9fff]", question.zh), question.id
        assert not re.search(r"[\u4e00-\u9fff]", question.en + question.answer), question.id
        assert question.en.endswith("?"), question.id
        assert len(question.answer.split()) <= 60, question.id


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": "KL sign"}, ["'id'", "like kl-sign"]),
        ({"zh": " "}, ["'zh'", "says something"]),
        ({"shown": []}, ["'shown'", "<chapter>#<anchor>"]),
        ({"shown": [CHAPTER]}, ["'shown'", "<chapter>#<anchor>"]),
        ({"colour": "red"}, ["no field 'colour'"]),
    ],
)
def test_a_bad_field_is_named_with_its_file_and_entry(tmp_path, change, words):
    with pytest.raises(BookError) as caught:
        book.load(written(tmp_path, ENTRY | change))
    for word in ["questions.yml, entry ", *words]:
        assert word in str(caught.value)


def test_a_question_that_stands_there_twice_is_named(tmp_path):
    with pytest.raises(BookError, match="two entries are called 'kl-sign'"):
        book.load(written(tmp_path, ENTRY, ENTRY))


@pytest.mark.parametrize(
    ("place", "fault"),
    [("1-part/09-lost#x", "names the chapter 1-part/09-lost"), (f"{CHAPTER}#lost", "no heading with the anchor lost")],
)
def test_a_place_that_is_not_there_is_named(tmp_path, place, fault):
    (problem,) = book.problems(book.load(written(tmp_path, ENTRY | {"shown": [place]})), {CHAPTER: {"the-code"}})
    assert problem.startswith("questions.yml, kl-sign: ")
    assert fault in problem


def test_the_page_gives_question_answer_and_place(tmp_path):
    page = book.render(book.load(written(tmp_path, ENTRY)), {CHAPTER: "Variational autoencoders"})
    assert "(question-kl-sign)=\n## Why?" in page
    assert '<span lang="zh">为什么？</span>' in page
    assert f"\nSo.\n\nShown in [](/notebooks/{CHAPTER}.ipynb#the-code) in *Variational autoencoders*." in page
