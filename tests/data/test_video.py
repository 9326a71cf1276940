"""Clips of moving digits: they move as their captions say, on every machine, and what is held out stays out."""

import hashlib
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_captions import texts

from gensrc.data import video
from gensrc.data.captions import CaptionError, encode
from gensrc.data.video import (
    ACTORS,
    LONGEST,
    MOTIONS,
    VOCABULARY,
    Actor,
    CaptionedClips,
    Clip,
    caption,
    is_seen,
    moving_digits,
    parse,
    wordings,
)

THREE, SEVEN, EIGHT = Actor(3, "moving left"), Actor(7, "bouncing up and down"), Actor(8, "standing still")
casts = st.lists(st.sampled_from(ACTORS), min_size=1, max_size=2)  # and no Clip, see test_captions


@pytest.fixture(scope="module")
def train() -> CaptionedClips:
    return moving_digits("train", 1500, dtype=torch.uint8)


def digest(data: CaptionedClips) -> str:
    return hashlib.sha256(data.frames.numpy().tobytes() + "\n".join(data.captions).encode()).hexdigest()[:16]


# --- The grammar ----------------------------------------------------------------------------------

SAID = {
    "a 3 moving left": Clip((THREE,)),
    "an 8 standing still": Clip((EIGHT,)),
    "a 3 moving left and a 7 bouncing up and down": Clip((THREE, SEVEN)),
    "a 7 bouncing up and down and a 3 moving left": Clip((THREE, SEVEN)),
    "two 7s bouncing up and down": Clip((SEVEN, SEVEN)),
    "a 7 bouncing up and down and a 7 bouncing up and down": Clip((SEVEN, SEVEN)),
}


@pytest.mark.parametrize("text", SAID)
def test_a_caption_means_its_clip(text: str) -> None:
    assert parse(text) == SAID[text]


@given(casts)
def test_every_wording_is_read_back_as_the_clip_and_fits_the_vocabulary(cast: list[Actor]) -> None:
    clip = Clip(tuple(cast))
    said = wordings(clip)
    assert caption(clip) == said[0]
    assert len(set(said)) == len(said)
    for text in said:
        assert parse(text) == clip
        assert encode([text], VOCABULARY, LONGEST).shape == (1, LONGEST)


def test_the_longest_caption_fills_the_length() -> None:
    long = Clip((Actor(1, MOTIONS[5]), Actor(2, MOTIONS[6])))
    assert (encode([caption(long)], VOCABULARY, LONGEST) > 0).all()


WRONG = {
    "": "behind '' has to come 'two ' or 'a 0' or",
    "a 8 moving left": "has to come .*'an 8'.*, not 'a 8 moving left'",
    "a 3 moving sideways": "behind 'a 3 ' has to come 'standing still' or .* not 'moving sideways'",
    "a 3 moving left and": "behind 'a 3 moving left' has to come ' and ', not ' and'",
    "two 3 moving left": "behind 'two 3' has to come 's ', not ' moving left'",
    "two 3s moving left and a 4 moving up": "has to come its end, not ' and a 4 moving up'",
}


@pytest.mark.parametrize("text", WRONG)
def test_texts_outside_the_grammar_are_refused_at_the_right_position(text: str) -> None:
    with pytest.raises(CaptionError, match=WRONG[text]):
        parse(text)


@given(texts, casts, st.integers(0, 70), st.integers(0, 70))
def test_any_text_is_a_caption_or_the_documented_error(text: str, cast: list[Actor], start: int, end: int) -> None:
    whole = caption(Clip(tuple(cast)))
    for read in (text, whole[:start] + text + whole[end:], whole[:start] + whole[end:]):
        try:
            clip = parse(read)
        except CaptionError:
            continue
        assert parse(caption(clip)) == clip


def test_unknown_digits_and_motions_are_refused() -> None:
    with pytest.raises(ValueError, match="'moving sideways' of 3 is none of a digit's motions: standing still, moving"):
        Actor(3, "moving sideways")
    with pytest.raises(ValueError, match="A clip has one or two actors, not 3"):
        Clip((THREE,) * 3)


# --- The clips ------------------------------------------------------------------------------------


def test_clips_are_frames_with_captions_that_say_what_they_show(train: CaptionedClips) -> None:
    assert train.frames.shape == (1500, 16, 1, 32, 32)
    assert (train.frames.dtype, train.frames.min(), train.frames.max()) == (torch.uint8, 0, 255)
    assert len(train) == len(train.captions) == len(train.clips) == 1500
    assert [parse(text) for text in train.captions] == list(train.clips)


def test_levels_are_the_bytes_over_255(train: CaptionedClips) -> None:
    levels = moving_digits("train", 20).frames
    assert levels.dtype == torch.float32
    assert torch.equal(levels, train.frames[:20] / 255)


def ways(frames: torch.Tensor) -> torch.Tensor:
    """How far the middle of the ink goes from each frame to the next, in pixels, down and right: (time - 1, 2)."""
    ink = frames[:, 0].double()
    steps = torch.arange(ink.shape[-1], dtype=torch.float64)
    middle = torch.stack([(ink.sum(2) @ steps), (ink.sum(1) @ steps)], 1) / ink.sum((1, 2))[:, None]
    return middle.diff(dim=0)


