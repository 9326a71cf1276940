"""The page of data sets says what each card says, and nothing that no card says."""

import importlib
import subprocess
import sys
from pathlib import Path

from gensrc.book.datasets import page, text
from gensrc.data.registry import Card, File, Source, cards

ROOT = Path(__file__).parents[2]
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
    quirks="All alike.",
    files=(File("clouds/all.xz", 2_500_000, "abcdef" + "0" * 58), File("clouds/few.xz", 900, "1" * 64)),
    on_demand=(),
)


def test_a_section_tells_all_that_the_card_tells() -> None:
    found = text([CARD])
    for words in (
        "Clouds, 2.5 MB in all.",
        "(data-clouds)=\n## Clouds\n\nSkies in 8 by 8 pixels.",
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


def test_the_page_has_every_data_set_of_the_pack() -> None:
    found = page(ROOT)
    assert found.startswith("# Data sets and licences\n")
    for card in cards(ROOT / "gensrc" / "data" / "files"):
        section = found.split(f"\n## {card.title}\n")[1].split("\n## ")[0]
        versions = [source.version for source in (card.source, *card.more_sources) if source]
        assert bool(versions) == bool(card.files)
        for words in (card.licence_url, card.attribution, card.quirks, *versions):
            assert words in section
        for file in card.files + card.on_demand:
            assert f"`{file.name}`" in section
            assert file.sha256[:12] in section


def test_what_is_fetched_is_told_with_its_hosts() -> None:
    section = page(ROOT).split("## Fashion-MNIST")[1].split("\n## ")[0]
    assert "* - On demand\n  - 60,000 train and 10,000 test" in section
    assert "storage.googleapis.com, raw.githubusercontent.com" in section


def test_every_loader_that_a_card_names_exists() -> None:
    for card in cards(ROOT / "gensrc" / "data" / "files"):
        module, name = card.loader.rsplit(".", 1)
        assert callable(getattr(importlib.import_module(module), name))


def test_the_page_is_made_without_torch() -> None:
    program = (
        f"import sys, pathlib; from gensrc.book.datasets import page; page(pathlib.Path({str(ROOT)!r})); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
