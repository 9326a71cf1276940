"""How much faster is a training step in the arithmetic that `training.precision` picks? Prints a ratio.

    python benchmarks/training_step.py [--threads 1] [--rounds 60]

Both sides take the step of the VAE chapter (784-400-20, batches of 128, Adam), in turn, in one process. The baseline is
the plain loop of that chapter: float32 and torch's default Adam. Medians and their ratio are printed; the ratio is what
counts, as times depend on the machine and on what else it does.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from gensrc import training
from gensrc.models.vae import vae


def side(arithmetic: training.Precision, fused: bool) -> Callable[[torch.Tensor], None]:
    """One training step, as a function of the batch."""
    model = vae.VAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)

    def step(batch: torch.Tensor) -> None:
        with arithmetic.autocast():
            loss = model.loss(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def milliseconds(step: Callable[[torch.Tensor], None], batch: torch.Tensor) -> float:
    start = time.perf_counter()
    step(batch)
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description="Ratio of the plain training step's time to the picked one's.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    picked = training.precision(torch.device("cpu"))
    sides = {
        "float32, Adam": side(training.Precision("cpu", bfloat16=False), fused=False),
        f"{picked}, fused Adam": side(picked, fused=True),
    }
    batch = (torch.rand(128, 1, 28, 28) < 0.2).float()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(10 + options.rounds):
        for name, step in sides.items():
            taken = milliseconds(step, batch)
            if number >= 10:  # the first rounds warm caches and kernels up
                times[name].append(taken)
    for name, values in times.items():
        print(f"{name}: median {statistics.median(values):.2f} ms a step")
    plain, fast = (statistics.median(values) for values in times.values())
    print(f"ratio {plain / fast:.2f}")


if __name__ == "__main__":
    main()
