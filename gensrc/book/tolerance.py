"""nbval with the tolerance that the author declared: a pytest plugin for notebooks, anyone's.

A chapter prints a measured number with its tolerance, `test ELBO ≈ -104.1 nats (±5 %)`. nbval compares text
and would fail on another processor's last digits. With this plugin such a line passes if the label, the unit
and the tolerance are the stored ones and the number lies within the tolerance of the stored number. All other
text stays exact.
"""

import re
from dataclasses import dataclass
from decimal import Decimal

NUMBER = r"[-+−]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+−]?\d+)?"
REPORT = re.compile(
    rf"(?P<label>\S.*) ≈ (?P<printed>{NUMBER}|[-+−]?(?:nan|inf(?:inity)?))"
    rf"(?: (?P<unit>\S.*?))? \(±(?P<bound>{NUMBER})(?P<percent> ?%)?\)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Report:
    """A line that `gensrc.notebook.report` has printed, or one like it."""

    label: str
    printed: str  # the number as it stands there
    unit: str
    bound: str  # the tolerance as it stands there, with % if relative to the value

    @classmethod
    def parse(cls, line: str) -> "Report | None":
        match = REPORT.fullmatch(line.strip())
        if match is None:
            return None
        return cls(
            match["label"], match["printed"], match["unit"] or "", match["bound"] + (match["percent"] or "")
        )

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

    def allowed(self, other: "Report") -> Decimal:
        """How far `other` may lie from this stored value, half a unit of the last printed digit included."""
        rounding = max(_last_digit(self.value), _last_digit(other.value)) / 2
        return rounding + self.tolerance * (abs(self.value) if self.relative else 1)

    def accepts(self, other: "Report") -> bool:
        """Whether a newly computed report agrees with this stored one. What is not finite equals nothing."""
        if (self.label, self.unit, self.bound) != (other.label, other.unit, other.bound):
            return False
        finite = self.value.is_finite() and other.value.is_finite()
        return finite and abs(self.value - other.value) <= self.allowed(other)

    def __str__(self) -> str:
        return f"{self.printed} {self.unit}".rstrip()


def _decimal(text: str) -> Decimal:
    return Decimal(text.replace("−", "-").replace(",", ""))


def _last_digit(value: Decimal) -> Decimal:
    """The unit of the last printed digit: 0.1 for -104.1."""
    return Decimal(1).scaleb(int(value.as_tuple().exponent))
