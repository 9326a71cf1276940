"""MNIST's digits, cut out and resized for the pictures of `captions` and the clips of `video`.

All arithmetic is in integers, or in floating point on integers below 2^24, so that all machines give the same bytes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from gensrc.data.images import PREFIXES, mnist

COMBINATIONS = ("seen", "unseen", "all")
INK = 20  # pixels, the side of the square that every digit of MNIST was fitted into
MARGIN = 4  # pixels to add around a picture so that the square fits in wherever the digit's middle is


@dataclass(frozen=True, eq=False)
class Handwriting:
    """The digits of a split of MNIST, the position of the ink of each, and their classes."""

    digits: UInt8[Tensor, "n 36 36"]  # with the margin
    corners: Int64[Tensor, "n 2"]  # top and left of the square that has the ink in its middle
    by_class: Int64[Tensor, " n"]  # the numbers of the zeros, then those of the ones, and so on
    starts: Int64[Tensor, "10"]  # of each class in by_class
    counts: Int64[Tensor, "10"]

    def write(
        self, digits: Int64[Tensor, "*shape"], choices: Int64[Tensor, "*shape"], size: int
    ) -> UInt8[Tensor, "*shape {size} {size}"]:
        """An example of each digit, its ink in a square of `size` pixels; black for digits below 0.

        choices: indices of the examples, taken modulo the number of examples of the digit.
        """
        known = digits.clamp(min=0)
        which = self.by_class[(self.starts[known] + choices % self.counts[known]).flatten()]
        steps = torch.arange(INK)
        rows, columns = (self.corners[which, axis, None] + steps for axis in (0, 1))
        ink = self.digits[which[:, None, None], rows[:, :, None], columns[:, None, :]]
        written = resize_by_area(ink, size).view(*digits.shape, size, size)
        return written * (digits >= 0)[..., None, None]


@cache
def handwriting(split: str) -> Handwriting:
    """The digits of "train" or "test", read once. Raises ValueError for another split, DataError for damaged files."""
    data = mnist(split, dtype=torch.uint8)
    images, counts = data.images[:, 0], data.labels.bincount(minlength=10)
    middles = torch.stack([_middle(images.amax(2)), _middle(images.amax(1))], 1) + MARGIN
    by_class = data.labels.argsort(stable=True)
    return Handwriting(F.pad(images, [MARGIN] * 4), middles - INK // 2, by_class, counts.cumsum(0) - counts, counts)


def _middle(profile: UInt8[Tensor, "n length"]) -> Int64[Tensor, " n"]:
    """The middle between the first and the last entry above 0, rounded down."""
    ink = (profile > 0).to(torch.uint8)
    return (ink.argmax(1) + ink.shape[1] - ink.flip(1).argmax(1)) // 2


def resize_by_area(images: UInt8[Tensor, "n old old"], size: int) -> UInt8[Tensor, "n {size} {size}"]:
    """Square pictures in another size, smaller or larger: each pixel the mean of the area that it covers, rounded."""
    old = images.shape[1]
    # Overlaps of old and new pixels, in units in which an old pixel has the side `size` and a new one the side `old`.
    ends = torch.arange(1, max(old, size) + 1)
    new_end, old_end = ends[:size, None] * old, ends[None, :old] * size
    overlap = torch.minimum(new_end, old_end) - torch.maximum(new_end - old, old_end - size)
    weights = overlap.clamp(min=0).to(torch.float32)
    sums = weights @ images.to(torch.float32) @ weights.T
    return ((sums.to(torch.int32) + old * old // 2) // (old * old)).to(torch.uint8)


def draw(n: int, columns: int, *, split: str, combinations: str, seed: int) -> Int64[Tensor, "n {columns}"]:
    """Random integers below 2^24, a row for each example, different for every split and value of combinations.

    The rows do not depend on n. To choose one of k things take the remainder modulo k; the first are then more probable
    than the last by less than k / 2^24.

    Raises ValueError for another split or combinations and for n below 1.
    """
    if split not in PREFIXES:
        raise ValueError(f"split has to be 'train' or 'test', not {split!r}.")
    if combinations not in COMBINATIONS:
        raise ValueError(f"combinations have to be 'seen', 'unseen' or 'all', not {combinations!r}.")
    if n < 1:
        raise ValueError(f"n has to be at least 1, not {n}.")
    streams = len(PREFIXES) * len(COMBINATIONS)
    stream = list(PREFIXES).index(split) * len(COMBINATIONS) + COMBINATIONS.index(combinations)
    generator = torch.Generator().manual_seed(int(seed) * streams + stream)
    # Below 2^28 every torch draws these from 32 random bits; above, newer ones take 64.
    return torch.randint(2**24, (n, columns), generator=generator)


def pick(options: Iterable[tuple[str, ...]], choices: Int64[Tensor, " n"]) -> tuple[str, ...]:
    """One of each of n tuples of options, by index modulo their number."""
    return tuple(some[choice % len(some)] for some, choice in zip(options, choices.numpy().tolist(), strict=True))


def as_levels(images: UInt8[Tensor, "*shape"], dtype: torch.dtype) -> Float[Tensor, "*shape"] | UInt8[Tensor, "*shape"]:
    """Levels in [0, 1] for torch.float32, the pictures themselves for torch.uint8. Raises ValueError for another."""
    if dtype not in (torch.float32, torch.uint8):
        raise ValueError(f"dtype has to be torch.float32 or torch.uint8, not {dtype}.")
    return images if dtype == torch.uint8 else images.to(torch.float32).div_(255)
