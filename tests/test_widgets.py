"""Explorers: what stands where on the sheet, what a stored notebook gets, and what a live kernel does."""

import base64
import html
import io
import itertools
import json
import re
from html.parser import HTMLParser

import ipywidgets
import numpy as np
import pytest
import torch
from PIL import Image

from gensrc import widgets

TEXTS = {
    "name": "plane",
    "caption": "A plane & its <edges>.",
    "alt": "A picture that is lighter to the right and upwards.",
}


def shade(**values: float) -> np.ndarray:
    """A 2 x 3 picture that no other setting of these tests' controls gives: its pixels hold the values."""
    picture = np.zeros((2, 3))
    picture.flat[: len(values)] = list(values.values())
    return picture / 255


@pytest.fixture
def shown(monkeypatch):
    """What `explore` displays: the (data, metadata) of each output, in order."""
    outputs = []

    def display(data, *, raw, metadata):
        assert raw
        outputs.append((data, metadata))

    monkeypatch.setattr(widgets, "display", display)
    return outputs


def explored(shown, render, **controls):
    widgets.explore(render, **TEXTS, **controls)
    return shown[-1][0]["text/html"]


def sheet_of(page: str, attribute: str = "data-sheet") -> np.ndarray:
    data = re.search(rf'{attribute}="data:image/png;base64,([^"]+)"', page)[1]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def frame(page: str, left: int, top: int, shape=(2, 3)) -> np.ndarray:
    """The picture in column `left` and row `top` of the sheet."""
    height, width = shape
    return sheet_of(page)[top * height : (top + 1) * height, left * width : (left + 1) * width]


def still(page: str) -> np.ndarray:
    """The picture that the page shows before any script has run."""
    return sheet_of(page, " src")


# --- The sheet -------------------------------------------------------------------------------------


def test_two_controls_make_the_sheet_a_plane_with_more_to_the_right_and_upwards(shown):
    page = explored(shown, shade, x=[10, 20, 30], y=[1, 2])
    assert sheet_of(page).shape == (2 * 2, 3 * 3, 3)
    for (left, x), (top, y) in itertools.product(enumerate([10, 20, 30]), enumerate([2, 1])):
        assert frame(page, left, top)[0, :2, 0].tolist() == [x, y]


