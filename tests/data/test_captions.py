"""Scenes of coloured digits: pictures show what captions say, the same everywhere, and what is held out stays out."""

import hashlib
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gensrc.data import captions, video
from gensrc.data.captions import (
    COLOURS,
    LAYOUTS,
    LONGEST,
    THINGS,
    VOCABULARY,
    CaptionedImages,
    CaptionError,
    Scene,
    Thing,
    caption,
    captioned_digits,
    encode,
    is_seen,
    parse,
    wordings,
)
from gensrc.data.handwriting import draw, handwriting, resize_by_area
from gensrc.data.images import mnist

SEVEN, THREE, ONE = Thing("red", 7), Thing("blue", 3), Thing("green", 1)
# Plain values: beartype draws random numbers when it checks a Scene, which no strategy may do.
scenes = st.tuples(st.sampled_from(sorted(LAYOUTS)), st.tuples(*[st.sampled_from(THINGS)] * 3))


def scene_of(drawn: tuple[str, tuple[Thing, ...]]) -> Scene:
    layout, things = drawn
    return Scene(things[: len(LAYOUTS[layout].roles)], layout)


@pytest.fixture(scope="module")
def train() -> CaptionedImages:
    return captioned_digits("train", 3000, dtype=torch.uint8)


def digest(data: CaptionedImages) -> str:
    return hashlib.sha256(data.images.numpy().tobytes() + "\n".join(data.captions).encode()).hexdigest()[:16]


# --- The grammar ----------------------------------------------------------------------------------

SAID = {
    "a red 7 in the centre": Scene((SEVEN,), "in the centre"),
    "a red 7 at the top left": Scene((SEVEN,), "at the top left"),
    "a red 7 above a blue 3": Scene((SEVEN, THREE), "above"),
    "a blue 3 below a red 7": Scene((SEVEN, THREE), "above"),
    "a red 7 right of a blue 3": Scene((THREE, SEVEN), "left of"),
    "two red 7s side by side": Scene((SEVEN, SEVEN), "left of"),
    "two red 7s one above the other": Scene((SEVEN, SEVEN), "above"),
    "a red 7 left of a red 7": Scene((SEVEN, SEVEN), "left of"),
    "a red 7 left of a blue 3, both above a green 1": Scene((SEVEN, THREE, ONE), "left of, both above"),
    "a blue 3 right of a red 7, both below a green 1": Scene((SEVEN, THREE, ONE), "left of, both below"),
    "a red 7 above a blue 3, both right of a green 1": Scene((SEVEN, THREE, ONE), "above, both right of"),
    "two red 7s one above the other, both left of a green 1": Scene((SEVEN, SEVEN, ONE), "above, both left of"),
    "three red 7s, two side by side above the third": Scene((SEVEN, SEVEN, SEVEN), "left of, both above"),
}


@pytest.mark.parametrize("text", SAID)
def test_a_caption_means_its_scene(text: str) -> None:
    assert parse(text) == SAID[text]


@given(scenes)
def test_every_wording_is_read_back_as_the_scene_and_fits_the_vocabulary(drawn: tuple[str, tuple[Thing, ...]]) -> None:
    scene = scene_of(drawn)
    said = wordings(scene)
    assert caption(scene) == said[0]
    assert len(set(said)) == len(said)
    for text in said:
        assert parse(text) == scene
        assert encode([text]).shape == (1, LONGEST)


WRONG = {
    "": r"behind '' has to come 'a ' or 'two ' or 'three ', not ''",
    "a purple 7 on the left": "behind 'a ' has to come 'red' or .* not 'purple 7 on the left'",
    "a red seven on the left": "behind 'a red ' has to come '0' or .* not 'seven on the left'",
    "a red 7 under a blue 3": "behind 'a red 7 ' has to come .*'below', not 'under a blue 3'",
    "a red 7": "behind 'a red 7' has to come ' ', not ''",
    "a red 7 on the left of a blue 3": "behind 'a red 7 on the left' has to come its end, not ' of a blue 3'",
    "two red 7s": "behind 'two red 7' has to come 's ', not 's'",
    "two red 7s side by side and more": "has to come ', both ', not ' and more'",
    "a red 7 left of a blue 3, both left of a green 1": "has to come 'above' or 'below', not 'left of a green 1'",
    "three red 7s, two side by side above": "has to come ' the third', not ''",
    "a red 7 above a blue 3\n": r"has to come ', both ', not '\\n'",
}


