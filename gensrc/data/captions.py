"""Captioned pictures of coloured handwritten digits and their layout, such as "a red 7 above a blue 3".

`captioned_digits` makes any number of them from MNIST, as an exact function of the seed: random numbers and arithmetic
on pixels are in integers, so that every machine makes the same bytes.

A `Scene` is the content of a picture; `caption` turns it into words and `parse` back. Captions follow this grammar:

    caption     = single | pair | triple ;
    single      = thing, " ", place ;
    pair        = thing, " ", relation, " ", thing
                | "two ", things, " ", arrangement ;
    triple      = pair, ", both ", relation, " ", thing
                | "three ", things, ", two ", arrangement, " ", relation, " the third" ;
    thing       = "a ", colour, " ", digit ;
    things      = colour, " ", digit, "s" ;
    colour      = "red" | "yellow" | "green" | "blue" | "pink" | "white" ;
    digit       = "0" | "1" | "2" | "3" | "4" | "5" | "6" | "7" | "8" | "9" ;
    place       = "at the top left" | "at the top" | "at the top right" | "on the left" | "in the centre"
                | "on the right" | "at the bottom left" | "at the bottom" | "at the bottom right" ;
    relation    = "left of" | "right of" | "above" | "below" ;
    arrangement = "side by side" | "one above the other" ;

In a triple the pair is perpendicular to the direction of the third: two side by side are both above or below it, two
of which one is above the other are both left or right of it.

Some combinations are held out: a colour with a digit (`HELD_OUT_THINGS`) and a colour with a position
(`HELD_OUT_ROLES`). No training scene has one, so that they test a model on combinations it was not trained on.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gensrc.data.handwriting import as_levels, draw, handwriting, pick

SIZE = 32  # pixels, the side of a picture
GLYPH = 14  # pixels, the side of a digit in it
MOST = 3  # things in a scene
CHUNK = 2048  # scenes painted at once, to bound the memory
# Okabe and Ito's palette with a redder red and a greener green. To readers without red-, green- or blue-sensitive
# cones (simulated after Machado, Oliveira and Fernandes, 2009) the closest two are still 15 units of CIELAB apart.
COLOURS = {
    "red": (230, 40, 30),
    "yellow": (240, 228, 66),
    "green": (0, 170, 90),
    "blue": (86, 180, 233),
    "pink": (204, 121, 167),
    "white": (255, 255, 255),
}
PLACES = (
    "at the top left",
    "at the top",
    "at the top right",
    "on the left",
    "in the centre",
    "on the right",
    "at the bottom left",
    "at the bottom",
    "at the bottom right",
)
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
ARRANGEMENTS = {"side by side": "left of", "one above the other": "above"}


class CaptionError(ValueError):
    """A caption that the grammar does not allow; the message says where it deviates."""


@dataclass(frozen=True)
class Thing:
    """A coloured digit."""

    colour: str
    digit: int


@dataclass(frozen=True)
class Layout:
    """Where the things of a scene are. Distances are in pixels; pairs are (vertical, horizontal).

    A thing's upper left corner is drawn uniformly from `choices` values, from `lowest` on; then all things are moved
    together by 0 to `shift` - 1.
    """

    roles: tuple[tuple[str, ...], ...]  # for each thing, in the order of the scene, the positions it takes
    lowest: tuple[tuple[int, int], ...]
    choices: tuple[tuple[int, int], ...]
    shift: tuple[int, int] = (1, 1)


NEAR, MIDDLE, FAR = 0, 8, 16  # the first corners of a picture's cells; things near and far never touch
JITTER = (3, 3)  # pixels


def _layouts() -> dict[str, Layout]:
    lines = (NEAR, MIDDLE, FAR)
    corners = [(top, left) for top in lines for left in lines]
    made = {place: Layout(((place,),), (corner,), (JITTER,)) for place, corner in zip(PLACES, corners, strict=True)}
    made["left of"] = Layout((("left",), ("right",)), ((NEAR, NEAR), (NEAR, FAR)), (JITTER, JITTER), shift=(17, 1))
    made["above"] = Layout((("above",), ("below",)), ((NEAR, NEAR), (FAR, NEAR)), (JITTER, JITTER), shift=(1, 17))
    for pair, third in (("above", "below"), ("below", "above")):
        line, other = (NEAR, FAR) if pair == "above" else (FAR, NEAR)
        made[f"left of, both {pair}"] = Layout(
            (("left", pair), ("right", pair), (third,)),
            ((line, NEAR), (line, FAR), (other, 6)),
            (JITTER, JITTER, (3, 7)),
        )
    for pair, third in (("left", "right"), ("right", "left")):
        line, other = (NEAR, FAR) if pair == "left" else (FAR, NEAR)
        made[f"above, both {pair} of"] = Layout(
            (("above", pair), ("below", pair), (third,)),
            ((NEAR, line), (FAR, line), (6, other)),
            (JITTER, JITTER, (7, 3)),
        )
    return made


LAYOUTS = _layouts()
NAMES = tuple(LAYOUTS)
SLOTS = tuple(len(layout.roles) for layout in LAYOUTS.values())
THINGS = tuple(Thing(colour, digit) for colour in COLOURS for digit in range(10))
ROLES = ("left", "right", "above", "below", *PLACES)
HELD_OUT_THINGS = frozenset(Thing(list(COLOURS)[(digit + 1) % len(COLOURS)], digit) for digit in range(10))
HELD_OUT_ROLES = {role: list(COLOURS)[(index + 2) % len(COLOURS)] for index, role in enumerate(ROLES)}


@dataclass(frozen=True)
class Scene:
    """The content of a picture: one to three things and their layout.

    layout: a place for one thing; "left of" or "above" for two, the first being left of or above the second; for three
        "left of, both above" (or "both below") or "above, both left of" (or "both right of"), the first two being the
        pair. So every picture has just one scene, however a caption says it.

    Raises ValueError for an unknown layout, another number of things than it has, and a thing that is none of THINGS.
    """

    things: tuple[Thing, ...]
    layout: str

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"There is no layout {self.layout!r}; there are {', '.join(map(repr, LAYOUTS))}.")
        wanted = len(LAYOUTS[self.layout].roles)
        if len(self.things) != wanted:
            raise ValueError(f"The layout {self.layout!r} has {wanted} things, not {len(self.things)}.")
        for thing in self.things:
            if thing not in _THINGS:
                raise ValueError(f"{thing} is no coloured digit; the colours are {', '.join(COLOURS)}.")


_THINGS = frozenset(THINGS)


# --- The grammar ----------------------------------------------------------------------------------------------------


def caption(scene: Scene) -> str:
    """The first of the scene's wordings."""
    return wordings(scene)[0]


