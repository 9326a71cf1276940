"""Numbers in words: known ones, and all others read back by rules of their own."""

import re

import pytest

from gensrc.data.numerals import DIGITS, LARGEST, ONES, TENS, chinese, english

KNOWN = [
    (0, "zero", "零"),
    (9, "nine", "九"),
    (10, "ten", "十"),
    (12, "twelve", "十二"),
    (40, "forty", "四十"),
    (99, "ninety-nine", "九十九"),
    (100, "one hundred", "一百"),
    (101, "one hundred and one", "一百零一"),
    (110, "one hundred and ten", "一百一十"),
    (2_000, "two thousand", "二千"),
    (2_005, "two thousand and five", "二千零五"),
    (3_040, "three thousand and forty", "三千零四十"),
    (10_000, "ten thousand", "一万"),
    (15_300, "fifteen thousand three hundred", "一万五千三百"),
    (100_000, "one hundred thousand", "十万"),
    (100_001, "one hundred thousand and one", "十万零一"),
    (110_500, "one hundred and ten thousand five hundred", "十一万零五百"),
    (305_040, "three hundred and five thousand and forty", "三十万五千零四十"),
    (999_999, "nine hundred and ninety-nine thousand nine hundred and ninety-nine", "九十九万九千九百九十九"),
]
SAMPLE = [*range(2_000), *range(9_990, 10_120), *range(2_003, LARGEST, 97), LARGEST]


@pytest.mark.parametrize(("number", "words", "characters"), KNOWN)
def test_known_numbers(number, words, characters):
    assert english(number) == words
    assert chinese(number) == characters


def read_english(text: str) -> int:
    values = {word: number for number, word in enumerate(ONES)}
    values |= {word: number for number, word in zip(range(20, 100, 10), TENS, strict=True)}
    whole = part = 0
    for word in text.replace("-", " ").split():
        if word == "thousand":
            whole, part = 1000 * part, 0
        elif word == "hundred":
            part *= 100
        elif word != "and":
            part += values[word]
    return whole + part


def read_chinese(text: str) -> int:
    units = {"十": 10, "百": 100, "千": 1000}
    whole = part = digit = 0
    for character in text:
        if character == "万":
            whole, part, digit = 10_000 * (part + digit), 0, 0
        elif character in units:
            part, digit = part + (digit or 1) * units[character], 0
        else:
            digit = DIGITS.index(character)
    return whole + part + digit


def test_every_number_can_be_read_back():
    for number in SAMPLE:
        assert read_english(english(number)) == number
        assert read_chinese(chinese(number)) == number


def test_zeros_are_written_once_a_run_and_never_last():
    for number in SAMPLE[1:]:
        text = chinese(number)
        assert "零零" not in text
        assert not text.startswith("零")
        assert not text.endswith("零")
        assert "零万" not in text
        # Below the ten thousands, a run that is followed by something is read out; above there is none.
        inside = f"{number % 10_000:04}" if number >= 10_000 else str(number)
        assert text.count("零") == len(re.findall("0+(?=[1-9])", inside))


@pytest.mark.parametrize("number", [-1, LARGEST + 1])
def test_other_numbers_are_refused(number):
    for words in (english, chinese):
        with pytest.raises(ValueError, match="numbers from 0 to 999,999 can be written in words here"):
            words(number)
