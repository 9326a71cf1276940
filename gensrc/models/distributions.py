"""A mixture of logistic distributions cut into 256 levels, and bits per dimension.

Salimans, Karpathy, Chen and Kingma, PixelCNN++, ICLR 2017, section 2.1, is the source.

Deviations: a level is k/255 in [0, 1], not in [-1, 1]. The probability of a level is
computed as a product (see `log_prob`), which is exact in the tails as well.

Shapes: b examples, c h w the picture, m components of the mixture.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from gensrc.models.checks import (
    check_finite,
    check_last,
    check_levels,
    check_logits,
    check_same_shape,
    check_temperature,
    tempered,
)

LEVELS = 256
HALF = 0.5 / (LEVELS - 1)
"""Half the distance between two levels."""
SMALLEST_LOG_SCALE = -7 - math.log(2)
"""PixelCNN++'s bound of -7, for levels from 0 to 1 in place of -1 to 1.

It bounds the probability of a level between the ends by tanh(HALF / (2 scale)) = 0.973,
or 0.04 bits; a bound of -6 would allow 0.376, or 1.41 bits.
"""


class DiscretizedLogisticMixture:
    """Independent distributions of pixels over the levels 0, 1/255, ..., 1.

    Raises ValueError for parameters of different shapes.
    """

    def __init__(
        self,
        logits: Float[Tensor, "*b m c h w"],
        loc: Float[Tensor, "*b m c h w"],
        log_scale: Float[Tensor, "*b m c h w"],
    ) -> None:
        check_same_shape("logits and means", logits, loc)
        check_same_shape("means and scales", loc, log_scale)
        self.log_share = F.log_softmax(logits, -4)
        self.loc = loc
        self.log_scale = log_scale.clamp(min=SMALLEST_LOG_SCALE)

    def log_prob(self, x: Float[Tensor, "... c h w"]) -> Float[Tensor, "... c h w"]:
        """The logarithm of the probability of each pixel's level, in nats.

        A level's probability is that of its bin under the logistic distribution, with s
        the sigmoid:
        s(upper) - s(lower) = s(upper) s(-lower) (1 - exp(lower - upper)). The lowest
        bin extends to -infinity, the highest to infinity; one factor remains for each.

        Raises ValueError for pictures of another shape, or as many axes but another
        batch, and for values that are no levels.
        """
        check_last(x, self.loc.shape[-3:], "pictures")
        # Pictures and distributions may be combined by further axes, not by one.
        if x.ndim == self.loc.ndim - 1:
            check_last(x, self.loc[..., 0, :, :, :].shape, "pictures")
        check_levels(x, LEVELS)
        return self.level_log_prob(x)

    def level_log_prob(
        self, x: Float[Tensor, "... c h w"]
    ) -> Float[Tensor, "... c h w"]:
        """`log_prob` of what is known to be levels; x may be broadcast."""
        x = x.unsqueeze(-4)
        scale = self.log_scale.exp()
        upper, lower = (x - self.loc + HALF) / scale, (x - self.loc - HALF) / scale
        below_upper, above_lower = F.logsigmoid(upper), F.logsigmoid(-lower)
        width = torch.log(-torch.expm1(-2 * HALF / scale))
        inside = below_upper + above_lower + width
        highest = torch.where(x > 1 - HALF, above_lower, inside)
        part = torch.where(x < HALF, below_upper, highest)
        return torch.logsumexp(self.log_share + part, -4)

    @property
    def mean(self) -> Float[Tensor, "*b c h w"]:
        """The weighted mean of the components' locations, clamped to [0, 1]."""
        return (self.log_share.exp() * self.loc.clamp(0, 1)).sum(-4)

    def sample(
        self, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*b c h w"]:
        """One level a pixel, from uniform noise drawn on the CPU.

        Raises ValueError for parameters that are not finite.
        """
        check_logits(self.log_share.movedim(-4, -1))
        for part, what in ((self.loc, "means"), (self.log_scale, "scales")):
            check_finite(part, what, "look for such values in the weights")
        shape, like = self.loc.shape, self.loc
        noise = torch.rand(shape, generator=generator).clamp(1e-6, 1 - 1e-6).to(like)
        # Gumbel-max trick: the argmax picks each component with its probability.
        gumbel = -(-torch.rand(shape, generator=generator).to(like).log()).log()
        chosen = (self.log_share + gumbel).argmax(-4, keepdim=True)
        drawn = self.loc + self.log_scale.exp() * torch.logit(noise)
        level = drawn.gather(-4, chosen).squeeze(-4).clamp(0, 1)
        return (level * (LEVELS - 1)).round() / (LEVELS - 1)


def bits_per_dimension(
    nats: Float[Tensor, "*b"], image_shape: tuple[int, int, int] = (1, 28, 28)
) -> Float[Tensor, "*b"]:
    """Nats a picture to bits a pixel and channel; for probabilities, not densities."""
    return nats / (math.prod(image_shape) * math.log(2))


def sample_categorical(
    logits: Float[Tensor, "n classes"],
    *,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Int64[Tensor, " n"]:
    """One class a row, drawn on the CPU: a GPU gives other numbers for a seed.

    Raises ValueError for a row of logits without a softmax (see `check_logits`), and
    for a temperature that is not positive.
    """
    check_temperature(temperature)
    check_logits(logits)
    probs = tempered(logits, temperature).softmax(-1).cpu()
    return torch.multinomial(probs, 1, generator=generator)[:, 0].to(logits.device)
