"""The page "Pictures and clips": examples and counts of the data sets that are looked at. Imports no torch.

What a set is good for is written here. Numbers come from the cards and from the judge's card, the grammars from the
modules that parse them, and the pictures are those that tools/draw_data.py drew, with its word for what they show.
"""

import ast
import json
import re
import textwrap
from pathlib import Path
from typing import Any

from gensrc.data.registry import Card, cards

INTRODUCTION = """\
# Pictures and clips

Digits and garments in grey, emoji in colour, scenes and clips that come with a caption, and two photographs. A loader
gives tensors of levels in [0, 1], or with `dtype=torch.uint8` the stored bytes from 0 to 255. Splits are fixed, and no
picture of one is in the other; each section says how near they come all the same. Files, checksums and sources are on
the page of [data sets and licences](datasets.md).

```python
from gensrc.data.captions import captioned_digits
from gensrc.data.images import mnist

digits = mnist("train")
digits.images, digits.labels  # 60,000 pictures of 1x28x28, and a class for each
scenes = captioned_digits("train", 20_000, seed=0)
scenes.images, scenes.captions  # as many as are asked for, of 3x32x32, and what each shows
```
"""

# What a set is good for, and what it is not.
USES = {
    "mnist": """\
Good for every first experiment: small, clean, and with decades of published figures beside one's own, since it is
complete. Not good for telling good classifiers from very good ones, which all err on the same few hundred digits, nor
for colour.""",
    "fashion-mnist": """\
Good wherever MNIST is too easy: shirts, coats and pullovers are hard to tell apart, and textures are hard to draw. Not
good for comparing with published figures unless `full=True` fetches the whole of it.""",
    "captioned-digits": """\
Good for drawing what a caption asks for, where it can be checked: each attribute is known, can be varied alone, and
some combinations are held out. Not good for claims about pictures at large: there are ten shapes, six colours and one
background.""",
    "moving-digits": """\
Good for clips that follow a caption, for predicting frames, and for seeing whether a model has understood a motion or
only copies the frame before. Not good for claims about video at large, and not the Moving MNIST of the literature.""",
    "emoji": """\
Good for colour, for few-shot drawing, and for bringing words and pictures together: each has a name and tags that say
what is seen. Not good for training anything large: there are fewer than two thousand, in one style of drawing, and
a model that is trained for long learns them by heart.""",
    "photographs": """\
Good for moving the style of one picture to the content of another. Not a data set: two pictures train nothing.""",
    "cifar-10": """\
Good for the published figures on small colour photographs, in a chapter's full profile. Not good offline: 170 MB are
fetched when it is first asked for. No example is shown here, as its publisher states no licence.""",
}
ATTRIBUTES = {
    "count": "count",
    "digit": "digit",
    "colour": "colour",
    "position": "position",
    "motion": "motion",
    "scene": "all of it",
    "clip": "all of it",
}


def page(root: Path) -> str:
    """The MyST text of the page, from the pack, the assets and the judge's card in the repository `root`."""
    found = {card.name: card for card in cards(root / "gensrc" / "data" / "files")}
    shown = json.loads((root / "book" / "assets" / "data" / "examples.json").read_text(encoding="utf8"))
    bodies = {
        "mnist": _classes(shown["digits"], "handwritten digits"),
        "fashion-mnist": _classes(shown["garments"], "garments"),
        "captioned-digits": [*_scenes(shown, root), *_judge(root, ("scenes", "unseen combinations"))],
        "moving-digits": [*_clips(shown, root), *_judge(root, ("clips of 32 pixels", "clips of 64 pixels"))],
        "emoji": _sheets(shown["emoji"]),
        "photographs": _photographs(shown["photographs"]),
        "cifar-10": [],
    }
    return "\n".join(
        [INTRODUCTION, *(section("picture", found[name], bodies[name], use) for name, use in USES.items())]
    )


def section(kind: str, card: Card, body: list[str], use: str) -> str:
    """A data set: what it is, `body`, what it is good for, its quirks, its licence."""
    counts = [f"{count:,} {split}" for split, count in card.counts.items()]
    parts = [f"({kind}-{card.name})=", f"## {card.title}", "", card.about, ""]
    if counts:
        parts += [f"In the pack: {' and '.join(counts)}.", ""]
    where = f"Loader: `{card.loader}`. More on its source and files: [{card.title}](data-{card.name})."
    licence = f"Licence: [{card.licence}]({card.licence_url}). {card.attribution} {where}"
    return "\n".join([*parts, *body, use, "", card.quirks, "", licence, ""])


