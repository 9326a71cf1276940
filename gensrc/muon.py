"""Muon for what multiplies, Adam for the rest, as one optimiser that `training.fit` can be given.

Jordan and others, Muon: An optimizer for hidden layers in neural networks, 2024, is the source. Muon sets
all singular values of the momentum of a weight matrix to about 1, by a few steps of an iteration, so that no direction
waits for another. The update is torch's, with the scale of Liu and others, Muon is Scalable for LLM Training, 2025.

Deviation: torch.optim.Muon takes matrices alone. The kernel of a convolution is seen as one here, as in Jordan's
records on CIFAR-10: a row for each feature that it puts out.
"""

from typing import Any

import torch
from torch import nn


class MuonWithAdam(torch.optim.Optimizer):
    """Muon for the weights of linear layers and convolutions, Adam for all other parameters of a model.

    A weight with a single row or column is left to Adam: it has but one direction. Both learning rates follow the
    schedule that `training.fit` is given.

    lr, weight_decay: of Muon. adam_lr: of Adam, without decay.

    Raises ValueError for a model without such weights, RuntimeError where torch is too old to have Muon.
    """

    def __init__(self, model: nn.Module, *, lr: float = 0.01, weight_decay: float = 0.1, adam_lr: float = 5e-3) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise RuntimeError(f"Muon came with torch 2.9, this is {torch.__version__}: pip install --upgrade torch")
        layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)]
        self.kernels = [layer.weight for layer in layers if min(layer.weight.flatten(1).shape) > 1]
        if not self.kernels:
            raise ValueError(f"{type(model).__name__} has no matrix for Muon: use torch.optim.Adam")
        known = {id(kernel) for kernel in self.kernels}
        rest = [weight for weight in model.parameters() if id(weight) not in known]
        self.flat = [nn.Parameter(kernel.detach().flatten(1)) for kernel in self.kernels]
        self.muon = torch.optim.Muon(self.flat, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self.adam = torch.optim.Adam(rest, lr=adam_lr, fused=True)
        self._join()

    def _join(self) -> None:
        """Shows the groups of both as those of one; a rate set in a group reaches its owner."""
        self.param_groups = [*self.muon.param_groups, *self.adam.param_groups]

    @property
    def state(self) -> dict[torch.Tensor, Any]:  # type: ignore[override]
        return {**self.muon.state, **self.adam.state}

    def zero_grad(self, set_to_none: bool = True) -> None:
        for kernel in self.kernels:
            kernel.grad = None if set_to_none or kernel.grad is None else torch.zeros_like(kernel)
        self.adam.zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        pairs = list(zip(self.flat, self.kernels, strict=True))
        for flat, kernel in pairs:
            flat.copy_(kernel.flatten(1))
            flat.grad = None if kernel.grad is None else kernel.grad.flatten(1)
        self.muon.step()
        self.adam.step()
        for flat, kernel in pairs:
            kernel.copy_(flat.view_as(kernel))

    def state_dict(self) -> dict[str, Any]:
        """The state is numbered as if one optimiser had all parameters: those of Muon, then those of Adam."""
        muon, adam, first = self.muon.state_dict(), self.adam.state_dict(), len(self.flat)
        moved = {first + index: moments for index, moments in adam["state"].items()}
        return {"state": {**muon["state"], **moved}, "param_groups": muon["param_groups"] + adam["param_groups"]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        first, (of_muon, of_adam) = len(self.flat), state_dict["param_groups"]
        state = state_dict["state"]
        early = {index: moments for index, moments in state.items() if index < first}
        late = {index - first: moments for index, moments in state.items() if index >= first}
        self.muon.load_state_dict({"state": early, "param_groups": [of_muon]})
        self.adam.load_state_dict({"state": late, "param_groups": [of_adam]})
        self._join()
