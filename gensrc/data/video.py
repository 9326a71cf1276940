"""Captioned clips of moving handwritten digits, such as "a 3 moving left and a 7 bouncing up and down".

`moving_digits` makes any number of them, like Moving MNIST (Srivastava, Mansimov and Salakhutdinov, 2015, "Unsupervised
learning of video representations using LSTMs"): one or two digits of MNIST cross a black picture or bounce off its
edges, and where they overlap the brighter pixel is shown. Unlike there, every motion has a name, and the clips are an
exact function of the seed: all arithmetic is in integers.

A `Clip` is the content of a clip; `caption` turns it into words and `parse` back. Captions follow this grammar:

    caption = actor
            | actor, " and ", actor
            | "two ", digit, "s ", motion ;
    actor   = noun, " ", motion ;
    noun    = "a 0" | "a 1" | "a 2" | "a 3" | "a 4" | "a 5" | "a 6" | "a 7" | "an 8" | "a 9" ;
    digit   = "0" | "1" | "2" | "3" | "4" | "5" | "6" | "7" | "8" | "9" ;
    motion  = "standing still" | "moving left" | "moving right" | "moving up" | "moving down"
            | "bouncing left and right" | "bouncing up and down" ;

Each digit is held out with one motion (`HELD_OUT_ACTORS`): no training clip shows the two together.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from gensrc.data.captions import CaptionParser, vocabulary
from gensrc.data.handwriting import as_levels, draw, handwriting, pick

SIZES = (32, 64)  # pixels, the side of a frame
GLYPH = 14  # pixels, the side of a digit in a frame of 32, and twice that in one of 64
ROOM = 18  # pixels, how far a digit can move in a frame of 32
CHUNK = 256  # clips made at once, to bound the memory
FEWEST = 8  # frames, enough to distinguish bouncing from moving
MOTIONS = (
    "standing still",
    "moving left",
    "moving right",
    "moving up",
    "moving down",
    "bouncing left and right",
    "bouncing up and down",
)
STILL, HORIZONTAL, VERTICAL = 0, 1, 2
AXES = (STILL, HORIZONTAL, HORIZONTAL, VERTICAL, VERTICAL, HORIZONTAL, VERTICAL)  # of each of MOTIONS
FORWARDS = {"moving right": 1, "moving down": 1, "moving left": -1, "moving up": -1}
EDGES = ((0, 0), (0, 1), (1, 0), (1, 1))  # the first or the last, of two actors
NOUNS = tuple(f"an {digit}" if digit == 8 else f"a {digit}" for digit in range(10))


@dataclass(frozen=True, order=True)
class Actor:
    """A digit and how it moves. Raises ValueError for anything else than a digit and one of MOTIONS."""

    digit: int
    motion: str

    def __post_init__(self) -> None:
        if self.digit not in range(10) or self.motion not in MOTIONS:
            raise ValueError(f"{self.motion!r} of {self.digit} is none of a digit's motions: {', '.join(MOTIONS)}.")


ACTORS = tuple(Actor(digit, motion) for digit in range(10) for motion in MOTIONS)
HELD_OUT_ACTORS = frozenset(Actor(digit, MOTIONS[(digit + 2) % len(MOTIONS)]) for digit in range(10))


@dataclass(frozen=True)
class Clip:
    """The content of a clip: one or two actors, sorted, so that clips can be compared.

    Raises ValueError for another number of actors.
    """

    actors: tuple[Actor, ...]

    def __post_init__(self) -> None:
        if len(self.actors) not in (1, 2):
            raise ValueError(f"A clip has one or two actors, not {len(self.actors)}.")
        object.__setattr__(self, "actors", tuple(sorted(self.actors)))


# --- The grammar ----------------------------------------------------------------------------------------------------


def caption(clip: Clip) -> str:
    """The first of the clip's wordings."""
    return wordings(clip)[0]


def wordings(clip: Clip) -> tuple[str, ...]:
    """Every caption that the data set uses for the clip: one, or two if there are two unlike actors to name."""
    named = [f"{NOUNS[actor.digit]} {actor.motion}" for actor in clip.actors]
    if len(named) == 1:
        return (named[0],)
    if named[0] == named[1]:
        return (f"two {clip.actors[0].digit}s {clip.actors[0].motion}",)
    return (f"{named[0]} and {named[1]}", f"{named[1]} and {named[0]}")


