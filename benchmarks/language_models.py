"""Shared by the benchmarks of language-model training: a step, and two sides that take turns in one process."""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gensrc import training

WARM_UP = 2  # rounds before the clock counts, which warm caches and kernels up


def parser(rounds: int) -> argparse.ArgumentParser:
    """The common options; parse with `parse_args`."""
    options = argparse.ArgumentParser(description="Ratio of our tokens a second to those of torch's layers.")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--rounds", type=int, default=rounds)
    options.add_argument("--precision", choices=("picked", "float32"), default="picked")
    return options


def side(
    model: nn.Module, optimizer: torch.optim.Optimizer, arithmetic: training.Precision, clip: float | None = None
) -> Callable[[Tensor], float]:
    """One training step, as a function of the batch; returns the loss."""
    model.train()

    def step(ids: Tensor) -> float:
        with arithmetic.autocast():
            loss = model.loss(ids)  # type: ignore[operator]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        return loss.item()

    return step


def arithmetic(name: str) -> training.Precision:
    """The arithmetic of the option --precision."""
    return training.Precision("cpu", bfloat16=False) if name == "float32" else training.precision(torch.device("cpu"))


def race(
    sides: dict[str, Callable[[Tensor], float]], batch: Callable[[torch.Generator], Tensor], *, rounds: int, tokens: int
) -> None:
    """Let two sides step in turn on batches of `tokens` predictions; prints losses, medians and their ratio."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    losses: dict[str, float] = {}
    for number in range(WARM_UP + rounds):
        ids = batch(torch.Generator().manual_seed(number))
        for name, step in sides.items():
            start = time.perf_counter()
            losses[name] = step(ids)
            if number >= WARM_UP:
                times[name].append(time.perf_counter() - start)
    print("last losses", ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items()))
    for name, values in times.items():
        print(f"{name}: {tokens / statistics.median(values):,.0f} tokens a second")
    mine, other = (statistics.median(values) for values in times.values())
    print(f"ratio {other / mine:.2f}")
