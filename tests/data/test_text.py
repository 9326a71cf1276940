"""The texts are clean, counted and the same as ever; nothing is in two splits; what makes them does what it says."""

import gzip
import hashlib
import io
import json
import lzma
import os
import re
import subprocess
import sys
import tarfile
import unicodedata
import zlib
from collections.abc import Callable
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import make_data_pack
import make_text
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_data import Mirror, write_card

from gensrc.data import registry
from gensrc.data.registry import DataError
from gensrc.data.text import (
    EMOJI_LANGUAGES,
    SPLITS,
    EmojiNames,
    Pairs,
    emoji_names,
    interface_strings,
    multi30k,
    poems,
    shakespeare,
    synopses,
)

LOADERS: dict[str, Callable[..., Any]] = {
    "shakespeare": shakespeare,
    "poems": poems,
    "emoji-names": emoji_names,
    "interface-strings": interface_strings,
    "synopses": synopses,
}
# What the loaders give, as the SHA-256 of all their strings: it changes with the content, not with its packing.
CONTENT = {
    "shakespeare": "1a9dfb12b6b53eaa",
    "poems": "907713b7a712d5c1",
    "emoji-names": "40902ded6ca2ffa1",
    "interface-strings": "393a8c035fed79ae",
    "synopses": "32b60360e7fa74db",
}
HAN = re.compile("[\u3400-\u9fff\U00020000-\U0003ffff]")


@pytest.fixture(scope="module")
def loaded() -> dict[str, dict[str, Any]]:
    return {name: {split: load(split) for split in SPLITS} for name, load in LOADERS.items()}


def strings(columns: Any) -> list[str]:
    return [text for column in astuple(columns) for text in column]


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def cards() -> dict[str, registry.Card]:
    return {card.name: card for card in registry.cards(registry.PACK)}


# --- All of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOADERS)
def test_each_split_has_as_many_as_its_card_says(name: str, loaded: dict[str, dict[str, Any]]) -> None:
    for split, columns in loaded[name].items():
        assert {len(column) for column in astuple(columns)} == {len(columns)}
        assert len(columns) == cards()[name].counts[split]


@pytest.mark.parametrize("name", LOADERS)
def test_the_loader_says_how_many_there_are(name: str) -> None:
    if name != "shakespeare":
        for count in cards()[name].counts.values():
            assert f"{count:,} (" in (LOADERS[name].__doc__ or "").replace("\n    ", " ")


@pytest.mark.parametrize("name", LOADERS)
def test_the_content_is_the_same_as_ever(name: str, loaded: dict[str, dict[str, Any]]) -> None:
    content = "\0".join(text for split in SPLITS for text in strings(loaded[name][split]))
    assert hashlib.sha256(content.encode()).hexdigest()[:16] == CONTENT[name]


@pytest.mark.parametrize("name", LOADERS)
def test_every_text_is_clean(name: str, loaded: dict[str, dict[str, Any]]) -> None:
    for columns in loaded[name].values():
        for text in strings(columns):
            assert text.strip(), "empty"
            assert unicodedata.is_normalized("NFC", text)
            wrong = [c for c in text if unicodedata.category(c) in ("Cc", "Co", "Cs") and c != "\n"]
            assert not wrong, (text, wrong)


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("shakespeare", ["titles", "texts"]),
        ("poems", ["texts"]),
        ("emoji-names", ["sources", "targets", "emoji"]),
        ("interface-strings", ["sources", "targets"]),
        ("synopses", ["descriptions", "synopses", "packages", "source_packages"]),
    ],
)
def test_nothing_is_in_two_splits(name: str, columns: list[str], loaded: dict[str, dict[str, Any]]) -> None:
    for column in columns:
        train, validation, test = ({digest(text) for text in getattr(loaded[name][split], column)} for split in SPLITS)
        assert not train & validation, column
        assert not train & test, column
        assert not validation & test, column


