"""How much faster does a DCGAN train and draw in the arithmetic that `training.precision` picks? Prints two ratios.

    python benchmarks/gan_step.py [--threads 1] [--rounds 10] [--width 64]

All sides have the networks of the DCGAN chapter, 64x64 pixels in three colours, batches of 64, and take turns in one
process. The baseline is the loop of the textbooks: float32, torch's default Adam, three calls of the discriminator with
a backward pass each. The others are `training.fit_gan` in float32 and in bfloat16, so that one sees whether the right
one of them was picked. Medians and their ratios are printed; the ratio is what counts, as times depend on the machine
and on what else it does. Exits with 1 if the pick is slower than the baseline.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

os.environ.setdefault("TQDM_DISABLE", "1")

import torch
import torch.nn.functional as F

from gensrc import training
from gensrc.models.gan import dcgan

BATCH = 64
Side = tuple[Callable[[], None], Callable[[], None]]


def networks(width: int) -> tuple[dcgan.Generator, dcgan.Discriminator]:
    torch.manual_seed(0)
    return dcgan.Generator(64, channels=3, width=width), dcgan.Discriminator(64, channels=3, width=width)


def plain(real: torch.Tensor, width: int) -> Side:
    """A round of the game as textbooks print it, and 64 pictures."""
    generator, discriminator = networks(width)
    of_g, of_d = (torch.optim.Adam(n.parameters(), lr=2e-4, betas=(0.5, 0.999)) for n in (generator, discriminator))

    def step() -> None:
        discriminator.zero_grad()
        F.softplus(-discriminator(real)).mean().backward()
        fake = generator(generator.noise(BATCH))
        F.softplus(discriminator(fake.detach())).mean().backward()
        of_d.step()
        generator.zero_grad()
        F.softplus(-discriminator(fake)).mean().backward()
        of_g.step()

    return step, lambda: draw(generator)


def ours(real: torch.Tensor, width: int, arithmetic: str) -> Side:
    """The same by `fit_gan`, in the arithmetic of that name."""
    generator, discriminator = networks(width)
    batches = training.Batches(real, batch_size=BATCH)
    both = [
        torch.optim.Adam(n.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=True) for n in (discriminator, generator)
    ]

    def step() -> None:
        os.environ["GENSRC_PRECISION"] = arithmetic
        training.fit_gan(generator, discriminator, batches, steps=1, optimizers=(both[0], both[1]))

    def sample() -> None:
        with training.Precision("cpu", arithmetic == "bfloat16").autocast():
            draw(generator)

    return step, sample


def draw(generator: dcgan.Generator) -> None:
    generator.train()  # one mode for all, whatever the step has left
    generator.sample(BATCH)


def milliseconds(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description="Ratio of a plain DCGAN loop's times to ours.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--width", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    picked = str(training.precision(torch.device("cpu")))
    real = torch.rand(BATCH, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    sides = {"plain float32": plain(real, options.width)}
    sides |= {name: ours(real, options.width, name) for name in ("float32", "bfloat16")}
    slower = False
    for number, what in enumerate(("a training step", "64 pictures")):
        times: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(2 + options.rounds):
            for name, actions in sides.items():
                taken = milliseconds(actions[number])
                if turn >= 2:  # the first turns warm caches and kernels up
                    times[name].append(taken)
        medians = {name: statistics.median(values) for name, values in times.items()}
        for name, median in medians.items():
            print(f"{what}, {name}: median {median:.0f} ms")
        fastest = min(("float32", "bfloat16"), key=medians.__getitem__)
        ratio = medians["plain float32"] / medians[picked]
        slower = slower or ratio < 1
        print(f"{what}: picked {picked}, fastest {fastest}, ratio {ratio:.2f}")
    sys.exit(int(slower))


if __name__ == "__main__":
    main()
