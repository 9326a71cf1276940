"""Explorers: a picture with sliders, with and without a live kernel.

`explore(render, ...)` shows `render(**values)` for every value that its controls can take. With a live kernel,
the sliders are ipywidgets and the picture is rendered for each change. The same output has an HTML figure for
the static page: the middle picture, and a small script (explore.js) that puts all pictures, rendered ahead on one
sheet, in its place and native range inputs below. So where no script runs, or a viewer of notebooks takes scripts,
styles and attributes out of what it does not trust, there is that picture with its caption, and nothing dead beside it.
"""

import base64
import html
import io
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
from IPython import get_ipython
from IPython.display import display
from PIL import Image

from gensrc import alt_text, provenance

MAX_FRAMES = 400
MAX_BYTES = 1_500_000  # of the HTML in a stored notebook
VIEW_WIDTH = 280  # CSS pixels that a picture should be about as wide as
SCRIPT = Path(__file__).with_name("explore.js")
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


@dataclass(frozen=True)
class Control:
    """A slider: the keyword of `render`, its values and how they are written."""

    key: str
    label: str
    unit: str
    values: tuple[Any, ...]

    @property
    def middle(self) -> int:
        return len(self.values) // 2

    @property
    def texts(self) -> list[str]:
        """The values as a reader sees them, unit included."""
        unit = f" {self.unit}" if self.unit else ""
        return [text + unit for text in written(self.values)]


def explore(render: Callable[..., Any], *, name: str, caption: str, alt: str, **controls: Any) -> None:
    """Show `render(**values)` with a slider for each control.

    `render` returns a picture as an array or tensor with values in [0, 1], "height width" or "height width
    3". It is called for every combination of values ahead, and again when a slider of a live kernel moves: it
    has to give the same answer for the same values. Every control is a keyword of `render` with its values (a
    list, range, array or tensor), or with (values, label) or (values, label, unit). Two controls span a plane,
    the first to the right and the second upwards, over which a pointer can be dragged.

    Raises ValueError for controls, pictures or texts that cannot be shown, and for more than 400 pictures or
    1.5 MB of HTML.
    """
    check_texts(name, caption, alt)
    chosen = [read_control(key, given) for key, given in controls.items()]
    check_count(chosen)
    frames = [picture(render, values) for values in combinations(chosen)]
    if len(shapes := {frame.shape for frame in frames}) > 1:
        raise ValueError(
            f"render returned pictures of different shapes, {sorted(shapes)}; all have to be of one shape."
        )
    page = figure(frames, chosen, name, caption, alt)
    data: dict[str, Any] = {"text/plain": f"[explorer {name}] {caption} | {alt}", "text/html": page}
    if getattr(get_ipython(), "kernel", None) is not None:
        box = live(render, chosen, caption, alt)
        data[WIDGET_VIEW] = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
    note = {"name": name, "caption": caption, "alt": alt, "frames": len(frames)}
    display(data, raw=True, metadata={"gensrc": {"explorer": note}})


# --- Controls --------------------------------------------------------------------------------------


def read_control(key: str, given: Any) -> Control:
    """A control from values, (values, label) or (values, label, unit)."""
    label, unit = key.replace("_", " "), ""
    if has_label(given):
        given, label, unit = (*given, "")[:3]
    given = given.tolist() if hasattr(given, "tolist") else given
    if isinstance(given, str) or not hasattr(given, "__iter__"):
        raise ValueError(f"The control {key!r} is {given!r}; give it a sequence of values.")
    values = tuple(given)
    values = tuple(value.item() if hasattr(value, "item") else value for value in values)
    if not values:
        raise ValueError(f"The control {key!r} has no values; give it at least two.")
    if any(isinstance(value, (list, tuple, dict)) for value in values):
        raise ValueError(f"The values of the control {key!r} have to be single numbers or words.")
    if len(set(values)) < len(values):
        raise ValueError(f"The control {key!r} has a value twice: {list(values)}.")
    if len(values) == 1:
        raise ValueError(
            f"The control {key!r} has one value, {values[0]!r}, so there is nothing to move; leave it out."
        )
    return Control(key, label, unit, values)


def has_label(given: Any) -> bool:
    """Is this (values, label) or (values, label, unit), and not itself a tuple of values?"""
    return (
        isinstance(given, tuple)
        and len(given) in (2, 3)
        and not isinstance(given[0], str)
        and hasattr(given[0], "__iter__")
        and all(isinstance(text, str) for text in given[1:])
    )


