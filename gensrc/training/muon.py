"""Muon for weight matrices and kernels, with Adam for all other parameters.

Jordan and others, Muon: An optimizer for hidden layers in neural networks, 2024, is the source. Muon sets
all singular values of the momentum of a weight matrix to about 1, by a few steps of an iteration, so that no direction
waits for another. The scale of the update is that of Liu and others, Muon is Scalable for LLM Training, 2025.

Deviations: torch.optim.Muon, whose update this is, takes matrices alone. The kernel of a convolution is seen as one
here, as in Jordan's records on CIFAR-10: a row for each feature that it puts out. The iteration runs in bfloat16 where
the hardware multiplies it and in float32 elsewhere, where bfloat16 is emulated and slow (`training.precision`).
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gensrc.training.precision import precision

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic polynomial of the iteration: steep at 0, and without a fixed point at 1 for the sake of that."""


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum for weights of two axes or more.

    weight_decay: decoupled from the gradient, as in AdamW.
    Raises ValueError for a weight with a single axis.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 0.01,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        iterations: int = 5,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "iterations": iterations}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        for weight in self.param_groups[-1]["params"]:
            if weight.ndim < 2:
                raise ValueError(f"Muon is for matrices and kernels, not for a weight of shape {tuple(weight.shape)}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, weight.grad, group)
        return loss

    def _move(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        average = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(average, group["momentum"]).flatten(1)
        update = orthogonalize(ahead, group["iterations"])
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(update.view(weight.shape), alpha=-group["lr"] * (0.2 * math.sqrt(max(ahead.shape))))


def orthogonalize(matrix: Tensor, iterations: int = 5) -> Tensor:
    """U V^T, about, where U S V^T is the singular value decomposition of `matrix`: singular values from 0.7 to 1.2.

    A Newton-Schulz iteration with the coefficients of Jordan's post, in the fastest sound arithmetic of the device.
    """
    a, b, c = COEFFICIENTS
    x = matrix.bfloat16() if precision(matrix.device).bfloat16 else matrix.float().clone()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x.div_(x.norm().clamp(min=1e-7))  # now no singular value is above 1
    for _ in range(iterations):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).contiguous()


def muon_with_adam(
    model: nn.Module, *, lr: float = 0.01, weight_decay: float = 0.1, adam_lr: float = 5e-3
) -> list[torch.optim.Optimizer]:
    """Muon for the weights of linear layers and convolutions, Adam for all other parameters of a model.

    A weight with a single row or column is left to Adam: it has but one direction. `fit` takes the two as its
    optimizer; both learning rates follow its schedule.

    lr, weight_decay: of Muon. adam_lr: of Adam, without decay.
    Raises ValueError for a model without such weights.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)]
    kernels = [layer.weight for layer in layers if min(layer.weight.flatten(1).shape) > 1]
    if not kernels:
        raise ValueError(f"{type(model).__name__} has no matrix for Muon: use torch.optim.Adam")
    known = {id(kernel) for kernel in kernels}
    rest = [weight for weight in model.parameters() if id(weight) not in known]
    adam = [torch.optim.Adam(rest, lr=adam_lr, fused=True)] if rest else []
    return [Muon(kernels, lr=lr, weight_decay=weight_decay), *adam]
