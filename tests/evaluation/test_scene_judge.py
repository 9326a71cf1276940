"""The scene reader: accuracy on real scenes and clips, and its scores."""

import json
import math
from collections.abc import Sequence

import pytest
import torch

from gensrc import checkpoints, training
from gensrc.data import captions, video
from gensrc.data.captions import LAYOUTS, Scene, Thing, captioned_digits
from gensrc.data.images import mnist
from gensrc.data.video import MOTIONS, Actor, Clip, moving_digits
from gensrc.evaluation import scene_judge as judging
from gensrc.evaluation.motion_paths import trace
from gensrc.evaluation.scene_judge import SceneReader, agreement, annotate, arrange, clip_agreement, scene_reader

SEVEN, THREE, ONE = Thing("red", 7), Thing("blue", 3), Thing("green", 1)


# --- What it reads --------------------------------------------------------------------------------


@pytest.mark.parametrize("combinations", ["seen", "unseen"])
def test_held_out_scenes_are_read_accurately(combinations: str) -> None:
    data = captioned_digits("test", 1500, combinations=combinations, seed=7)
    shares = agreement(scene_reader().read(data.images), data.scenes)
    assert shares["digit"] >= 0.99
    assert shares["thing"] >= 0.99
    assert min(shares["colour"], shares["position"], shares["count"]) >= 0.998
    assert shares["scene"] >= 0.98


@pytest.mark.parametrize(("frames", "size"), [(16, 32), (9, 32), (16, 64)])
def test_held_out_clips_are_read_accurately(frames: int, size: int) -> None:
    data = moving_digits("test", 250, combinations="all", frames=frames, size=size, seed=7)
    shares = clip_agreement(scene_reader().watch(data.frames), data.clips)
    assert shares["digit"] >= 0.985  # three standard errors below what the card says
    assert min(shares["motion"], shares["count"]) >= 0.99


def test_middles_are_found_to_the_pixel() -> None:
    data = captioned_digits("test", 500, counts=(1,))
    which, middles = scene_reader().find(data.images)
    assert which.tolist() == list(range(500))
    away = (middles - data.corners[:, 0] - 7).abs().float()
    assert away.mean() < 0.1
    assert (away <= 1).float().mean() > 0.99


def test_every_layout_is_recognised() -> None:
    data = captioned_digits("test", 1500, combinations="all", seed=8)
    found = scene_reader().read(data.images)
    for layout in LAYOUTS:
        of_it = [number for number, scene in enumerate(data.scenes) if scene.layout == layout]
        assert len(of_it) > 30
        assert all(found[number] is not None and found[number].layout == layout for number in of_it[:30])


def test_pictures_without_things_or_with_too_many_give_no_scene() -> None:
    four = captioned_digits("test", 400, counts=(1,))
    corners = [
        image
        for place in ("at the top left", "at the top right", "at the bottom left", "at the bottom right")
        for image in [next(i for i, s in zip(four.images, four.scenes, strict=True) if s.layout == place)]
    ]
    pictures = torch.stack([torch.zeros(3, 32, 32), torch.stack(corners).amax(0)])
    assert scene_reader().read(pictures) == [None, None]
    assert scene_reader().watch(torch.zeros(1, 16, 1, 32, 32)) == [None]


def test_readings_do_not_depend_on_the_other_pictures() -> None:
    data = captioned_digits("test", 600, seed=9)
    assert scene_reader().read(data.images[590:]) == scene_reader().read(data.images)[590:]
    clips = moving_digits("test", 40, seed=9)
    assert scene_reader().watch(clips.frames[38:]) == scene_reader().watch(clips.frames)[38:]


def test_single_digits_are_read_and_the_features_are_the_last_layers_input() -> None:
    data = mnist("test")
    windows = judging.centred(torch.nn.functional.pad(data.images[:2000], [2] * 4))
    assert windows.shape == (2000, 3, 16, 16)
    with torch.no_grad():
        digits, colours = scene_reader().classify(windows)
        decided = scene_reader().reader[-1](scene_reader().features(windows))
    assert (digits.argmax(1) == data.labels[:2000]).float().mean() > 0.985
    torch.testing.assert_close(decided, torch.cat([digits, colours], 1))


def test_centred_windows_are_the_middle_of_a_picture_scaled_by_two_thirds() -> None:
    picture = torch.zeros(1, 1, 32, 32)
    picture[:, :, 4:16, 4:28] = 1
    windows = judging.centred(picture)
    assert windows[..., :7, :].min() > 0.99
    assert windows[..., 9:, :].max() < 0.01
    picture[:] = 1
    picture[:, :, 4:28, 4:28] = 0
    assert not judging.centred(picture).any()


def test_the_checkpoint_is_small_and_its_card_says_how_good_it_is() -> None:
    card = json.loads((checkpoints.SHIPPED / "scene-reader.json").read_text(encoding="utf8"))
    assert card["bytes"] < 1_000_000
    shares = json.loads(card["about"].split("on test digits: ")[1].rstrip("."))
    for name in ("scenes", "unseen combinations", "every test digit alone"):
        assert min(shares[name][part] for part in ("digit", "colour", "position", "count")) >= 0.99
    assert shares["clips of 32 pixels"]["motion"] >= 0.99


# --- Geometry -------------------------------------------------------------------------------------


