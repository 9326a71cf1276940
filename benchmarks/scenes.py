"""Captioned scenes and clips made a second, in one call and one at a time: rates and ratios.

    python benchmarks/scenes.py [--threads 1] [--rounds 5]

Both sides take turns in one process. Medians and their ratio are printed; compare the ratio, as times depend on the
machine and its load. The book asks for 5,000 scenes a second on one core.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from gensrc.data.captions import captioned_digits
from gensrc.data.video import moving_digits


def rate(make: Callable[..., object], n: int, sets: int, seed: int) -> float:
    """Examples a second when `sets` sets of n are made one after the other."""
    start = time.perf_counter()
    for number in range(sets):
        make("train", n, seed=seed + number, dtype=torch.uint8)
    return n * sets / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description="Scenes and clips a second, at once and one at a time.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name, make in {"scenes": captioned_digits, "clips": moving_digits}.items():
        rate(make, 1, 1, 0)  # reads MNIST
        rates = [(rate(make, 5000, 1, seed), rate(make, 1, 50, seed)) for seed in range(options.rounds)]
        together, singly = (statistics.median(side) for side in zip(*rates, strict=True))
        print(f"{name}: {together:,.0f} a second at once, {singly:,.0f} one at a time: ratio {together / singly:.0f}")


if __name__ == "__main__":
    main()
