"""Differentiable augmentation of pictures for GANs (DiffAugment).

Zhao, Liu, Lin, Zhu and Han, Differentiable Augmentation for Data-Efficient GAN
Training, NeurIPS 2020: real and generated pictures are augmented before the
discriminator, in both updates, so that it cannot memorise a small training set and the
generator does not learn the augmentations.

Deviations: none in the augmentations; the paper's `color` is three of them in turn. All
random numbers are drawn on the CPU.

Shapes: n pictures of c channels, h by w pixels in [-1, 1].
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from gensrc.models.checks import check_shape


def colour(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Brightness by -0.5 to 0.5, saturation by 0 to 2, contrast by 0.5 to 1.5."""
    brightness, saturation, contrast = _uniform(3, len(x), x)
    x = x + brightness - 0.5
    grey = x.mean(1, keepdim=True)
    x = grey + 2 * saturation * (x - grey)
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (contrast + 0.5) * (x - mean)


def translation(
    x: Float[Tensor, "n c h w"], *, ratio: float = 0.125
) -> Float[Tensor, "n c h w"]:
    """Shift by whole pixels, up to `ratio` of the side; padded with zeros (grey)."""
    height, width = x.shape[2:]
    far = [int(side * ratio + 0.5) for side in (height, width)]
    down, right = (torch.randint(-f, f + 1, (len(x), 1)).to(x.device) for f in far)
    padded = F.pad(x, (far[1], far[1], far[0], far[0]))
    rows = torch.arange(height, device=x.device) + far[0] - down
    columns = torch.arange(width, device=x.device) + far[1] - right
    every = torch.arange(len(x), device=x.device)[:, None, None]
    moved = padded[every, :, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def cutout(
    x: Float[Tensor, "n c h w"], *, ratio: float = 0.5
) -> Float[Tensor, "n c h w"]:
    """Zero a square, `ratio` of the side, which may extend beyond the edges."""
    height, width = x.shape[2:]
    rows = _hole(len(x), height, ratio).to(x.device)
    columns = _hole(len(x), width, ratio).to(x.device)
    return x * ~(rows[:, None, :, None] & columns[:, None, None, :])


def _hole(n: int, side: int, ratio: float) -> Tensor:
    """True for the rows or columns that the square covers, for each of n pictures."""
    size = int(side * ratio + 0.5)
    middle = torch.randint(side + (1 - size % 2), (n, 1))
    place = torch.arange(side)
    return (place >= middle - size // 2) & (place < middle - size // 2 + size)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "colour": colour,
    "translation": translation,
    "cutout": cutout,
}


def augment(
    x: Float[Tensor, "n c h w"], changes: Sequence[str] = tuple(CHANGES)
) -> Float[Tensor, "n c h w"]:
    """The pictures after all `changes` in turn, with new random numbers for each.

    Raises ValueError for an unknown change.
    """
    for name in changes:
        if name not in CHANGES:
            known = ", ".join(CHANGES)
            raise ValueError(f"changes can be {known}; {name!r} is none of them")
        x = CHANGES[name](x)
    return x


def _uniform(k: int, n: int, like: Tensor) -> Tensor:
    check_shape(like, (None, None, None), "pictures")
    return torch.rand(k, n, 1, 1, 1).to(like)
