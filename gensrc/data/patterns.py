"""Patterns drawn by code, as style pictures of any size for style transfer."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

PAPER, INDIGO = (0.93, 0.90, 0.80), (0.08, 0.20, 0.45)
GLASS = ((0.85, 0.33, 0.10), (0.95, 0.75, 0.20), (0.10, 0.30, 0.55), (0.20, 0.60, 0.60), PAPER, (0.50, 0.10, 0.20))


def mosaic(
    height: int, width: int, *, tiles: int = 60, generator: torch.Generator | None = None
) -> Float[Tensor, "1 3 {height} {width}"]:
    """Panes of coloured glass with dark lead between them: each point belongs to the nearest of `tiles` random points.

    Raises ValueError for an empty picture or fewer than two tiles.
    """
    _check(height, width)
    if tiles < 2:
        raise ValueError(f"a mosaic needs at least 2 tiles, not {tiles}")
    centres = torch.rand(tiles, 2, generator=generator) * torch.tensor([height, width])
    colours = torch.tensor(GLASS)[torch.randint(0, len(GLASS), (tiles,), generator=generator)]
    points = _points(height, width)
    own, other = torch.cdist(points, centres).topk(2, largest=False).indices.unbind(1)
    across = centres[own] - centres[other]
    middle = (centres[own] + centres[other]) / 2
    # The distance of each point from the boundary between its two nearest panes.
    inside = ((points - middle) * across).sum(1) / across.norm(dim=1).clamp(min=1e-6)
    return _picture(colours[own] * inside.clamp(0, 1)[:, None], height, width)


def waves(height: int, width: int, *, radius: float = 16.0) -> Float[Tensor, "1 3 {height} {width}"]:
    """Seigaiha, the Japanese pattern of waves: rows of ringed discs, each row half hidden by the next below it.

    Raises ValueError for an empty picture or a radius that is not positive.
    """
    _check(height, width)
    if not radius > 0:
        raise ValueError(f"radius must be positive, not {radius}")
    down, right = _points(height, width).unbind(1)
    paper, indigo = torch.tensor(PAPER), torch.tensor(INDIGO)
    pixels = paper.expand(height * width, 3)
    for row in range(math.ceil(2 * height / radius) + 3):
        shift = (row % 2) * radius
        nearest = ((right - shift) / (2 * radius)).round() * 2 * radius + shift
        distance = torch.hypot(right - nearest, down - (row - 1) * radius / 2)
        ring = (torch.cos(6 * math.pi * distance / radius) / 1.2 + 0.5).clamp(0, 1)[:, None]
        pixels = torch.where(distance[:, None] < radius, ring * paper + (1 - ring) * indigo, pixels)
    return _picture(pixels, height, width)


def _check(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise ValueError(f"a pattern must have pixels, not {height} by {width}")


def _points(height: int, width: int) -> Float[Tensor, "points 2"]:
    """The middle of each pixel, row by row: how far down and how far to the right."""
    return torch.cartesian_prod(torch.arange(height) + 0.5, torch.arange(width) + 0.5)


def _picture(pixels: Float[Tensor, "points 3"], height: int, width: int) -> Tensor:
    return pixels.T.reshape(1, 3, height, width).contiguous()