@pytest.mark.parametrize("text", WRONG)
def test_texts_outside_the_grammar_are_refused_at_the_right_position(text: str) -> None:
    with pytest.raises(CaptionError, match=WRONG[text]):
        parse(text)


LETTERS = [" ", ", ", "a ", "an ", "two ", "three ", "s", "both ", "the third", " and ", "red", "7", "3", "8", "٣"]
PHRASES = [*captions.PLACES, *captions.OPPOSITE, *captions.ARRANGEMENTS, *video.MOTIONS]
texts = st.text(max_size=40) | st.lists(st.sampled_from(LETTERS + PHRASES), max_size=14).map("".join)


def parses_or_is_refused(text: str) -> None:
    try:
        scene = parse(text)
    except CaptionError:
        return
    assert parse(caption(scene)) == scene


@given(texts)
def test_any_text_is_a_caption_or_the_documented_error(text: str) -> None:
    parses_or_is_refused(text)


@given(scenes, st.integers(0, 70), st.integers(0, 70), texts)
def test_a_damaged_caption_is_a_caption_or_the_documented_error(
    drawn: tuple[str, tuple[Thing, ...]], start: int, end: int, other: str
) -> None:
    text = caption(scene_of(drawn))
    parses_or_is_refused(text[:start] + other + text[end:])
    parses_or_is_refused(text[:start] + text[end:])


def test_impossible_scenes_are_refused() -> None:
    with pytest.raises(ValueError, match="There is no layout 'behind'"):
        Scene((SEVEN,), "behind")
    with pytest.raises(ValueError, match="The layout 'above' has 2 things, not 1"):
        Scene((SEVEN,), "above")
    with pytest.raises(ValueError, match=r"Thing\(colour='red', digit=10\) is no coloured digit"):
        Scene((Thing("red", 10),), "in the centre")


# --- Words as numbers -----------------------------------------------------------------------------


def test_captions_become_words_and_back() -> None:
    said = ["two red 7s side by side, both above a green 1", "a red 7 on the left"]
    encoded = encode(said)
    assert encoded.dtype == torch.int64
    words = [[VOCABULARY[word] for word in row] for row in encoded.tolist()]
    assert words[0][:9] == ["two", "red", "7", "s", "side", "by", "side", ",", "both"]
    assert words[1] == ["a", "red", "7", "on", "the", "left"] + [""] * 9


def test_the_longest_caption_fills_the_length() -> None:
    alike = Scene((SEVEN, SEVEN, ONE), "above, both left of")
    assert (encode([caption(alike)]) > 0).all()


def test_unknown_words_and_long_captions_are_refused() -> None:
    with pytest.raises(CaptionError, match="the word 'cow', which is not in the vocabulary"):
        encode(["a red cow"])
    with pytest.raises(CaptionError, match="has 4 words, more than 3"):
        encode(["a red 7 s"], length=3)


# --- The pictures ---------------------------------------------------------------------------------


def test_scenes_are_pictures_with_captions_that_say_what_they_show(train: CaptionedImages) -> None:
    assert train.images.shape == (3000, 3, 32, 32)
    assert (train.images.dtype, train.images.min(), train.images.max()) == (torch.uint8, 0, 255)
    assert len(train) == len(train.captions) == len(train.scenes) == 3000
    assert [parse(text) for text in train.captions] == list(train.scenes)


def test_corners_are_those_of_the_squares_that_hold_all_ink(train: CaptionedImages) -> None:
    inside = torch.zeros(3000, 32, 32, dtype=torch.bool)
    for number, (corners, scene) in enumerate(zip(train.corners.tolist(), train.scenes, strict=True)):
        assert [corner != [-1, -1] for corner in corners] == [slot < len(scene.things) for slot in range(3)]
        for top, left in corners[: len(scene.things)]:
            assert not inside[number, top : top + 14, left : left + 14].any()
            inside[number, top : top + 14, left : left + 14] = True
    assert (train.images.amax(1)[~inside] == 0).all()


def test_levels_are_the_bytes_over_255(train: CaptionedImages) -> None:
    levels = captioned_digits("train", 50).images
    assert levels.dtype == torch.float32
    assert torch.equal(levels, train.images[:50] / 255)