def wordings(scene: Scene) -> tuple[str, ...]:
    """Every caption that the data set uses for the scene: one, or two where things can be named in either order."""
    if len(scene.things) == 1:
        return (f"{_a(scene.things[0])} {scene.layout}",)
    first, second, *rest = scene.things
    across, _, relation = scene.layout.partition(", both ")
    arrangement = next(words for words, meaning in ARRANGEMENTS.items() if meaning == across)
    if rest == [first] and first == second:
        return (f"three {_plural(first)}, two {arrangement} {relation} the third",)
    pairs = [f"{_a(first)} {across} {_a(second)}", f"{_a(second)} {OPPOSITE[across]} {_a(first)}"]
    if first == second:
        pairs = [f"two {_plural(first)} {arrangement}"]
    return tuple(f"{pair}, both {relation} {_a(rest[0])}" if rest else pair for pair in pairs)


def _a(thing: Thing) -> str:
    return f"a {thing.colour} {thing.digit}"


def _plural(thing: Thing) -> str:
    return f"{thing.colour} {thing.digit}s"


def parse(text: str) -> Scene:
    """The scene that a caption describes; `parse(words) == scene` for all `words` in `wordings(scene)`.

    Raises CaptionError for a text that the grammar does not allow.
    """
    parser = CaptionParser(text)
    number = parser.take("a ", "two ", "three ")
    first = _thing(parser)
    if number == "three ":
        return _three_alike(parser, first)
    if number == "two ":
        parser.take("s ")
        across, pair = ARRANGEMENTS[parser.take(*ARRANGEMENTS)], (first, first)
    else:
        parser.take(" ")
        where = parser.take(*PLACES, *OPPOSITE)
        if where in PLACES:
            parser.end()
            return Scene((first,), where)
        parser.take(" a ")
        second = _thing(parser)
        forwards = where in ARRANGEMENTS.values()
        across, pair = (where, (first, second)) if forwards else (OPPOSITE[where], (second, first))
    if parser.at_end:
        return Scene(pair, across)
    parser.take(", both ")
    relation = _relation(parser, across)
    parser.take(" a ")
    third = _thing(parser)
    parser.end()
    return Scene((*pair, third), f"{across}, both {relation}")


