"""Autoencoders, plain and variational, with multilayer perceptrons.

Kingma and Welling, Auto-Encoding Variational Bayes, ICLR 2014, is the source of the
variational autoencoder, its objective (equation 3), the reparameterisation (equation 4)
and the closed-form divergence (appendix B). Burda, Grosse and Salakhutdinov, Importance
Weighted Autoencoders, ICLR 2016, equation 8, is the source of the tighter bound.

Deviations: hidden units are ReLUs (the paper has tanh); the optimiser is the caller's
choice. The Gaussian decoder has one variance for all pixels, learned (Rybkin,
Daniilidis, Levine, ICML 2021) or given, instead of one per pixel. The weight on the
divergence is that of Higgins et al. (beta-VAE, ICLR 2017), the free nats are those of
Kingma et al. (Improved Variational Inference with Inverse Autoregressive Flow, NeurIPS
2016, equation 15), with one variable as a group.

Shapes: b examples, c h w the picture, d the latent variables, k samples of them.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Bernoulli, ContinuousBernoulli, Distribution, Normal

from gensrc.models.checks import (
    as_weights,
    check_finite,
    check_last,
    check_range,
    check_same_shape,
    check_shape,
    check_sizes,
    widened,
)

LIKELIHOODS = ("bernoulli", "continuous_bernoulli", "gaussian")
BROKEN = "look for such values in the weights"


class Elbo(NamedTuple):
    """The two terms of the evidence lower bound, in nats, one entry an example."""

    reconstruction: Float[Tensor, " b"]
    """E_q[log p(x|z)], estimated with one sample of z."""
    kl: Float[Tensor, " b"]
    """KL(q(z|x) || p(z)), in closed form."""

    @property
    def bound(self) -> Float[Tensor, " b"]:
        return self.reconstruction - self.kl


def gaussian_kl(
    mean: Float[Tensor, "*b d"], log_var: Float[Tensor, "*b d"]
) -> Float[Tensor, "*b"]:
    """KL(N(mean, diag exp(log_var)) || N(0, I)) in nats, summed over d.

    Kingma and Welling, appendix B.
    """
    check_same_shape("mean and logarithm of the variance", mean, log_var)
    return 0.5 * (mean.square() + log_var.exp() - log_var - 1).sum(-1)


def free_nats_kl(
    mean: Float[Tensor, "b d"], log_var: Float[Tensor, "b d"], nats: float
) -> Float[Tensor, ""]:
    """The divergence averaged over b, at least `nats` for each variable.

    A variable below that minimum gets no gradient from this term.
    """
    each = gaussian_kl(mean.unsqueeze(-1), log_var.unsqueeze(-1)).mean(0)
    return each.clamp(min=nats).sum()


def standard_normal_log_prob(z: Float[Tensor, "*b d"]) -> Float[Tensor, "*b"]:
    """log N(z; 0, I) in nats, summed over d."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)


def gaussian_log_prob(
    z: Float[Tensor, "*b d"],
    mean: Float[Tensor, "*#b d"],
    log_var: Float[Tensor, "*#b d"],
) -> Float[Tensor, "*b"]:
    """log N(z; mean, diag exp(log_var)) in nats, summed over d."""
    for part, what in ((mean, "mean"), (log_var, "logarithm of the variance")):
        check_last(part, z.shape[-1:], what)
        pairs = zip(reversed(part.shape), reversed(z.shape), strict=False)
        if part.ndim > z.ndim or not all(mine in (1, size) for mine, size in pairs):
            raise ValueError(
                f"the {what} has shape {tuple(part.shape)}, more than one for each of "
                f"the {tuple(z.shape)} of z: repeat z"
            )
    return -0.5 * (
        (z - mean).square() * (-log_var).exp() + log_var + math.log(2 * math.pi)
    ).sum(-1)


def mlp(inputs: int, hidden: int, outputs: int, layers: int = 1) -> nn.Sequential:
    """A perceptron with `layers` hidden layers; a linear map if there are none."""
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Linear(inputs, hidden), nn.ReLU()]
        inputs = hidden
    return nn.Sequential(*parts, nn.Linear(inputs, outputs))


