"""The scene reader: recognises the digits, colours and layout of a picture or clip.

It scores generated pictures, and is independent of the model that made them: it sees no
caption, and it was trained on MNIST's training digits in all combinations, including
those held out, so that it is equally accurate on combinations new to the model.

It has two small convolutional networks. The finder gives for every cell of a grid the
probability that the centre of a digit is there: the heat map of Zhou, Wang and
Krähenbühl (2019), "Objects as points", here with plain cross-entropy. The reader
classifies the 16x16 pixels around a centre, like LeNet-5 (LeCun, Bottou, Bengio and
Haffner, 1998, "Gradient-based learning applied to document recognition"), here with
batch normalisation, dropout and a second output for the colour. The layout is then the
one whose positions are nearest to the centres; for clips see `motion_paths`.

Shapes: n pictures of 32x32 pixels, m things that were found in them, 16x16 cells.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import permutations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from gensrc.checkpoints import load_weights
from gensrc.data.captions import (
    COLOURS,
    GLYPH,
    LAYOUTS,
    MOST,
    CaptionedImages,
    Scene,
    Thing,
)
from gensrc.data.video import MOTIONS, ROOM, Actor, Clip
from gensrc.evaluation.motion_paths import trace, without
from gensrc.models.checks import (
    as_weights,
    check_finite,
    check_last,
    check_shape,
    widened,
)

CELL = 2  # pixels, the side of a cell
CELLS = 16  # of a picture, each way
WINDOW = 16  # pixels, the side of the reader's input
PEAK = 0.4  # least heat of a cell at the middle of a thing
APART = 7  # cells, the least distance of two middles in a scene
TRACE = 0.35  # least mean heat along the path of an actor
COLOUR_NAMES = tuple(COLOURS)
CONFIG = {"width": 16}  # of the trained reader


class SceneReader(nn.Module):
    """Finds the things of a picture and reads their digits and colours.

    width: channels of the finder's first layer; the other layers have two or four times
        as many.
    """

    def __init__(self, *, width: int = 16) -> None:
        super().__init__()
        self.finder = nn.Sequential(
            *_convolution(3, width, 5, stride=CELL),
            *_convolution(width, 2 * width, 5),
            *_convolution(2 * width, 2 * width, 5),
            nn.Conv2d(2 * width, 1, 1),
        )
        self.reader = nn.Sequential(
            *_convolution(3, 2 * width, 3),
            *_convolution(2 * width, 2 * width, 3),
            nn.MaxPool2d(2),
            *_convolution(2 * width, 4 * width, 3),
            *_convolution(4 * width, 4 * width, 3),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(4 * width * (WINDOW // 4) ** 2, 8 * width),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(8 * width, 10 + len(COLOURS)),
        )

    def heat(self, images: Float[Tensor, "n 3 32 32"]) -> Float[Tensor, "n 16 16"]:
        """Logits of the heat map: is a cell the middle of a thing (see `targets`)?"""
        check_shape(images, (3, 32, 32), "pictures")
        check_finite(images, "pictures")
        return widened(self.finder(as_weights(images, self))[:, 0])

    def classify(
        self, windows: Float[Tensor, "m 3 16 16"]
    ) -> tuple[Float[Tensor, "m 10"], Float[Tensor, "m colours"]]:
        """Logits of the digit and of the colour in the middle of each window."""
        logits = widened(self.reader(as_weights(windows, self)))
        digits, colours = logits.split([10, len(COLOURS)], 1)
        return digits, colours

    def features(self, windows: Float[Tensor, "m 3 16 16"]) -> Float[Tensor, "m f"]:
        """The input of the reader's last layer, 8 * width numbers a window."""
        check_shape(windows, (3, WINDOW, WINDOW), "windows")
        check_finite(windows, "windows")
        return widened(self.reader[:-2](as_weights(windows, self)))

    def loss(
        self, images: Float[Tensor, "n 3 32 32"], marks: Int64[Tensor, "n 2 32 32"]
    ) -> Float[Tensor, ""]:
        """Cross-entropy in nats a picture: of the heat, summed over the cells, and of
        the digit and colour of every thing.

        marks: what is to be found in them, from `annotate`.
        """
        check_last(marks, (len(images), 2, 32, 32), "marks")
        which, rows, columns = (marks[:, 0] > 0).nonzero(as_tuple=True)
        middles = torch.stack([rows, columns], 1)
        wanted = targets(which, middles, len(images))
        heat = F.binary_cross_entropy_with_logits(
            self.heat(images), wanted, reduction="sum"
        )
        # The finder may be off by a pixel, so the reader is trained with that error.
        middles = middles + torch.randint(-1, 2, middles.shape, device=middles.device)
        digits, colours = self.classify(windows(images, which, middles))
        digit, colour = marks[which, :, rows, columns].sub(1).unbind(1)
        read = F.cross_entropy(digits, digit, reduction="sum")
        read = read + F.cross_entropy(colours, colour, reduction="sum")
        return (heat + read) / len(images)

    # --- pictures ---

    def find(
        self, images: Float[Tensor, "n 3 32 32"]
    ) -> tuple[Int64[Tensor, " m"], Int64[Tensor, "m 2"]]:
        """All things found: index of the picture, in order, and middle in pixels, down
        and right."""
        heat = self.heat(images)
        hottest = F.max_pool2d(heat, 2 * (APART // 2) + 1, 1, APART // 2)
        peaks = (heat == hottest) & (heat.sigmoid() > PEAK)
        which, rows, columns = peaks.nonzero(as_tuple=True)
        # The logarithm of the heat is a parabola of curvature 1 around the middle, so
        # its slope at a cell is the distance of the middle from there.
        log = F.pad(F.logsigmoid(heat), [1] * 4, mode="replicate")
        down = log[which, rows + 2, columns + 1] - log[which, rows, columns + 1]
        right = log[which, rows + 1, columns + 2] - log[which, rows + 1, columns]
        beyond = torch.stack([down, right], 1).div(2).clamp(-0.5, 0.5)
        cells = torch.stack([rows, columns], 1)
        return which, ((cells + 0.5 + beyond) * CELL).round().long()

    @torch.no_grad()
    def read(self, images: Float[Tensor, "n 3 32 32"]) -> list[Scene | None]:
        """What each picture shows; None where there is no thing or more than three.

        images: levels in [0, 1], on the reader's device.
        """
        return [scene for part in images.split(512) for scene in self._read(part)]

    def _read(self, images: Float[Tensor, "n 3 32 32"]) -> list[Scene | None]:
        which, middles = self.find(images)
        logits = self.classify(windows(images, which, middles))
        read = torch.stack([part.argmax(1) for part in logits], 1).tolist()
        things = [Thing(COLOUR_NAMES[colour], digit) for digit, colour in read]
        counts = which.bincount(minlength=len(images))
        starts = counts.cumsum(0) - counts
        scenes: list[Scene | None] = [None] * len(images)
        for count in range(1, MOST + 1):
            having = (counts == count).nonzero()[:, 0]
            members = starts[having, None] + torch.arange(count, device=starts.device)
            layouts, orders = arrange(middles[members])
            ordered = members.gather(1, orders).tolist()
            for number, layout, row in zip(having, layouts, ordered, strict=True):
                scenes[number] = Scene(tuple(things[thing] for thing in row), layout)
        return scenes

    # --- clips ---

    @torch.no_grad()
    def watch(self, frames: Float[Tensor, "n time 1 size size"]) -> list[Clip | None]:
        """What each clip shows; None where nothing is found.

        frames: levels in [0, 1], on the reader's device; 64 pixels are halved to 32.
        """
        check_shape(frames, (None, 1, None, None), "clips")
        return [clip for part in frames.split(32) for clip in self._watch(part)]

    def _watch(self, frames: Float[Tensor, "n time 1 size size"]) -> list[Clip | None]:
        n, time = frames.shape[:2]
        images = F.adaptive_avg_pool2d(frames.flatten(0, 1), 32).expand(-1, 3, -1, -1)
        heat = _at_corners(self.heat(images).sigmoid()).unflatten(0, (n, time))
        strength, motion, corners = trace(heat)
        # The second actor is found in the heat without that of the first.
        strength_2, motion_2, corners_2 = trace(without(heat, corners, GLYPH // 2))
        is_one, is_two = strength > TRACE, strength_2 > TRACE

        overlap = (GLYPH - (corners - corners_2).abs()).clamp(min=0).prod(2)
        overlap = overlap * is_two[:, None]
        clear = overlap <= overlap.median(1, keepdim=True).values
        digit = self._digits(images, corners, clear)
        digit_2 = self._digits(images, corners_2, clear)

        clips: list[Clip | None] = []
        columns = (digit, motion, is_one, digit_2, motion_2, is_two)
        for row in torch.stack(columns, 1).tolist():
            cast = [Actor(d, MOTIONS[m]) for d, m, found in (row[:3], row[3:]) if found]
            clips.append(Clip(tuple(cast)) if cast else None)
        return clips

    def _digits(
        self,
        images: Float[Tensor, "frames 3 32 32"],
        corners: Int64[Tensor, "n time 2"],
        clear: Bool[Tensor, "n time"],
    ) -> Int64[Tensor, " n"]:
        """The digit with the largest sum of log-probabilities over the clear frames."""
        every = torch.arange(len(images), device=images.device)
        middles = corners.flatten(0, 1) + GLYPH // 2
        digits, _ = self.classify(windows(images, every, middles))
        votes = digits.log_softmax(1).unflatten(0, clear.shape)
        return (votes * clear[..., None]).sum(1).argmax(1)


def _convolution(
    inputs: int, outputs: int, size: int, stride: int = 1
) -> list[nn.Module]:
    """A convolution with batch normalisation and ReLU."""
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


@cache
def scene_reader() -> SceneReader:
    """The trained reader, on the CPU. Raises CheckpointError if it cannot be read."""
    return load_weights("scene-reader", SceneReader(**CONFIG), config=CONFIG)


# --- Inputs and targets of the networks -----------------------------------------------


def annotate(data: CaptionedImages) -> Int64[Tensor, "n 2 32 32"]:
    """What is to be found in the pictures, for `loss`: at the middle of each thing its
    digit + 1 and its colour's number + 1, and 0 elsewhere."""
    marks = torch.zeros(len(data), 2, 32, 32, dtype=torch.int64)
    middles = (data.corners + GLYPH // 2).tolist()
    for planes, scene, places in zip(marks, data.scenes, middles, strict=True):
        for thing, (row, column) in zip(scene.things, places, strict=False):
            planes[0, row, column] = thing.digit + 1
            planes[1, row, column] = COLOUR_NAMES.index(thing.colour) + 1
    return marks


def targets(
    which: Int64[Tensor, " m"], middles: Int64[Tensor, "m 2"], n: int
) -> Float[Tensor, "{n} 16 16"]:
    """1 at the middle of a thing, exp(-d^2 / 2) at a distance of d cells from it."""
    cells = torch.arange(CELLS, device=middles.device) * CELL + CELL / 2
    distances = (cells - middles[..., None]).div(CELL).square()  # m, axis, cell
    bumps = (-0.5 * (distances[:, 0, :, None] + distances[:, 1, None, :])).exp()
    # Things are so far apart that their bumps hardly overlap.
    return bumps.new_zeros(n, CELLS, CELLS).index_add(0, which, bumps)


def windows(
    images: Float[Tensor, "n 3 32 32"],
    which: Int64[Tensor, " m"],
    middles: Int64[Tensor, "m 2"],
) -> Float[Tensor, "m 3 16 16"]:
    """The pixels around each middle in picture `which`; black beyond the edges."""
    padded = F.pad(images, [WINDOW] * 4)
    steps = torch.arange(WINDOW, device=images.device) - WINDOW // 2 + WINDOW
    rows, columns = (middles[:, axis, None] + steps for axis in (0, 1))
    found = padded[which[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return found.permute(0, 3, 1, 2)


def centred(images: Float[Tensor, "n 1 32 32"]) -> Float[Tensor, "n 3 16 16"]:
    """Windows with a white digit in the middle, from pictures of one digit each, such
    as MNIST's with a border of two pixels.

    The middle 24x24 pixels are resized to 16x16, about the size of digits in scenes;
    the border of 4 pixels is cropped.
    """
    middle = images[:, :, 4:-4, 4:-4]
    windows = F.interpolate(middle, size=WINDOW, mode="bilinear", antialias=True)
    return windows.expand(-1, 3, -1, -1)


# --- Geometry -------------------------------------------------------------------------


@cache
def _places(count: int) -> tuple[list[str], Float[Tensor, "layouts count 2"]]:
    """The layouts of `count` things, and the mean positions of their middles."""
    of_it = {n: layout for n, layout in LAYOUTS.items() if len(layout.roles) == count}
    found = []
    for layout in of_it.values():
        lowest, choices, shift = map(
            torch.tensor, (layout.lowest, layout.choices, layout.shift)
        )
        found.append(lowest + (choices - 1) / 2 + (shift - 1) / 2 + GLYPH / 2)
    return list(of_it), torch.stack(found)


def arrange(
    middles: Int64[Tensor, "n count 2"],
) -> tuple[list[str], Int64[Tensor, "n count"]]:
    """The layout with the nearest positions, by squared distance, and the indices of
    the things in its order."""
    count, device = middles.shape[1], middles.device
    names, places = _places(count)
    orders = torch.tensor(list(permutations(range(count))), device=device)
    away = middles[:, orders, None].transpose(2, 3) - places.to(device)
    best = away.square().sum((3, 4)).flatten(1).argmin(1)
    layouts = [names[number] for number in (best % len(names)).tolist()]
    return layouts, orders[best // len(names)]


def _at_corners(heat: Float[Tensor, "n 16 16"]) -> Float[Tensor, "n 19 19"]:
    """The heat for each position of a thing's corner, interpolated between cells."""
    cells = torch.arange(CELLS, device=heat.device)
    middles = torch.arange(ROOM + 1, device=heat.device) + GLYPH / 2
    weights = 1 - (middles[:, None] / CELL - 0.5 - cells).abs()
    weights = weights.clamp(min=0)
    return weights @ heat @ weights.T


# --- Scores ---------------------------------------------------------------------------


def agreement(
    found: Sequence[Scene | None], wanted: Sequence[Scene]
) -> dict[str, float]:
    """The accuracy of what was found, as shares of right answers.

    Of all pictures: with the right count, position (the layout alone) and scene. Of all
    things wanted: with the right digit, colour and both, at any position.
    """
    pairs = list(zip(found, wanted, strict=True))
    things = [(scene.things if scene else (), wish.things) for scene, wish in pairs]
    return {
        "count": _share(len(have) == len(want) for have, want in things),
        "digit": _common(things, "digit"),
        "colour": _common(things, "colour"),
        "thing": _common(things),
        "position": _share(
            scene is not None and scene.layout == wish.layout for scene, wish in pairs
        ),
        "scene": _share(scene == wish for scene, wish in pairs),
    }


def clip_agreement(
    found: Sequence[Clip | None], wanted: Sequence[Clip]
) -> dict[str, float]:
    """The same for clips: shares of the clips with the right count and clip, and of all
    actors wanted with the right digit, motion and both."""
    pairs = list(zip(found, wanted, strict=True))
    actors = [(clip.actors if clip else (), wish.actors) for clip, wish in pairs]
    return {
        "count": _share(len(have) == len(want) for have, want in actors),
        "digit": _common(actors, "digit"),
        "motion": _common(actors, "motion"),
        "actor": _common(actors),
        "clip": _share(clip == wish for clip, wish in pairs),
    }


def _share(right: Iterable[bool]) -> float:
    values = list(right)
    if not values:
        raise ValueError("there is nothing to compare: give a picture or clip at least")
    return sum(values) / len(values)


def _common(
    pairs: Sequence[tuple[Sequence[object], Sequence[object]]], attribute: str = ""
) -> float:
    """The share of all things wanted, compared by `attribute`, that was found."""

    def counted(things: Sequence[object]) -> Counter[object]:
        return Counter(getattr(t, attribute) if attribute else t for t in things)

    shared = sum((counted(have) & counted(want)).total() for have, want in pairs)
    return shared / sum(len(want) for _, want in pairs)
