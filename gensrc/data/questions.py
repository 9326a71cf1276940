"""Cloze questions: a gap in a package's synopsis, whose answer is a span of its description.

They are made from `gensrc.data.text.synopses` by a rule: a phrase that occurs in both texts is cut out of the synopsis,
and the answer is its position in the description.
"""

import re
from dataclasses import dataclass

from gensrc.data.text import Synopses

LONGEST = 3  # words of an answer
LETTERS = 5  # that one of its words has at least, so that no answer is "of the"
WORD = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]+(?![A-Za-z0-9])")


@dataclass(frozen=True)
class Questions:
    """n questions."""

    before: tuple[str, ...]  # the synopsis up to the gap
    after: tuple[str, ...]  # and on from it
    passages: tuple[str, ...]  # the descriptions
    answers: tuple[str, ...]  # as they stand in the passage
    starts: tuple[int, ...]  # passage[start : start + len(answer)] is the answer

    def __len__(self) -> int:
        return len(self.answers)


def gaps(texts: Synopses) -> Questions:
    """All phrases of one to three words that a synopsis and its description share, each as a question.

    A phrase is as long as the texts agree; ignoring case, it occurs once in each text, and it has a word of five
    letters or more.
    """
    found = []
    for synopsis, description in zip(texts.synopses, texts.descriptions, strict=True):
        for phrase in shared_phrases(synopsis, description):
            start = _places(phrase, description)[0]
            at = _places(phrase, synopsis)[0]
            answer = description[start : start + len(phrase)]
            found.append((synopsis[:at], synopsis[at + len(phrase) :], description, answer, start))
    columns = tuple(zip(*found, strict=True)) if found else ((),) * 5
    return Questions(*columns)


def shared_phrases(synopsis: str, description: str) -> list[str]:
    """The phrases of `gaps`, from left to right, none within another."""
    words = list(WORD.finditer(synopsis))
    phrases, begin = [], 0
    while begin < len(words):
        # The longest phrase that begins here and occurs in the description.
        for count in range(min(LONGEST, len(words) - begin), 0, -1):
            phrase = synopsis[words[begin].start() : words[begin + count - 1].end()]
            joined = all(part.isalpha() for part in phrase.split(" "))
            if joined and _places(phrase, description):
                break
        else:
            begin += 1
            continue
        long_enough = any(len(word) >= LETTERS for word in phrase.split(" "))
        if long_enough and len(_places(phrase, description)) == len(_places(phrase, synopsis)) == 1:
            phrases.append(phrase)
        begin += count
    return phrases


def _places(phrase: str, text: str) -> list[int]:
    """The positions of the phrase in the text, ignoring case and matching whole words only."""
    phrase, text = phrase.lower(), text.lower()
    found, at = [], text.find(phrase)
    while at >= 0:
        around = text[at - 1 : at] + text[at + len(phrase) : at + len(phrase) + 1]
        if not any(character.isalnum() for character in around):
            found.append(at)
        at = text.find(phrase, at + 1)
    return found
