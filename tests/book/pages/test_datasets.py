"""The page of data sets says what each card says; a new data set needs its card and its loader, and no more."""

import importlib
import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from gensrc.book.pages.datasets import page, problems_of, text
from gensrc.book.pages.examples import EXAMPLES
from gensrc.data.registry import Card, File, Source, cards

ROOT = Path(__file__).parents[3]
CARD = Card(
    name="clouds",
    title="Clouds",
    about="Skies in 8 by 8 pixels.",
    loader="gensrc.data.images.clouds",
    counts={"train": 1234, "valid": 50, "test": 60},
    on_demand_counts={},
    licence="CC0",
    licence_url="https://example.org/cc0",
    attribution="By the wind.",
    source=Source("npm", "clouds", "1.2.3", "0" * 64),
    cut="Every third.",
    use="Good for daydreams.",
    quirks="All alike.",
    files=(File("clouds/all.xz", 2_500_000, "abcdef" + "0" * 58), File("clouds/few.xz", 900, "1" * 64)),
    on_demand=(),
)


@pytest.fixture(scope="module")
def found() -> str:
    return page(ROOT)


def test_a_section_tells_all_that_the_card_tells() -> None:
    found = text([CARD], {})
    for words in (
        "Clouds, 2.5 MB in all.",
        "(data-clouds)=\n## Clouds\n\nSkies in 8 by 8 pixels.\n\nGood for daydreams.\n",
        "* - Loader\n  - `gensrc.data.images.clouds`",
        "* - Examples\n  - 1,234 train, 50 valid and 60 test",
        "* - Licence\n  - [CC0](https://example.org/cc0)",
        "* - Attribution\n  - By the wind.",
        "* - Source\n  - npm package `clouds`, version 1.2.3",
        "* - How it was made\n  - Every third.",
        "* - Good to know\n  - All alike.",
        "| `clouds/all.xz` | 2.5 MB | `abcdef000000` |\n| `clouds/few.xz` | 0.9 kB | `111111111111` |",
    ):
        assert words in found
    assert "demand" not in found.split("## Clouds")[1].lower()


def test_the_page_has_every_data_set_of_the_pack(found: str) -> None:
    assert found.startswith("# Data sets\n")
    for card in cards(ROOT / "gensrc" / "data" / "files"):
        section = found.split(f"\n## {card.title}\n")[1].split("\n## ")[0]
        versions = [source.version for source in (card.source, *card.more_sources) if source]
        assert bool(versions) == bool(card.files)
        for words in (card.about, card.use, card.licence_url, card.attribution, card.quirks, card.loader, *versions):
            assert words in section
        for file in card.files + card.on_demand:
            assert f"`{file.name}`" in section
            assert file.sha256[:12] in section


def test_what_is_fetched_is_told_with_its_hosts(found: str) -> None:
    section = found.split("## Fashion-MNIST")[1].split("\n## ")[0]
    assert "* - On demand\n  - 60,000 train and 10,000 test" in section
    assert "storage.googleapis.com, raw.githubusercontent.com" in section


def test_examples_stand_in_the_section_of_their_data_set(found: str) -> None:
    for name, make in EXAMPLES.items():
        section = found.split(f"(data-{name})=\n")[1].split("\n(data-")[0]
        assert "\n".join(make(ROOT)) in section


@pytest.fixture
def book_with_a_new_set(tmp_path: Path) -> Path:
    """A repository whose pack has gained a data set: a loader, and a folder with a file and its card."""
    shutil.copytree(ROOT / "gensrc" / "data", tmp_path / "gensrc" / "data", ignore=shutil.ignore_patterns("*.xz"))
    (tmp_path / "gensrc" / "data" / "clouds.py").write_text("def clouds(split):\n    return split\n")
    folder = tmp_path / "gensrc" / "data" / "files" / "clouds"
    folder.mkdir()
    (folder / "all.xz").write_bytes(b"clouds")
    card = asdict(CARD) | {"loader": "gensrc.data.clouds.clouds", "name": "clouds"}
    (folder / "card.json").write_text(json.dumps(card))
    return tmp_path


def test_a_new_data_set_needs_its_loader_and_its_card(book_with_a_new_set: Path) -> None:
    assert problems_of(book_with_a_new_set) == []
    pack = cards(book_with_a_new_set / "gensrc" / "data" / "files")
    found = text(pack, {})
    assert "## Clouds\n\nSkies in 8 by 8 pixels." in found
    assert "Clouds, " in found.split("\n## ")[0], "the introduction lists it with the others"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"use": ""}, "clouds/card.json: the field 'use' must be a text in quotes that says something, not ''."),
        ({"name": "sky"}, "clouds/card.json: the field 'name' must be that of the folder."),
        (
            {"loader": "gensrc.data.sky.clouds"},
            "clouds/card.json: the loader's module gensrc/data/sky.py is not",
        ),
        ({"counts": {"train": "many"}}, "clouds/card.json: the field 'train' must be a whole number, not 'many'."),
        ({"colour": "grey"}, "clouds/card.json: there is no field 'colour'; the fields are name, title, about"),
        ({"source": {"client": "ftp"}}, "clouds/card.json: the field 'source' must be a package, or null"),
        (
            {"files": [{"name": "clouds/all.xz", "size": 6, "sha256": "0"}]},
            "clouds/card.json, file clouds/all.xz: the field 'sha256' must be 64 hexadecimal digits, not '0'.",
        ),
    ],
)
def test_a_wrong_card_is_told(book_with_a_new_set: Path, change: dict[str, Any], problem: str) -> None:
    path = book_with_a_new_set / "gensrc" / "data" / "files" / "clouds" / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    (told,) = problems_of(book_with_a_new_set)
    assert told.startswith(problem)


def test_every_loader_that_a_card_names_exists() -> None:
    for card in cards(ROOT / "gensrc" / "data" / "files"):
        module, name = card.loader.rsplit(".", 1)
        assert callable(getattr(importlib.import_module(module), name))


def test_the_page_is_made_without_torch() -> None:
    program = (
        f"import sys, pathlib; from gensrc.book.pages.datasets import page; page(pathlib.Path({str(ROOT)!r})); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
