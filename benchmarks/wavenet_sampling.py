"""Speed of WaveNet sampling with the Fast WaveNet cache, and without: ratios for one second of sound.

    python benchmarks/wavenet_sampling.py [--threads 1] [--samples 8000] [--stretch 10]

The network has 18 layers with dilations from 1 to 256, twice, 32 residual and 128 skip channels, and its initial
weights, on which times do not depend. Three ways draw with the same noise:

- rings: `sample` with the cache's ring buffers, one position of each layer a step; the whole second is timed;
- anew: each step computes the network over all codes so far;
- window: `sample(use_cache=False)`, each step computes the receptive field, the least that is needed without a cache.

The slow ways are not run to the end: `--stretch` steps of each are timed at five evenly spaced positions in the second,
and the mean of their medians is used for all steps, marked as "extrapolated" in the output. At each position the codes
are compared with those of the rings. Times of the rings in the first and last tenth of the second show whether a step
takes the same time throughout. Medians are used, as other processes may take the core for a while.
"""

import argparse
import itertools
import statistics
import time

import torch
from torch import Tensor

from gensrc.models.sequences.wavenet import WaveNet

DILATIONS = [2**power for power in range(9)] * 2
PLACES = 5


class Timed(torch.nn.Module):
    """The head of a WaveNet, which every step uses once, with the time of each use."""

    def __init__(self, head: torch.nn.Module) -> None:
        super().__init__()
        self.head = head
        self.moments: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        self.moments.append(time.perf_counter())
        return self.head(x)

    def steps(self) -> list[float]:
        """The seconds between successive uses; clears them."""
        found = [later - earlier for earlier, later in itertools.pairwise(self.moments)]
        self.moments = []
        return found


def noise(at: int) -> torch.Generator:
    return torch.Generator().manual_seed(at)


@torch.inference_mode()
def anew(model: WaveNet, codes: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """`length` more codes, with the network recomputed over all codes for each."""
    for _ in range(length):
        unknown = codes.new_zeros(1, 1)
        outputs = model(torch.cat([codes, unknown], 1))[:, -1]
        codes = torch.cat([codes, model._draw(outputs, 1.0, generator)[:, None]], 1)
    return codes[:, -length:]


def main() -> None:
    parser = argparse.ArgumentParser(description="Ratio of the times for one second of sound without and with rings.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--samples", type=int, default=8000)
    parser.add_argument("--stretch", type=int, default=10)
    options = parser.parse_args()
    if options.samples < 10 * options.stretch or options.stretch < 2:
        parser.error("--samples must be ten times --stretch or more, and that at least 2")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = WaveNet(dilations=DILATIONS).eval()
    weights = sum(weight.numel() for weight in model.parameters())
    print(f"{weights:,} weights, a receptive field of {model.receptive_field}, {options.samples} samples")

    model.sample(1, length=50, generator=noise(0))  # warms kernels up
    model.head = timed = Timed(model.head)
    start = time.perf_counter()
    drawn = model.sample(1, length=options.samples, generator=noise(0))
    took = time.perf_counter() - start
    steps = timed.steps()
    tenth = options.samples // 10
    first, last = (1e3 * statistics.median(some) for some in (steps[:tenth], steps[-tenth:]))
    with_rings = statistics.median(steps) * options.samples
    print(f"rings: {took:.2f} s, {with_rings:.2f} s as {options.samples} times the median step")
    print(f"a step takes {first:.3f} ms in the first tenth, {last:.3f} ms in the last")

    costs: dict[str, list[float]] = {"anew": [], "window": []}
    same = True
    for number in range(PLACES):
        at = (2 * number + 1) * options.samples // (2 * PLACES) - options.stretch // 2
        before, stretch = drawn[:, :at], options.stretch
        wanted = model.sample(1, length=stretch, prompt=before[0], generator=noise(at))
        timed.steps()
        everything = anew(model, before, stretch, noise(at))
        costs["anew"].append(statistics.median(timed.steps()))
        window = model.sample(1, length=stretch, prompt=before[0], use_cache=False, generator=noise(at))
        costs["window"].append(statistics.median(timed.steps()))
        same &= torch.equal(everything, wanted) and torch.equal(window, wanted)
    # And the second itself, as far as it was computed without rings: the same codes under the seed of the whole.
    begun = model.sample(1, length=options.stretch, use_cache=False, generator=noise(0))
    same &= torch.equal(begun, drawn[:, : options.stretch])
    print(f"the same codes wherever they were compared: {same}")
    for name, values in costs.items():
        total = statistics.mean(values) * options.samples
        print(
            f"{name}: {total:.0f} s, extrapolated from {PLACES * options.stretch} steps; ratio {total / with_rings:.1f}"
        )


if __name__ == "__main__":
    main()