def _three_alike(parser: "CaptionParser", thing: Thing) -> Scene:
    parser.take("s, two ")
    across = ARRANGEMENTS[parser.take(*ARRANGEMENTS)]
    parser.take(" ")
    relation = _relation(parser, across)
    parser.take(" the third")
    parser.end()
    return Scene((thing, thing, thing), f"{across}, both {relation}")


def _thing(parser: "CaptionParser") -> Thing:
    colour = parser.take(*COLOURS)
    parser.take(" ")
    return Thing(colour, int(parser.take(*"0123456789")))


def _relation(parser: "CaptionParser", across: str) -> str:
    """The relation of a pair to the third thing, perpendicular to the pair's direction."""
    return parser.take(*(relation for relation in OPPOSITE if across not in (relation, OPPOSITE[relation])))


class CaptionParser:
    """Reads a caption from left to right, one of several allowed phrases at a time."""

    def __init__(self, text: str) -> None:
        self.text, self.position = text, 0

    @property
    def at_end(self) -> bool:
        return self.position == len(self.text)

    def take(self, *phrases: str) -> str:
        """Consume and return the longest of the phrases found here. Raises CaptionError if there is none."""
        for phrase in sorted(phrases, key=len, reverse=True):
            if self.text.startswith(phrase, self.position):
                self.position += len(phrase)
                return phrase
        raise self._error(" or ".join(map(repr, phrases)))

    def end(self) -> None:
        """Raises CaptionError if there is more to read."""
        if not self.at_end:
            raise self._error("its end")

    def _error(self, expected: str) -> CaptionError:
        read, rest = self.text[: self.position], self.text[self.position :]
        return CaptionError(f"This is no caption: behind {read!r} has to come {expected}, not {rest[:40]!r}.")


# --- Words as numbers -----------------------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    """The words of a caption; digits, the s of a plural and commas count as words of their own."""
    return re.findall(r"[a-z]+|[0-9]|,", text)


def vocabulary(phrases: Iterable[str]) -> tuple[str, ...]:
    """The words of the phrases, sorted, after the empty word that pads short captions."""
    return ("", *sorted({word for phrase in phrases for word in words(phrase)}))


VOCABULARY = vocabulary([*COLOURS, *"0123456789", *PLACES, *OPPOSITE, *ARRANGEMENTS, "a two three s , both the third"])
LONGEST = 15  # words of a caption at most


def encode(
    captions: Sequence[str], vocabulary: Sequence[str] = VOCABULARY, length: int = LONGEST
) -> Int64[Tensor, "n length"]:
    """Captions as indices of words in `vocabulary`, each padded to `length` with 0, the empty word.

    Raises CaptionError for a word that is not in the vocabulary and for a caption that is longer than `length`.
    """
    index = {word: number for number, word in enumerate(vocabulary)}
    encoded = torch.zeros(len(captions), length, dtype=torch.int64)
    for row, text in enumerate(captions):
        found = words(text)
        if unknown := [word for word in found if word not in index]:
            raise CaptionError(f"The caption {text!r} has the word {unknown[0]!r}, which is not in the vocabulary.")
        if len(found) > length:
            raise CaptionError(f"The caption {text!r} has {len(found)} words, more than {length}.")
        encoded[row, : len(found)] = torch.tensor([index[word] for word in found])
    return encoded


