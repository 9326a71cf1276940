"""The base class of PixelCNN, PixelRNN and the pixel Transformer: loss and sampling.

Van den Oord, Kalchbrenner and Kavukcuoglu, Pixel Recurrent Neural Networks, ICML 2016,
section 2, is the source of the factorisation, in raster order and then by colour.

Deviations: the input of networks is 2x - 1, so that the padding, 0, is neither black
nor white. All noise of a sample is uniform and drawn beforehand.

Shapes: b pictures, c h w, p parameters of a pixel's distribution, n samples.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gensrc.models.checks import (
    as_weights,
    check_finite,
    check_labels,
    check_last,
    check_shape,
    check_temperature,
)
from gensrc.models.pixels.likelihoods import likelihood_of

Step = Callable[[int, int], Tensor]
"""From row and column to that pixel's parameters, "n p"; called in raster order."""


class PixelModel(nn.Module):
    """p(x) = prod_i p(x_i | x_<i), with the parameters of p(x_i | x_<i) by a network.

    channels: of a picture. size: its height and width, for sampling.
    likelihood: "bernoulli", "categorical" (a softmax over `levels` grey levels), or
        "logistic_mixture" (of `num_components` logistics cut into 256 levels).
    num_classes: of a class-conditional model; 0 for an unconditional one.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        size: tuple[int, int] = (28, 28),
        likelihood: str = "bernoulli",
        levels: int = 256,
        num_components: int = 5,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.family = likelihood_of(
            likelihood, channels, levels=levels, num_components=num_components
        )
        self.channels, self.size = channels, (size[0], size[1])
        self.num_classes = num_classes

    def forward(
        self, x: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b p h w"]:
        """The parameters of each pixel's distribution given the pixels before it."""
        raise NotImplementedError

    def log_prob(
        self, x: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b h w"]:
        """log p of each pixel given all before it, in nats; their sum is log p(x).

        Raises ValueError for another number of axes or channels, values that are not
        levels, and labels that are missing, superfluous or of no class.
        """
        self.check(x, labels)
        return self.family.log_prob(self(as_weights(x, self), labels), x)

    def loss(
        self, x: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, ""]:
        """-log p(x) in nats a picture, mean over b; given its class if there is one."""
        return -self.log_prob(x, labels).sum((1, 2)).mean()

    def check(self, x: Tensor, labels: Tensor | None) -> None:
        self.check_pictures(x)
        self.family.check(x)
        check_labels(labels, len(x), self.num_classes)

    def check_pictures(self, x: Tensor) -> None:
        """Raises ValueError for another number of axes or channels."""
        check_shape(x, (None, None, None), "pictures")
        if x.shape[1] != self.channels:
            raise ValueError(
                f"the pictures have {x.shape[1]} channels, the model {self.channels}: "
                f"build it with channels={x.shape[1]}, or convert the pictures"
            )

    def check_size(self, x: Tensor) -> None:
        """For networks with a position embedding, which fixes the size."""
        if tuple(x.shape[2:]) != self.size:
            raise ValueError(
                f"the model reads pictures of {self.size}, not {tuple(x.shape[2:])}: "
                f"build it with size={tuple(x.shape[2:])}, or cut the pictures"
            )

    def naive(self, x: Float[Tensor, "n c h w"], labels: Tensor | None) -> Step:
        """A step that recomputes the whole picture."""
        return lambda row, column: self(x, labels)[:, :, row, column]

    def cached(self, x: Float[Tensor, "n c h w"], labels: Tensor | None) -> Step:
        """A step that reuses what was computed for earlier pixels."""
        return self.naive(x, labels)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        labels: Int[Tensor, " n"] | None = None,
        given: Float[Tensor, "n c h w"] | None = None,
        known: Bool[Tensor, "h w"] | None = None,
        temperature: float = 1.0,
        use_cache: bool = True,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "n c h w"]:
        """n pictures, pixel by pixel.

        given, known: the pixels of `given` where `known` is True are copied. Each other
            pixel is drawn given the pixels before it, so the result is a sample of
            p(unknown | known) only if all known pixels come first in raster order.
        use_cache: False recomputes the picture for every pixel, with the same noise;
            the pictures are equal up to rounding.

        Raises ValueError for a temperature that is not positive, for one of `given` and
        `known` without the other, and as `log_prob` does.
        """
        check_temperature(temperature)
        if (given is None) != (known is None):
            raise ValueError(
                "given and known come together: pictures, and what to keep"
            )
        where = next(self.parameters())
        labels = None if labels is None else labels.to(where.device)
        check_labels(labels, n, self.num_classes)
        height, width = self.size
        x = torch.zeros(n, self.channels, height, width).to(where)
        kept = torch.zeros(height, width, dtype=torch.bool) if known is None else known
        if given is not None:
            self.check(given, labels)
            check_last(given, x.shape, "given pictures")
            check_last(kept, self.size, "known pixels")
            x = torch.where(kept.to(where.device), given.to(where), x)
        shape = (height, width, n, self.family.uniforms)
        noise = torch.rand(shape, generator=generator).to(where.device)
        step = self.cached(x, labels) if use_cache else self.naive(x, labels)
        last = int((~kept).flatten().nonzero().max()) if not bool(kept.all()) else -1
        for place in range(last + 1):
            row, column = divmod(place, width)
            if bool(kept[row, column]):
                if use_cache:
                    step(row, column)  # later steps need what it caches
                continue
            for colour in range(self.family.colours):
                drawn = self.family.draw(
                    step(row, column), noise[row, column], colour, temperature
                )
                x[:, colour : colour + drawn.shape[1], row, column] = drawn
        check_finite(x, "pictures drawn", "look for such values in the weights")
        return x


def rescale(x: Tensor) -> Tensor:
    """From [0, 1] to the networks' input: -1 for black, 1 for white."""
    return 2 * x - 1
