"""The lines that a chapter prints for a measured number and for a claim: written and read here, and nowhere else.

`notebook.report` and `notebook.claim` print them, the nbval plugin (gensrc.book.checks.tolerance) and the records of
full runs read them back, and the site marks them up:

    test ELBO ≈ -104.1 nats (±5 %)
    ✓ masked, no output changes at or before the perturbed pixel

Imports nothing but the standard library, since every pytest run of whoever has gensrc installed loads it.
"""

import math
import re
import sys
from dataclasses import dataclass
from decimal import Decimal

TICK = "✓"
ABOUT = "≈"
PLUS_MINUS = "±"
MOST_DECIMALS = 12  # a number that needs more is printed with an exponent
LEAST_SHARE = Decimal("0.1")  # of a stored number, below which no tolerance makes another number the same

NUMBER = r"[-+−]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+−]?\d+)?"
REPORT = re.compile(
    rf"(?P<label>\S.*) {ABOUT} (?P<printed>{NUMBER}|[-+−]?(?:nan|inf(?:inity)?))"
    rf"(?: (?P<unit>\S.*?))? \({PLUS_MINUS}(?P<bound>{NUMBER})(?P<percent> ?%)?\)",
    re.IGNORECASE,
)

# For the site, which marks what stands in a printed text: the tick; the value with its unit, and the tolerance.
TICK_IN_TEXT = rf"^{TICK}(?= )"
VALUE_IN_TEXT = rf"({ABOUT} )([^\n]*?)( \({PLUS_MINUS}[^)\n]*\))$"
OTHER_TEXT = rf"[^{TICK}{ABOUT}\n]+|.|\n"


def claim_line(sentence: str) -> str:
    return f"{TICK} {sentence}"


def is_claim(line: str) -> bool:
    return line.startswith(f"{TICK} ")


def report_line(label: str, value: float, unit: str, *, rel: float | None = None, abs: float | None = None) -> str:
    """The line for `value` within a tolerance, either `rel`, a fraction of it, or `abs`, in its own unit.

    The number is printed with two digits more than the tolerance resolves, so that rounding never decides a comparison.

    Raises ValueError for a value that is not finite, for no or two tolerances, for one that is not positive and finite,
    for a relative one of 100 % or more, which zero would meet, for one of zero, which only zero meets, and for
    a label or a unit that would not be read back.
    """
    if not math.isfinite(value):
        raise ValueError(f"{label}: {value} is no finite number; a report must have one")
    if (rel is None) == (abs is None):
        raise ValueError(f"{label}: give one tolerance, either rel= or abs=")
    width = rel if rel is not None else abs
    assert width is not None
    if not (width > 0 and math.isfinite(width)):
        raise ValueError(f"{label}: the tolerance must be positive and finite, not {width}")
    if rel is not None and not rel < 1:
        raise ValueError(f"{label}: within {100 * rel:g} % of a number lies zero; narrow rel= or claim a bound")
    if rel is not None and value == 0:
        raise ValueError(f"{label}: no number but zero lies within a share of zero; give abs=")
    bound = f"{100 * width:g} %" if rel is not None else f"{width:g}"
    resolved = max(width * math.fabs(value), sys.float_info.min) if rel is not None else width
    line = f"{label} {ABOUT} {_rounded(value, resolved)}{' ' if unit else ''}{unit} ({PLUS_MINUS}{bound})"
    read = Report.parse(line)
    if read is None or (read.label, read.unit, read.bound) != (label.strip(), unit, bound):
        raise ValueError(f"{label!r} in {unit!r} would not be read back: use one line, and no space around the unit")
    return line


def _rounded(value: float, resolution: float) -> str:
    """`value` two digits finer than the leading digit of `resolution`, in plain decimals while they are few."""
    decimals = 1 - math.floor(math.log10(resolution))
    if decimals <= MOST_DECIMALS:
        return f"{value:.{max(decimals, 0)}f}"
    size = math.floor(math.log10(math.fabs(value))) if value else 0
    return f"{value:.{max(size + decimals, 0)}e}"


@dataclass(frozen=True)
class Report:
    """A line that `report_line` has made, or one like it, read back."""

    label: str
    printed: str  # the number as it stands there
    unit: str
    bound: str  # the tolerance as it stands there, with % if relative to the value

    @classmethod
    def parse(cls, line: str) -> "Report | None":
        """The report in this line, None if it is another kind of line."""
        match = REPORT.fullmatch(line.strip())
        if match is None:
            return None
        return cls(match["label"], match["printed"], match["unit"] or "", match["bound"] + (match["percent"] or ""))

    @property
    def value(self) -> Decimal:
        return _decimal(self.printed)

    @property
    def relative(self) -> bool:
        return self.bound.endswith("%")

    @property
    def tolerance(self) -> Decimal:
        """The number that rel= or abs= gave: ±5 % is 0.05."""
        number = _decimal(self.bound.rstrip(" %"))
        return number / 100 if self.relative else number

    @property
    def allowed(self) -> Decimal:
        """How far another number may lie from this stored one: the tolerance, and half a unit of its last digit.

        The other number's digits do not count: a number that is printed with fewer of them is not the nearer for it.
        Nor does this one's last digit where it is coarser than the tolerance, as `report_line` never prints it.
        """
        tolerance = self.tolerance * (abs(self.value) if self.relative else 1)
        return tolerance + min(tolerance, _last_digit(self.value) / 2)

    @property
    def void(self) -> bool:
        """Whether zero, or next to it, lies within the tolerance of this number, which is not zero: it says nothing."""
        return self.value.is_finite() and self.value != 0 and self.allowed >= (1 - LEAST_SHARE) * abs(self.value)

    def accepts(self, other: "Report") -> bool:
        """Whether a newly computed report agrees with this stored one. What is not finite equals nothing.

        Nor does a number that is not zero equal zero, or one of less than a tenth of its size, whatever the tolerance.
        """
        if (self.label, self.unit, self.bound) != (other.label, other.unit, other.bound):
            return False
        if not (self.value.is_finite() and other.value.is_finite()):
            return False
        return abs(self.value - other.value) <= self.allowed and not self._dwarfs(other)

    def _dwarfs(self, other: "Report") -> bool:
        return self.value != 0 and abs(other.value) < LEAST_SHARE * abs(self.value)

    def quarrel(self, other: "Report") -> str:
        """Why `other`, which measures the same thing, is not accepted."""
        numbers = f'"{self.label}": stored {self}, computed {other}'
        if not (self.value.is_finite() and other.value.is_finite()):
            return f"{numbers}; what is not finite equals nothing"
        off = abs(self.value - other.value)
        if off <= self.allowed:
            return f"{numbers}; within the tolerance, but less than a tenth of the stored number, so not the same"
        return f"{numbers}; off by {off:.4g}, the declared tolerance {PLUS_MINUS}{self.bound} allows {self.allowed:.4g}"

    def __str__(self) -> str:
        return f"{self.printed} {self.unit}".rstrip()


def _decimal(text: str) -> Decimal:
    return Decimal(text.replace("−", "-").replace(",", ""))


def _last_digit(value: Decimal) -> Decimal:
    """The unit of the last printed digit: 0.1 for -104.1."""
    return Decimal(1).scaleb(int(value.as_tuple().exponent))
