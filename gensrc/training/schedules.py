"""Schedules of the learning rate, as functions from a step to a factor, and groups of weights that decay."""

import math
from collections.abc import Callable
from typing import Any

from torch import nn

Schedule = Callable[[int], float]
"""From the number of steps done to the factor on the initial learning rate, as torch's LambdaLR takes it."""


def cosine(steps: int) -> Schedule:
    """A schedule that falls from 1 to 0 along half a cosine (Loshchilov and Hutter, SGDR, ICLR 2017, without restart).

    Raises ValueError for fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    return lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))


def warmup_cosine(steps: int, *, warmup: int, floor: float = 0.0) -> Schedule:
    """A schedule that rises evenly to 1 over `warmup` steps, then falls to `floor` along half a cosine, as for GPT
    (Radford et al., 2018; GPT-3 has a floor of 0.1).

    Raises ValueError unless 0 <= warmup < steps and 0 <= floor <= 1.
    """
    if not (0 <= warmup < steps and 0 <= floor <= 1):
        raise ValueError(f"need 0 <= warmup < steps and 0 <= floor <= 1, not {warmup}, {steps} and {floor}")
    fall = cosine(steps - warmup)

    def factor(step: int) -> float:
        return (step + 1) / warmup if step < warmup else floor + (1 - floor) * fall(step - warmup)

    return factor


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The parameters as two groups for AdamW: matrices and embeddings, which decay, and biases and norms, which do not.

    What has two axes or more decays, "all non bias or gain weights" of GPT (Radford et al., 2018). An embedding that is
    the output matrix as well is one of them.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return [
        {"params": [weight for weight in weights if weight.ndim >= 2], "weight_decay": weight_decay},
        {"params": [weight for weight in weights if weight.ndim < 2], "weight_decay": 0.0},
    ]
