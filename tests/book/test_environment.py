"""One environment, told in four files: pyproject.toml, constraints.txt, environment.yml and the Makefile."""

import contextlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import gensrc
from gensrc.book import repository

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = (
    {"sys_platform": "linux", "platform_system": "Linux"},
    {"sys_platform": "darwin", "platform_system": "Darwin"},
)
# torch names the exact versions of the CUDA packages that it brings on Linux.
BY_TORCH = re.compile(r"(nvidia|cuda|triton)\b.*")


def direct() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    lines = PROJECT["dependencies"] + extras["book"] + extras["series"] + extras["text"] + extras["test"]
    return [requirement for requirement in map(Requirement, lines) if requirement.name != "gensrc"]


def applies(requirement: Requirement, extra: str) -> bool:
    """Whether some supported machine needs it."""
    where = ({"python_version": v, "python_full_version": f"{v}.9", "extra": extra} for v in PYTHONS)
    return not requirement.marker or any(requirement.marker.evaluate(w | p) for w, p in product(where, PLATFORMS))


def needed() -> set[str]:
    """The names of all distributions that `gensrc[test]` brings to the supported machines, as far as they are here."""

    def visit(requirement: Requirement) -> Iterator[str]:
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras} - visited.setdefault(name, set()):
            visited[name].add(extra)
            yield name
            try:
                lines = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:
                continue
            for line in lines:
                if applies(Requirement(line), extra):
                    yield from visit(Requirement(line))

    visited: dict[str, set[str]] = {}
    return {name for requirement in direct() for name in visit(requirement) if not BY_TORCH.fullmatch(name)}


def installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def test_everything_that_is_installed_is_pinned() -> None:
    unpinned = {name: installed(name) for name in needed() - repository.pins(ROOT).keys()}
    assert not unpinned, "add them to constraints.txt"


def test_everything_that_is_pinned_is_needed() -> None:
    by_make = set(re.findall(r"constraints\.txt ([a-z-]+)$", (ROOT / "Makefile").read_text(), re.MULTILINE))
    needless = {name for name in repository.pins(ROOT).keys() - needed() - by_make if installed(name)}
    assert not needless, "take them out of constraints.txt"


def test_what_is_installed_is_what_is_pinned() -> None:
    pins = repository.pins(ROOT)
    other = {name: (installed(name), pins[name]) for name in needed() & pins.keys() if installed(name)}
    assert not {name: versions for name, versions in other.items() if len(set(versions)) > 1}


@pytest.mark.parametrize("requirement", direct(), ids=lambda requirement: requirement.name)
def test_a_pin_fits_the_bound(requirement: Requirement) -> None:
    assert requirement.specifier.contains(repository.pins(ROOT)[canonicalize_name(requirement.name)])


def test_no_pin_carries_a_build_of_one_platform() -> None:
    assert not [name for name, version in repository.pins(ROOT).items() if "+" in version]


def test_pins_are_sorted() -> None:
    names = list(repository.pins(ROOT))
    assert names == sorted(names)


def test_conda_users_get_the_environment_that_make_makes() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    (install,) = re.findall(r"\$\(PIP\) install (-c \S+) (-e \S+)\n", (ROOT / "Makefile").read_text())
    assert environment["name"] == PROJECT["name"]
    assert pip == {"pip": [line.replace('"', "") for line in install]}
    assert Requirement(conda[0]).name == "python"
    bounds = {(bound.operator, bound.version) for bound in Requirement(conda[0]).specifier}
    assert bounds >= {
        (bound.operator, bound.version) for bound in Requirement("python" + PROJECT["requires-python"]).specifier
    }


def test_the_workflow_tries_each_supported_python() -> None:
    ci = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert tuple(ci["jobs"]["test"]["strategy"]["matrix"]["python"]) == PYTHONS
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    assert f"sys.version_info < ({PYTHONS[0].replace('.', ', ')})" in (ROOT / "Makefile").read_text()


def test_git_checks_out_every_text_with_the_same_line_ends_and_no_weights_as_text() -> None:
    listed = subprocess.run(["git", "ls-files", "--eol"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    kinds = {tuple(re.findall(r"i/(\S+)\s.*attr/(.*?)\s*\t", line)[0]) for line in listed.splitlines()}
    assert kinds - {("none", "text=auto eol=lf")} == {("lf", "text=auto eol=lf"), ("-text", "-text")}


def test_code_is_checked_alike_in_a_folder_of_any_name(tmp_path: Path) -> None:
    root = tmp_path / "a [x] #'%"
    for name in ("pyproject.toml", "notebooks/ruff.toml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text((ROOT / name).read_text())
    (root / "gensrc").mkdir()
    (root / "gensrc/__init__.py").touch()
    (root / "notebooks/cell.py").write_text("import torch\n\nfrom gensrc import data\n\nprint(torch, data)\n")
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_citation_licence_and_version_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == gensrc.__version__
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License\n")
    assert (
        (ROOT / "LICENSE-text")
        .read_text()
        .startswith("Creative Commons Attribution 4.0 International Public License\n")
    )
    assert "LICENSE" in PROJECT["license-files"]


def test_the_package_takes_the_licence_of_each_data_set_along() -> None:
    folders = {path.parent for path in ROOT.glob("gensrc/data/files/*/card.json")}
    assert folders
    assert {path.parent for pattern in PROJECT["license-files"][1:] for path in ROOT.glob(pattern)} == folders


def test_citation_is_valid() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.citation-file-format"]
    done = subprocess.run([*command, str(ROOT / "CITATION.cff")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_tests_stay_on_this_machine_even_if_the_error_is_caught() -> None:
    def fetch_carelessly() -> None:
        with contextlib.suppress(Exception):
            urllib.request.urlopen("https://example.org", timeout=5)

    with pytest.raises(pytest.fail.Exception, match=r"wanted to reach example\.org"):
        fetch_carelessly()