def parse(text: str) -> Clip:
    """The clip that a caption describes; `parse(words) == clip` for all `words` in `wordings(clip)`.

    Raises CaptionError for a text that the grammar does not allow.
    """
    parser = CaptionParser(text)
    start = parser.take("two ", *NOUNS)
    if start == "two ":
        digit = int(parser.take(*"0123456789"))
        parser.take("s ")
        actors = [Actor(digit, parser.take(*MOTIONS))] * 2
    else:
        actors = [_actor(parser, start)]
        if not parser.at_end:
            parser.take(" and ")
            actors.append(_actor(parser, parser.take(*NOUNS)))
    parser.end()
    return Clip(tuple(actors))


def _actor(parser: CaptionParser, noun: str) -> Actor:
    parser.take(" ")
    return Actor(NOUNS.index(noun), parser.take(*MOTIONS))


VOCABULARY = vocabulary([*MOTIONS, *NOUNS, "two s and"])
LONGEST = 13  # words of a caption at most


def is_seen(clip: Clip) -> bool:
    """Whether it may be a training clip: none of its actors is held out."""
    return HELD_OUT_ACTORS.isdisjoint(clip.actors)


# --- The clips ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class CaptionedClips:
    """n clips, each with its content and a caption."""

    frames: Float[Tensor, "n time 1 size size"] | UInt8[Tensor, "n time 1 size size"]
    captions: tuple[str, ...]
    clips: tuple[Clip, ...]

    def __len__(self) -> int:
        return len(self.clips)


