"""The workflows: valid, with all logic in make targets, and with no more rights than they need."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / ".github/workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text()
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def jobs(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())["jobs"]


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in jobs(path).values() for step in job["steps"]]


FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))


def test_there_are_five() -> None:
    assert [path.stem for path in FILES] == ["ci", "colab", "gpu", "linkcheck", "publish"]


def test_what_asks_other_hosts_runs_on_the_same_day_and_refuses_no_change() -> None:
    days = {}
    for path in FILES:
        when = yaml.safe_load(path.read_text())[True]  # `on` is a truth value in YAML
        if "schedule" in when:
            days[path.stem] = when["schedule"][0]["cron"].split()[2:]
            assert not {"push", "pull_request"} & when.keys()
    assert days == {"colab": ["*", "*", "1"], "linkcheck": ["*", "*", "1"]}


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_are_valid(path: Path) -> None:
    kind = "config" if path.stem == "config" else "forms"
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.github-issue-{kind}", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_is_a_form_for_a_number_a_text_and_a_question() -> None:
    assert [path.stem for path in FORMS] == ["config", "number", "question", "text"]


@pytest.mark.parametrize("schema", ["vendor.github-workflows", "custom.github-workflows-require-timeout"])
def test_they_are_valid_and_end(schema: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, FILES)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@each_file
def test_each_line_that_runs_is_a_make_target_or_a_command_of_the_book(path: Path, book: Any) -> None:
    targets = re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE)
    for line in (line for step in steps(path) for line in step.get("run", "").splitlines()):
        program, *words = line.split()
        assert program in ("make", "gensrc-book"), line
        if program == "make":
            assert words
            assert set(words) <= set(targets), line
        else:
            assert book.run(words[0], "--help")[0] == 0, line


@pytest.mark.parametrize("command", sorted(set(re.findall(r"(?:\$\(BOOK\)|gensrc\.book\.cli) ([a-z]+)", MAKEFILE))))
def test_each_command_that_make_uses_is_there(command: str, book: Any) -> None:
    status, text = book.run(command, "--help")
    assert status == 0
    assert f"usage: gensrc-book {command}" in text


@each_file
def test_actions_are_pinned_to_a_commit_with_its_version_beside_it(path: Path) -> None:
    for line in re.findall(r"uses:.*", path.read_text()):
        assert re.fullmatch(r"uses: actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)


@each_file
def test_rights_are_the_least(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert "group" in workflow["concurrency"]
    more = {name: job["permissions"] for name, job in jobs(path).items() if "permissions" in job}
    expected = {"notebooks": {"contents": "write"}, "deploy": {"pages": "write", "id-token": "write"}}
    assert more == (expected if path.stem == "publish" else {})


@each_file
def test_only_the_job_that_pushes_keeps_the_token(path: Path) -> None:
    for name, job in jobs(path).items():
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert (name == "notebooks") is (step.get("with", {}).get("persist-credentials") is not False)


@each_file
def test_no_shell_line_holds_an_expression(path: Path) -> None:
    """What GitHub pastes into a line could be a command; it goes through the environment instead."""
    assert not [step for step in steps(path) if "${{" in step.get("run", "")]


@pytest.mark.parametrize(
    ("workflow", "job", "variable"),
    [
        ("publish", "notebooks", "REPOSITORY"),
        ("colab", "chapters", "REPOSITORY"),
        ("linkcheck", "links", "GENSRC_REPOSITORY"),
        ("publish", "site", "GENSRC_REPOSITORY"),
    ],
)
def test_a_fork_publishes_under_its_own_name(workflow: str, job: str, variable: str) -> None:
    path = ROOT / f".github/workflows/{workflow}.yml"
    assert jobs(path)[job]["env"] == {variable: "${{ github.repository }}"}
    assert "OWNER" not in path.read_text()
