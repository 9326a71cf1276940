"""The JBIG context model of binary pictures: counts of each pixel given ten neighbours.

The standard for facsimile compression (ITU-T T.82, JBIG, 1993) predicts each pixel from
ten earlier ones, two to its left, five above and three above these, and uses the
probabilities for arithmetic coding. Rissanen and Langdon, Universal Modeling and
Coding, IEEE Transactions on Information Theory 27, 1981, is the source of the idea.

Deviations: JBIG adapts its counts while it reads one picture; here they are taken once,
from training pictures. One of its ten neighbours may be moved; here none. Pixels
outside of the picture are black.

Shapes: b pictures of one channel, h w their height and width.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from gensrc.models.checks import check_levels, check_shape

TEMPLATE = (
    *((-2, -1), (-2, 0), (-2, 1)),
    *((-1, -2), (-1, -1), (-1, 0), (-1, 1), (-1, 2)),
    *((0, -2), (0, -1)),
)
"""Offsets (rows down, columns right) of the neighbours, all earlier in raster order."""
CONTEXTS = 2 ** len(TEMPLATE)


class ContextModel(nn.Module):
    """p(x) = the product over pixels of p(pixel | ten earlier neighbours).

    It models edges and strokes, but no larger shapes.
    """

    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(CONTEXTS, 2, dtype=torch.int64))

    def fit(self, x: Float[Tensor, "b 1 h w"]) -> "ContextModel":
        """Add the pixels of `x` to the counts: the maximum-likelihood model.

        Raises ValueError if a pixel is neither 0 nor 1.
        """
        x = _binary(x)
        seen = 2 * contexts(x).flatten() + x.flatten().long()
        self.counts += torch.bincount(seen, minlength=2 * CONTEXTS).view(CONTEXTS, 2)
        return self

    @property
    def white(self) -> Float[Tensor, " contexts"]:
        """The probability of a white pixel given each context.

        1/2 is added to each count (Krichevsky and Trofimov, 1981), so that no
        probability is 0.
        """
        smoothed = self.counts.float() + 0.5
        return smoothed[:, 1] / smoothed.sum(1)

    def log_prob(self, x: Float[Tensor, "b 1 h w"]) -> Float[Tensor, " b"]:
        """log p(x) in nats. Raises ValueError if a pixel is neither 0 nor 1."""
        x = _binary(x)
        white = self.white[contexts(x)]
        return torch.where(x[:, 0] > 0, white, 1 - white).log().flatten(1).sum(1)

    def loss(self, batch: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
        """Minus log p(x), in nats, mean over pictures; counting minimises it."""
        return -self.log_prob(batch).mean()

    def sample(
        self,
        n: int,
        *,
        size: tuple[int, int] = (28, 28),
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "n 1 h w"]:
        """n pictures, drawn pixel by pixel in raster order."""
        height, width = size
        x = torch.zeros(n, 1, height, width)
        uniform = torch.rand(x.shape, generator=generator)
        for row in range(height):
            for column in range(width):
                # The template covers two rows above and two columns to either side.
                top, left = max(row - 2, 0), max(column - 2, 0)
                seen = x[:, :, top : row + 1, left : column + 3]
                here = contexts(seen)[:, row - top, column - left]
                drawn = uniform[:, 0, row, column] < self.white[here]
                x[:, 0, row, column] = drawn.float()
        return x


def contexts(x: Float[Tensor, "b 1 h w"]) -> Int64[Tensor, "b h w"]:
    """The ten neighbours of each pixel as a number below 1024."""
    height, width = x.shape[2:]
    padded = F.pad(x[:, 0], (2, 2, 2, 0)).long()
    number = torch.zeros_like(x[:, 0], dtype=torch.int64)
    for down, right in TEMPLATE:
        top, left = 2 + down, 2 + right
        number = 2 * number + padded[:, top : top + height, left : left + width]
    return number


def _binary(x: Tensor) -> Tensor:
    """The pictures, if they are of one channel and pixels are 0 or 1."""
    check_shape(x, (1, None, None), "pictures")
    check_levels(x, 2)
    return x.round()
