"""The page "Speech and series": what can be listened to, and what goes on in time. Imports no torch.

What a set is good for is written here; numbers come from the cards, and sounds and plots are those that
tools/draw_data.py made, with its word for what they are.
"""

import json
from pathlib import Path
from typing import Any

from gensrc.book.picture_data import figure, section
from gensrc.data.registry import cards

INTRODUCTION = """\
# Speech and series

Seven minutes of speech, as waves and as codes of mu-law companding, and two series of numbers that every textbook on
forecasting has. Files, checksums and sources are on the page of [data sets and licences](datasets.md).

```python
from gensrc.data.series import sunspots
from gensrc.data.speech import RATE, speech

prompts = speech("train")
prompts.waves[0]  # in [-1, 1], 8,000 samples a second
prompts.codes[0]  # the same as whole numbers, 0 to 255
years = sunspots()
years.times, years.values
```
"""
USES = {
    "speech": """\
Good for predicting a wave sample by sample: one speaker, one microphone, little noise. Not good for speech synthesis
from text, as there are no transcripts, nor for claims about voices: it is one, reading what telephones say.""",
    "series": """\
Good for the models of textbooks, whose fitted values are known to the printed digit. Not good for anything that learns
much: they have 309 and 144 values.""",
}


def page(root: Path) -> str:
    """The MyST text of the page, from the pack and the assets in the repository `root`."""
    found = {card.name: card for card in cards(root / "gensrc" / "data" / "files")}
    shown = json.loads((root / "book" / "assets" / "data" / "examples.json").read_text(encoding="utf8"))
    bodies = {"speech": _players(shown["speech"]), "series": _lines(shown["series"])}
    return "\n".join([INTRODUCTION, *(section("sound", found[name], bodies[name], use) for name, use in USES.items())])


def _players(shown: list[dict[str, Any]]) -> list[str]:
    """A player for each prompt, and one picture of their waves."""
    lines = []
    for entry in shown:
        said = f"{entry['name']}, {entry['seconds']:.1f} seconds, from the split {entry['split']}"
        player = f'<audio controls preload="none" src="../../_static/data/{entry["file"]}" aria-label="{said}"></audio>'
        lines += ["```{raw} html", f"<figure>{player}<figcaption>{said}</figcaption></figure>", "```", ""]
    names = [entry["name"] for entry in shown]
    alt = f"Waves of the prompts {', '.join(names)}: bursts of words between pauses, samples between -1 and 1."
    return [*lines, *figure("waves.png", alt, "The waves of these prompts, one below the other.", "plot")]


def _lines(shown: list[dict[str, str]]) -> list[str]:
    sunspots, passengers = (entry["file"] for entry in shown)
    return [
        *figure(
            sunspots,
            "A line from 1700 to 2008 that rises and falls every eleven years or so, up to 190 in 1957.",
            "The yearly mean of the sunspot number.",
            "plot",
        ),
        *figure(
            passengers,
            "A line from 1949 to 1960 that rises from about 100 to over 600, with a peak every summer that grows too.",
            "Passengers of international airlines in a month, in thousands.",
            "plot",
        ),
    ]
