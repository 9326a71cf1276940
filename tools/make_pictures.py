"""Make the pictures and sounds of the pack: what becomes of an unpacked package, for make_data_pack.py.

The emoji are drawn by resvg, which is no dependency of the book: `pip install resvg-py==0.5.0` before making them.
"""

import hashlib
import io
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gensrc.data.speech import RATE, mu_law, read_wav

# --- Emoji ------------------------------------------------------------------------------------------------------------

SIDE = 64  # pixels
RESVG = "0.5.0"
LEFT_OUT_GROUPS = {"flags", "component"}
# Of OpenMoji's own: flags, letters that only make flags, firms' signs and persons of public life.
LEFT_OUT_SUBGROUPS = {"flags", "subdivision-flag", "queer-symbols", "regional-indicator", "brand", "people"}
OWN = "extras-"
PERSON, PERSONS = "1F9D1", {"1F468", "1F469"}  # a person; a man, a woman
SIGNS = {"FE0F", "200D", "2640", "2642", "27A1", "20E3"}  # colourful, joined, female, male, facing right, on a key
SQUARES = {"1F7E5", "1F7E6", "1F7E7", "1F7E8", "1F7E9", "1F7EA", "1F7EB", "2B1B", "2B1C"}
ALIKE = 0.05  # of all levels, the root of the mean squared difference below which two pictures are one in two versions


def make_emoji(unpacked: Path, card: dict[str, Any]) -> dict[str, bytes]:
    """The pictures, on white, as one IDX file of (n, 64, 64, 3) bytes, and a table of what they show."""
    folder = unpacked / "package"
    kept = first_of_each_name(json.loads((folder / "data" / "openmoji.json").read_text(encoding="utf8")))
    drawn = np.stack([draw(folder / "color" / "svg" / f"{emoji['hexcode']}.svg") for emoji in kept])
    first = sorted({picture.tobytes(): number for number, picture in reversed(list(enumerate(drawn)))}.values())
    kept, drawn = [kept[number] for number in first], drawn[first]
    families = family_names([emoji["hexcode"] for emoji in kept], drawn)
    table = {
        "characters": ["".join(chr(int(code, 16)) for code in emoji["hexcode"].split("-")) for emoji in kept],
        "names": [name(emoji) for emoji in kept],
        "tags": [tags(emoji) for emoji in kept],
        "groups": [emoji["group"] for emoji in kept],
        "subgroups": [emoji["subgroups"] for emoji in kept],
        "families": families,
        "splits": ["test" if number(family) % 10 == 0 else "train" for family in families],
    }
    header = struct.pack(">4B4I", 0, 0, 0x08, 4, *drawn.shape)
    content = json.dumps(table, ensure_ascii=False, indent=0) + "\n"
    return {"images-idx4-ubyte": header + drawn.tobytes(), "table.json": content.encode()}


def first_of_each_name(stored: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """OpenMoji's list without flags, skin tones and what else is left out; of a name that it has twice the first."""
    found: dict[str, dict[str, Any]] = {}
    for emoji in stored:
        own_left_out = emoji["group"].startswith(OWN) and emoji["subgroups"] in LEFT_OUT_SUBGROUPS
        if not emoji["skintone"] and emoji["group"] not in LEFT_OUT_GROUPS and not own_left_out:
            found.setdefault(name(emoji).lower(), emoji)
    return list(found.values())


def name(emoji: dict[str, Any]) -> str:
    return " ".join(emoji["annotation"].split())


def tags(emoji: dict[str, Any]) -> list[str]:
    """Unicode's tags, then OpenMoji's, each once."""
    listed = f"{emoji['tags']},{emoji['openmoji_tags']}".split(",")
    return list(dict.fromkeys(" ".join(tag.split()) for tag in listed if tag.strip()))


def draw(path: Path) -> np.ndarray:
    """The picture as bytes of shape (64, 64, 3), on white."""
    try:
        import resvg_py
    except ImportError:
        raise SystemExit(f"The emoji are drawn with resvg: pip install resvg-py=={RESVG} and run again.") from None
    svg = path.read_text(encoding="utf8")
    png = resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE, background="#ffffff", skip_system_fonts=True)
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def family(hexcode: str) -> str:
    """The same for the variants of an emoji: man, woman and person, turned left or right, in one colour or another."""
    codes = [PERSON if code in PERSONS else code for code in hexcode.split("-") if code not in SIGNS]
    return "-".join([codes[0], *(code for code in codes[1:] if code not in SQUARES)]) if codes else hexcode


def family_names(hexcodes: list[str], drawn: np.ndarray) -> list[str]:
    """For each picture the smallest `family` of all those that it is a variant of, or all but the same picture as."""
    pixels = drawn.reshape(len(drawn), -1).astype(np.float64)  # sums of whole numbers, exact
    squares = (pixels**2).sum(1)
    distances = squares[:, None] + squares - 2 * pixels @ pixels.T
    alike = distances < (ALIKE * 255) ** 2 * pixels.shape[1]
    names = [family(hexcode) for hexcode in hexcodes]
    joined = {name: name for name in names}

    def root(name: str) -> str:
        return name if joined[name] == name else root(joined[name])

    for one, other in np.argwhere(np.triu(alike, 1)).tolist():
        low, high = sorted((root(names[one]), root(names[other])))
        joined[high] = low
    return [root(name) for name in names]


def number(name: str) -> int:
    """A whole number that only the name decides: the end of its SHA-256."""
    return int(hashlib.sha256(name.encode()).hexdigest()[-8:], 16)


# --- Speech -----------------------------------------------------------------------------------------------------------

SECONDS = (3, 12)
SOFT = 256 / 32768  # below which a sample counts as silence
PAUSE = 400  # samples of silence that are left at both ends


def make_speech(unpacked: Path, card: dict[str, Any]) -> dict[str, bytes]:
    """The prompts of three to twelve seconds as mu-law codes, one after the other, and a table of what they are."""
    folder = unpacked / "usr" / "share" / "asterisk" / "sounds" / "en_US_f_Allison"
    codes: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.wav")):
        samples, rate = read_wav(path.read_bytes())
        if rate == RATE and SECONDS[0] <= samples.shape[1] / RATE <= SECONDS[1]:
            codes[path.stem] = mu_law(without_silence(samples[0]))
    table = {
        "names": list(codes),
        "lengths": [len(prompt) for prompt in codes.values()],
        "splits": ["test" if number(sentence(name)) % 9 == 0 else "train" for name in codes],
    }
    whole = torch.cat(list(codes.values())).to(torch.uint8)
    header = struct.pack(">4BI", 0, 0, 0x08, 1, len(whole))
    content = json.dumps(table, indent=0) + "\n"
    return {"codes-idx1-ubyte": header + whole.numpy().tobytes(), "table.json": content.encode()}


def sentence(name: str) -> str:
    """The same for prompts that say almost the same, such as that a volume goes up, goes down or goes back."""
    topic, *rest = re.sub(r"\d+$", "", name).split("-")
    return "-".join([topic, *("volume" if part in ("inc", "dec", "rest") else part for part in rest[:1])])


def without_silence(samples: Tensor) -> Tensor:
    """The samples without the silence at both ends, but for a short pause."""
    loud = (samples.abs() >= SOFT).nonzero()[:, 0]
    return samples[max(int(loud[0]) - PAUSE, 0) : int(loud[-1]) + 1 + PAUSE]


PICTURE_MAKERS: dict[str, Callable[[Path, dict[str, Any]], dict[str, bytes]]] = {
    "emoji": make_emoji,
    "speech": make_speech,
}
