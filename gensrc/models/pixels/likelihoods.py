"""The distribution of a pixel given those before: categorical or logistic mixture.

Van den Oord, Kalchbrenner and Kavukcuoglu, Pixel Recurrent Neural Networks, ICML 2016,
section 2.3, is the source of a softmax over 256 levels for each colour. Salimans,
Karpathy, Chen and Kingma, PixelCNN++, ICLR 2017, section 2.2, is the source of the
mixture of logistics whose colours depend on each other.

Deviations: levels are k/255 in [0, 1]; the means of a colour are shifted in proportion
to the distances of earlier colours from 1/2.

Shapes: b pictures or n samples, c h w, p parameters of a pixel, k uniform numbers.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from gensrc.models.checks import (
    check_last,
    check_levels,
    check_sizes,
    widened,
)
from gensrc.models.distributions import SMALLEST_LOG_SCALE, DiscretizedLogisticMixture

LIKELIHOODS = ("bernoulli", "categorical", "logistic_mixture")


class Categorical:
    """A softmax over the levels of each colour; for two levels, a Bernoulli.

    colours: of a pixel that are drawn one by one, with a network's step for each.
    outputs: p, the parameters of a pixel. uniforms: random numbers to draw one.
    """

    def __init__(self, channels: int, levels: int) -> None:
        check_sizes(least=2, levels=levels)
        self.channels = self.colours = self.uniforms = channels
        self.levels, self.each = levels, 1 if levels == 2 else levels
        self.outputs = self.each * channels

    def check(self, x: Tensor) -> None:
        """Raises ValueError for values that are not among the levels."""
        check_levels(x, self.levels)

    def check_same(self, params: Tensor, x: Tensor) -> None:
        """Raises ValueError unless these are parameters of pictures like x."""
        check_last(x, (len(params), self.channels, *params.shape[2:]), "pictures")

    def logits(self, params: Float[Tensor, "b p *hw"]) -> Float[Tensor, "b c each *hw"]:
        return widened(params.unflatten(1, (self.channels, self.each)))

    def log_prob(
        self, params: Float[Tensor, "b p h w"], x: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b h w"]:
        """log p of each pixel given those before, in nats.

        Raises ValueError for parameters of other pictures.
        """
        self.check_same(params, x)
        logits = self.logits(params)
        if self.levels == 2:
            nats = F.binary_cross_entropy_with_logits(
                logits[:, :, 0], x.to(logits), reduction="none"
            )
            return -nats.sum(1)
        chosen = (x * (self.levels - 1)).round().long().unsqueeze(2)
        return logits.log_softmax(2).gather(2, chosen).squeeze(2).sum(1)

    def draw(
        self,
        params: Float[Tensor, "n p"],
        noise: Float[Tensor, "n k"],
        colour: int,
        temperature: float,
    ) -> Float[Tensor, "n 1"]:
        """The level of one colour: its inverse distribution function at the noise."""
        logits = self.logits(params)[:, colour] / temperature
        level = noise[:, colour, None]
        if self.levels == 2:
            p = logits.sigmoid()
            return (level < p).to(p) + 0 * p  # NaN stays NaN, for `sample` to see
        shares = logits.softmax(1).cumsum(1)
        passed = (shares < level).sum(1, keepdim=True).clamp(max=self.levels - 1)
        return passed / (self.levels - 1) + 0 * shares[:, -1:]


class LogisticMixture(Categorical):
    """A discretised mixture of logistic distributions over all colours of a pixel.

    In each component a colour's mean is a linear function of the colours before it, so
    one step of the network is enough for all colours of a pixel.
    """

    def __init__(self, channels: int, num_components: int) -> None:
        super().__init__(channels, 256)
        check_sizes(num_components=num_components)
        self.num_components, self.colours = num_components, 1
        self.uniforms = channels + 1
        self.pairs = channels * (channels - 1) // 2
        self.outputs = num_components * (1 + 2 * channels + self.pairs)

    def split(self, params: Float[Tensor, "b p *hw"]) -> tuple[Tensor, ...]:
        """Logits, "b m hw", then means, log-scales and slopes, "b m c hw"."""
        given = widened(params).unflatten(1, (self.num_components, -1))
        sizes = [1, self.channels, self.channels, self.pairs]
        logits, loc, log_scale, slopes = given.split(sizes, 2)
        return logits[:, :, 0], loc + 0.5, log_scale - 2, slopes.tanh()

    def moved(self, loc: Tensor, slopes: Tensor, x: Tensor, colour: int) -> Tensor:
        """The mean of a colour in each component, given the colours before it."""
        first = colour * (colour - 1) // 2
        known = x[:, None, :colour] - 0.5
        return loc[:, :, colour] + (slopes[:, :, first : first + colour] * known).sum(2)

    def log_prob(
        self, params: Float[Tensor, "b p h w"], x: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b h w"]:
        self.check_same(params, x)
        logits, loc, log_scale, slopes = self.split(params)
        means = [self.moved(loc, slopes, x, each) for each in range(self.channels)]
        # Each component as a mixture of one; its weight applies to all colours at once.
        alone = (torch.stack(means, 2).unsqueeze(2), log_scale.unsqueeze(2))
        component = DiscretizedLogisticMixture(torch.zeros_like(alone[0]), *alone)
        each = component.level_log_prob(x.unsqueeze(1)).sum(2)
        return torch.logsumexp(logits.log_softmax(1) + each, 1)

    def draw(
        self,
        params: Float[Tensor, "n p"],
        noise: Float[Tensor, "n k"],
        colour: int,
        temperature: float,
    ) -> Float[Tensor, "n c"]:
        """All colours: the first number draws the component, each other one a colour.

        The temperature divides the logits of the components and multiplies the scales.
        """
        logits, loc, log_scale, slopes = self.split(params)
        shares = (logits / temperature).softmax(1).cumsum(1)
        component = (shares < noise[:, :1]).sum(1).clamp(max=self.num_components - 1)
        rows = torch.arange(len(component), device=component.device)
        odds = torch.logit(noise[:, 1:].clamp(1e-6, 1 - 1e-6)) * temperature
        pixel = torch.zeros_like(odds)
        for each in range(self.channels):
            mean = self.moved(loc, slopes, pixel, each)[rows, component]
            scale = log_scale[rows, component, each].clamp(min=SMALLEST_LOG_SCALE).exp()
            level = (mean + scale * odds[:, each]).clamp(0, 1) + 0 * shares[:, -1]
            pixel[:, each] = (level * 255).round() / 255
        return pixel


def likelihood_of(
    name: str, channels: int, *, levels: int, num_components: int
) -> Categorical:
    """The likelihood of that name. Raises ValueError for an unknown one."""
    if name not in LIKELIHOODS:
        known = ", ".join(LIKELIHOODS)
        raise ValueError(f"likelihood must be one of {known}, not {name!r}")
    check_sizes(channels=channels)
    if name == "logistic_mixture":
        return LogisticMixture(channels, num_components)
    return Categorical(channels, 2 if name == "bernoulli" else levels)
