"""Motion paths of the digits in a clip, found in heat maps of its frames.

A path is one of those of the digits of `gensrc.data.video`: standing still, crossing
the picture evenly, or bouncing between its edges, along a row or a column. The heat is
summed along every path, and the path with the largest sum is chosen, as in the Hough
transform (Duda and Hart, 1972, "Use of the Hough transformation to detect lines and
curves in pictures").

Shapes: n clips of `time` frames, 19x19 positions of a digit's upper left corner.
"""

from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from gensrc.data.video import MOTIONS, ROOM, bounce, travel

# The names of a path along a column and of one along a row.
NAMES = {
    "still": ("standing still", "standing still"),
    "forwards": ("moving down", "moving right"),
    "backwards": ("moving up", "moving left"),
    "bouncing": ("bouncing up and down", "bouncing left and right"),
}


@cache
def paths(time: int) -> tuple[Int64[Tensor, "paths time"], list[str]]:
    """All paths as positions along an axis in each frame, and their keys of NAMES.

    Speeds vary more than in the data set, as generated digits move less evenly.
    """
    found = [torch.full((1, time), place) for place in range(ROOM + 1)]
    names = ["still"] * len(found)
    for way in range(5, ROOM + 1):
        starts = torch.arange(ROOM - way + 1)
        forwards = travel(starts, torch.full_like(starts, way), time)
        found += [forwards, ROOM - forwards]
        names += ["forwards"] * len(starts) + ["backwards"] * len(starts)
    starts = torch.arange(2 * ROOM)
    for way in range(24, 42):
        unfolded = travel(starts, torch.full_like(starts, way), time)
        found.append(bounce(unfolded, ROOM))
        names += ["bouncing"] * len(starts)
    return torch.cat(found), names


@cache
def _motions(time: int) -> Int64[Tensor, "2 paths"]:
    """For each path along a column and along a row its index into MOTIONS."""
    _, names = paths(time)
    return torch.tensor(
        [[MOTIONS.index(NAMES[name][axis]) for name in names] for axis in (0, 1)]
    )


def trace(
    heat: Float[Tensor, "n time 19 19"],
) -> tuple[Float[Tensor, " n"], Int64[Tensor, " n"], Int64[Tensor, "n time 2"]]:
    """The path with the most heat in each clip.

    Returns that heat, as a mean over the frames; the motion, an index into MOTIONS; and
    the position in every frame, down and right.
    """
    time, places = heat.shape[1:3]
    ways = paths(time)[0].to(heat.device)
    taken = F.one_hot(ways.T, places).to(heat.dtype)  # time, path, place
    columns = torch.einsum("ntyx,tpy->nxp", heat, taken)  # for each column every path
    rows = torch.einsum("ntyx,tpx->nyp", heat, taken)
    best, index = torch.stack([columns, rows], 1).div(time).flatten(1).max(1)
    axis = index // (places * len(ways))
    lane, path = index // len(ways) % places, index % len(ways)
    along, across = ways[path], lane[:, None].expand(-1, time)
    is_row = (axis == 1)[:, None]
    corners = torch.stack(
        [torch.where(is_row, across, along), torch.where(is_row, along, across)], 2
    )
    return best, _motions(time).to(heat.device)[axis, path], corners


def without(
    heat: Float[Tensor, "n time 19 19"], corners: Int64[Tensor, "n time 2"], radius: int
) -> Float[Tensor, "n time 19 19"]:
    """The heat, with that up to `radius` pixels from the corners removed."""
    places = torch.arange(ROOM + 1, device=corners.device)
    away = (corners[..., None] - places).abs()  # n, time, axis, place
    distance = torch.maximum(away[:, :, 0, :, None], away[:, :, 1, None, :])
    return heat * (distance > radius)