def motion(way: torch.Tensor) -> str:
    """The name of a motion of which `way` are the steps, told without looking at how clips are made."""
    moved = way.abs().sum(0) > 1e-6
    if not moved.any():
        return "standing still"
    assert not moved.all()
    steps = way[:, 1 if moved[1] else 0]
    if steps.min() < -1e-6 and steps.max() > 1e-6:
        return "bouncing left and right" if moved[1] else "bouncing up and down"
    forwards, backwards = ("moving right", "moving left") if moved[1] else ("moving down", "moving up")
    return forwards if steps.sum() > 0 else backwards


@pytest.mark.parametrize(("frames", "size"), [(16, 32), (8, 32), (30, 64)])
def test_a_digit_moves_as_the_caption_says(frames: int, size: int) -> None:
    found = moving_digits("train", 300, frames=frames, size=size, combinations="all", dtype=torch.uint8)
    assert found.frames.shape == (300, frames, 1, size, size)
    checked = Counter[str]()
    for shown, clip in zip(found.frames, found.clips, strict=True):
        if len(clip.actors) == 1:
            assert motion(ways(shown)) == clip.actors[0].motion
            assert len({int(frame.sum()) for frame in shown.int()}) == 1  # no ink is lost at an edge
            checked[clip.actors[0].motion] += 1
    assert min(checked[name] for name in MOTIONS) >= 5


def test_two_digits_cover_each_other_in_less_than_half_of_the_frames(train: CaptionedClips) -> None:
    """Where they do the sum of all pixels is below the most, since the brighter one shows."""
    for shown, clip in zip(train.frames, train.clips, strict=True):
        sums = shown.flatten(1).sum(1)
        assert (sums < 0.9 * sums.max()).float().mean() < 0.5
        assert len(clip.actors) == 2 or (sums == sums[0]).all()


def test_counts_actors_and_wordings_are_all_drawn(train: CaptionedClips) -> None:
    counts = Counter(len(clip.actors) for clip in train.clips)
    assert abs(counts[1] - 750) < 80  # four standard errors
    found = {actor for clip in train.clips for actor in clip.actors}
    assert found == set(ACTORS) - video.HELD_OUT_ACTORS
    alike = sum(len(clip.actors) == 2 and len(set(clip.actors)) == 1 for clip in train.clips)
    assert abs(alike / counts[2] - 0.25 - 0.75 / 60) < 0.065
    assert sum(text != caption(clip) for text, clip in zip(train.captions, train.clips, strict=True)) > 200


def test_train_and_test_share_no_clip(train: CaptionedClips) -> None:
    test = moving_digits("test", 1500, dtype=torch.uint8)
    first = torch.cat([train.frames[:, 0], test.frames[:, 0]])
    assert len({frame.numpy().tobytes() for frame in first}) == 3000


def test_held_out_combinations_are_unseen_until_they_are_asked_for(train: CaptionedClips) -> None:
    assert all(map(is_seen, train.clips))
    unseen = moving_digits("test", 500, combinations="unseen").clips
    assert not any(map(is_seen, unseen))
    assert {actor for clip in unseen for actor in clip.actors} >= video.HELD_OUT_ACTORS
    either = Counter(map(is_seen, moving_digits("train", 500, combinations="all").clips))
    assert min(either.values()) > 50
    assert {actor.digit for actor in video.HELD_OUT_ACTORS} == set(range(10))
    assert {actor.motion for actor in video.HELD_OUT_ACTORS} == set(MOTIONS)


GOLDEN = {
    ("train", "seen", 16, 32): "c7eb35709a2df549",
    ("test", "unseen", 8, 64): "eb02ea91ab26812b",
}


@pytest.mark.parametrize(("split", "combinations", "frames", "size"), GOLDEN)
def test_the_same_seed_gives_the_same_bytes_on_every_machine(
    split: str, combinations: str, frames: int, size: int
) -> None:
    found = moving_digits(split, 50, combinations=combinations, frames=frames, size=size, seed=5, dtype=torch.uint8)
    assert digest(found) == GOLDEN[split, combinations, frames, size]


def test_a_longer_set_begins_with_a_shorter_one_and_another_seed_is_another_set(train: CaptionedClips) -> None:
    shorter = moving_digits("train", 300, dtype=torch.uint8)
    assert torch.equal(shorter.frames, train.frames[:300])
    assert shorter.captions == train.captions[:300]
    assert digest(moving_digits("train", 20, seed=1)) != digest(moving_digits("train", 20, seed=2))


def test_other_arguments_are_errors() -> None:
    with pytest.raises(ValueError, match="split has to be 'train' or 'test', not 'valid'"):
        moving_digits("valid")
    with pytest.raises(ValueError, match="size has to be 32 or 64, not 28"):
        moving_digits(size=28)
    with pytest.raises(ValueError, match="frames have to be at least 8, .*, not 7"):
        moving_digits(frames=7)