def written(values: Sequence[Any]) -> list[str]:
    """Numbers with enough decimals to distinguish neighbours; all else unchanged."""
    if not all(isinstance(value, float) for value in values):
        return [str(value).replace("-", "−") if isinstance(value, int) else str(value) for value in values]
    step = min(b - a for a, b in itertools.pairwise(sorted(values)))
    # A middle of 2e-9 is a rounded zero; 1e-8 beside 1e-6 is a value of its own, on a scale of powers.
    sizes = [abs(value) for value in values if abs(value) > step / 100_000]
    decimals = next((d for d in range(7) if all(abs(round(v, d) - v) <= step / 20 for v in values)), None)
    on_powers = max(sizes) > 1000 * min(sizes)
    texts = [f"{v:g}" if on_powers or decimals is None else f"{v:.{decimals}f}" for v in values]
    return [(text.lstrip("-") if float(text) == 0 else text).replace("-", "−") for text in texts]


def combinations(controls: Sequence[Control]) -> Iterator[dict[str, Any]]:
    """All settings in the order of the sheet: the first control varies fastest, the second from its last value.

    On a sheet as wide as the first control has values, the first control grows to the right, the second upwards.
    """
    axes = [list(c.values) for c in controls]
    if len(axes) > 1:
        axes[1].reverse()
    keys = [c.key for c in controls]
    for values in itertools.product(*reversed(axes)):
        yield dict(zip(keys, reversed(values), strict=True))


def position(controls: Sequence[Control], chosen: Sequence[int]) -> int:
    """The index on the sheet of the picture with these settings; explore.js computes the same."""
    place, step = 0, 1
    for number, (control, index) in enumerate(zip(controls, chosen, strict=True)):
        size = len(control.values)
        place += step * (size - 1 - index if number == 1 else index)
        step *= size
    return place


# --- Pictures --------------------------------------------------------------------------------------


def picture(render: Callable[..., Any], values: dict[str, Any]) -> np.ndarray:
    """The picture of `render` for these values, checked, as bytes "height width" or "height width 3"."""
    given = render(**values)
    if hasattr(given, "detach"):  # a tensor of any device and precision
        given = given.detach().float().cpu().numpy()
    array = np.asarray(given)
    call = "render(" + ", ".join(f"{key}={value!r}" for key, value in values.items()) + ")"
    if array.dtype.kind not in "biuf" or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise ValueError(
            f"{call} returned shape {array.shape} of {array.dtype}; a picture is (height, width) or (height, width, 3)."
        )
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"{call} returned a picture that is empty or has values that are not finite.")
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 1:
        raise ValueError(f"{call} returned values from {low:g} to {high:g}; a picture's values lie in [0, 1].")
    return np.round(array.astype(np.float64) * 255).astype(np.uint8)


def sheet(frames: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """All pictures on one, row by row from the top left."""
    rows = math.ceil(len(frames) / columns)
    height, width = frames[0].shape[:2]
    whole = np.zeros((rows * height, columns * width, *frames[0].shape[2:]), dtype=np.uint8)
    for place, frame in enumerate(frames):
        top, left = place // columns * height, place % columns * width
        whole[top : top + height, left : left + width] = frame
    return whole


def png(array: np.ndarray) -> bytes:
    """A PNG without loss: grey where all is grey, else with a palette where 256 colours are enough."""
    if array.ndim == 3 and (array == array[..., :1]).all():
        array = array[..., 0]
    image = Image.fromarray(np.ascontiguousarray(array))
    if array.ndim == 3:
        image = with_palette(array) or image
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def with_palette(array: np.ndarray) -> Image.Image | None:
    """The same picture with a palette; None if it has more than 256 colours."""
    red, green, blue = (array[..., channel].astype(np.uint32) for channel in range(3))
    colours, places = np.unique(red << 16 | green << 8 | blue, return_inverse=True)
    if len(colours) > 256:
        return None
    image = Image.fromarray(places.reshape(array.shape[:2]).astype(np.uint8)).convert("P")
    image.putpalette(np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=1).astype(np.uint8).tobytes())
    return image


# --- The static page -------------------------------------------------------------------------------