def test_one_control_fills_a_square_row_by_row(shown):
    page = explored(shown, shade, t=range(5))
    assert 'data-columns="3"' in page
    assert sheet_of(page).shape == (2 * 2, 3 * 3, 3)
    assert [frame(page, k % 3, k // 3)[0, 0, 0] for k in range(5)] == list(range(5))


def test_every_setting_of_three_controls_is_at_its_position_on_the_sheet(shown):
    given = {"a": [1, 2, 3], "b": [10, 20], "c": [100, 110, 120]}
    page = explored(shown, shade, **given)
    controls = [widgets.read_control(key, values) for key, values in given.items()]
    for chosen in itertools.product(range(3), range(2), range(3)):
        place = widgets.position(controls, chosen)
        expected = [values[index] for values, index in zip(given.values(), chosen, strict=True)]
        assert frame(page, place % 3, place // 3)[0, :, 0].tolist() == expected


def test_without_a_script_the_middle_picture_is_seen(shown):
    page = explored(shown, shade, x=[10, 20, 30], y=[1, 2, 3])
    assert still(page).shape == (2, 3, 3)
    assert still(page)[0, :2, 0].tolist() == [20, 2]


ALLOWED = {"figure": [], "div": [], "figcaption": [], "img": ["alt", "src", "width", "height"]}


class Sanitised(HTMLParser):
    """What a viewer of notebooks that trusts nothing shows of a page: of these elements these attributes, no script."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text, self.inside = [], "", None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.inside = tag
        self.elements.append((tag, {name: value for name, value in attributes if name in ALLOWED.get(tag, [])}))

    def handle_data(self, data):
        self.text += "" if self.inside == "script" else data.strip()


def test_a_viewer_that_trusts_nothing_shows_the_picture_at_its_size_and_nothing_that_is_dead(shown):
    page = explored(shown, shade, x=[10, 20, 30], y=([1, 2, 3], "height", "m"))
    seen = Sanitised(page)
    assert [tag for tag, _ in seen.elements] == ["figure", "div", "img", "figcaption", "script"]
    image = seen.elements[2][1]
    assert image.pop("src").startswith("data:image/png;base64,")
    assert image == {"alt": TEXTS["alt"], "width": "279", "height": "186"}
    assert seen.text == TEXTS["caption"]
    styles = " ".join(re.findall(r' style="([^"]*)"', page))
    assert not re.search(r"position|overflow|aspect-ratio|left|top", styles), "no part of it may be left alone"


@pytest.mark.parametrize("colours", [1, 40, 300])
def test_pictures_survive_without_loss_whatever_kind_of_png_they_become(shown, colours):
    generator = np.random.default_rng(0)
    palette = generator.integers(0, 256, (colours, 3))
    pictures = palette[generator.integers(0, colours, (4, 32, 32))] / 255
    page = explored(shown, lambda t: pictures[t], t=range(4))
    for k in range(4):
        assert (frame(page, k % 2, k // 2, (32, 32)) == np.round(pictures[k] * 255)).all()


def test_grey_pictures_in_colour_format_are_stored_as_grey(shown):
    grey = np.random.default_rng(0).random((32, 32))
    once = explored(shown, lambda t: grey * t, t=[0.5, 1.0])
    in_colour = explored(shown, lambda t: np.stack([grey * t] * 3, axis=2), t=[0.5, 1.0])
    assert in_colour == once


def test_the_same_input_gives_the_same_bytes(shown):
    def render(x, y):
        return np.full((4, 4), (x + 2) / 4 * y)

    given = {"x": torch.linspace(-2, 2, 7), "y": (np.linspace(0, 1, 3), "height", "m")}
    assert explored(shown, render, **given) == explored(shown, render, **given)


# --- What is written -------------------------------------------------------------------------------


def controls_of(page: str) -> list[dict]:
    return json.loads(html.unescape(re.search(r'data-controls="([^"]*)"', page)[1]))


def test_sliders_have_screen_reader_texts_with_label_value_and_unit(shown):
    page = explored(shown, lambda **v: np.ones((2, 2)), latent_1=[-1.0, 0.0, 1.0], kt=([5, 10], "cooling", "K"))
    assert controls_of(page) == [
        {"label": "latent 1", "texts": ["−1", "0", "1"], "value": 1},
        {"label": "cooling", "texts": ["5 K", "10 K"], "value": 1},
    ]


def test_neighbouring_values_are_told_apart_and_nothing_is_minus_zero():
    assert widgets.written(torch.linspace(-3, 3, 20).tolist())[:2] == ["−3.00", "−2.68"]
    assert widgets.written([-1e-9, 0.5, 1.0]) == ["0.0", "0.5", "1.0"]
    assert widgets.written([1e-8, 1e-4, 1.0]) == ["1e−08", "0.0001", "1"]
    assert widgets.written([-1, 20, 3000]) == ["−1", "20", "3000"]
    assert widgets.written(["VAE", "AE"]) == ["VAE", "AE"]


def test_the_output_is_one_bundle_that_also_reads_as_text(shown):
    widgets.explore(shade, **TEXTS, t=range(3))
    [(data, metadata)] = shown
    assert data["text/plain"] == f"[explorer plane] {TEXTS['caption']} | {TEXTS['alt']}"
    explorer = {"name": "plane", "caption": TEXTS["caption"], "alt": TEXTS["alt"], "frames": 3}
    assert metadata == {"gensrc": {"explorer": explorer}}
    assert set(data) == {"text/plain", "text/html"}, "no widget where no kernel lives"
    assert "A plane &amp; its &lt;edges&gt;." in data["text/html"]


def test_the_page_loads_nothing(shown):
    page = explored(shown, shade, t=range(3))
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert "import(" not in page
    assert "fetch(" not in page
    assert not re.search(r'\bid="', page), "two explorers on a page must not share an id"


def test_values_reach_render_as_plain_numbers_live_and_ahead(shown):
    seen = set()

    def render(t):
        seen.add(type(t))
        return np.zeros((2, 2))

    widgets.explore(render, **TEXTS, t=torch.tensor([1.0, 2.0]))
    widgets.explore(render, **TEXTS, t=np.array([1, 2]))
    assert seen == {float, int}


def test_tensors_of_any_precision_are_pictures(shown):
    page = explored(shown, lambda t: torch.full((2, 3), t, dtype=torch.bfloat16, requires_grad=True), t=[0, 1])
    assert frame(page, 1, 0).min() == 255


# --- Errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        ({}, "at least one control"),
        ({"t": []}, "control 't' has no values"),
        ({"t": ([], "time")}, "control 't' has no values"),
        ({"t": [1]}, "has one value, 1"),
        ({"t": 5}, "control 't' is 5; give it a sequence"),
        ({"t": torch.tensor(5.0)}, "control 't' is 5.0; give it a sequence"),
        ({"t": "abc"}, "control 't' is 'abc'; give it a sequence"),
        ({"t": [1, 2, 1]}, "control 't' has a value twice"),
        ({"t": torch.zeros(2, 2)}, "single numbers or words"),
        ({"t": range(401)}, "401 pictures; 400 are allowed"),
        ({"t": range(21), "u": range(20)}, "21 × 20 values are 420 pictures"),
    ],
)
def test_controls_that_cannot_be_shown_are_refused(shown, controls, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        widgets.explore(lambda **values: np.zeros((2, 2)), **TEXTS, **controls)
    assert not shown


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros(4), "returned shape (4,) of float64"),
        (np.zeros((3, 8, 8)), "a picture is (height, width) or (height, width, 3)"),
        (np.zeros((1, 4, 4, 3)), "returned shape (1, 4, 4, 3)"),
        (np.zeros((0, 4)), "is empty"),
        (np.full((2, 2), np.nan), "not finite"),
        (np.full((2, 2), np.inf), "not finite"),
        (np.array([[-0.25, 0.5]]), "values from -0.25 to 0.5"),
        (np.full((2, 2), 255, np.uint8), "values from 255 to 255"),
        (np.array([["a", "b"]]), "a picture is"),
        (None, "a picture is"),
    ],
)
def test_arrays_that_are_no_picture_are_refused_naming_the_call(shown, picture, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        widgets.explore(lambda t: picture, **TEXTS, t=["first", "second"])
    assert "render(t='first')" in str(error.value)


def test_pictures_of_different_shapes_are_refused(shown):
    with pytest.raises(ValueError, match=re.escape("different shapes, [(2, 2), (2, 3)]")):
        widgets.explore(lambda t: np.zeros((2, t)), **TEXTS, t=[2, 3])


def test_explorers_above_the_size_limit_are_refused(shown):
    noise = np.random.default_rng(0).random((400, 80, 80))
    with pytest.raises(ValueError, match=r"'plane' takes \d\.\d MB in the notebook, and 1\.5 MB are allowed"):
        widgets.explore(lambda t: noise[t], **TEXTS, t=range(400))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "use letters, digits and hyphens"),
        ({"name": 'a" onload="x'}, "use letters, digits and hyphens"),
        ({"caption": " "}, "has no caption"),
        ({"alt": "A digit."}, "20 letters at least"),
    ],
)
def test_name_caption_and_alt_text_are_required(shown, change, message):
    with pytest.raises(ValueError, match=message):
        widgets.explore(shade, **(TEXTS | change), t=range(2))


# --- The live kernel -------------------------------------------------------------------------------


@pytest.fixture
def live(monkeypatch, shown):
    """Explore as in a kernel; returns the widgets that the output names."""
    monkeypatch.setattr(widgets, "get_ipython", lambda: type("Shell", (), {"kernel": object()})())
    made = []
    build = widgets.live
    monkeypatch.setattr(widgets, "live", lambda *arguments: made.append(build(*arguments)) or made[-1])

    def explore(render, **controls):
        widgets.explore(render, **TEXTS, **controls)
        assert shown[-1][0][widgets.WIDGET_VIEW]["model_id"] == made[-1].model_id
        return made[-1].children

    return explore


def picture_in(image: ipywidgets.Image) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image.value)).convert("L"))


def test_moving_a_live_slider_renders_anew(live):
    calls = []

    def render(**values):
        calls.append(values)
        return shade(**values)

    across, up, image, _ = live(render, x=([10, 20, 30], "across"), y=[1, 2])
    assert [across.description, up.description] == ["across", "y"]
    assert picture_in(image)[0, 0] == 20

    before = len(calls)
    across.value = 2
    assert picture_in(image)[0, 0] == 30
    up.value = 0
    assert calls[before:] == [{"x": 30, "y": 2}, {"x": 30, "y": 1}]


def test_live_pictures_keep_their_pixels_sharp(live):
    *_, image, _ = live(shade, x=[10, 20])
    large = picture_in(image)
    assert large.shape == (2 * 93, 3 * 93)
    assert (large[:93, :93] == large[0, 0]).all()
