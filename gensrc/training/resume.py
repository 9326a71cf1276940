"""Exact resume: all that a training consists of, in one file of safetensors, which is written whole or not at all.

A training that is resumed ends in the same bits as one that was never stopped. What is saved are weights, moments of
the optimisers, the order of the data, what was seen so far, and the state of the global random generators of torch,
NumPy and Python. Options are not: those given now hold, such as another learning rate after one that was too high.
"""

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from gensrc.checkpoints import write_safetensors
from gensrc.training.history import Callback, TrainingError


@dataclass
class State:
    """All that changes while a training goes on."""

    model: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    batches: Any
    history: Any
    callbacks: Sequence[Callback] = ()
    done: int = 0
    """How many steps have been made."""

    @property
    def can_be_saved(self) -> bool:
        return hasattr(self.batches, "state_dict")

    def _with_state(self) -> list[Any]:
        return [callback for callback in self.callbacks if hasattr(callback, "state_dict")]

    def save(self, path: Path) -> None:
        tensors: dict[str, Tensor] = {}
        card = {
            "step": self.done,
            "optimizers": [_kind(optimizer) for optimizer in self.optimizers],
            "batches": _put_aside(self.batches.state_dict(), "batches", tensors),
            "callbacks": _put_aside([each.state_dict() for each in self._with_state()], "callbacks", tensors),
            "history": vars(self.history),
            "random": _put_aside(_random_state(), "random", tensors),
        }
        tensors |= {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for number, optimizer in enumerate(self.optimizers):
            for index, moments in optimizer.state_dict()["state"].items():
                for name, value in moments.items():
                    tensors[f"optimizer.{number}.{index}.{name}"] = torch.as_tensor(value)
        # Copies, as the file format refuses tensors that share their memory.
        tensors = {name: value.clone() for name, value in tensors.items()}
        write_safetensors(path, tensors, {"training": json.dumps(card)})

    def load(self, path: Path) -> None:
        """Raises TrainingError for a file that is none of a training, or of another model, optimiser or data order."""
        try:
            with safe_open(path, framework="pt") as file:
                card = json.loads((file.metadata() or {})["training"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise TrainingError(f"{path} is no training checkpoint ({error}): delete it to start again") from error
        if card["optimizers"] != [_kind(optimizer) for optimizer in self.optimizers]:
            raise TrainingError(f"{path} belongs to another model or optimiser: {card['optimizers']}")
        try:
            self.model.load_state_dict(_part(tensors, "model."))
            for number, optimizer in enumerate(self.optimizers):
                _load_moments(optimizer, _part(tensors, f"optimizer.{number}."))
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(f"{path} belongs to another model or optimiser: {error}") from error
        self.batches.load_state_dict(_put_back(card["batches"], tensors))
        for callback, state in zip(self._with_state(), _put_back(card["callbacks"], tensors), strict=True):
            callback.load_state_dict(state)
        for name, values in card["history"].items():
            vars(self.history).setdefault(name, [])[:] = values
        _set_random_state(_put_back(card["random"], tensors))
        self.done = int(card["step"])


# --- progress that is kept without being asked for ----------------------------------------------------------------

_kept: ContextVar[Iterator[Path] | None] = ContextVar("kept", default=None)


@contextmanager
def keep_progress(folder: Path) -> Iterator[None]:
    """Each training that begins while this is open, and names no checkpoint, keeps one in `folder`.

    They are numbered in the order in which they begin, so the same program that is started again finds those of its
    own: a training that was finished is not repeated, one that was cut off goes on.
    """
    token = _kept.set(folder / f"{number}.safetensors" for number in count(1))
    try:
        yield
    finally:
        _kept.reset(token)


def next_kept() -> Path | None:
    """The file for the training that begins now, if its progress is to be kept."""
    kept = _kept.get()
    return None if kept is None else next(kept)


# --- parts of a state ---------------------------------------------------------------------------------------------


def _kind(optimizer: torch.optim.Optimizer) -> list[Any]:
    return [type(optimizer).__name__, [len(group["params"]) for group in optimizer.param_groups]]


def _load_moments(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        moments.setdefault(int(index), {})[key] = value
    # The groups are those given now, so that no option comes from the file.
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            # A fused optimiser goes through memory: its moments have to lie there in the order of the weights.
            if value.shape == weight.shape:
                state[name] = torch.empty_like(weight).copy_(value)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _put_aside(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON can hold it; its tensors go to `tensors`, and their names stand in their places."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": {key: _put_aside(each, f"{name}.{key}", tensors) for key, each in value.items()}}
    if isinstance(value, list | tuple):
        return [_put_aside(each, f"{name}.{number}", tensors) for number, each in enumerate(value)]
    return value


def _put_back(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_put_back(each, tensors) for each in value]
    if isinstance(value, dict) and "tensor" in value:
        # A copy, as a tensor in the middle of a file may be aligned otherwise, and then sums come in another order.
        return tensors[value["tensor"]].clone()
    if isinstance(value, dict):
        return {key: _put_back(each, tensors) for key, each in value["dict"].items()}
    return value


def _random_state() -> dict[str, Any]:
    name, words, *rest = np.random.get_state(legacy=True)
    numpy = [name, np.asarray(words).tolist(), *rest]
    state = {"torch": torch.get_rng_state(), "python": random.getstate(), "numpy": numpy}
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(tuple(state["numpy"]))