def test_counts_layouts_things_and_wordings_are_all_drawn(train: CaptionedImages) -> None:
    counts = Counter(len(scene.things) for scene in train.scenes)
    assert all(abs(counts[count] - 1000) < 110 for count in (1, 2, 3))  # four standard errors
    assert {scene.layout for scene in train.scenes} == set(LAYOUTS)
    assert {thing for scene in train.scenes for thing in scene.things} == set(THINGS) - captions.HELD_OUT_THINGS
    several = [scene for scene in train.scenes if len(scene.things) > 1]
    alike = sum(len(set(scene.things)) == 1 for scene in several)
    assert abs(alike / len(several) - 0.25 - 0.75 / 40) < 0.05
    assert sum(text != caption(scene) for text, scene in zip(train.captions, train.scenes, strict=True)) > 500


def test_only_the_counts_that_are_asked_for_are_drawn() -> None:
    found = captioned_digits("test", 100, counts=(3, 1))
    assert {len(scene.things) for scene in found.scenes} == {1, 3}


def middle(ink: torch.Tensor) -> tuple[float, float]:
    """Row and column of the middle between the ends of the ink, in pixels."""
    rows, columns = ink.nonzero(as_tuple=True)
    return float(rows.min() + rows.max() + 1) / 2, float(columns.min() + columns.max() + 1) / 2


def ink_of(image: torch.Tensor, colour: str) -> torch.Tensor:
    """Where the picture is of this colour, bright enough to be told from others."""
    rgb = torch.tensor(COLOURS[colour])
    brightest = image.amax(0)
    return ((image - rgb[:, None, None] * brightest / rgb.max()).abs().amax(0) <= 1) & (brightest > 60)


def test_things_stand_where_the_caption_says_in_the_colour_that_it_says(train: CaptionedImages) -> None:
    checked = Counter[str]()
    for image, scene in zip(train.images.float(), train.scenes, strict=True):
        if len({thing.colour for thing in scene.things}) < len(scene.things):
            continue
        at = [middle(ink_of(image, thing.colour)) for thing in scene.things]
        checked[scene.layout] += 1
        if scene.layout in captions.PLACES:
            row, column = divmod(captions.PLACES.index(scene.layout), 3)
            assert middle(image.amax(0) > 0) == pytest.approx((8 + 8 * row, 8 + 8 * column), abs=2)
            continue
        across, _, relation = scene.layout.partition(", both ")
        axis = 1 if across == "left of" else 0
        assert at[0][axis] + 8 < at[1][axis]
        assert abs(at[0][1 - axis] - at[1][1 - axis]) < 7
        if relation:
            sign = 1 if relation in ("above", "left of") else -1
            assert all(sign * (at[2][1 - axis] - one[1 - axis]) > 8 for one in at[:2])
    assert min(checked[layout] for layout in LAYOUTS) >= 50


def test_digits_are_those_of_mnist_made_smaller(train: CaptionedImages) -> None:
    """Every white thing alone in a picture is found among the shrunken digits of its class."""
    hands = handwriting("train")
    for image, scene in zip(train.images[:400], train.scenes[:400], strict=True):
        if [thing.colour for thing in scene.things] != ["white"]:
            continue
        digit = scene.things[0].digit
        total = int(hands.counts[digit])
        known = hands.write(torch.full((total,), digit), torch.arange(total), 14).flatten(1).sum(1)
        assert image[0].sum() in known


def test_train_and_test_share_no_digit_and_no_picture(train: CaptionedImages) -> None:
    hashes = []
    for split in ("train", "test"):
        hands = handwriting(split)
        digits = torch.arange(10).repeat_interleave(hands.counts)
        written = hands.write(digits, torch.arange(len(digits)) - hands.starts[digits], 14)
        hashes.append({hashlib.sha256(digit.numpy().tobytes()).digest() for digit in written})
        assert len(hashes[-1]) == len(digits)
    assert hashes[0].isdisjoint(hashes[1])
    pictures = torch.cat([train.images, captioned_digits("test", 3000, dtype=torch.uint8).images])
    assert len({picture.numpy().tobytes() for picture in pictures}) == 6000


def test_held_out_combinations_are_unseen_until_they_are_asked_for(train: CaptionedImages) -> None:
    assert all(map(is_seen, train.scenes))
    assert all(map(is_seen, captioned_digits("test", 1000).scenes))
    unseen = captioned_digits("test", 2000, combinations="unseen").scenes
    assert not any(map(is_seen, unseen))
    found = {thing for scene in unseen for thing in scene.things}
    assert found == set(THINGS)
    taken = {role for scene in unseen for role in LAYOUTS[scene.layout].roles for role in role}
    assert taken == set(captions.ROLES)
    either = Counter(map(is_seen, captioned_digits("train", 1000, combinations="all").scenes))
    assert min(either.values()) > 200