class Autoencoder(nn.Module):
    """A plain autoencoder: codes of `latent_dim` numbers, of no known distribution."""

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        hidden_dim: int = 400,
        latent_dim: int = 20,
    ) -> None:
        super().__init__()
        check_sizes(hidden_dim=hidden_dim, latent_dim=latent_dim)
        self.image_shape, self.latent_dim = tuple(image_shape), latent_dim
        self.encoder = mlp(math.prod(image_shape), hidden_dim, latent_dim)
        self.decoder = mlp(latent_dim, hidden_dim, math.prod(image_shape))

    def encode(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Raises ValueError for another shape than the model's, and for values that are
        not finite."""
        check_shape(x, self.image_shape, "pictures")
        check_finite(x, "pictures")
        return self.encoder(as_weights(x, self).flatten(1))

    def decode(self, z: Float[Tensor, "b d"]) -> Float[Tensor, "b c h w"]:
        """The picture of a code, pixels in (0, 1)."""
        output = self.decoder(as_weights(z, self))
        return output.unflatten(1, self.image_shape).sigmoid()

    def loss(self, batch: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
        """Cross-entropy of pixels in [0, 1], in nats a picture, mean over b.

        Raises ValueError as `encode` does, and for pixels outside [0, 1].
        """
        check_range(batch, "the cross-entropy", "rescale them")
        logits = widened(self.decoder(self.encode(batch)))
        return F.binary_cross_entropy_with_logits(
            logits, batch.flatten(1).to(logits), reduction="sum"
        ) / len(batch)


class VAE(nn.Module):
    """p(z) = N(0, I), p(x|z) of the chosen family, q(z|x) = N(mean, diag variance).

    hidden_layers: how many encoder and decoder have each. With none and a Gaussian
    likelihood this is the linear VAE, whose optimum is known (Lucas et al., 2019).

    likelihood: "bernoulli" for pixels that are 0 or 1 (grey levels in between are
    accepted, as is common practice, but the result is then no likelihood),
    "continuous_bernoulli" for grey levels in [0, 1] (Loaiza-Ganem and Cunningham,
    NeurIPS 2019), "gaussian" for any real pixels.

    scale: the Gaussian's standard deviation; learned if it is None.

    Raises ValueError for an unknown likelihood, a size below 1, a negative number of
    hidden layers, and a scale that is not positive or not of a Gaussian.
    """

    beta = 1.0
    """Weight of the divergence in `loss`; annealing raises it from 0 to 1."""
    free_nats = 0.0
    """The divergence of each latent variable, in nats, that the loss does not lower."""

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        hidden_dim: int = 400,
        latent_dim: int = 20,
        likelihood: str = "bernoulli",
        hidden_layers: int = 1,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        check_sizes(hidden_dim=hidden_dim, latent_dim=latent_dim)
        if likelihood not in LIKELIHOODS:
            known = ", ".join(LIKELIHOODS)
            raise ValueError(f"likelihood must be one of {known}, not {likelihood!r}")
        if hidden_layers < 0:
            raise ValueError(f"hidden_layers must be at least 0, not {hidden_layers}")
        if scale is not None and (likelihood != "gaussian" or not scale > 0):
            raise ValueError(
                "scale is the standard deviation of a Gaussian decoder and must be "
                f"positive; it is {scale}, and the decoder {likelihood}"
            )
        self.image_shape, self.latent_dim = tuple(image_shape), latent_dim
        self.likelihood = likelihood
        pixels = math.prod(image_shape)
        self.encoder = mlp(pixels, hidden_dim, 2 * latent_dim, hidden_layers)
        self.decoder = mlp(latent_dim, hidden_dim, pixels, hidden_layers)
        if likelihood == "gaussian":
            start = torch.tensor(math.log(scale or 1.0))
            self.log_scale = nn.Parameter(start, requires_grad=scale is None)

    # --- the two networks ---

    def encode(
        self, x: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Mean and logarithm of the variance of q(z|x).

        Raises ValueError for another shape than the model's, and for values that are
        not finite.
        """
        check_shape(x, self.image_shape, "pictures")
        check_finite(x, "pictures")
        output = self.encoder(as_weights(x, self).flatten(1))
        mean, log_var = widened(output).chunk(2, dim=-1)
        return mean, log_var

    def decode(self, z: Float[Tensor, "*b d"]) -> Distribution:
        """p(x|z), one independent distribution a pixel, of shape (*b, c, h, w)."""
        output = widened(self.decoder(as_weights(z, self)))
        output = output.unflatten(-1, self.image_shape)
        if self.likelihood == "bernoulli":
            return Bernoulli(logits=output, validate_args=False)
        if self.likelihood == "continuous_bernoulli":
            return ContinuousBernoulli(logits=output, validate_args=False)
        return Normal(output, self.log_scale.exp(), validate_args=False)

    # --- the bound ---

    def reparameterize(
        self,
        mean: Float[Tensor, "b d"],
        log_var: Float[Tensor, "b d"],
        noise: Float[Tensor, "*k b d"],
    ) -> Float[Tensor, "*k b d"]:
        """z = mean + sd * noise: a sample of q(z|x), differentiable in mean and sd.

        Raises ValueError for noise of another number of examples or variables.
        """
        check_last(noise, mean.shape, "noise")
        check_same_shape("mean and logarithm of the variance", mean, log_var)
        return mean + (0.5 * log_var).exp() * noise

    def elbo(
        self, x: Float[Tensor, "b c h w"], *, generator: torch.Generator | None = None
    ) -> Elbo:
        """The evidence lower bound on log p(x), in nats, with one sample of z each.

        Raises ValueError as `encode` does, and if a pixel lies where the decoder's
        family has no mass.
        """
        self._check_range(x)
        mean, log_var = self.encode(x)
        noise = _noise(mean.shape, mean, generator)
        z = self.reparameterize(mean, log_var, noise)
        log_likelihood = self.decode(z).log_prob(x).flatten(1).sum(1)
        return Elbo(log_likelihood, gaussian_kl(mean, log_var))

    def loss(self, batch: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
        """Minus the evidence lower bound, in nats, mean over examples.

        It is no bound if `beta` is not 1, or with `free_nats`.
        """
        terms = self.elbo(batch)
        if self.free_nats == 0:
            return (self.beta * terms.kl - terms.reconstruction).mean()
        charged = free_nats_kl(*self.encode(batch), self.free_nats)
        return self.beta * charged - terms.reconstruction.mean()

    def log_weights(
        self,
        x: Float[Tensor, "b c h w"],
        k: int,
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b k"]:
        """log p(x, z) / q(z|x) for k samples of z ~ q(z|x) an example, in nats.

        Raises ValueError as `elbo` does, and for no sample.
        """
        check_sizes(k=k)
        self._check_range(x)
        mean, log_var = self.encode(x)
        noise = _noise((k, *mean.shape), mean, generator)
        z = self.reparameterize(mean, log_var, noise)
        log_likelihood = self.decode(z).log_prob(x).flatten(2).sum(2)
        log_joint = log_likelihood + standard_normal_log_prob(z)
        return (log_joint - gaussian_log_prob(z, mean, log_var)).T

    def _check_range(self, x: Tensor) -> None:
        if self.likelihood == "gaussian":
            return
        advice = "rescale them, or use likelihood='gaussian'"
        check_range(x, f"the {self.likelihood} decoder", advice)

    # --- sampling ---

    def sample(
        self, n: int, *, mean: bool = False, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n c h w"]:
        """n new pictures: z ~ p(z), then x ~ p(x|z), or its mean if `mean` is set.

        Papers usually show the mean, which is smoother than samples of the model.
        """
        like = next(self.parameters())
        with torch.no_grad():
            pixels = self.decode(_noise((n, self.latent_dim), like, generator))
            check_finite(pixels.mean, "pictures drawn", BROKEN)
            return pixels.mean if mean else _draw(pixels, generator)


def importance_weighted_bound(
    log_weights: Float[Tensor, "b k"], k: int
) -> Float[Tensor, " b"]:
    """E[log 1/k sum_i w_i] (Burda et al., equation 8), over all disjoint groups of k.

    k = 1 gives the evidence lower bound; the bound rises towards log p(x) as k grows.
    Raises ValueError if there are fewer than k weights an example.
    """
    check_shape(log_weights, (None,), "log-weights")
    groups = log_weights.shape[1] // k if k >= 1 else 0
    if groups == 0:
        raise ValueError(
            f"k must lie between 1 and the {log_weights.shape[1]} weights an example, "
            f"not {k}"
        )
    grouped = log_weights[:, : groups * k].unflatten(1, (groups, k))
    return (grouped.logsumexp(2) - math.log(k)).mean(1)


def _noise(
    shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None
) -> Tensor:
    # Drawn on the CPU and moved: a GPU's generator gives other numbers for a seed.
    return torch.randn(shape, generator=generator).to(like)


def _draw(pixels: Distribution, generator: torch.Generator | None) -> Tensor:
    """One sample of every pixel, from uniform or normal noise drawn on the CPU."""
    if isinstance(pixels, Normal):
        return pixels.mean + pixels.stddev * _noise(
            tuple(pixels.mean.shape), pixels.mean, generator
        )
    uniform = torch.rand(pixels.mean.shape, generator=generator).to(pixels.mean)
    return (
        (uniform < pixels.mean).to(uniform)
        if isinstance(pixels, Bernoulli)
        else pixels.icdf(uniform)
    )
