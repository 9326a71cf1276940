"""Draw what the book's pages of data show: contact sheets, scenes, clips as strips, waves, sounds.

    python tools/draw_data.py              write book/assets/data/ anew
    python tools/draw_data.py FOLDER       write it elsewhere, to compare

`examples.json` says what each file shows, so that the pages can say it without drawing anything themselves. Running it
again makes the same files; the plots may differ with matplotlib's version.
"""

import io
import json
import math
import sys
import wave
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from gensrc import plots
from gensrc.data import captions
from gensrc.data.captions import captioned_digits
from gensrc.data.emoji import GROUPS, emoji
from gensrc.data.images import fashion_mnist, mnist
from gensrc.data.photographs import photographs
from gensrc.data.series import air_passengers, sunspots
from gensrc.data.speech import RATE, Speech, speech
from gensrc.data.video import HELD_OUT_ACTORS, NOUNS, moving_digits

ASSETS = Path(__file__).resolve().parents[1] / "book" / "assets" / "data"
WHITE = 255
COLUMNS = 20  # of emoji on a sheet
# One picture of each kind of layout, and one clip of each kind of motion, is shown: the first that has it.
SCENES = 9
CLIPS = 6
FRAMES = 8
PROMPTS = {"train": ("demo-thanks", "vm-intro"), "test": ("conf-getconfno",)}
ROLES = {
    "left": "left of something",
    "right": "right of something",
    "above": "above something",
    "below": "below something",
}
NAMES = {
    "smileys-emotion": "smileys and emotion",
    "people-body": "people and body",
    "animals-nature": "animals and nature",
    "food-drink": "food and drink",
    "travel-places": "travel and places",
    "activities": "activities",
    "objects": "objects",
    "symbols": "symbols",
    "extras-openmoji": "OpenMoji's own",
    "extras-unicode": "other signs of Unicode",
}


