"""The pages of pictures and of sounds show what the loaders give, with a text for who does not see or hear it."""

import html
import importlib.util
import json
import re
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from gensrc.book import picture_data, sound_data
from gensrc.data import captions, emoji, speech, video
from gensrc.data.registry import PACK, cards

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "book" / "assets" / "data"
PAGES: dict[str, Callable[[Path], str]] = {"picture": picture_data.page, "sound": sound_data.page}
MADE_ELSEWHERE = re.compile(r"\.(wav|jpg)$|^(waves|sunspots|air-passengers)\.png$")  # other libraries, other bytes


@pytest.fixture(scope="module")
def found() -> dict[str, str]:
    return {kind: page(ROOT) for kind, page in PAGES.items()}


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


def test_every_data_set_that_is_no_text_has_a_section_with_what_its_card_says(found: dict[str, str]) -> None:
    others = [card for card in cards(PACK) if not card.loader.startswith("gensrc.data.text.")]
    assert len(others) == 9
    for card in others:
        (kind,) = [kind for kind, page in found.items() if f"({kind}-{card.name})=\n## {card.title}\n" in page]
        own = found[kind].split(f"({kind}-{card.name})=\n")[1].split(f"\n({kind}-")[0]
        for words in (card.about, card.quirks, card.attribution, card.licence_url, card.loader, f"(data-{card.name})"):
            assert words in own
        for split, count in card.counts.items():
            assert f"{count:,} {split}" in own


def test_every_picture_and_sound_is_there_and_is_told_in_words(found: dict[str, str]) -> None:
    figures = [
        figure
        for page in found.values()
        for figure in re.findall(r"```{figure} ../assets/data/(\S+)\n:alt: (.+)\n:class: (\S+)\n\n(.+)\n```", page)
    ]
    rows = [row for page in found.values() for row in re.findall(r"!\[(.+?)\]\(../assets/data/(\S+?)\){(\S+?)}", page)]
    sounds = re.findall(r'src="../../_static/data/(\S+?)" aria-label="(.+?)"', found["sound"])
    assert (len(figures), len(rows), len(sounds)) == (17, 15, 3)
    assert found["picture"].count("```{figure}") + found["sound"].count("```{figure}") == len(figures)
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
        assert f"){{.gensrc-picture}} | {entry['caption']} |" in found["picture"]
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
        assert f"of {entry['count']} emoji, among them {', '.join(entry['among'])}." in found["picture"]


def test_the_sounds_are_the_prompts(found: dict[str, str], examples: dict[str, list[dict[str, str]]]) -> None:
    for entry in examples["speech"]:
        data = speech.speech(entry["split"])
        with wave.open(str(ASSETS / entry["file"])) as file:
            assert file.getframerate() == speech.RATE
            played = torch.frombuffer(bytearray(file.readframes(file.getnframes())), dtype=torch.int16)
        assert torch.equal(speech.mu_law(played / 32767), data.codes[data.names.index(entry["name"])])
        assert f"from the split {entry['split']}" in found["sound"]


def test_the_grammars_and_what_is_held_out_are_the_modules(found: dict[str, str]) -> None:
    for module in (captions, video):
        for line in re.findall(r"^    (\S.*)$", module.__doc__ or "", re.MULTILINE):
            assert f"\n{line}\n" in found["picture"]
    for thing in captions.HELD_OUT_THINGS:
        assert f"{thing.colour} {thing.digit}" in found["picture"]
    for actor in video.HELD_OUT_ACTORS:
        assert f"{video.NOUNS[actor.digit]} {actor.motion}" in found["picture"]
    assert all(f"{colour} {role}" in found["picture"] for role, colour in captions.HELD_OUT_ROLES.items())


def test_what_the_judge_reads_right_is_what_its_card_says(found: dict[str, str]) -> None:
    card = json.loads((ROOT / "gensrc" / "checkpoints" / "judge.json").read_text(encoding="utf8"))
    shares = json.loads(card["about"].split("on test digits: ")[1].rstrip("."))
    for names, last in (
        (("scenes", "unseen combinations"), "scene"),
        (("clips of 32 pixels", "clips of 64 pixels"), "clip"),
    ):
        table = found["picture"].split(f"| Read right | {' | '.join(names)} |")[1].split("\n\n")[0]
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
    assert f"\nPhotograph by [vultilion]({address}), CC BY 2.0\n" in found["picture"]


def test_no_line_of_a_page_is_markup_by_accident(found: dict[str, str]) -> None:
    for page in found.values():
        assert html.unescape(page) == page
        assert page.count("```") % 2 == 0


def test_the_pages_import_no_torch() -> None:
    code = (
        "import sys, pathlib; from gensrc.book import picture_data, sound_data; "
        f"root = pathlib.Path({str(ROOT)!r}); picture_data.page(root); sound_data.page(root); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0
