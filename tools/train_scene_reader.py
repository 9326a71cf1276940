"""Train the scene reader, measure it on test digits, and write its checkpoint and card.

    python tools/train_scene_reader.py                    train, measure, write (about ten minutes on one core)
    python tools/train_scene_reader.py --steps 200        the same with so many steps, for a try
    python tools/train_scene_reader.py --measure          measure the shipped checkpoint again

No chapter trains the reader, as it is no part of what the book teaches; so this is the one training script.
"""

import argparse
import json
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gensrc import training
from gensrc.checkpoints import save_weights
from gensrc.data.captions import GLYPH, Scene, Thing, captioned_digits
from gensrc.data.handwriting import handwriting
from gensrc.data.video import moving_digits
from gensrc.evaluation.scene_judge import CONFIG, SceneReader, agreement, annotate, clip_agreement, scene_reader

BATCH, CHUNK, STEPS = 128, 2048, 6000


class Scenes:
    """Endless batches of new scenes of training digits in every combination, a third blurred, noisy and dimmed each."""

    def __init__(self) -> None:
        self.number, self.chunk = 0, -1

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        chunk, part = divmod(self.number, CHUNK // BATCH)
        if chunk != self.chunk:  # also where a training is resumed within one
            data = captioned_digits("train", CHUNK, combinations="all", seed=1 + chunk)
            self.images, self.marks, self.chunk = data.images, annotate(data), chunk
        self.number += 1
        chosen = slice(part * BATCH, (part + 1) * BATCH)
        return spoil(self.images[chosen]), self.marks[chosen]

    def state_dict(self) -> dict[str, Any]:
        return {"number": self.number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.number = state["number"]


def spoil(images: Tensor) -> Tensor:
    """Pictures as a generator may make them: some blurred, some noisy, some too dark."""
    chosen = torch.rand(3, len(images), 1, 1, 1) < 1 / 3
    blurred = F.avg_pool2d(images, 3, stride=1, padding=1)
    images = torch.where(chosen[0], blurred, images)
    images = images * torch.where(chosen[1], 0.5 + 0.5 * torch.rand(len(images), 1, 1, 1), 1.0)
    return (images + chosen[2] * 0.15 * torch.randn(images.shape)).clamp(0, 1)


def train(steps: int) -> SceneReader:
    training.seed_everything(0)
    model = SceneReader(**CONFIG).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters(), 2e-3, fused=True)
    training.fit(model, Scenes(), steps=steps, optimizer=optimizer, schedule=training.cosine(steps))
    for tensor in model.state_dict().values():  # what is measured is what is shipped, in half precision
        if tensor.is_floating_point():
            tensor.copy_(tensor.half())
    return model.eval()


def measure(model: SceneReader) -> dict[str, dict[str, float]]:
    """Shares of what the reader reads right on test digits that it has never seen."""
    found = {}
    scenes = captioned_digits("test", 10_000, combinations="all")
    found["scenes"] = agreement(model.read(scenes.images), scenes.scenes)
    unseen = captioned_digits("test", 10_000, combinations="unseen")
    found["unseen combinations"] = agreement(model.read(unseen.images), unseen.scenes)
    torch.manual_seed(0)
    found["blurred, noisy or dimmed"] = agreement(model.read(spoil(scenes.images)), scenes.scenes)
    images, wanted = every_test_digit()
    found["every test digit alone"] = agreement(model.read(images), wanted)
    for size in (32, 64):
        clips = moving_digits("test", 2000, combinations="all", size=size)
        found[f"clips of {size} pixels"] = clip_agreement(model.watch(clips.frames), clips.clips)
    return found


def every_test_digit() -> tuple[Tensor, list[Scene]]:
    """Each of the 10,000 once, white, in the centre."""
    hands = handwriting("test")
    digits = torch.arange(10).repeat_interleave(hands.counts)
    written = hands.write(digits, torch.arange(len(digits)) - hands.starts[digits], GLYPH)
    images = F.pad(written, [9] * 4)[:, None].expand(-1, 3, -1, -1) / 255
    return images, [Scene((Thing("white", digit),), "in the centre") for digit in digits.tolist()]


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and measure the scene reader.")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--measure", action="store_true", help="train nothing and write nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.monotonic()
    model = scene_reader() if options.measure else train(options.steps)
    minutes = (time.monotonic() - start) / 60
    found = measure(model)
    for name, shares in found.items():
        print(f"{name}: " + ", ".join(f"{part} {100 * share:.2f} %" for part, share in shares.items()))
    if not options.measure:
        save_weights("scene-reader", model, config=CONFIG, about=about(options.steps, minutes, found), bits=16)


def about(steps: int, minutes: float, found: dict[str, dict[str, float]]) -> str:
    shares = {name: {part: round(share, 4) for part, share in parts.items()} for name, parts in found.items()}
    return (
        f"Trained for {steps} steps on {steps * BATCH:,} scenes of MNIST's training digits in all combinations, in "
        f"{minutes:.0f} minutes on one CPU core; shares read right on test digits: {json.dumps(shares)}."
    )


if __name__ == "__main__":
    main()