def test_held_out_combinations_are_the_documented_ones() -> None:
    assert not is_seen(parse("a red 5 in the centre"))  # the digit
    assert not is_seen(parse("a green 3 left of a blue 4"))  # the position
    assert not is_seen(parse("a blue 4 right of a green 3"))  # the same in other words
    assert is_seen(parse("a blue 3 left of a green 4"))
    assert is_seen(parse("a red 7 above a blue 3"))
    assert {thing.digit for thing in captions.HELD_OUT_THINGS} == set(range(10))
    assert {thing.colour for thing in captions.HELD_OUT_THINGS} == set(COLOURS)
    assert set(captions.HELD_OUT_ROLES.values()) == set(COLOURS)


GOLDEN = {
    ("train", "seen"): "f2e481ef6edb5936",
    ("train", "all"): "d3b966afa6ca37c5",
    ("test", "seen"): "1f2d686eb25ce82b",
    ("test", "unseen"): "bc046576e4053281",
}


@pytest.mark.parametrize(("split", "combinations"), GOLDEN)
def test_the_same_seed_gives_the_same_bytes_on_every_machine(split: str, combinations: str) -> None:
    found = captioned_digits(split, 100, combinations=combinations, seed=5, dtype=torch.uint8)
    assert digest(found) == GOLDEN[split, combinations]


def test_a_longer_set_begins_with_a_shorter_one_and_another_seed_is_another_set(train: CaptionedImages) -> None:
    longer = captioned_digits("train", 5000, dtype=torch.uint8)
    assert torch.equal(longer.images[:3000], train.images)
    assert longer.captions[:3000] == train.captions
    assert digest(captioned_digits("train", 50, seed=1)) != digest(captioned_digits("train", 50, seed=2))


def test_torchs_own_generator_is_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    captioned_digits("test", 10)
    assert torch.equal(torch.rand(2), expected)


def test_other_arguments_are_errors() -> None:
    with pytest.raises(ValueError, match="split has to be 'train' or 'test', not 'valid'"):
        captioned_digits("valid")
    with pytest.raises(ValueError, match="combinations have to be 'seen', 'unseen' or 'all', not 'some'"):
        captioned_digits(combinations="some")
    with pytest.raises(ValueError, match=r"counts have to be some of 1, 2 and 3, not \(4,\)"):
        captioned_digits(counts=(4,))
    with pytest.raises(ValueError, match="n has to be at least 1, not 0"):
        captioned_digits(n=0)
    with pytest.raises(ValueError, match=r"torch\.float32 or torch\.uint8, not torch\.float16"):
        captioned_digits(n=1, dtype=torch.float16)


# --- What scenes and clips share ------------------------------------------------------------------


def test_a_picture_is_resized_by_area() -> None:
    image = torch.tensor([[[0, 10, 20], [30, 40, 50], [60, 70, 255]]], dtype=torch.uint8)
    # A pixel of 2x2 covers one and a half pixels each way: (4 * 0 + 2 * 10 + 2 * 30 + 40) / 9 is the first.
    assert resize_by_area(image, 2).tolist() == [[[13, 27], [53, 144]]]
    assert torch.equal(resize_by_area(image, 3), image)
    assert torch.equal(resize_by_area(image, 6), image.repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_a_digit_keeps_all_its_ink_when_it_is_cut_out() -> None:
    hands, data = handwriting("test"), mnist("test", dtype=torch.uint8)
    fives = hands.write(torch.full((892,), 5), torch.arange(892), 20)
    assert fives.flatten(1).sum(1).tolist() == data.images[data.labels == 5].flatten(1).sum(1).tolist()


def test_random_numbers_are_evenly_spread_and_other_ones_in_every_stream() -> None:
    streams = [
        draw(1000, 4, split=split, combinations=kind, seed=seed)
        for split in ("train", "test")
        for kind in ("seen", "unseen", "all")
        for seed in (0, 1)
    ]
    numbers = torch.cat(streams).flatten()
    assert len(numbers.unique()) > 0.99 * len(numbers)
    assert (numbers.min() >= 0, numbers.max() < 2**24) == (True, True)
    assert torch.bincount(numbers % 10, minlength=10).tolist() == pytest.approx([4800] * 10, abs=270)
