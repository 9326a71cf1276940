"""Questions from synopses: every answer stands where it is said to stand, and fills its gap."""

import re

import pytest

from gensrc.data import questions, text


def texts(*pairs):
    synopses, descriptions = zip(*pairs, strict=True)
    empty = ("",) * len(pairs)
    return text.Synopses(descriptions, synopses, empty, empty, empty)


def only(synopsis, description):
    found = questions.gaps(texts((synopsis, description)))
    assert len(found) == 1
    return found


def test_a_phrase_of_both_texts_becomes_a_gap():
    found = only("powerful text editor", "NEdit is a Text Editor for X.")
    assert (found.before, found.after) == (("powerful ",), ("",))
    assert found.answers == ("Text Editor",)
    assert found.starts == (11,)


@pytest.mark.parametrize(
    ("synopsis", "description"),
    [
        ("text and more", "A text."),  # no word of five letters
        ("an editor", "An editor is an editor."),  # twice in the description
        ("editor of editor files", "One editor."),  # twice in the synopsis
        ("an editor", "Many editors."),  # a part of a longer word
        ("an editor", "The editor2 tool."),
        ("red, green", "The red and the green2."),
    ],
)
def test_phrases_that_repeat_or_are_short_give_no_question(synopsis, description):
    assert len(questions.gaps(texts((synopsis, description)))) == 0


def test_a_phrase_is_as_long_as_the_texts_agree_but_has_at_most_three_words():
    assert only("fast text editor", "A text editor.").answers == ("text editor",)
    assert questions.shared_phrases("a b c dddddd", "a b c dddddd") == ["dddddd"]
    assert questions.shared_phrases("aaaaa, bbbbb", "aaaaa, bbbbb") == ["aaaaa", "bbbbb"]


def test_every_question_of_the_pack_can_be_answered():
    pack = text.synopses("test")
    found = questions.gaps(pack)
    assert len(found) > 500
    columns = zip(found.before, found.after, found.passages, found.answers, found.starts, strict=True)
    for before, after, passage, answer, start in columns:
        assert passage[start : start + len(answer)] == answer
        assert any((before + answer + after).lower() == synopsis.lower() for synopsis in pack.synopses)
        assert len(re.findall(rf"(?<![^\W_]){re.escape(answer)}(?![^\W_])", passage, re.IGNORECASE)) == 1
