"""What CONTRIBUTING.md and README.md tell to do can be done."""

import re
from pathlib import Path
from typing import Any

import matplotlib
import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXTS = {name: (ROOT / name).read_text() for name in ("CONTRIBUTING.md", "README.md", "SUPPORT.md")}
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_examples_make_a_chapter(capsys: pytest.CaptureFixture[str]) -> None:
    matplotlib.use("agg")
    program = "\n".join(re.findall(r"```python\n(.*?)```", TEXTS["CONTRIBUTING.md"], re.DOTALL))
    exec(compile(program, "CONTRIBUTING.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "a batch: (128, 1, 28, 28)\n" in printed
    assert re.search(r"training loss after the last step ≈ \d+ nats \(±20 %\)", printed)
    assert "✓ training lowers the loss" in printed


@pytest.mark.parametrize("name", TEXTS)
def test_each_command_exists(name: str, book: Any) -> None:
    commands = re.findall(r"(?:`|```sh\n)make ([a-z-]+)", TEXTS[name])
    assert commands
    assert set(commands) <= set(TARGETS)
    for command, rest in re.findall(r"`gensrc-book ([a-z]+)([^`]*)`", TEXTS[name]):
        status, usage = book.run(command, "--help")
        assert status == 0
        assert all(option in usage for option in rest.split())


@pytest.mark.parametrize("name", TEXTS)
def test_each_file_named_is_there(name: str) -> None:
    paths = re.findall(r"[`(]((?:book|gensrc|tests|tools|benchmarks|notebooks|\.ci)/[\w./-]*)[`)]", TEXTS[name])
    paths += re.findall(r"`([\w-]+\.(?:md|toml|txt|yml|cff))`", TEXTS[name])
    assert paths
    made_later = {"book/results/", "notebooks/PART/NN-NAME.ipynb", "gensrc/data/files/NAME/card.json"}
    assert not [path for path in paths if not (ROOT / path).exists() and path not in made_later]
