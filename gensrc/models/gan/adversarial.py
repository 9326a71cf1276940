"""GAN training: losses, gradient penalties, and the updates of both networks.

Goodfellow et al., Generative Adversarial Nets, NeurIPS 2014, is the source of the game
and of its two losses for the generator. Other losses: hinge (Lim and Ye, Geometric GAN,
2017) and Wasserstein with a gradient penalty (Gulrajani et al., NeurIPS 2017). R1 is
the penalty of Mescheder, Geiger and Nowozin (ICML 2018), the averaged generator is that
of Yazici et al. (The Unusual Effectiveness of Averaging in GAN Training, ICLR 2019).

Deviations: losses are functions of logits. Any generator and discriminator will do, if
the discriminator returns one logit for each example.

Shapes: n examples, of any shape x; d numbers of noise.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from gensrc.models.checks import (
    check_finite,
    check_last,
    check_same_shape,
    check_some,
    widened,
)

# --- Losses of logits -----------------------------------------------------------------


def bce_loss(real: Float[Tensor, " n"], fake: Float[Tensor, " m"]) -> Tensor:
    """-E[log D(x)] - E[log(1 - D(G(z)))], the discriminator's cross-entropy."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def minimax_loss(fake: Float[Tensor, " n"]) -> Tensor:
    """E[log(1 - D(G(z)))]: the generator's term of the minimax value function."""
    return -F.softplus(fake).mean()


def nonsaturating_loss(fake: Float[Tensor, " n"]) -> Tensor:
    """-E[log D(G(z))]: same equilibrium, larger gradients where D rejects G(z)."""
    return F.softplus(-fake).mean()


def hinge_loss(real: Float[Tensor, " n"], fake: Float[Tensor, " m"]) -> Tensor:
    """The discriminator's hinge loss: E[max(0, 1 - real)] + E[max(0, 1 + fake)]."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def critic_loss(real: Float[Tensor, " n"], fake: Float[Tensor, " m"]) -> Tensor:
    """E[fake] - E[real]; minus its least value over 1-Lipschitz critics is the
    Wasserstein distance. Needs `gradient_penalty` or another Lipschitz constraint."""
    return fake.mean() - real.mean()


def score_loss(fake: Float[Tensor, " n"]) -> Tensor:
    """-E[D(G(z))], the generator's loss against a hinge or a critic."""
    return -fake.mean()


class Game(NamedTuple):
    """The loss that each of the two networks minimises."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


NONSATURATING = Game(bce_loss, nonsaturating_loss)
MINIMAX = Game(bce_loss, minimax_loss)
HINGE = Game(hinge_loss, score_loss)
WASSERSTEIN = Game(critic_loss, score_loss)

# --- Penalties on the discriminator ---------------------------------------------------


def r1_penalty(
    discriminator: Callable[..., Tensor],
    real: Float[Tensor, "n *x"],
    fake: Float[Tensor, "n *x"],
    labels: Int64[Tensor, " n"] | None = None,
    *,
    weight: float = 1.0,
) -> Float[Tensor, ""]:
    """weight / 2 E|grad D(x)|^2 over real x (Mescheder et al., equation 9)."""
    return weight / 2 * _slopes(discriminator, real, labels).square().mean()


def gradient_penalty(
    discriminator: Callable[..., Tensor],
    real: Float[Tensor, "n *x"],
    fake: Float[Tensor, "n *x"],
    labels: Int64[Tensor, " n"] | None = None,
    *,
    weight: float = 10.0,
) -> Float[Tensor, ""]:
    """weight E(|grad D(x)| - 1)^2 between real and fake (Gulrajani et al., eq. 3).

    Raises ValueError for shapes that differ.
    """
    check_same_shape("real and fake examples", real, fake)
    along = torch.rand(len(real), *[1] * (real.dim() - 1)).to(real)
    between = torch.lerp(real, fake, along)
    return weight * (_slopes(discriminator, between, labels) - 1).square().mean()


def _slopes(
    discriminator: Callable[..., Tensor], x: Tensor, labels: Tensor | None
) -> Float[Tensor, " n"]:
    """The norm of the gradient at each picture, differentiable itself."""
    x = x.detach().requires_grad_()
    logits = discriminator(x) if labels is None else discriminator(x, labels)
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    # The square root has no derivative at 0, a possible gradient of a new network.
    return widened(gradient).flatten(1).square().sum(1).add(1e-12).sqrt()


# --- The two updates ------------------------------------------------------------------


class Verdict(NamedTuple):
    """The loss and the logits of a discriminator's update, detached."""

    loss: Float[Tensor, ""]
    real: Float[Tensor, " n"]
    """Logits of the real pictures, before the update."""
    fake: Float[Tensor, " n"]


def update_discriminator(
    generator: nn.Module,
    discriminator: nn.Module,
    optimizer: torch.optim.Optimizer,
    real: Float[Tensor, "n *x"],
    z: Float[Tensor, "n d"],
    labels: Int64[Tensor, " n"] | None = None,
    *,
    game: Game = NONSATURATING,
    penalty: Callable[..., Tensor] | None = None,
    augment: Callable[[Tensor], Tensor] | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Verdict:
    """One step of the discriminator; the generator does not change.

    Raises ValueError for real examples that are not finite, or of another shape than
    the generator's.
    """
    check_finite(real, "real examples")
    check_some(real, "real examples")
    told = () if labels is None else (labels,)
    with autocast():
        with torch.no_grad():
            fake = generator(z, *told)
        check_last(real, fake.shape[1:], "real examples")
        if augment is not None:
            real, fake = augment(real), augment(fake)
        on_real, on_fake = discriminator(real, *told), discriminator(fake, *told)
        loss = game.discriminator(on_real, on_fake)
        if penalty is not None:
            loss = loss + penalty(discriminator, real, fake.to(real.dtype), *told)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return Verdict(loss.detach(), on_real.detach(), on_fake.detach())


def update_generator(
    generator: nn.Module,
    discriminator: nn.Module,
    optimizer: torch.optim.Optimizer,
    z: Float[Tensor, "n d"],
    labels: Int64[Tensor, " n"] | None = None,
    *,
    game: Game = NONSATURATING,
    augment: Callable[[Tensor], Tensor] | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Float[Tensor, ""]:
    """One step of the generator; the discriminator does not change."""
    told = () if labels is None else (labels,)
    with _frozen(discriminator):
        with autocast():
            fake = generator(z, *told)
            if augment is not None:
                fake = augment(fake)
            loss = game.generator(discriminator(fake, *told))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
    optimizer.step()
    return loss.detach()


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Context manager: gradients pass through, none is computed for the weights."""
    learning = [weight for weight in network.parameters() if weight.requires_grad]
    for weight in learning:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in learning:
            weight.requires_grad_(True)


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged weights towards the model's: a <- decay a + (1 - decay) w."""
    moving, now = ema.state_dict(), model.state_dict()
    for name, value in moving.items():
        check_same_shape(f"{name} of both networks", value, now[name])
        if value.is_floating_point():
            value.lerp_(now[name].to(value), 1 - decay)
        else:
            value.copy_(now[name])