@pytest.mark.parametrize(
    ("name", "column"),
    [("poems", "texts"), ("interface-strings", "sources"), ("synopses", "descriptions"), ("synopses", "synopses")],
)
def test_no_test_text_is_nearly_a_training_text(name: str, column: str, loaded: dict[str, dict[str, Any]]) -> None:
    """Judged by runs of four characters, an eighth of them in long texts, and not by what the groups were made with."""
    train, test = (getattr(loaded[name][split], column) for split in ("train", "test"))
    folded = [text.casefold() for text in (*train, *test)]
    runs = [{text[at : at + 4] for at in range(len(text) - 3)} for text in folded]
    if column == "descriptions":
        chosen = {run for run in set().union(*runs) if zlib.crc32(run.encode()) % 8 == 0}
        runs = [own & chosen for own in runs]
    across = [(one, two) for one, two in make_text.similar(runs, 0.8) if one < len(train) <= two]
    assert not [((*train, *test)[one], (*train, *test)[two]) for one, two in across]


@pytest.mark.parametrize("load", [*LOADERS.values(), multi30k])
def test_another_split_is_an_error(load: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="split has to be 'train', 'validation' or 'test', not 'valid'"):
        load("valid")


def test_a_damaged_file_stops_the_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "poems").mkdir()
    (tmp_path / "poems" / "test.json.xz").write_bytes(b"half a file")
    monkeypatch.setenv("GENSRC_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"poems/test\.json\.xz is damaged"):
        poems("test")


def test_importing_the_loaders_reads_no_file_and_needs_no_torch() -> None:
    program = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
import gensrc.data.text
assert not {"torch", "pooch", "tokenizers"} & set(sys.modules)
assert not [name for name in opened if str(gensrc.data.registry.PACK) in name]
"""
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=True)


def test_the_licences_are_there_with_who_has_to_be_named() -> None:
    for name, words in {
        "shakespeare": ["public domain", "Open Knowledge Foundation", "creativecommons.org/licenses/by/2.5"],
        "poems": [
            "public domain",
            "Copyright (c) 2016 JackeyGao",
            "THE SOFTWARE IS PROVIDED",
            "above copyright notice",
        ],
        "emoji-names": ["UNICODE LICENSE V3", "Copyright © 2004-2026 Unicode, Inc.", "SPDX-License-Identifier"],
        "interface-strings": ["Mozilla Public License, v. 2.0", "https://mozilla.org/MPL/2.0/", "whose source is at"],
        "synopses": ["debian/copyright", "source_packages"],
        "multi30k": ["No file of Multi30k is in the package"],
    }.items():
        licence = (registry.PACK / name / "LICENSE.txt").read_text(encoding="utf8").replace("\n", " ")
        assert [word for word in words if word not in licence] == [], name


# --- Each of them ---------------------------------------------------------------------------------


def test_the_plays_begin_with_their_first_act(loaded: dict[str, dict[str, Any]]) -> None:
    for split, characters in {"train": 1_306_083, "validation": 97_607, "test": 114_186}.items():
        plays = loaded["shakespeare"][split]
        assert sum(map(len, plays.texts)) == characters
        assert f"{characters:,}" in (shakespeare.__doc__ or "")
        for text in plays.texts:
            assert re.match(r"(?i)act (i\.|1\.?)\n", text)
            assert text.isascii()
            assert not re.search(r"\n\n\n|[ \t]\n|[{}_/\t]|THE END", text)
            assert len(re.findall(r"\n\n[A-Z][A-Z .,'0-9&-]+\.\n", text)) > 400, "speakers in capitals"


def test_a_well_known_line_is_where_it_belongs(loaded: dict[str, dict[str, Any]]) -> None:
    where = {
        title: text for split in SPLITS for title, text in zip(*astuple(loaded["shakespeare"][split]), strict=True)
    }
    assert "Tomorrow, and tomorrow, and tomorrow" in where["MACBETH"] or "To-morrow, and to-morrow" in where["MACBETH"]
    assert "If music be the food of love, play on" in where["TWELFTH NIGHT; OR, WHAT YOU WILL"]


def test_every_poem_is_a_regular_quatrain(loaded: dict[str, dict[str, Any]]) -> None:
    verses = "{0}[，？！；、]{0}[。？！]\n{0}[，？！；、]{0}[。？！]"
    regular = [re.compile(verses.format(f"{HAN.pattern}{{{length}}}")) for length in (5, 7)]
    for found in loaded["poems"].values():
        for text in found.texts:
            assert any(shape.fullmatch(text) for shape in regular), text
    every = [text for found in loaded["poems"].values() for text in found.texts]
    assert len(set(every)) == len(every)
    counts = [sum(bool(shape.fullmatch(text)) for text in every) for shape in regular]
    assert counts == [3740, 10313]


def test_a_well_known_poem_is_there(loaded: dict[str, dict[str, Any]]) -> None:
    found = [row for split in SPLITS for row in zip(*astuple(loaded["poems"][split]), strict=True)]
    assert ("靜夜思", "李白", "牀前看月光，疑是地上霜。\n舉頭望山月，低頭思故鄉。") in found


def test_no_verse_of_a_test_poem_is_in_a_training_poem(loaded: dict[str, dict[str, Any]]) -> None:
    verses = {
        split: {verse for text in loaded["poems"][split].texts for verse in re.findall(f"{HAN.pattern}+", text)}
        for split in SPLITS
    }
    assert not verses["train"] & (verses["test"] | verses["validation"])
    assert not verses["test"] & verses["validation"]


def test_the_cards_numbers_of_characters_are_right(loaded: dict[str, dict[str, Any]]) -> None:
    texts = {split: "".join(loaded["poems"][split].texts) for split in SPLITS}
    every = "".join(texts.values())
    once = sum(every.count(character) == 1 for character in set(every))
    new = set(texts["test"]) - set(texts["train"])
    assert (
        f"{len(set(every)):,} different characters, of which {once:,} occur once; {len(new)} of"
        in cards()["poems"].quirks
    )


def test_the_cards_counts_are_right(loaded: dict[str, dict[str, Any]]) -> None:
    def number(name: str, pattern: str) -> int:
        match = re.search(pattern, cards()[name].quirks)
        assert match, (name, pattern)
        return int(match[1].replace(",", ""))

    names = [name for split in SPLITS for name in loaded["emoji-names"][split].sources]
    toned = sum(len(emoji_names(split, skin_tones=True)) for split in SPLITS) - len(names)
    assert number("emoji-names", r"leave out ([\d,]+) variants") == toned
    assert number("emoji-names", r"Of the ([\d,]+) others") == len(names)
    assert number("emoji-names", r"others (\d+) are flags") == sum(name.startswith("flag: ") for name in names)
    described = [text for split in SPLITS for text in loaded["synopses"][split].descriptions]
    assert number("synopses", r"(\d+) descriptions have a web") == sum("://" in text for text in described)
    english = [text for split in SPLITS for text in loaded["interface-strings"][split].sources]
    assert sum(len(text.split()) <= 3 for text in english) > len(english) / 2


def test_emoji_have_a_name_in_every_language() -> None:
    names = {language: emoji_names("test", language=language, skin_tones=True) for language in EMOJI_LANGUAGES}
    assert {found.emoji for found in names.values()} == {names["zh"].emoji}
    ghost = names["zh"].emoji.index("👻")
    assert names["zh"].sources[ghost] == names["en"].targets[ghost] == "ghost"
    assert [names[language].targets[ghost] for language in ("zh", "ja", "de")] == ["鬼", "お化け", "Gespenst"]
    assert sum(not HAN.search(name) for name in names["zh"].targets) < 5, "not translated"


def test_skin_tones_come_when_asked_for(loaded: dict[str, dict[str, Any]]) -> None:
    counts = {split: len(emoji_names(split, skin_tones=True)) for split in SPLITS}
    assert counts == {"train": 3462, "validation": 347, "test": 533}
    toned = set(emoji_names("train", skin_tones=True).sources) - set(loaded["emoji-names"]["train"].sources)
    assert "waving hand: dark skin tone" in toned
    assert all("skin tone" in name for name in toned)


def test_variants_of_one_emoji_are_in_one_split() -> None:
    where: dict[str, set[str]] = {}
    for split in SPLITS:
        for emoji in emoji_names(split, skin_tones=True).emoji:
            where.setdefault(re.sub("[\U0001f3fb-\U0001f3ff]", "", emoji) or emoji, set()).add(split)
    assert len(where) > 2000
    assert [emoji for emoji, splits in where.items() if len(splits) > 1] == []


def test_an_unknown_language_is_named() -> None:
    with pytest.raises(ValueError, match=r"language has to be one of en, zh, zh-Hant, .*, not 'tlh'"):
        emoji_names(language="tlh")


def test_interface_strings_are_two_languages_and_no_codes(loaded: dict[str, dict[str, Any]]) -> None:
    for found in loaded["interface-strings"].values():
        assert isinstance(found, Pairs)
        for english, chinese in zip(found.sources, found.targets, strict=True):
            assert re.search("[A-Za-z]{2}", english)
            assert HAN.search(chinese)
            assert not re.search(r"[~_$#<>{}|\\@]|%\w|\(_|:$|：$|\.\.\.$", english + "\n" + chinese)
    every = [text for found in loaded["interface-strings"].values() for text in found.sources]
    assert len(set(every)) == len(every)


def test_interface_strings_that_differ_in_signs_or_digits_are_in_one_split(loaded: dict[str, dict[str, Any]]) -> None:
    where: dict[str, set[str]] = {}
    for split, found in loaded["interface-strings"].items():
        for english, chinese in zip(found.sources, found.targets, strict=True):
            for text in (re.sub("[^a-z]", "", english.casefold()), "".join(HAN.findall(chinese))):
                where.setdefault(text, set()).add(split)
    assert [text for text, splits in where.items() if text and len(splits) > 1] == []


def test_synopses_have_the_documented_lengths(loaded: dict[str, dict[str, Any]]) -> None:
    sources: list[str] = []
    for found in loaded["synopses"].values():
        assert all(100 <= len(text) <= 800 for text in found.descriptions)
        assert all(15 <= len(text) <= 80 and "\n" not in text for text in found.synopses)
        assert not [text for text in found.descriptions if re.search(r"\w@\w[\w-]*\.", text)]
        sources += found.source_packages
    assert len(set(sources)) == len(sources) == make_text.SYNOPSES


# --- Multi30k, from a mirror of this machine ------------------------------------------------------


def archive(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    return gzip.compress(buffer.getvalue())


def serve(pack: Path, mirror: Mirror, files: dict[str, str]) -> None:
    content = archive(files)
    mirror.files["/mmt_task1_test2016.tar.gz"] = content
    url = mirror.url("/mmt_task1_test2016.tar.gz")
    write_card(pack, "multi30k", files={}, on_demand={"mmt_task1_test2016.tar.gz": (content, [url])})


def test_multi30k_is_fetched_and_read(pack: Path, cache: Path, mirror: Mirror) -> None:
    serve(
        pack,
        mirror,
        {
            "._test2016.en": "what a Mac leaves behind",
            "data/test2016.en": "A man sleeps.\nA dog runs. \n",
            "data/test2016.de": "Ein Mann schläft.\nEin Hund läuft.\n\n",
            "data/test2016.fr": "Un homme dort.\nUn chien court.\n",
        },
    )
    found = multi30k("test")
    assert found == Pairs(("A man sleeps.", "A dog runs."), ("Ein Mann schläft.", "Ein Hund läuft."))


def test_an_archive_that_lacks_a_language_is_an_error(pack: Path, cache: Path, mirror: Mirror) -> None:
    serve(pack, mirror, {"test2016.en": "A man sleeps.\n"})
    with pytest.raises(DataError, match=r"mmt_task1_test2016\.tar\.gz has no file test2016\.de"):
        multi30k("test")


def test_lines_without_a_counterpart_are_an_error(pack: Path, cache: Path, mirror: Mirror) -> None:
    serve(pack, mirror, {"test2016.en": "One.\nTwo.\n", "test2016.de": "Eins.\n"})
    with pytest.raises(DataError, match="2 English lines and 1 German"):
        multi30k("test")


# --- What makes them ------------------------------------------------------------------------------


@given(st.lists(st.sets(st.sampled_from("abcdefgh"), max_size=6), max_size=12), st.floats(0.1, 1.0))
def test_similar_finds_all_similar_pairs(sets: list[set[str]], alike: float) -> None:
    expected = {
        (one, two)
        for two in range(len(sets))
        for one in range(two)
        if (sets[one] & sets[two]) and len(sets[one] & sets[two]) >= alike * len(sets[one] | sets[two])
    }
    assert set(make_text.similar(sets, alike)) == expected


def test_groups_are_chains_of_shared_keys_and_likeness() -> None:
    names = ["d", "b", "c", "a", "e"]
    keys = [{"1"}, {"1", "2"}, {"3"}, {"4"}, {"en "}]
    sets = [set(), {"x", "y"}, {"x", "y", "z"}, {"q"}, {"q", "r", "s"}]
    assert make_text.groups(names, keys, (sets, 0.6)) == ["b", "b", "b", "a", "e"]
    assert make_text.groups(names, keys, (sets, 0.7), (sets[::-1], 0.6)) == ["b", "b", "a", "a", "e"]
    assert make_text.groups(names[3:], [{"en "}, {"en "}]) == ["a", "e"], "an empty key joins nothing"


def test_a_group_stays_in_its_split_whatever_else_there_is() -> None:
    rows = [{"texts": f"text {number}"} for number in range(2000)]
    named = [f"group {number // 2}" for number in range(2000)]
    splits = make_text.divide(rows, named, percent=10)
    assert [row for split in SPLITS for row in splits[split]] != rows
    assert all(70 <= len(splits[split]) / 2 <= 130 for split in ("test", "validation"))
    fewer = make_text.divide(rows[:1000], named[:1000], percent=10)
    assert fewer["test"] == [row for row in splits["test"] if row in rows[:1000]]
    for split in SPLITS:
        numbers = [int(row["texts"].split()[1]) for row in splits[split]]
        assert numbers == sorted(numbers)
        assert {number ^ 1 for number in numbers} == set(numbers), "a group was divided"


LABELS = {
    "~Edit": "Edit",
    "E~xport": "Export",
    "_Width in pages:": "Width in pages",
    "宽 (以页计) (_W):": "宽 (以页计)",
    "更改密码(_C)...": "更改密码",
    "%PRODUCTNAME  Writer": "LibreOffice Writer",
    "_one_two": "one_two",
    "Fi\u0301ne…": "F\u00edne",
    "Logical value 1, logical value 2,... are": "Logical value 1, logical value 2,... are",
}


@pytest.mark.parametrize("label", LABELS)
def test_labels_are_cleaned(label: str) -> None:
    assert make_text.clean_label(label) == LABELS[label]


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("Rename %1", "重命名 %1"),
        ("Cell $(ARG1)", "单元格"),
        ("Table", "Table"),
        ("A", "甲"),
        ("<none>", "无"),
        ("Symbol", "符号 \ue4c4"),
        ("my_file", "我的文件"),
    ],
)
def test_strings_that_are_no_translation_of_words_are_left_out(english: str, chinese: str) -> None:
    assert make_text.is_translation("Rename", "重命名")
    assert make_text.is_translation("Rounded by 5%.", "平滑 5%。")
    assert not make_text.is_translation(english, chinese)


LISTS = """\
Package: apples
Source: fruit (1.2)
Section: games
Description-md5: 1

Package: fruit
Section: games
Description-md5: 2

Package: fruit-doc
Source: fruit
Section: doc
Description-md5: 3

Package: fruit-old
Section: oldlibs
Description-md5: 4

Package: fruit
Description-md5: 2
Description-en: baskets of fruit for all
 Fruit fills   baskets, and baskets fill
 tables.
 .
 It can do this:
  * fill a basket
  * empty a basket
 .
 Write to fruit@example.org or not.
 .
 It does so quickly.

Package: apples
Description-md5: 1
Description-en: baskets of apples only
 Apples.
"""


def test_descriptions_are_read_from_debians_lists() -> None:
    rows = make_text.described(LISTS)
    assert [row["packages"] for row in rows] == ["apples", "fruit"], "no synopsis or no subject: left out"
    assert [row["source_packages"] for row in rows] == ["fruit", "fruit"]
    assert rows[1]["synopses"] == "baskets of fruit for all"
    assert rows[1]["paragraphs"] == ["Fruit fills baskets, and baskets fill tables.", "It does so quickly."]
    assert min(rows, key=make_text.preference)["packages"] == "fruit"
    manual = {"packages": "fruit", "source_packages": "fruit", "sections": "doc"}
    library = {"packages": "libfruit1", "source_packages": "fruit", "sections": "libs"}
    assert min([manual, library], key=make_text.preference) is library


def test_whole_paragraphs_are_kept_up_to_a_limit() -> None:
    assert make_text.within(["abc", "de", "f"], 6) == ["abc", "de"]
    assert make_text.within(["abc", "de", "f"], 5) == ["abc"]
    assert make_text.within(["abc"], 2) == []


def test_variants_of_an_emoji_have_one_base() -> None:
    for one, other in [
        ("🏃🏿\u200d♀\u200d➡", "🏃"),
        ("👨🏽\u200d🚒", "👩\u200d🚒"),
        ("👩🏻\u200d🦰", "👨"),
        ("👋🏾", "👋"),
    ]:
        assert make_text.base(one) == make_text.base(other)
    assert make_text.base("🏿") == "🏿"
    assert make_text.stem("waving hand: dark skin tone") == "waving hand"
    assert make_text.stem("flag: Fiji") == "flag: Fiji"


@pytest.mark.parametrize("text", ["", " ", "e\u0301", "a\tb", "\ue000", "\x07"])
def test_a_text_that_is_not_clean_stops_the_making(text: str) -> None:
    with pytest.raises(ValueError, match="empty, not in NFC or has a character that is none"):
        make_text.tables({"train": [{"texts": text}]})


def test_columns_are_written_as_they_are_read() -> None:
    made = make_text.tables({"train": [{"sources": "a", "targets": "甲"}, {"sources": "b\nc", "targets": "乙"}]})
    assert json.loads(made["train.json"]) == {"sources": ["a", "b\nc"], "targets": ["甲", "乙"]}
    assert {field.name for field in fields(EmojiNames)} == {"sources", "targets", "emoji"}


APT_GET = """\
#!/bin/sh
for option; do case $option in --option=Dir::State::Lists=*) lists=${option##*=};; esac; done
echo "Package: a" > "$lists/mirror_debian_dists_bookworm_main_binary-amd64_Packages"
[ -n "$NO_DESCRIPTIONS" ] || echo "Package: b" > "$lists/mirror_debian_dists_bookworm_main_i18n_Translation-en"
"""


@pytest.fixture
def apt_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An apt-get that knows a very small release."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "apt-get"
    program.write_text(APT_GET)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def test_debians_lists_are_fetched_as_one_file(tmp_path: Path, apt_get: None) -> None:
    content = b"Package: a\n\nPackage: b\n"
    source = {"client": "apt-lists", "package": "bookworm", "version": "12.15"}
    source["sha256"] = hashlib.sha256(content).hexdigest()
    found = make_data_pack.fetch(source, tmp_path)
    assert (found.name, found.read_bytes()) == ("bookworm-12.15.lists", content)
    make_data_pack.unpack(found, tmp_path / "unpacked")
    assert (tmp_path / "unpacked" / "lists").read_bytes() == content


def test_a_list_that_apt_get_cannot_fetch_is_named(
    tmp_path: Path, apt_get: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_DESCRIPTIONS", "yes")
    with pytest.raises(
        make_data_pack.PackError, match="no list i18n_Translation-en of Debian bookworm: add that release"
    ):
        make_data_pack.fetch_lists("bookworm", tmp_path / "lists")
    assert not (tmp_path / "lists").exists()


def test_a_further_source_is_unpacked_beside_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = []
    for name, text in {"first": "one", "second": "two"}.items():
        content = archive({"package/file": text})
        (tmp_path / f"{name}-1.tgz").write_bytes(content)
        sources.append(
            {"client": "npm", "package": name, "version": "1", "sha256": hashlib.sha256(content).hexdigest()}
        )

    def make(unpacked: Path, card: dict[str, Any]) -> dict[str, bytes]:
        files = (unpacked / "package/file", unpacked / "second/package/file")
        return {"both": b"".join(file.read_bytes() for file in files)}

    monkeypatch.setitem(make_data_pack.MAKERS, "small", make)
    made = make_data_pack.make("small", {"source": sources[0], "more_sources": sources[1:]}, tmp_path)
    assert {name: lzma.decompress(content) for name, content in made.items()} == {"small/both.xz": b"onetwo"}