def main(folder: Path = ASSETS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    plots.style()
    examples = {
        "digits": classes(folder, "digits", mnist("train", dtype=torch.uint8)),
        "garments": classes(folder, "garments", fashion_mnist("train", dtype=torch.uint8)),
        "scenes": scenes(folder),
        "clips": clips(folder),
        "held out": held_out(),
        "emoji": sheets(folder),
        "photographs": temple_and_dahlia(folder),
        "speech": sounds(folder),
        "series": lines(folder),
    }
    (folder / "examples.json").write_text(json.dumps(examples, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
    for path in sorted(folder.iterdir()):
        print(f"{path.stat().st_size:>9,} bytes  {path.name}")


# --- Pictures -------------------------------------------------------------------------------------


def classes(folder: Path, name: str, data: Any) -> dict[str, Any]:
    """A row a class: its first twelve pictures."""
    first = torch.cat([data.images[data.labels == label][:12] for label in range(len(data.names))])
    save(sheet(first, 12, 2), folder / f"{name}.png", scale=2)
    return {"file": f"{name}.png", "rows": list(data.names)}


def scenes(folder: Path) -> list[dict[str, str]]:
    data = captioned_digits("train", 200, dtype=torch.uint8)
    found = []
    for number in first_of_each([scene.layout for scene in data.scenes], SCENES):
        file = f"scene-{len(found) + 1}.png"
        save(data.images[number], folder / file, scale=3)
        found.append({"file": file, "caption": data.captions[number]})
    return found


def clips(folder: Path) -> list[dict[str, str]]:
    data = moving_digits("train", 200, frames=FRAMES, dtype=torch.uint8)
    found = []
    for number in first_of_each([sorted(actor.motion for actor in clip.actors) for clip in data.clips], CLIPS):
        file = f"clip-{len(found) + 1}.png"
        save(sheet(data.frames[number], FRAMES, 1), folder / file, scale=2)
        found.append({"file": file, "caption": data.captions[number]})
    return found


def held_out() -> dict[str, list[str]]:
    """What no training scene and no training clip shows, in words, sorted."""
    return {
        "things": sorted(f"{thing.colour} {thing.digit}" for thing in captions.HELD_OUT_THINGS),
        "roles": [f"{colour} {ROLES.get(role, role)}" for role, colour in captions.HELD_OUT_ROLES.items()],
        "actors": [f"{NOUNS[actor.digit]} {actor.motion}" for actor in sorted(HELD_OUT_ACTORS)],
    }


def sheets(folder: Path) -> list[dict[str, Any]]:
    """Every emoji of both splits, a sheet a group."""
    splits = [emoji(split, size=32, dtype=torch.uint8) for split in ("train", "test")]
    found = []
    for label, group in enumerate(GROUPS):
        images = torch.cat([split.images[split.labels == label] for split in splits])
        names = [split.names[row] for split in splits for row in (split.labels == label).nonzero()[:, 0].tolist()]
        file = f"emoji-{group}.png"
        save(sheet(images, COLUMNS, 3, edge=True), folder / file)
        shown = names[:: max(len(names) // 5, 1)][:5]
        found.append({"file": file, "group": NAMES[group], "count": len(names), "among": shown})
    return found


def temple_and_dahlia(folder: Path) -> list[dict[str, str]]:
    data = photographs(dtype=torch.uint8)
    found = []
    for picture, name, attribution in zip(data.images, data.names, data.attributions, strict=True):
        small = F.interpolate(picture[None].float(), scale_factor=0.5, mode="area")[0].round().to(torch.uint8)
        Image.fromarray(small.permute(1, 2, 0).numpy()).save(folder / f"{name}.jpg", quality=85)
        found.append({"file": f"{name}.jpg", "attribution": attribution})
    return found


def first_of_each(kinds: list[Any], count: int) -> list[int]:
    """The places where the first `count` kinds occur for the first time."""
    return [place for place, kind in enumerate(kinds) if kind not in kinds[:place]][:count]


def sheet(images: Tensor, columns: int, gap: int, edge: bool = False) -> Tensor:
    """Pictures in rows, white between them and, for `edge`, around them; grey or in colour."""
    n, channels, height, width = images.shape
    rows, margin = math.ceil(n / columns), gap if edge else 0
    size = (rows * (height + gap) - gap + 2 * margin, columns * (width + gap) - gap + 2 * margin)
    whole = torch.full((channels, *size), WHITE, dtype=torch.uint8)
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        top, left = margin + row * (height + gap), margin + column * (width + gap)
        whole[:, top : top + height, left : left + width] = image
    return whole


def save(picture: Tensor, path: Path, scale: int = 1) -> None:
    """Write a PNG file of at most 256 colours, each pixel `scale` times as wide and as high."""
    large = picture.repeat_interleave(scale, 1).repeat_interleave(scale, 2).permute(1, 2, 0).squeeze(2)
    image = Image.fromarray(large.numpy())
    if image.mode == "RGB":
        image = image.quantize(256, dither=Image.Dither.NONE)
    image.save(path, optimize=True)


# --- Sounds and series ----------------------------------------------------------------------------


def sounds(folder: Path) -> list[dict[str, Any]]:
    found, shown = [], []
    for split, names in PROMPTS.items():
        data: Speech = speech(split)
        for name in names:
            samples = data.waves[data.names.index(name)]
            write_wav(folder / f"speech-{name}.wav", samples)
            found.append({"file": f"speech-{name}.wav", "name": name, "split": split, "seconds": len(samples) / RATE})
            shown.append((name, samples))
    fig, axes = plt.subplots(len(shown), 1, figsize=(6.4, 1.2 * len(shown)), sharex=True, sharey=True)
    for ax, (name, samples) in zip(axes, shown, strict=True):
        ax.plot(torch.arange(len(samples)) / RATE, samples, linewidth=0.3)
        ax.set_title(name, loc="left", fontsize=9)
    axes[-1].set(xlabel="seconds", ylim=(-1, 1))
    save_plot(fig, folder / "waves.png")
    return found


def write_wav(path: Path, samples: Tensor) -> None:
    stored = io.BytesIO()
    with wave.open(stored, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples * 32767).round().to(torch.int16).numpy().tobytes())
    path.write_bytes(stored.getvalue())


def lines(folder: Path) -> list[dict[str, str]]:
    found = []
    for name, series in (("sunspots", sunspots()), ("air-passengers", air_passengers())):
        fig, ax = plt.subplots(figsize=(6.4, 2.4))
        ax.plot(series.times, series.values, linewidth=1)
        ax.set(xlabel="year", ylabel=series.unit)
        save_plot(fig, folder / f"{name}.png")
        found.append({"file": f"{name}.png"})
    return found


def save_plot(fig: Figure, path: Path) -> None:
    fig.savefig(path, metadata={"Software": None}, transparent=True, bbox_inches="tight")
    plt.close(fig)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
