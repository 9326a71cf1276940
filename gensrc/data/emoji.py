"""Emoji: small colour pictures with names and tags, drawn by the designers of OpenMoji."""

import json
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from gensrc.data import registry
from gensrc.data.handwriting import as_levels, resize_by_area
from gensrc.data.images import read_idx

SIZES = (64, 32)  # pixels, the side of a picture
GROUPS = (
    "smileys-emotion",
    "people-body",
    "animals-nature",
    "food-drink",
    "travel-places",
    "activities",
    "objects",
    "symbols",
    "extras-openmoji",
    "extras-unicode",
)


@dataclass(frozen=True, eq=False)
class Emoji:
    """n emoji. `labels` are indices into `groups`; all else is one entry an emoji."""

    images: Float[Tensor, "n 3 size size"] | UInt8[Tensor, "n 3 size size"]
    labels: Int64[Tensor, " n"]
    groups: tuple[str, ...]  # the eight groups of Unicode, then OpenMoji's own emoji and its other signs of Unicode
    subgroups: tuple[str, ...]
    names: tuple[str, ...]  # in English, no two alike
    tags: tuple[tuple[str, ...], ...]
    characters: tuple[str, ...]  # private ones for OpenMoji's own emoji, which no other font shows
    families: tuple[str, ...]  # the same for variants, such as man, woman and person, or left and right

    def __len__(self) -> int:
        return len(self.names)


def emoji(split: str = "train", *, size: int = 64, dtype: torch.dtype = torch.float32) -> Emoji:
    """OpenMoji's emoji without flags and skin tones, on white, 3x64x64, in the order of Unicode.

    A tenth of the families is the split "test"; all variants of an emoji are in one split.

    size: 64 pixels, or 32 by taking the mean of four.
    dtype: torch.float32 for levels in [0, 1], torch.uint8 for 0 to 255.

    Raises ValueError for another split, size or dtype, DataError if a file is damaged.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split has to be 'train' or 'test', not {split!r}.")
    if size not in SIZES:
        raise ValueError(f"size has to be 64 or 32, not {size}.")
    table = _table()
    rows = [row for row, name in enumerate(table["splits"]) if name == split]
    images = read_idx(registry.read("emoji/images-idx4-ubyte.xz"))[rows].permute(0, 3, 1, 2).contiguous()
    if size != SIZES[0]:
        images = resize_by_area(images.flatten(0, 1), size).unflatten(0, (len(rows), 3))
    columns = {name: tuple(column[row] for row in rows) for name, column in table.items()}
    return Emoji(
        images=as_levels(images, dtype),
        labels=torch.tensor([GROUPS.index(group) for group in columns["groups"]]),
        groups=GROUPS,
        subgroups=columns["subgroups"],
        names=columns["names"],
        tags=tuple(map(tuple, columns["tags"])),
        characters=columns["characters"],
        families=columns["families"],
    )


def _table() -> dict[str, list[Any]]:
    return json.loads(registry.read("emoji/table.json.xz"))
