"""The emoji are pictures with names, in two splits that share no variant of anything."""

import hashlib
import json
from pathlib import Path

import make_pictures
import numpy as np
import pytest
import torch

from gensrc.data import registry
from gensrc.data.emoji import GROUPS, Emoji, emoji
from gensrc.data.registry import DataError

COUNTS = {"train": 1778, "test": 204}


@pytest.fixture(scope="module")
def loaded() -> dict[str, Emoji]:
    return {split: emoji(split, dtype=torch.uint8) for split in COUNTS}


def both(loaded: dict[str, Emoji], field: str) -> list[object]:
    return [entry for split in COUNTS for entry in getattr(loaded[split], field)]


# --- The data set ---------------------------------------------------------------------------------


@pytest.mark.parametrize("split", COUNTS)
def test_emoji_are_pictures_on_white_with_names_and_tags(split: str, loaded: dict[str, Emoji]) -> None:
    found = loaded[split]
    assert len(found) == COUNTS[split]
    assert found.images.shape == (COUNTS[split], 3, 64, 64)
    assert (found.images.dtype, found.images.min(), found.images.max()) == (torch.uint8, 0, 255)
    corners = found.images[:, :, ::63, ::63].float().mean()
    assert corners > 250  # on white
    assert found.labels.dtype == torch.int64
    assert found.groups == GROUPS
    for field in ("labels", "subgroups", "names", "tags", "characters", "families"):
        assert len(getattr(found, field)) == COUNTS[split]


def test_the_cards_counts_are_those_of_the_loader() -> None:
    (card,) = [card for card in registry.cards(registry.PACK) if card.name == "emoji"]
    assert card.counts == COUNTS


def test_the_grinning_face_has_its_known_entries(loaded: dict[str, Emoji]) -> None:
    train = loaded["train"]
    assert train.names[0] == "grinning face"
    assert train.characters[0] == "😀"
    assert train.groups[train.labels[0]] == "smileys-emotion"
    assert train.subgroups[0] == "face-smiling"
    assert {"smile", "teeth", "happy"} <= set(train.tags[0])
    assert train.images[0, :, 18, 32].tolist() == [252, 234, 43]  # OpenMoji's yellow, on the forehead
    mark = train.images[train.names.index("red exclamation mark")].amin(0) < 200
    assert mark.any(1).sum() > 3 * mark.any(0).sum()  # upright


def test_all_groups_are_there(loaded: dict[str, Emoji]) -> None:
    assert (loaded["train"].labels.bincount(minlength=len(GROUPS)) >= 60).all()


def test_there_are_no_flags_and_no_skin_tones(loaded: dict[str, Emoji]) -> None:
    text = " ".join([*both(loaded, "names"), *both(loaded, "subgroups")])
    assert "skin tone" not in text
    letters = {ord(letter) for text in both(loaded, "characters") for letter in text}
    assert letters.isdisjoint(range(0x1F3FB, 0x1F400))  # skin tones
    assert letters.isdisjoint(range(0x1F1E6, 0x1F200))  # the letters of flags
    flags = [name for name in both(loaded, "names") if name.lower().endswith("flag") and "mailbox" not in name]
    assert flags == []


def test_no_picture_and_no_name_occurs_twice(loaded: dict[str, Emoji]) -> None:
    hashes = {hashlib.sha256(picture.numpy().tobytes()).digest() for picture in both(loaded, "images")}
    assert len(hashes) == sum(COUNTS.values())
    assert len({name.lower() for name in both(loaded, "names")}) == sum(COUNTS.values())


def test_no_variant_and_no_duplicate_is_in_the_other_split(loaded: dict[str, Emoji]) -> None:
    assert set(loaded["train"].families).isdisjoint(loaded["test"].families)
    train, test = (loaded[split].images.flatten(1).double() / 255 for split in ("train", "test"))
    squares = (train**2).sum(1)[:, None] + (test**2).sum(1) - 2 * train @ test.T
    assert (squares / train.shape[1]).clamp(min=0).sqrt().min() >= 0.05


def test_a_smaller_size_is_the_mean_of_four_pixels(loaded: dict[str, Emoji]) -> None:
    small = emoji("test", size=32)
    assert small.images.shape == (204, 3, 32, 32)
    means = torch.nn.functional.avg_pool2d(loaded["test"].images.float(), 2)
    assert ((small.images * 255 - means).abs() <= 0.501).all()


