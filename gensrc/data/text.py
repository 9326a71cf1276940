"""Texts: plays, poems, names and phrases in two languages, descriptions with their synopses.

Each loader gives one split as columns, tuples of strings of equal length. Texts are in Unicode's composed form NFC and
have no control characters other than the line break. `gensrc.data.vocabulary` turns them into tokens.

The splits are fixed, and near duplicates are in one split; each card says how that was ensured.
"""

import io
import json
import tarfile
from dataclasses import dataclass
from typing import Any

from gensrc.data import registry
from gensrc.data.registry import DataError

SPLITS = ("train", "validation", "test")
EMOJI_LANGUAGES = ("en", "zh", "zh-Hant", "ja", "ko", "de", "fr", "es", "it", "pt", "ru")
# Split -> the archive of Multi30k and the name of its two files, without the language.
MULTI30K = {
    "train": ("training.tar.gz", "train"),
    "validation": ("validation.tar.gz", "val"),
    "test": ("mmt_task1_test2016.tar.gz", "test2016"),
}


@dataclass(frozen=True)
class Plays:
    """n plays."""

    titles: tuple[str, ...]
    texts: tuple[str, ...]  # a speaker's name in capitals on a line of its own, then what is said; [stage directions]

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Poems:
    """n poems."""

    titles: tuple[str, ...]
    authors: tuple[str, ...]
    texts: tuple[str, ...]  # two lines of two verses: "白日依山盡，黃河入海流。\\n欲窮千里目，更上一層樓。"

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Pairs:
    """n texts and their translations."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sources)


@dataclass(frozen=True)
class EmojiNames(Pairs):
    """n emoji and other characters with their names, the English one (`sources`) and that of another language."""

    emoji: tuple[str, ...]  # one character or a sequence of them, without variation selectors


@dataclass(frozen=True)
class Synopses:
    """n packages of software, each with a description and a one-line synopsis."""

    descriptions: tuple[str, ...]  # 100 to 800 characters, a line a paragraph
    synopses: tuple[str, ...]  # 15 to 80 characters
    packages: tuple[str, ...]
    source_packages: tuple[str, ...]  # what the package is built from; no two have the same one
    sections: tuple[str, ...]  # Debian's sections, such as "games", "science" or "python"

    def __len__(self) -> int:
        return len(self.synopses)


def shakespeare(split: str = "train") -> Plays:
    """Twelve of Shakespeare's plays: ten ("train", 1,306,083 characters), The Tempest ("validation", 97,607) or
    Twelfth Night ("test", 114,186).

    Raises ValueError for another split, DataError if the file is damaged.
    """
    return Plays(**_columns("shakespeare", split))


def poems(split: str = "train") -> Poems:
    """Regular quatrains of the Tang dynasty in traditional characters: 12,662 ("train"), 642 ("validation") or 749
    ("test").

    Four verses of five or of seven characters each, 24 or 32 characters with the punctuation.

    Raises ValueError for another split, DataError if the file is damaged.
    """
    return Poems(**_columns("poems", split))


def emoji_names(split: str = "train", *, language: str = "zh", skin_tones: bool = False) -> EmojiNames:
    """The names of emoji and other characters in English and another language: 1,852 ("train"), 222
    ("validation") or 238 ("test").

    language: one of EMOJI_LANGUAGES; "zh" is Chinese in simplified characters, "zh-Hant" in traditional ones.
    skin_tones: whether the variants with a skin tone come too. Their names are made by rule ("waving hand: dark skin
        tone"); there are then 3,462, 347 and 533.

    Raises ValueError for another split or language, DataError if the file is damaged.
    """
    if language not in EMOJI_LANGUAGES:
        raise ValueError(f"language has to be one of {', '.join(EMOJI_LANGUAGES)}, not {language!r}.")
    columns = _columns("emoji-names", split)
    kept = [at for at, toned in enumerate(columns["skin_tone"]) if skin_tones or not toned]
    sources, targets, emoji = (tuple(columns[name][at] for at in kept) for name in ("en", language, "emoji"))
    return EmojiNames(sources, targets, emoji)


def interface_strings(split: str = "train") -> Pairs:
    """Words, phrases and sentences of a program's interface in English and Chinese (simplified): 13,943 ("train"),
    797 ("validation") or 729 ("test").

    No English text occurs twice, and no text of either language is in two splits.

    Raises ValueError for another split, DataError if the file is damaged.
    """
    return Pairs(**_columns("interface-strings", split))


def synopses(split: str = "train") -> Synopses:
    """Descriptions of Debian's packages with their one-line synopses: 9,016 ("train"), 513 ("validation") or 471
    ("test").

    Raises ValueError for another split, DataError if the file is damaged.
    """
    return Synopses(**_columns("synopses", split))


def multi30k(split: str = "train") -> Pairs:
    """Multi30k: captions of photographs in English and German, 29,000 ("train"), 1,014 ("validation") or 1,000 ("test",
    that of 2016). It is no part of the pack: the files are fetched once (1.2, 0.05 and 0.07 MB).

    Raises ValueError for another split, DataError if a file is damaged or cannot be fetched.
    """
    _check_split(split)
    archive, stem = MULTI30K[split]
    content = registry.read(f"multi30k/{archive}")
    english, german = (_member(content, f"{stem}.{language}", archive) for language in ("en", "de"))
    if len(english) != len(german):
        raise DataError(f"{archive} has {len(english)} English lines and {len(german)} German ones.")
    return Pairs(english, german)


def _columns(name: str, split: str) -> dict[str, tuple[Any, ...]]:
    _check_split(split)
    return {column: tuple(values) for column, values in json.loads(registry.read(f"{name}/{split}.json.xz")).items()}


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split has to be 'train', 'validation' or 'test', not {split!r}.")


def _member(tar: bytes, name: str, archive: str) -> tuple[str, ...]:
    """The lines of the file `name`, in any folder of the archive."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        found = next((entry for entry in opened if entry.isfile() and entry.name.split("/")[-1] == name), None)
        stream = opened.extractfile(found) if found else None
        if stream is None:
            raise DataError(f"{archive} has no file {name}.")
        text = stream.read().decode("utf8")
    return tuple(line.strip() for line in text.strip("\n").split("\n"))