def test_arrange_does_not_depend_on_the_order_of_the_things() -> None:
    data = captioned_digits("train", 600, combinations="all", seed=3)
    for count in (1, 2, 3):
        chosen = [number for number, scene in enumerate(data.scenes) if len(scene.things) == count]
        turned = data.corners[chosen][:, :count].flip(1) + 7
        layouts, orders = arrange(turned)
        assert layouts == [data.scenes[number].layout for number in chosen]
        assert orders.tolist() == [list(range(count))[::-1]] * len(chosen)


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_path_is_traced_through_the_heat(motion: str) -> None:
    data = moving_digits("train", 400, combinations="all", frames=12, dtype=torch.uint8)
    number = next(i for i, clip in enumerate(data.clips) if [a.motion for a in clip.actors] == [motion])
    ink = data.frames[number, :, 0] > 0
    heat = torch.zeros(1, 12, 19, 19)
    for frame in range(12):  # the heat is 1 where the square of the ink begins, and a little beside it
        rows, columns = ink[frame].nonzero(as_tuple=True)
        top, left = (int(axis.min() + axis.max() + 1) // 2 - 7 for axis in (rows, columns))
        heat[0, frame, max(top - 1, 0) : top + 2, max(left - 1, 0) : left + 2] = 0.5
        heat[0, frame, top, left] = 1
    strength, motions, corners = trace(heat)
    assert MOTIONS[motions[0]] == motion
    assert strength[0] > 0.7
    steps = torch.arange(12)
    assert (heat[0, steps, corners[0, :, 0], corners[0, :, 1]] >= 0.5).float().mean() > 0.9


# --- Learning -------------------------------------------------------------------------------------


def test_annotations_are_at_the_middles_of_the_things() -> None:
    data = captioned_digits("train", 20)
    for planes, scene, corners in zip(annotate(data), data.scenes, data.corners.tolist(), strict=True):
        assert (planes > 0).sum() == 2 * len(scene.things)
        for thing, (top, left) in zip(scene.things, corners, strict=False):
            digit, colour = planes[:, top + 7, left + 7].tolist()
            assert (digit - 1, list(captions.COLOURS)[int(colour) - 1]) == (thing.digit, thing.colour)


def test_targets_are_gaussians_around_the_middles() -> None:
    heat = judging.targets(torch.tensor([1, 1]), torch.tensor([[9, 7], [23, 25]]), 2)
    assert (heat[0] == 0).all()
    assert heat[1, 4, 3] == heat[1, 11, 12] == 1  # cells of two pixels: the fourth's middle is at 9
    assert heat[1, 6, 3].item() == pytest.approx(math.exp(-2))


def test_the_loss_of_a_perfect_reading_is_the_entropy_of_the_targets() -> None:
    """With the targets for heat and certain answers nothing is left but what the soft targets cannot lose."""
    data = captioned_digits("train", 30)
    model = SceneReader(width=4)
    marks = annotate(data)
    which, rows, columns = (marks[:, 0] > 0).nonzero(as_tuple=True)
    targets = judging.targets(which, torch.stack([rows, columns], 1), 30)
    model.heat = lambda images: targets.logit(1e-6)  # type: ignore[method-assign, assignment]
    certain = [
        torch.nn.functional.one_hot(marks[which, plane, rows, columns] - 1, size) for plane, size in ((0, 10), (1, 6))
    ]
    model.classify = lambda windows: tuple(50.0 * answer for answer in certain)  # type: ignore[method-assign, assignment]
    entropy = -(torch.xlogy(targets, targets) + torch.xlogy(1 - targets, 1 - targets)).sum() / 30
    assert model.loss(data.images, marks).item() == pytest.approx(entropy.item(), rel=1e-3)


def test_a_small_step_gains_what_the_slope_of_the_loss_says(gains_what_its_slope_says) -> None:  # type: ignore[no-untyped-def]
    training.seed_everything(0)
    data, model = captioned_digits("train", 16), SceneReader(width=4).eval()
    images, marks = data.images, annotate(data)
    gains_what_its_slope_says(model.parameters(), lambda: model.loss(images, marks), gain=0.05)


# --- Scores ---------------------------------------------------------------------------------------

WANTED = Scene((SEVEN, THREE), "above")


def scored(found: Sequence[Scene | None]) -> dict[str, float]:
    return agreement(found, [WANTED] * len(found))


def test_agreement_is_one_for_a_perfect_reading_and_zero_for_none() -> None:
    assert set(scored([WANTED, WANTED]).values()) == {1.0}
    assert set(scored([None]).values()) == {0.0}


def test_each_attribute_is_scored_separately() -> None:
    assert scored([Scene((THREE, SEVEN), "above")]) == {
        "count": 1, "digit": 1, "colour": 1, "thing": 1, "position": 1, "scene": 0,
    }  # fmt: skip
    assert scored([Scene((Thing("blue", 7), Thing("red", 3)), "left of")]) == {
        "count": 1, "digit": 1, "colour": 1, "thing": 0, "position": 0, "scene": 0,
    }  # fmt: skip
    assert scored([Scene((SEVEN, SEVEN, ONE), "left of, both above")]) == {
        "count": 0, "digit": 0.5, "colour": 0.5, "thing": 0.5, "position": 0, "scene": 0,
    }  # fmt: skip


def test_clip_agreement_scores_each_attribute() -> None:
    up, left = Actor(7, "moving up"), Actor(3, "moving left")
    wanted = [Clip((up, left)), Clip((up,))]
    assert set(clip_agreement(wanted, wanted).values()) == {1.0}
    assert clip_agreement([Clip((Actor(7, "moving left"), Actor(3, "moving up"))), None], wanted) == {
        "count": 0.5, "digit": 2 / 3, "motion": 2 / 3, "actor": 0, "clip": 0,
    }  # fmt: skip
    assert video.ROOM + video.GLYPH == captions.SIZE


def test_nothing_to_compare_has_no_accuracy():
    for score in (agreement, clip_agreement):
        with pytest.raises(ValueError, match="nothing to compare"):
            score([], [])