def moving_digits(
    split: str = "train",
    n: int = 1000,
    *,
    combinations: str = "seen",
    frames: int = 16,
    size: int = 32,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> CaptionedClips:
    """n clips of one or two digits, white on black, of shape (time, 1, size, size); an exact function of the arguments.

    A motion takes the whole clip, for any number of frames: a moving digit covers between half and three quarters of
    the room it has, a bouncing one between one and a half times and twice the room. A quarter of the clips of two
    digits show the same digit in the same motion twice. A longer set begins with the clips of a shorter one.

    split: of MNIST's digits: "train" for the 60,000 of its training split, "test" for the 10,000 of its test split.
    combinations: "seen" for clips without a held-out combination; "unseen" for clips in which one actor is held out, or
        both if they are alike; "all" for both kinds. Models that make clips are trained on "train" and "seen".
    frames: at least 8.
    size: 32, or 64 with everything twice as large.
    dtype: torch.float32 for levels in [0, 1], torch.uint8 for 0 to 255.

    Raises ValueError for another split, combinations, size or dtype, for n below 1 and too few frames, DataError if
    MNIST's files are damaged.
    """
    if size not in SIZES:
        raise ValueError(f"size has to be 32 or 64, not {size}.")
    if frames < FEWEST:
        raise ValueError(f"frames have to be at least {FEWEST}, or bouncing looks like moving, not {frames}.")
    random = draw(n, 22, split=split, combinations=combinations, seed=seed)
    actors = _draw_actors(random[:, 0:7], combinations)
    corners = _draw_corners(random[:, 7:19], actors, frames, size // SIZES[0])
    digits = torch.where(actors < 0, -1, actors // len(MOTIONS))
    parts = zip(digits.split(CHUNK), random[:, 19:21].split(CHUNK), corners.split(CHUNK), strict=True)
    hands = handwriting(split)
    shown = [_film(hands.write(who, hand, GLYPH * size // SIZES[0]), where, size) for who, hand, where in parts]
    clips = tuple(Clip(tuple(ACTORS[actor] for actor in row if actor >= 0)) for row in actors.numpy().tolist())
    captions = pick(map(wordings, clips), random[:, 21])
    return CaptionedClips(as_levels(torch.cat(shown), dtype), captions, clips)


def _draw_actors(random: Int64[Tensor, "n 7"], combinations: str) -> Int64[Tensor, "n 2"]:
    """Indices into ACTORS; the second is -1 in clips of one actor."""

    def choose(combinations: str, numbers: Tensor) -> Tensor:
        wanted = {"seen": {True}, "unseen": {False}, "all": {True, False}}[combinations]
        table = [index for index, actor in enumerate(ACTORS) if (actor not in HELD_OUT_ACTORS) in wanted]
        return torch.tensor(table)[numbers % len(table)]

    count = 1 + random[:, 0] % 2
    actors = choose("seen" if combinations == "unseen" else combinations, random[:, 1:3])
    if combinations == "unseen":
        odd = random[:, 3] % count
        actors.scatter_(1, odd[:, None], choose("unseen", random[:, 4])[:, None])
    alike = random[:, 5] % 4 == 0
    actors = torch.where(alike[:, None], choose(combinations, random[:, 6])[:, None], actors)
    return torch.where(torch.arange(2) < count[:, None], actors, -1)


def _draw_corners(
    random: Int64[Tensor, "n 12"], actors: Int64[Tensor, "n 2"], frames: int, scale: int
) -> Int64[Tensor, "n 2 {frames} 2"]:
    """Top and left of every actor in every frame.

    A single actor may be anywhere. Two actors each move in a lane along an edge; an actor that stands still has the
    same kind of lane as the other. Of the four pairs of edges they get the one with the least overlap.
    """
    room = ROOM * scale
    motions = actors.clamp(min=0) % len(MOTIONS)
    axes = torch.tensor(AXES)[motions]
    along = _along(random[:, 0:2], random[:, 2:4], motions, frames, scale)
    free = (random[:, 4:8] % (room + 1)).unflatten(1, (2, 1, 2))
    moves = torch.stack([axes == VERTICAL, axes == HORIZONTAL], -1)[:, :, None]
    corners = torch.where(moves, along[..., None], free)

    leading = torch.where(axes == STILL, axes.amax(1, keepdim=True), axes)
    leading = torch.where(leading == STILL, HORIZONTAL + random[:, 8:9] % 2, leading)
    in_lane = torch.stack([leading == HORIZONTAL, leading == VERTICAL], -1)[:, :, None]
    jitter = random[:, 9:11] % (2 * scale + 1)
    pairs = []
    for edges in EDGES:
        lanes = jitter + torch.tensor(edges) * (room - 2 * scale)
        pairs.append(torch.where(in_lane, lanes[:, :, None, None], corners))
    overlaps = torch.stack([_overlap(pair, GLYPH * scale) for pair in pairs], 1)
    ties = (torch.arange(len(EDGES)) + random[:, 11:12]) % len(EDGES)
    best = (overlaps * len(EDGES) + ties).argmin(1)
    apart = torch.stack(pairs, 1)[torch.arange(len(best)), best]
    return torch.where((actors[:, 1] < 0)[:, None, None, None], corners, apart)


def _along(
    starts: Int64[Tensor, "n 2"], ways: Int64[Tensor, "n 2"], motions: Int64[Tensor, "n 2"], frames: int, scale: int
) -> Int64[Tensor, "n 2 {frames}"]:
    """The position of every actor along the axis of its motion; meaningless for one that stands still."""
    room = ROOM * scale
    way = 9 * scale + ways % (5 * scale + 1)
    forwards = travel(starts % (room - way + 1), way, frames)
    bouncing = bounce(travel(starts % (2 * room), 27 * scale + ways % (9 * scale + 1), frames), room)
    signs = torch.tensor([FORWARDS.get(motion, 0) for motion in MOTIONS])[motions][..., None]
    return torch.where(signs > 0, forwards, torch.where(signs < 0, room - forwards, bouncing))


def travel(starts: Int64[Tensor, "*shape"], ways: Int64[Tensor, "*shape"], frames: int) -> Int64[Tensor, "*shape time"]:
    """Positions in each frame of an even motion over the distances `ways` from `starts`."""
    return starts[..., None] + ways[..., None] * torch.arange(frames) // (frames - 1)


def bounce(positions: Int64[Tensor, "*shape"], room: int) -> Int64[Tensor, "*shape"]:
    """Positions from 0 on, reflected at `room` and at 0."""
    return room - (room - positions % (2 * room)).abs()


def _overlap(corners: Int64[Tensor, "n 2 time 2"], glyph: int) -> Int64[Tensor, " n"]:
    """The pixels that both actors' squares cover, summed over the frames."""
    return (glyph - (corners[:, 0] - corners[:, 1]).abs()).clamp(min=0).prod(2).sum(1)


def _film(
    glyphs: UInt8[Tensor, "n 2 glyph glyph"], corners: Int64[Tensor, "n 2 time 2"], size: int
) -> UInt8[Tensor, "n time 1 {size} {size}"]:
    """The glyphs at their positions in every frame, the brighter pixel where they overlap."""
    n, actors, frames, _ = corners.shape
    steps = torch.arange(glyphs.shape[-1])
    within = (steps[:, None] * size + steps).flatten()
    places = corners[..., :1] * size + corners[..., 1:] + within
    layers = torch.zeros(n, actors, frames, size * size, dtype=torch.uint8)
    layers.scatter_(3, places, glyphs.flatten(2)[:, :, None].expand(-1, -1, frames, -1))
    return layers.amax(1).view(n, frames, 1, size, size)