def figure(frames: Sequence[np.ndarray], controls: Sequence[Control], name: str, caption: str, alt: str) -> str:
    """The HTML figure: the middle picture and its caption, and for the script the sheet of all and the controls."""
    provenance.record(SCRIPT)  # it stands in the stored output, so a change of it makes the chapter stale
    columns = sheet_columns(controls)
    height, width = frames[0].shape[:2]
    scale = max(1, round(VIEW_WIDTH / width))
    told = [{"label": c.label, "texts": c.texts, "value": c.middle} for c in controls]
    still = frames[position(controls, [c.middle for c in controls])]
    lines = [
        f'<figure class="gensrc-explore" data-name="{html.escape(name)}" data-columns="{columns}"',
        f' data-controls="{html.escape(json.dumps(told, ensure_ascii=False))}"',
        f' data-sheet="{in_page(sheet(frames, columns))}">',
        '<div class="gensrc-explore-view" style="width:fit-content;max-width:100%">',
        f'<img alt="{html.escape(alt)}" width="{scale * width}" height="{scale * height}"',
        f' style="max-width:100%;height:auto;image-rendering:pixelated" src="{in_page(still)}"></div>',
        f"<figcaption>{html.escape(caption)}</figcaption>",
        f"<script>\n{SCRIPT.read_text(encoding='utf8').strip()}\n</script>",
        "</figure>",
    ]
    page = "\n".join(lines)
    if len(page) > MAX_BYTES:
        raise ValueError(
            f"The explorer {name!r} takes {len(page) / 1e6:.1f} MB in the notebook, and {MAX_BYTES / 1e6:.1f} MB "
            "are allowed: give its controls fewer values or render smaller pictures."
        )
    return page


def sheet_columns(controls: Sequence[Control]) -> int:
    """A plane's sheet is the plane itself; a single control's pictures fill a square."""
    size = len(controls[0].values)
    return size if len(controls) > 1 else math.ceil(math.sqrt(size))


def in_page(array: np.ndarray) -> str:
    """The address of a picture that lies in the page itself."""
    return "data:image/png;base64," + base64.b64encode(png(array)).decode()


# --- The live kernel -------------------------------------------------------------------------------


def live(render: Callable[..., Any], controls: Sequence[Control], caption: str, alt: str) -> ipywidgets.VBox:
    """Sliders above a picture that is rendered again whenever one of them moves."""
    sliders = [
        ipywidgets.SelectionSlider(
            options=list(zip(c.texts, range(len(c.values)), strict=True)),
            value=c.middle,
            description=c.label,
            style={"description_width": "initial"},
        )
        for c in controls
    ]
    image = ipywidgets.Image(format="png")

    def draw(change: Any = None) -> None:
        values = {c.key: c.values[s.value] for c, s in zip(controls, sliders, strict=True)}
        image.value = png(enlarged(picture(render, values)))

    draw()
    for moved in sliders:
        moved.observe(draw, names="value")
    image.layout.max_width = "100%"
    label = ipywidgets.HTML(f"<p>{html.escape(caption)}</p>")
    return ipywidgets.VBox([*sliders, image, label])


def enlarged(frame: np.ndarray) -> np.ndarray:
    """Each pixel as a block of pixels, for a picture about as wide as on the page."""
    factor = max(1, round(VIEW_WIDTH / frame.shape[1]))
    return frame.repeat(factor, axis=0).repeat(factor, axis=1)


# --- Checks ----------------------------------------------------------------------------------------


def check_texts(name: str, caption: str, alt: str) -> None:
    if not name or not name.replace("-", "").isalnum():
        raise ValueError(f"The explorer's name is {name!r}; use letters, digits and hyphens, such as latent-plane.")
    if not caption.strip():
        raise ValueError(f"The explorer {name!r} has no caption; say what there is to see.")
    if not alt_text.says_enough(alt):
        raise ValueError(
            f"The explorer {name!r} has the alt text {alt!r}; describe the picture in {alt_text.LEAST} letters at "
            "least, for readers who do not see it."
        )


def check_count(controls: Sequence[Control]) -> None:
    if not controls:
        raise ValueError("An explorer needs at least one control: a keyword of render with its values.")
    count = math.prod(len(control.values) for control in controls)
    if count > MAX_FRAMES:
        sizes = " × ".join(str(len(control.values)) for control in controls)
        raise ValueError(
            f"{sizes} values are {count} pictures; {MAX_FRAMES} are allowed: give the controls fewer values."
        )
