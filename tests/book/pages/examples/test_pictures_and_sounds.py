"""The examples of pictures and sounds are what the loaders give, with a text for who does not see or hear it."""

import html
import importlib.util
import json
import re
import wave
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from gensrc.book.pages.examples import pictures, sounds
from gensrc.data import captions, emoji, speech, video

ROOT = Path(__file__).parents[4]
ASSETS = ROOT / "book" / "assets" / "data"
MADE_ELSEWHERE = re.compile(r"\.(wav|jpg)$|^(waves|sunspots|air-passengers)\.png$")  # other libraries, other bytes


@pytest.fixture(scope="module")
def found() -> dict[str, str]:
    """What is shown of each data set, by its name."""
    return {name: "\n".join(make(ROOT)) for name, make in (pictures.EXAMPLES | sounds.EXAMPLES).items()}


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_data", ROOT / "tools" / "draw_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def examples() -> dict[str, list[dict[str, str]]]:
    return json.loads((ASSETS / "examples.json").read_text(encoding="utf8"))


def test_every_picture_and_sound_is_there_and_is_told_in_words(found: dict[str, str]) -> None:
    figures = [
        figure
        for page in found.values()
        for figure in re.findall(r"```{figure} ../assets/data/(\S+)\n:alt: (.+)\n:class: (\S+)\n\n(.+)\n```", page)
    ]
    rows = [row for page in found.values() for row in re.findall(r"!\[(.+?)\]\(../assets/data/(\S+?)\){(\S+?)}", page)]
    sounds = re.findall(r'src="../../_static/data/(\S+?)" aria-label="(.+?)"', found["speech"])
    assert (len(figures), len(rows), len(sounds)) == (17, 15, 3)
    assert sum(page.count("```{figure}") for page in found.values()) == len(figures)
    used = {file for file, *_ in figures} | {file for _, file, _ in rows} | {file for file, _ in sounds}
    assert used == {path.name for path in ASSETS.iterdir()} - {"examples.json"}
    assert all(len(alt) > 30 and style in ("gensrc-picture", "gensrc-plot") for _, alt, style, _ in figures)
    assert sum(path.stat().st_size for path in ASSETS.iterdir()) < 1_300_000


def test_scenes_and_clips_are_those_of_their_captions(
    found: dict[str, str], examples: dict[str, list[dict[str, str]]]
) -> None:
    scenes = captions.captioned_digits("train", 200, dtype=torch.uint8)
    for entry in examples["scenes"]:
        picture = scenes.images[scenes.captions.index(entry["caption"])]
        assert shrunk(entry["file"], 3).tolist() == picture.permute(1, 2, 0).tolist()
        assert f"){{.gensrc-picture}} | {entry['caption']} |" in found["captioned-digits"]
    clips = video.moving_digits("train", 200, frames=8, dtype=torch.uint8)
    for entry in examples["clips"]:
        frames = clips.frames[clips.captions.index(entry["caption"]), :, 0]
        strip = shrunk(entry["file"], 2)[:, :, 0]
        for number in range(8):
            assert strip[:, 33 * number : 33 * number + 32].tolist() == frames[number].tolist()


def shrunk(file: str, scale: int) -> np.ndarray:
    return np.asarray(Image.open(ASSETS / file).convert("RGB"))[::scale, ::scale]


def test_the_sheets_hold_all_emoji(found: dict[str, str], examples: dict[str, list[dict[str, str]]]) -> None:
    counts = sum(emoji.emoji(split).labels.bincount(minlength=10) for split in ("train", "test"))
    assert [entry["count"] for entry in examples["emoji"]] == list(counts)
    for entry in examples["emoji"]:
        assert f"of {entry['count']} emoji, among them {', '.join(entry['among'])}." in found["emoji"]


def test_the_sounds_are_the_prompts(found: dict[str, str], examples: dict[str, list[dict[str, str]]]) -> None:
    for entry in examples["speech"]:
        data = speech.speech(entry["split"])
        with wave.open(str(ASSETS / entry["file"])) as file:
            assert file.getframerate() == speech.RATE
            played = torch.frombuffer(bytearray(file.readframes(file.getnframes())), dtype=torch.int16)
        assert torch.equal(speech.mu_law(played / 32767), data.codes[data.names.index(entry["name"])])
        assert f"from the split {entry['split']}" in found["speech"]


def test_the_grammars_and_what_is_held_out_are_the_modules(found: dict[str, str]) -> None:
    scenes, clips = found["captioned-digits"], found["moving-digits"]
    for module, shown in ((captions, scenes), (video, clips)):
        for line in re.findall(r"^    (\S.*)$", module.__doc__ or "", re.MULTILINE):
            assert f"\n{line}\n" in shown
    for thing in captions.HELD_OUT_THINGS:
        assert f"{thing.colour} {thing.digit}" in scenes
    for actor in video.HELD_OUT_ACTORS:
        assert f"{video.NOUNS[actor.digit]} {actor.motion}" in clips
    assert all(f"{colour} {role}" in scenes for role, colour in captions.HELD_OUT_ROLES.items())


def test_what_the_judge_reads_right_is_what_its_card_says(found: dict[str, str]) -> None:
    card = json.loads((ROOT / "gensrc" / "checkpoints" / "scene-reader.json").read_text(encoding="utf8"))
    shares = json.loads(card["about"].split("on test digits: ")[1].rstrip("."))
    for kind, names, last in (
        ("captioned-digits", ("scenes", "unseen combinations"), "scene"),
        ("moving-digits", ("clips of 32 pixels", "clips of 64 pixels"), "clip"),
    ):
        table = found[kind].split(f"| Read right | {' | '.join(names)} |")[1].split("\n\n")[0]
        for attribute, title in (("digit", "digit"), (last, "all of it")):
            cells = [f"{100 * shares[name][attribute]:.2f}\N{NO-BREAK SPACE}%" for name in names]
            assert f"\n| {title} | {' | '.join(cells)} |" in table


def test_drawing_them_again_draws_the_same(tool: ModuleType, tmp_path: Path) -> None:
    tool.main(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in ASSETS.iterdir()}
    assert (tmp_path / "examples.json").read_bytes() == (ASSETS / "examples.json").read_bytes()
    for path in ASSETS.glob("*.png"):
        if not MADE_ELSEWHERE.search(path.name):
            drawn, stored = (np.asarray(Image.open(folder / path.name).convert("RGB")) for folder in (tmp_path, ASSETS))
            assert np.array_equal(drawn, stored), path.name


def test_photographs_name_who_took_them(found: dict[str, str]) -> None:
    address = "https://www.flickr.com/photos/vultilion/6056698931"
    assert f"\nPhotograph by [vultilion]({address}), CC BY 2.0\n" in found["photographs"]


def test_no_line_of_a_page_is_markup_by_accident(found: dict[str, str]) -> None:
    for page in found.values():
        assert html.unescape(page) == page
        assert page.count("```") % 2 == 0
