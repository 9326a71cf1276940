"""VAEs with several layers of latent variables: the plain hierarchy and the Ladder VAE.

Both share one generative model, z_L ~ N(0, I), z_i ~ p(z_i | z_{i+1}), x ~ p(x | z_1),
Gaussian with diagonal variances down to Bernoulli pixels. The plain hierarchy (Burda,
Grosse and Salakhutdinov, Importance Weighted Autoencoders, ICLR 2016, section 5)
has the posterior q(z_1 | x) q(z_2 | z_1) ..., drawn from the bottom up. The ladder
(Sonderby, Raiko, Maaloe, Sonderby and Winther, Ladder Variational Autoencoders, NeurIPS
2016) computes a Gaussian for each layer from x by a deterministic upward pass, and
draws from the top down: q(z_i | x, z_{i+1}) is the product of that Gaussian and of the
prior p(z_i | z_{i+1}).

Hidden units have batch normalisation in both kinds, which the latter found important.
So `elbo` and `log_weights` are bounds in evaluation mode only, where an example does
not depend on its batch.

Deviations: the networks output the logarithm of a variance, without a softplus; hidden
units are ReLUs (theirs are leaky); all hidden layers have one width.

Shapes: b examples, c h w the picture, k samples, d the variables of a layer. Layers
count from the pixels: index 0 of every list is z_1.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Bernoulli

from gensrc.models.checks import (
    as_weights,
    check_finite,
    check_range,
    check_same_shape,
    check_shape,
    check_sizes,
    widened,
)
from gensrc.models.vae.vae import BROKEN, gaussian_log_prob


class Gaussian(NamedTuple):
    """A normal distribution of independent coordinates."""

    mean: Float[Tensor, "*b d"]
    log_var: Float[Tensor, "*b d"]

    def sample(self, generator: torch.Generator | None) -> Float[Tensor, "*b d"]:
        """A reparameterised sample; the noise is drawn on the CPU."""
        noise = torch.randn(self.mean.shape, generator=generator).to(self.mean)
        return self.mean + (0.5 * self.log_var).exp() * noise

    def log_prob(self, z: Float[Tensor, "*b d"]) -> Float[Tensor, "*b"]:
        return gaussian_log_prob(z, self.mean, self.log_var)


class Layer(NamedTuple):
    """A layer's sample, and its posterior and prior given the samples that they depend
    on.
    """

    z: Float[Tensor, "k b d"]
    q: Gaussian
    p: Gaussian

    @property
    def log_ratio(self) -> Float[Tensor, "k b"]:
        """log q(z) - log p(z), in nats."""
        return self.q.log_prob(self.z) - self.p.log_prob(self.z)


class LayeredElbo(NamedTuple):
    """The terms of the evidence lower bound of a hierarchy, in nats, estimated with one
    sample.
    """

    reconstruction: Float[Tensor, " b"]
    kl: Float[Tensor, "b layers"]
    """The divergence of each layer; only their sum is certain to be non-negative, and
    that on average.
    """

    @property
    def bound(self) -> Float[Tensor, " b"]:
        return self.reconstruction - self.kl.sum(1)


def kl_between(q: Gaussian, p: Gaussian) -> Float[Tensor, "*b"]:
    """KL(q || p) of two Gaussians with independent coordinates, in nats, summed over
    them. Raises ValueError for shapes that differ.
    """
    _check_alike(q, p)
    squares = (q.mean - p.mean).square() + q.log_var.exp()
    return 0.5 * (squares * (-p.log_var).exp() - 1 + p.log_var - q.log_var).sum(-1)


def _check_alike(one: Gaussian, other: Gaussian) -> None:
    """Raises ValueError unless all parameters of two densities have one shape."""
    for part in (one.log_var, *other):
        check_same_shape("the parameters of two densities", one.mean, part)


def product(one: Gaussian, other: Gaussian) -> Gaussian:
    """The normalised product of two Gaussian densities: precisions add up, means are
    weighted by them. Raises ValueError for shapes that differ.
    """
    _check_alike(one, other)
    precisions = (-one.log_var).exp(), (-other.log_var).exp()
    total = precisions[0] + precisions[1]
    mean = (one.mean * precisions[0] + other.mean * precisions[1]) / total
    return Gaussian(mean, -total.log())


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation over all leading axes."""

    def forward(self, x: Float[Tensor, "*b h"]) -> Float[Tensor, "*b h"]:
        return super().forward(x.flatten(0, -2)).view(x.shape)