def test_levels_are_the_bytes_over_255(loaded: dict[str, Emoji]) -> None:
    assert torch.equal(emoji("test").images, loaded["test"].images / 255)


def test_other_arguments_are_errors() -> None:
    with pytest.raises(ValueError, match="split has to be 'train' or 'test', not 'valid'"):
        emoji("valid")
    with pytest.raises(ValueError, match="size has to be 64 or 32, not 28"):
        emoji(size=28)
    with pytest.raises(ValueError, match=r"torch\.float32 or torch\.uint8, not torch\.float16"):
        emoji(dtype=torch.float16)


def test_a_damaged_table_stops_the_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "emoji").mkdir()
    (tmp_path / "emoji" / "table.json.xz").write_bytes(b"half a file")
    monkeypatch.setenv("GENSRC_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"table\.json\.xz is damaged"):
        emoji()


# --- How it was made ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variants",
    [
        ("1F468-200D-1F680", "1F469-200D-1F680", "1F9D1-200D-1F680"),  # man, woman, person
        ("1F3C3", "1F3C3-200D-2642-FE0F", "1F3C3-200D-2640-FE0F-200D-27A1-FE0F"),  # man, woman facing right
        ("1FAD9", "1FAD9-200D-1F7E5", "1FAD9-200D-1F7E6"),  # red content, blue content
        ("1F468-200D-1F469-200D-1F466", "1F469-200D-1F469-200D-1F466"),  # a boy's parents
    ],
)
def test_variants_are_one_family(variants: tuple[str, ...]) -> None:
    assert len({make_pictures.family(hexcode) for hexcode in variants}) == 1


def test_unrelated_emoji_are_no_family() -> None:
    different = ["1F600", "1F468-200D-1F680", "1F468-200D-1F692", "2640", "2642", "1F7E5", "1F7E6", "0031-FE0F-20E3"]
    assert len({make_pictures.family(hexcode) for hexcode in different}) == len(different)


def test_near_duplicate_pictures_are_one_family_transitively() -> None:
    drawn = np.full((4, 64, 64, 3), 255, np.uint8)
    drawn[0, 0, 0] = 0  # 0 and 1 differ in two pixels, 1 and 2 in two
    drawn[2, 9, 9] = 0
    drawn[3, :32] = 0
    assert make_pictures.family_names(["C", "B", "A", "D"], drawn) == ["A", "A", "A", "D"]


def test_the_first_of_duplicate_names_or_pictures_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Colours stand for drawings: what resvg does is its own affair."""
    stored = [entry("1F600", "red"), entry("1F601", "Red "), entry("1F602", "blue"), entry("1F603", "red again")]
    stored += [entry("1F604", "a skin", skintone="1"), entry("1F605", "a flag", group="flags")]
    stored += [entry("E000", "a brand", group="extras-openmoji", subgroups="brand"), entry("E001", "green")]
    (tmp_path / "package" / "data").mkdir(parents=True)
    (tmp_path / "package" / "data" / "openmoji.json").write_text(json.dumps(stored), encoding="utf8")
    shades = {"1F600": 9, "1F602": 99, "1F603": 9, "E001": 199}
    monkeypatch.setattr(make_pictures, "draw", lambda path: np.full((64, 64, 3), shades[path.stem], np.uint8))
    made = make_pictures.make_emoji(tmp_path, {})
    table = json.loads(made["table.json"])
    assert table["names"] == ["red", "blue", "green"]
    assert table["characters"] == ["\U0001f600", "\U0001f602", "\ue001"]
    assert table["tags"][0] == ["warm", "bright", "own"]
    assert len(made["images-idx4-ubyte"]) == 20 + 3 * 64 * 64 * 3


def entry(hexcode: str, annotation: str, **more: str) -> dict[str, str]:
    found = {"hexcode": hexcode, "annotation": annotation, "skintone": "", "group": "objects", "subgroups": "tool"}
    return found | {"tags": "warm, bright", "openmoji_tags": "bright,own, "} | more


def test_a_drawing_is_rendered_on_white(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py", reason="the emoji are drawn with resvg-py")
    path = tmp_path / "square.svg"
    path.write_text(
        '<svg viewBox="0 0 2 2" xmlns="http://www.w3.org/2000/svg"><path fill="#f00" d="M0 0h1v2h-1z"/></svg>'
    )
    drawn = make_pictures.draw(path)
    assert (drawn[:, :32] == [255, 0, 0]).all()
    assert (drawn[:, 32:] == 255).all()
