"""What is seen of a training: means of the losses, and what a callback keeps of the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the step and says what to do."""


Callback = Callable[[int, nn.Module], None]
"""Called as callback(step, model). If it has state_dict and load_state_dict, its state is saved and resumed too."""

Losses = dict[str, Tensor]
"""What an update returns: scalars by the names of the history's fields, detached and still on the device."""


@dataclass
class History:
    """What was seen in training: `loss[i]` is the mean loss of the steps up to `step[i]` since the entry before."""

    step: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)


@dataclass
class GanHistory:
    """What was seen of an adversarial game; entry i is a mean over the steps up to `step[i]` since the entry before."""

    step: list[int] = field(default_factory=list)
    discriminator_loss: list[float] = field(default_factory=list)
    generator_loss: list[float] = field(default_factory=list)
    real: list[float] = field(default_factory=list)
    """D(x), the sigmoid of the logit of real examples; for a critic or a hinge loss a score squeezed into (0, 1)."""
    fake: list[float] = field(default_factory=list)
    """D(G(z)), the same of generated examples."""


class NamedHistory(SimpleNamespace):
    """The same of a training whose updates name their own losses: `step`, and a list for each of these names."""


def note(history: Any, step: int, seen: Sequence[Losses]) -> None:
    """Add the means of the losses of the steps up to `step`.

    Raises TrainingError if one of them is not finite, naming the first such step.
    """
    names = list(seen[0])
    values = torch.stack([torch.stack([losses[name].float() for name in names]) for losses in seen])
    broken = (~values.isfinite()).nonzero().tolist()
    if broken:
        row, column = broken[0]
        what = names[column].replace("_loss", "'s loss")
        raise TrainingError(
            f"the {what} is {values[row, column].item()} at step {step - len(seen) + row + 1}: look for values in the "
            "data that are not finite, lower the learning rate, clip the gradient or add a penalty; the checkpoint, if "
            "there is one, holds the last good step"
        )
    history.step.append(step)
    for name, column in zip(names, values.unbind(1), strict=True):
        vars(history).setdefault(name, []).append(float(sum(column)) / len(seen))


def check_weights(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], step: int) -> None:
    """Raises TrainingError if a weight or a moment of an optimiser is not finite.

    The last gradient may have broken them although the loss, which was computed before, was finite.
    """
    named = list(model.state_dict().items())
    for optimizer in optimizers:
        moments = [value for state in optimizer.state.values() for value in state.values()]
        named += [("the optimiser's state", value) for value in moments if torch.is_tensor(value)]
    for name, value in named:
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise TrainingError(
                f"after step {step}, {name} holds values that are not finite, as a gradient was not: lower the "
                "learning rate or clip the gradient; the checkpoint, if there is one, holds the last good step"
            )


class Snapshots:
    """A callback that keeps what `take(model)` returns, a tensor, at the given steps, for a film of the training.

    It sees the steps at which the training is logged. What it has kept is saved with the training and resumed.
    """

    def __init__(self, take: Callable[[nn.Module], Tensor], steps: Sequence[int]) -> None:
        self.take, self.steps = take, frozenset(steps)
        self.taken: dict[int, Tensor] = {}

    def __call__(self, step: int, model: nn.Module) -> None:
        if step in self.steps:
            self.taken[step] = self.take(model)

    def state_dict(self) -> dict[str, Any]:
        return {str(step): value for step, value in self.taken.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.taken = {int(step): value for step, value in state.items()}