class HierarchicalVAE(nn.Module):
    """The plain hierarchy: q(z_1, ..., z_L | x) = q(z_1 | x) q(z_2 | z_1) ... q(z_L |
    z_{L-1}).

    latent_dims: variables of each layer, from the pixels up.
    hidden_dim: width of the two hidden layers of every network.

    Raises ValueError for fewer than two layers, a size below 1, and pixels that are not
    in [0, 1].
    """

    beta = 1.0
    """Weight of the divergences in `loss`; a warm-up raises it from 0 to 1."""

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        latent_dims: Sequence[int] = (32, 16),
        hidden_dim: int = 256,
    ) -> None:
        super().__init__()
        if len(latent_dims) < 2:
            raise ValueError(
                f"a hierarchy has at least two layers, not {len(latent_dims)}: "
                "take vae.VAE for one"
            )
        if min(*latent_dims, hidden_dim) < 1:
            raise ValueError(
                f"sizes must be at least 1, not latent_dims={tuple(latent_dims)}, "
                f"hidden_dim={hidden_dim}"
            )
        self.image_shape, self.latent_dims = tuple(image_shape), tuple(latent_dims)
        pixels, lowest = math.prod(image_shape), latent_dims[0]
        self.priors = nn.ModuleList(
            _mlp(above, hidden_dim, 2 * below)
            for below, above in itertools.pairwise(latent_dims)
        )
        self.decoder = _mlp(lowest, hidden_dim, pixels)
        self._build_encoder(pixels, hidden_dim)

    def _build_encoder(self, pixels: int, hidden: int) -> None:
        sizes = [pixels, *self.latent_dims]
        self.encoders = nn.ModuleList(
            _mlp(below, hidden, 2 * above) for below, above in itertools.pairwise(sizes)
        )

    # --- the generative model ---

    def prior(self, index: int, above: Float[Tensor, "*b e"]) -> Gaussian:
        """p(z_i | z_{i+1}) for all layers but the highest, whose prior is N(0, I)."""
        return _gaussian(self.priors[index](as_weights(above, self)))

    def decode(self, z: Float[Tensor, "*b d"]) -> Bernoulli:
        """p(x | z_1), one Bernoulli a pixel, of shape (*b, c, h, w)."""
        logits = widened(self.decoder(as_weights(z, self)))
        logits = logits.unflatten(-1, self.image_shape)
        return Bernoulli(logits=logits, validate_args=False)

    def sample(
        self, n: int, *, mean: bool = False, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n c h w"]:
        """n new pictures, drawn from the highest layer down; the probabilities of white
        if `mean` is set.
        """
        with torch.no_grad():
            z = torch.randn(n, self.latent_dims[-1], generator=generator)
            for index in reversed(range(len(self.priors))):
                z = self.prior(index, z).sample(generator)
            pixels = self.decode(z).mean
            check_finite(pixels, "pictures drawn", BROKEN)
        return (
            pixels
            if mean
            else (torch.rand(pixels.shape, generator=generator).to(pixels) < pixels).to(
                pixels
            )
        )

    # --- the encoder ---

    def infer(
        self, x: Float[Tensor, "b c h w"], k: int, generator: torch.Generator | None
    ) -> list[Layer]:
        """k samples of all layers given x, drawn upwards.

        Raises ValueError for another shape than the model's, and for values that are
        not finite.
        """
        q = _repeat(_gaussian(self.encoders[0](self._flat(x))), k)
        proposals, drawn = [q], [q.sample(generator)]
        for encoder in self.encoders[1:]:
            proposals.append(_gaussian(encoder(as_weights(drawn[-1], self))))
            drawn.append(proposals[-1].sample(generator))
        expected = [self.prior(index, above) for index, above in enumerate(drawn[1:])]
        expected.append(_standard(drawn[-1]))
        return [Layer(*each) for each in zip(drawn, proposals, expected, strict=True)]

    def divergences(self, layers: list[Layer]) -> Float[Tensor, "k b layers"]:
        """The divergence of each layer: in closed form for the highest, else the
        log-ratio of the sample.

        Below the highest there is no closed form: p(z_i | z_{i+1}) depends on z_{i+1},
        which is drawn given z_i.
        """
        ratios = [layer.log_ratio for layer in layers[:-1]]
        return torch.stack([*ratios, kl_between(layers[-1].q, layers[-1].p)], -1)

    def posterior_means(
        self,
        x: Float[Tensor, "b c h w"],
        *,
        samples: int = 50,
        generator: torch.Generator | None = None,
    ) -> list[Float[Tensor, "b d"]]:
        """E[z_i | x] under q for each layer, averaged over `samples` samples.

        Raises ValueError for no sample.
        """
        check_sizes(samples=samples)
        return [layer.q.mean.mean(0) for layer in self.infer(x, samples, generator)]

    # --- the bounds ---

    def elbo(
        self, x: Float[Tensor, "b c h w"], *, generator: torch.Generator | None = None
    ) -> LayeredElbo:
        """The evidence lower bound on log p(x), in nats, with one sample a layer."""
        self._check_range(x)
        layers = self.infer(x, 1, generator)
        reconstruction = self.decode(layers[0].z).log_prob(x).flatten(2).sum(2)
        return LayeredElbo(reconstruction[0], self.divergences(layers)[0])

    def loss(self, batch: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
        """Minus the evidence lower bound, in nats, mean over examples; no bound unless
        `beta` is 1.
        """
        terms = self.elbo(batch)
        return (self.beta * terms.kl.sum(1) - terms.reconstruction).mean()

    def log_weights(
        self,
        x: Float[Tensor, "b c h w"],
        k: int,
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b k"]:
        """log p(x, z) / q(z | x) for k samples of all layers an example, in nats.

        Raises ValueError for no sample.
        """
        check_sizes(k=k)
        self._check_range(x)
        layers = self.infer(x, k, generator)
        log_likelihood = self.decode(layers[0].z).log_prob(x).flatten(2).sum(2)
        ratios = torch.stack([layer.log_ratio for layer in layers])
        return (log_likelihood - ratios.sum(0)).T

    def _check_range(self, x: Tensor) -> None:
        check_range(x, "the Bernoulli decoder", "rescale them")

    def _flat(self, x: Tensor) -> Tensor:
        """The pictures as rows for the networks, if they are sound."""
        check_shape(x, self.image_shape, "pictures")
        check_finite(x, "pictures")
        return as_weights(x, self).flatten(1)


class LadderVAE(HierarchicalVAE):
    """The ladder: an upward pass gives a Gaussian for each layer, samples are drawn
    from the top down.

    q(z_L | x) is that Gaussian alone, q(z_i | x, z_{i+1}) its product with
    p(z_i | z_{i+1}).
    """

    def _build_encoder(self, pixels: int, hidden: int) -> None:
        first = _mlp(pixels, hidden, hidden)
        higher = (
            nn.Sequential(*_unit(hidden), _mlp(hidden, hidden, hidden))
            for _ in self.latent_dims[1:]
        )
        self.climb = nn.ModuleList([first, *higher])
        self.evidence = nn.ModuleList(
            nn.Sequential(*_unit(hidden), nn.Linear(hidden, 2 * d))
            for d in self.latent_dims
        )

    def infer(
        self, x: Float[Tensor, "b c h w"], k: int, generator: torch.Generator | None
    ) -> list[Layer]:
        """k samples of all layers given x, drawn downwards; errors as in the parent."""
        hidden, found = self._flat(x), []
        for step, head in zip(self.climb, self.evidence, strict=True):
            hidden = step(hidden)
            found.append(_repeat(_gaussian(head(hidden)), k))
        q = found[-1]
        z = q.sample(generator)
        layers = [Layer(z, q, _standard(z))]
        for index in reversed(range(len(self.priors))):
            p = self.prior(index, z)
            q = product(found[index], p)
            z = q.sample(generator)
            layers.insert(0, Layer(z, q, p))
        return layers

    def divergences(self, layers: list[Layer]) -> Float[Tensor, "k b layers"]:
        """The divergence of each layer, in closed form given the samples above it."""
        return torch.stack([kl_between(layer.q, layer.p) for layer in layers], -1)


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden, bias=False),
        *_unit(hidden),
        nn.Linear(hidden, hidden, bias=False),
        *_unit(hidden),
        nn.Linear(hidden, outputs),
    )


def _unit(size: int) -> tuple[nn.Module, nn.Module]:
    return BatchNorm(size), nn.ReLU()


def _gaussian(output: Float[Tensor, "*b two_d"]) -> Gaussian:
    return Gaussian(*widened(output).chunk(2, dim=-1))


def _standard(z: Float[Tensor, "*b d"]) -> Gaussian:
    return Gaussian(torch.zeros_like(z), torch.zeros_like(z))


def _repeat(some: Gaussian, k: int) -> Gaussian:
    """The same distribution k times, along a new first axis."""
    return Gaussian(*(part.expand(k, *part.shape) for part in some))