def figure(file: str, alt: str, caption: str, kind: str = "picture") -> list[str]:
    """A figure of the file among the assets; its `kind` is that of a chapter's figures."""
    head = [f"```{{figure}} ../assets/data/{file}", f":alt: {alt}", f":class: gensrc-{kind}"]
    return [*head, "", caption, "```", ""]


def _classes(shown: dict[str, Any], what: str) -> list[str]:
    rows = shown["rows"]
    alt = f"Ten rows of twelve {what} in grey on black, a row a class, from {rows[0]} down to {rows[-1]}."
    return figure(shown["file"], alt, f"The first twelve of each class: {', '.join(rows)}.")


def _scenes(shown: dict[str, Any], root: Path) -> list[str]:
    held = shown["held out"]
    return [
        *_table("Picture", [(entry["file"], entry["caption"]) for entry in shown["scenes"]], "Scene"),
        "The grammar of the captions, which `parse` reads:",
        "",
        *_grammar(root / "gensrc" / "data" / "captions.py"),
        f"Held out are the things {', '.join(held['things'])}, and these positions of a colour: "
        f'{", ".join(held["roles"])}. `combinations="unseen"` gives scenes with just one of them, for the test.',
        "",
    ]


def _clips(shown: dict[str, Any], root: Path) -> list[str]:
    return [
        *_table("Frames", [(entry["file"], entry["caption"]) for entry in shown["clips"]], "Eight frames of a clip"),
        "The grammar of the captions, which `parse` reads:",
        "",
        *_grammar(root / "gensrc" / "data" / "video.py"),
        f"Held out: {', '.join(shown['held out']['actors'])}.",
        "",
    ]


def _table(title: str, rows: list[tuple[str, str]], what: str) -> list[str]:
    """Pictures, each with its caption beside it, which is what its text alternative says too."""
    lines = [
        f"| ![{what}: {caption}.](../assets/data/{file}){{.gensrc-picture}} | {caption} |" for file, caption in rows
    ]
    return [f"| {title} | Caption |", "| --- | --- |", *lines, ""]


def _grammar(module: Path) -> list[str]:
    """The indented block in the module's documentation."""
    documented = ast.get_docstring(ast.parse(module.read_text(encoding="utf8"))) or ""
    indented = [block for block in documented.split("\n\n") if block.startswith("    ")]
    return ["```text", textwrap.dedent(indented[0]), "```", ""]


def _judge(root: Path, names: tuple[str, ...]) -> list[str]:
    """What the judge of pictures reads right, out of its card."""
    card = json.loads((root / "gensrc" / "checkpoints" / "judge.json").read_text(encoding="utf8"))
    shares = json.loads(card["about"].split("on test digits: ")[1].rstrip("."))
    parts = [part for part in ATTRIBUTES if part in shares[names[0]]]
    lines = ["| Read right | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    for part in parts:
        cells = [f"{100 * shares[name][part]:.2f}\N{NO-BREAK SPACE}%" for name in names]
        lines.append(f"| {ATTRIBUTES[part]} | {' | '.join(cells)} |")
    introduction = (
        "`gensrc.models.judge` reads pictures and clips without seeing a caption, so that what a model draws can be "
        "scored. On test digits it gets this right:"
    )
    return [introduction, "", *lines, ""]


def _sheets(shown: list[dict[str, Any]]) -> list[str]:
    lines = []
    for entry in shown:
        alt = f"Contact sheet of {entry['count']} emoji, among them {', '.join(entry['among'])}."
        lines += figure(entry["file"], alt, f"{entry['group'][0].upper()}{entry['group'][1:]}: {entry['count']}.")
    return lines


def _photographs(shown: list[dict[str, str]]) -> list[str]:
    temple, dahlia = shown
    return [
        *figure(temple["file"], "A temple of four storeys in China above a lake, in colour.", _credit(temple)),
        *figure(dahlia["file"], "An orange dahlia before dark leaves, in colour.", _credit(dahlia)),
    ]


def _credit(photograph: dict[str, str]) -> str:
    """Who took it, as a link: an address in full is wider than a phone."""
    return re.sub(r"by (\w+), (\S+),", r"by [\1](\2),", photograph["attribution"])
