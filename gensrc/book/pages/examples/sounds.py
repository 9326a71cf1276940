"""Examples of the data sets that are listened to or go on in time, for the page of data sets. Imports no torch.

Sounds and plots are those that tools/draw_data.py made, with its word for what they are.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gensrc.book.pages.examples.pictures import figure, shown


def _players(entries: list[dict[str, Any]]) -> list[str]:
    """A player for each prompt, and one picture of their waves."""
    lines = []
    for entry in entries:
        said = f"{entry['name']}, {entry['seconds']:.1f} seconds, from the split {entry['split']}"
        player = f'<audio controls preload="none" src="../../_static/data/{entry["file"]}" aria-label="{said}"></audio>'
        lines += ["```{raw} html", f"<figure>{player}<figcaption>{said}</figcaption></figure>", "```", ""]
    names = [entry["name"] for entry in entries]
    alt = f"Waves of the prompts {', '.join(names)}: bursts of words between pauses, samples between -1 and 1."
    return [*lines, *figure("waves.png", alt, "The waves of these prompts, one below the other.", "plot")]


def _lines(entries: list[dict[str, str]]) -> list[str]:
    sunspots, passengers = (entry["file"] for entry in entries)
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


EXAMPLES: dict[str, Callable[[Path], list[str]]] = {
    "speech": lambda root: _players(shown(root, "speech")),
    "series": lambda root: _lines(shown(root, "series")),
}
