"""The loop for the two players of an adversarial game."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gensrc.models.gan import adversarial
from gensrc.training import resume
from gensrc.training.batches import to_device
from gensrc.training.history import GanHistory, Losses
from gensrc.training.loop import planned, run
from gensrc.training.precision import precision


@dataclass(frozen=True)
class GanRules:
    """How the two players play.

    game: what each minimises. critic_steps: updates of D for one of G.
    penalty: as `adversarial.r1_penalty`, added to D's loss every `penalty_every` rounds, times that number (lazy
        regularisation, Karras et al., StyleGAN2, CVPR 2020).
    augment: applied to all that D sees.
    """

    game: adversarial.Game = adversarial.NONSATURATING
    penalty: Callable[..., Tensor] | None = None
    penalty_every: int = 1
    augment: Callable[[Tensor], Tensor] | None = None
    critic_steps: int = 1

    def penalty_at(self, step: int) -> Callable[..., Tensor] | None:
        """What is added to D's loss in this round; it counts for the rounds without it."""
        penalty, times = self.penalty, self.penalty_every
        if penalty is None or step % times:
            return None
        return penalty if times == 1 else lambda *given: times * penalty(*given)


def fit_gan(
    generator: nn.Module,
    discriminator: nn.Module,
    batches: Any,
    *,
    steps: int,
    optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer] | None = None,
    rules: GanRules = GanRules(),
    ema: nn.Module | None = None,
    ema_decay: float = 0.999,
    **options: Any,
) -> GanHistory:
    """Play `steps` rounds of an adversarial game: updates of D, then one of G.

    generator: needs a method `noise(n)`, the discriminator one logit an example (`models.gan.dcgan` has both).
    batches: tuples of examples, or of examples and labels, which both players are then given; fakes get the labels of
        the batch.
    optimizers: of D and of G; Adam with learning rate 2e-4 and betas (0.5, 0.999), as in DCGAN, if not given.
    ema: a copy of the generator that follows it as an exponential moving average, with `ema_decay` after a short
        warm-up. Callbacks are given it instead of the generator; it is in evaluation mode.
    options: as in `fit` (see `Options`); before_step is given what the callbacks are given.

    Raises TrainingError when a player's loss or weight is no longer finite, naming player and step (the last checkpoint
    is kept), or when the checkpoint belongs to other networks, optimisers or another order of the data.
    """
    plan = planned(steps, options)
    where = next(generator.parameters()).device
    optimizers = optimizers or (_dcgan_adam(discriminator), _dcgan_adam(generator))
    players = nn.ModuleDict({"generator": generator, "discriminator": discriminator})
    players.train()
    if ema is not None:
        ema.load_state_dict(generator.state_dict())
        players["ema"] = ema.eval()
    # As the batches are: convolutions are faster so in either precision (benchmarks/gan_step.py).
    players.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = resume.State(players, optimizers, batches, GanHistory())
    how: dict[str, Any] = {"game": rules.game, "augment": rules.augment, "autocast": precision(where).autocast}

    def update() -> Losses:
        penalty = rules.penalty_at(state.done)
        for _ in range(rules.critic_steps):
            real, labels = _examples(to_device(next(batches), where))
            z = generator.noise(len(real))  # type: ignore[operator]
            verdict = adversarial.update_discriminator(
                generator, discriminator, optimizers[0], real, z, labels, penalty=penalty, **how
            )
        z = generator.noise(len(real))  # type: ignore[operator]
        loss = adversarial.update_generator(generator, discriminator, optimizers[1], z, labels, **how)
        if ema is not None:
            adversarial.update_ema(ema, generator, warmed_up(ema_decay, state.done + 1))
        return {
            "discriminator_loss": verdict.loss,
            "generator_loss": loss,
            "real": verdict.real.sigmoid().mean(),
            "fake": verdict.fake.sigmoid().mean(),
        }

    return run(update, state, steps, plan, shown=generator if ema is None else ema)


def warmed_up(decay: float, step: int) -> float:
    """The decay of the average after `step` steps: low at first, so that it forgets the weights it began with."""
    return min(decay, (1 + step) / (10 + step))


def _dcgan_adam(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=True)


def _examples(batch: tuple[Any, ...]) -> tuple[Tensor, Tensor | None]:
    examples, labels = batch if len(batch) == 2 else (*batch, None)
    if examples.dim() == 4:
        examples = examples.contiguous(memory_format=torch.channels_last)
    return examples, labels
