"""Whole numbers in English and Chinese words: translation pairs made by code.

    english(305_040)    "three hundred and five thousand and forty"
    chinese(305_040)    "三十万五千零四十"

English groups digits by thousands, with the British "and" before tens and units; Chinese groups them by ten thousands
and writes one 零 for each run of zeros that stands inside a number.
"""

LARGEST = 999_999
ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
DIGITS = "零一二三四五六七八九"
UNITS = ("千", "百", "十", "")  # thousands, hundreds, tens, ones


def english(number: int) -> str:
    """The number in English words. Raises ValueError for one that is negative or beyond LARGEST."""
    _check(number)
    thousands, rest = divmod(number, 1000)
    if not thousands:
        return _below_thousand(rest)
    if not rest:
        return f"{_below_thousand(thousands)} thousand"
    joint = " and " if rest < 100 else " "
    return f"{_below_thousand(thousands)} thousand{joint}{_below_thousand(rest)}"


def _below_thousand(number: int) -> str:
    hundreds, rest = divmod(number, 100)
    tens, ones = divmod(rest, 10)
    small = ONES[rest] if rest < 20 else TENS[tens - 2] + (f"-{ONES[ones]}" if ones else "")
    if not hundreds:
        return small
    return f"{ONES[hundreds]} hundred" + (f" and {small}" if rest else "")


def chinese(number: int) -> str:
    """The number in Chinese characters. Raises ValueError for one that is negative or beyond LARGEST."""
    _check(number)
    if number == 0:
        return DIGITS[0]
    high, low = divmod(number, 10_000)
    text = f"{_below_ten_thousand(high)}万" if high else ""
    if low:
        # A zero between the ten thousands and the rest is written as well.
        text += (DIGITS[0] if high and low < 1000 else "") + _below_ten_thousand(low)
    # Ten, at the head of a number, is 十 rather than 一十.
    return text.removeprefix("一") if text.startswith("一十") else text


def _below_ten_thousand(number: int) -> str:
    written = [DIGITS[int(digit)] + unit for digit, unit in zip(f"{number:04}", UNITS, strict=True)]
    parts = [part if part[0] != DIGITS[0] else DIGITS[0] for part in written]
    text = "".join(parts).strip(DIGITS[0])
    while DIGITS[0] * 2 in text:
        text = text.replace(DIGITS[0] * 2, DIGITS[0])
    return text


def _check(number: int) -> None:
    if not 0 <= number <= LARGEST:
        raise ValueError(f"numbers from 0 to {LARGEST:,} can be written in words here, not {number:,}")