# --- What is held out -----------------------------------------------------------------------------------------------


def is_seen(scene: Scene) -> bool:
    """Whether it may be a training scene: no thing is held out, by its digit or its position."""
    roles = LAYOUTS[scene.layout].roles
    return all(_is_seen(thing, roles[slot]) for slot, thing in enumerate(scene.things))


def _is_seen(thing: Thing, roles: tuple[str, ...]) -> bool:
    return thing not in HELD_OUT_THINGS and all(HELD_OUT_ROLES[role] != thing.colour for role in roles)


# --- The pictures ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class CaptionedImages:
    """n pictures with the scene and a caption of each."""

    images: Float[Tensor, "n 3 32 32"] | UInt8[Tensor, "n 3 32 32"]
    captions: tuple[str, ...]
    scenes: tuple[Scene, ...]
    corners: Int64[Tensor, "n 3 2"]  # top and left of each thing's square of 14 pixels; -1 where there is none

    def __len__(self) -> int:
        return len(self.scenes)


def captioned_digits(
    split: str = "train",
    n: int = 10_000,
    *,
    combinations: str = "seen",
    counts: Sequence[int] = (1, 2, 3),
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> CaptionedImages:
    """n pictures of one to three coloured digits on black, 3x32x32, with captions; an exact function of the arguments.

    All `counts` are equally probable, and a quarter of the pictures of several things show the same thing repeatedly. A
    longer set begins with the pictures of a shorter one.

    split: of MNIST's digits: "train" for the 60,000 of its training split, "test" for the 10,000 of its test split.
    combinations: "seen" for scenes without a held-out combination; "unseen" for scenes in which one thing is held out,
        or all of them if they are alike; "all" for both kinds. Models that draw pictures are trained on "train" and
        "seen"; models that judge them on "train" and "all".
    dtype: torch.float32 for levels in [0, 1], torch.uint8 for 0 to 255.

    Raises ValueError for another split, combinations, counts or dtype and for n below 1, DataError if MNIST's files
    are damaged.
    """
    if not counts or not set(counts) <= {1, 2, 3}:
        raise ValueError(f"counts have to be some of 1, 2 and 3, not {tuple(counts)}.")
    random = draw(n, 20, split=split, combinations=combinations, seed=seed)
    layouts = _draw_layouts(random[:, 0:2], tuple(sorted(set(counts))))
    things = _draw_things(random[:, 2:8], layouts, combinations)
    corners = _draw_corners(random[:, 8:16], layouts)
    digits = torch.where(things < 0, -1, things % 10)
    colours = things.clamp(min=0) // 10
    parts = zip(*(drawn.split(CHUNK) for drawn in (digits, random[:, 16:19], colours, corners)), strict=True)
    hands = handwriting(split)
    images = torch.cat([_paint(hands.write(who, hand, GLYPH), colour, where) for who, hand, colour, where in parts])
    scenes = tuple(
        Scene(tuple(THINGS[thing] for thing in row if thing >= 0), NAMES[layout])
        for row, layout in zip(things.numpy().tolist(), layouts.numpy().tolist(), strict=True)
    )
    said = pick(map(wordings, scenes), random[:, 19])
    return CaptionedImages(as_levels(images, dtype), said, scenes, corners.masked_fill(things[..., None] < 0, -1))


def _draw_layouts(random: Int64[Tensor, "n 2"], counts: tuple[int, ...]) -> Int64[Tensor, " n"]:
    """An index into NAMES for each scene: first the count is drawn, then a layout of as many things."""
    table, lengths = _table([[index for index, slots in enumerate(SLOTS) if slots == count] for count in counts])
    count = random[:, 0] % len(counts)
    return table[count, random[:, 1] % lengths[count]]


def _draw_things(random: Int64[Tensor, "n 6"], layouts: Int64[Tensor, " n"], combinations: str) -> Int64[Tensor, "n 3"]:
    """Indices into THINGS for each scene; -1 where it has fewer than three."""

    def choose(combinations: str, slot: Int64[Tensor, " n"], numbers: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
        table, lengths = _candidates(combinations)
        row = layouts * (MOST + 1) + slot
        return table[row, numbers % lengths[row]]

    slots, each = torch.tensor(SLOTS)[layouts], torch.ones_like(layouts)
    usual = "seen" if combinations == "unseen" else combinations
    things = torch.stack([choose(usual, each * slot, random[:, slot]) for slot in range(MOST)], 1)
    if combinations == "unseen":
        odd = random[:, 3] % slots
        things.scatter_(1, odd[:, None], choose("unseen", odd, random[:, 4])[:, None])
    alike = (random[:, 5] % 4 == 0) & (slots > 1)
    repeated = choose(combinations, each * MOST, random[:, 0])
    things = torch.where(alike[:, None], repeated[:, None], things)
    return torch.where(torch.arange(MOST) < slots[:, None], things, -1)


@cache
def _candidates(combinations: str) -> tuple[Tensor, Tensor]:
    """The things for each slot of each layout, and, as one more slot, for all slots at once; as a `_table`."""
    wanted = {"seen": {True}, "unseen": {False}, "all": {True, False}}[combinations]
    rows = []
    for layout in LAYOUTS.values():
        no_more = [()] * (MOST - len(layout.roles))
        for roles in (*layout.roles, *no_more, sum(layout.roles, ())):
            rows.append([index for index, thing in enumerate(THINGS) if _is_seen(thing, roles) in wanted])
    return _table(rows)


def _table(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Rows of unequal length as one tensor, padded with 0, and their lengths."""
    padded = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    return padded, torch.tensor([len(row) for row in rows])


def _draw_corners(random: Int64[Tensor, "n 8"], layouts: Int64[Tensor, " n"]) -> Int64[Tensor, "n 3 2"]:
    """Top and left of each thing; a corner of the picture where there is none."""
    lowest, choices, shift = _geometry()
    shifts = random[:, None, :2] % shift[layouts, None]
    return lowest[layouts] + random[:, 2:].unflatten(1, (MOST, 2)) % choices[layouts] + shifts


@cache
def _geometry() -> tuple[Tensor, Tensor, Tensor]:
    """`lowest` and `choices` of each layout, of shape (layout, thing, 2), and `shift`, of shape (layout, 2)."""
    lowest = torch.zeros(len(LAYOUTS), MOST, 2, dtype=torch.int64)
    choices, shift = torch.ones_like(lowest), torch.ones(len(LAYOUTS), 2, dtype=torch.int64)
    for index, layout in enumerate(LAYOUTS.values()):
        lowest[index, : len(layout.roles)] = torch.tensor(layout.lowest)
        choices[index, : len(layout.roles)] = torch.tensor(layout.choices)
        shift[index] = torch.tensor(layout.shift)
    return lowest, choices, shift


def _paint(
    glyphs: UInt8[Tensor, "n things glyph glyph"],
    colours: Int64[Tensor, "n things"],
    corners: Int64[Tensor, "n things 2"],
) -> UInt8[Tensor, "n 3 32 32"]:
    """The glyphs in their colours on black."""
    steps = torch.arange(GLYPH)
    within = (steps[:, None] * SIZE + steps).flatten()
    places = corners[..., :1] * SIZE + corners[..., 1:] + within
    shades = _shades()[colours[..., None], glyphs.flatten(2).long()]
    images = torch.zeros(len(glyphs), SIZE * SIZE, 3, dtype=torch.uint8)
    # No two glyphs of a scene overlap, and one that is not there adds 0, so no sum is above 255.
    images.scatter_add_(1, places.flatten(1)[..., None].expand(-1, -1, 3), shades.flatten(1, 2))
    return images.unflatten(1, (SIZE, SIZE)).permute(0, 3, 1, 2).contiguous()


@cache
def _shades() -> UInt8[Tensor, "colours 256 3"]:
    """Every colour at every grey level."""
    colours = torch.tensor(list(COLOURS.values()))[:, None]
    return ((colours * torch.arange(256)[:, None] + 127) // 255).to(torch.uint8)
