"""Speed of sampling pictures with a cache, against recomputing every pixel: a ratio.

    python benchmarks/pixel_sampling.py [--threads 1] [--pictures 16] [--model gated|plain|transformer] [--rows 28]

Both sides draw the same pictures of MNIST's size from the same noise, with the network of the chapter (for the gated
one, of the same sizes). The naive side computes the whole network for each pixel; since that takes a minute or more,
both may be timed on the first `--rows` rows of the picture. The script checks that all pixels are equal, then prints
the ratio of the times. Times are processor time, summed over threads, which other processes affect little.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch

from gensrc.models.pixels.base import PixelModel
from gensrc.models.pixels.gated_pixelcnn import GatedPixelCNN
from gensrc.models.pixels.pixel_transformer import PixelTransformer
from gensrc.models.pixels.pixelcnn import PixelCNN

KINDS: dict[str, Callable[[], PixelModel]] = {
    "gated": partial(GatedPixelCNN, position_embedding=True),
    "plain": PixelCNN,
    "transformer": PixelTransformer,
}


def drawn(model: PixelModel, pictures: int, rows: int, *, use_cache: bool) -> tuple[torch.Tensor, float]:
    """The pictures and the seconds; rows after the first `rows` are given, black, and cost the naive side nothing."""
    known = torch.zeros(model.size, dtype=torch.bool)
    known[rows:] = True
    given = torch.zeros(pictures, model.channels, *model.size)
    generator = torch.Generator().manual_seed(0)
    start = time.process_time()
    made = model.sample(pictures, given=given, known=known, use_cache=use_cache, generator=generator)
    return made, time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="Ratio of the time of naive sampling to that of cached sampling.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--model", choices=tuple(KINDS), default="gated")
    parser.add_argument("--rows", type=int, default=28)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    torch.manual_seed(0)
    model = KINDS[options.model]().eval()
    with torch.no_grad():  # far from where weights start, so that the pictures have something to disagree on
        for weight in model.parameters():
            weight.mul_(1.5).add_(torch.randn_like(weight), alpha=0.05)
    drawn(model, options.pictures, 1, use_cache=True)  # warms kernels up
    fast, cached = drawn(model, options.pictures, options.rows, use_cache=True)
    slow, naive = drawn(model, options.pictures, options.rows, use_cache=False)
    if not torch.equal(fast, slow):
        raise SystemExit(f"{int((fast != slow).sum())} pixels differ")
    white = fast[:, :, : options.rows].mean().item()
    weights = sum(weight.numel() for weight in model.parameters())
    print(f"{options.model}, {weights:,} weights, {options.pictures} pictures, {options.rows} rows, {white:.2f} white")
    print(f"the same to the last pixel; naive {naive:.2f} s, cached {cached:.2f} s")
    print(f"ratio {naive / cached:.1f}")


if __name__ == "__main__":
    main()
