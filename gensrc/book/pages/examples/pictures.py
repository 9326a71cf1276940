"""Examples of the data sets that are looked at, for the page of data sets. Imports no torch.

Numbers come from the scene judge's card, the grammars from the modules that parse them, and the pictures are those that
tools/draw_data.py drew, with its word for what they show.
"""

import ast
import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

ATTRIBUTES = {
    "count": "count",
    "digit": "digit",
    "colour": "colour",
    "position": "position",
    "motion": "motion",
    "scene": "all of it",
    "clip": "all of it",
}


def shown(root: Path, what: str) -> Any:
    """What tools/draw_data.py says of the files that it drew of a data set."""
    path = root / "book" / "assets" / "data" / "examples.json"
    return json.loads(path.read_text(encoding="utf8"))[what]


def figure(file: str, alt: str, caption: str, kind: str = "picture") -> list[str]:
    """A figure of the file among the assets; its `kind` is that of a chapter's figures."""
    head = [f"```{{figure}} ../assets/data/{file}", f":alt: {alt}", f":class: gensrc-{kind}"]
    return [*head, "", caption, "```", ""]


def _classes(entry: dict[str, Any], what: str) -> list[str]:
    rows = entry["rows"]
    alt = f"Ten rows of twelve {what} in grey on black, a row a class, from {rows[0]} down to {rows[-1]}."
    return figure(entry["file"], alt, f"The first twelve of each class: {', '.join(rows)}.")


def _scenes(root: Path) -> list[str]:
    held = shown(root, "held out")
    return [
        *_table("Picture", [(entry["file"], entry["caption"]) for entry in shown(root, "scenes")], "Scene"),
        "The grammar of the captions, which `parse` reads:",
        "",
        *_grammar(root / "gensrc" / "data" / "captions.py"),
        f"Held out are the things {', '.join(held['things'])}, and these positions of a colour: "
        f'{", ".join(held["roles"])}. `combinations="unseen"` gives scenes with just one of them, for the test.',
        "",
    ]


def _clips(root: Path) -> list[str]:
    return [
        *_table(
            "Frames", [(entry["file"], entry["caption"]) for entry in shown(root, "clips")], "Eight frames of a clip"
        ),
        "The grammar of the captions, which `parse` reads:",
        "",
        *_grammar(root / "gensrc" / "data" / "video.py"),
        f"Held out: {', '.join(shown(root, 'held out')['actors'])}.",
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


def _scene_judge(root: Path, names: tuple[str, ...]) -> list[str]:
    """What the judge of scenes and clips reads right, out of its card."""
    card = json.loads((root / "gensrc" / "checkpoints" / "scene-reader.json").read_text(encoding="utf8"))
    shares = json.loads(card["about"].split("on test digits: ")[1].rstrip("."))
    parts = [part for part in ATTRIBUTES if part in shares[names[0]]]
    lines = ["| Read right | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    for part in parts:
        cells = [f"{100 * shares[name][part]:.2f}\N{NO-BREAK SPACE}%" for name in names]
        lines.append(f"| {ATTRIBUTES[part]} | {' | '.join(cells)} |")
    introduction = (
        "`gensrc.evaluation.scene_judge` reads pictures and clips without seeing a caption, so that what a model draws "
        "can be scored. On test digits it gets this right:"
    )
    return [introduction, "", *lines, ""]


def _sheets(entries: list[dict[str, Any]]) -> list[str]:
    lines = []
    for entry in entries:
        alt = f"Contact sheet of {entry['count']} emoji, among them {', '.join(entry['among'])}."
        lines += figure(entry["file"], alt, f"{entry['group'][0].upper()}{entry['group'][1:]}: {entry['count']}.")
    return lines


def _photographs(entries: list[dict[str, str]]) -> list[str]:
    temple, dahlia = entries
    return [
        *figure(temple["file"], "A temple of four storeys in China above a lake, in colour.", _credit(temple)),
        *figure(dahlia["file"], "An orange dahlia before dark leaves, in colour.", _credit(dahlia)),
    ]


def _credit(photograph: dict[str, str]) -> str:
    """Who took it, as a link: an address in full is wider than a phone."""
    return re.sub(r"by (\w+), (\S+),", r"by [\1](\2),", photograph["attribution"])


EXAMPLES: dict[str, Callable[[Path], list[str]]] = {
    "mnist": lambda root: _classes(shown(root, "digits"), "handwritten digits"),
    "fashion-mnist": lambda root: _classes(shown(root, "garments"), "garments"),
    "captioned-digits": lambda root: [*_scenes(root), *_scene_judge(root, ("scenes", "unseen combinations"))],
    "moving-digits": lambda root: [*_clips(root), *_scene_judge(root, ("clips of 32 pixels", "clips of 64 pixels"))],
    "emoji": lambda root: _sheets(shown(root, "emoji")),
    "photographs": lambda root: _photographs(shown(root, "photographs")),
}
