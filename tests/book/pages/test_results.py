"""Comparing two full runs, and the page made from the recorded ones."""

import json
from pathlib import Path
from typing import Any

import pytest

from gensrc.book.pages import results
from gensrc.book.repository import BookError
from gensrc.book.run import records
from gensrc.report_lines import Report


def result(*lines: str, **more: Any) -> dict[str, Any]:
    entries = [records._entry(report) for line in lines if (report := Report.parse(line))]
    assert len(entries) == len(lines)
    facts = {
        "chapter": "2-part/03-vae",
        "claims": 12,
        "commit": "0123456789ab",
        "date": "2026-11-21",
        "gensrc": "0.1.0",
        "gpu_peak_mb": 0,
        "hardware": "A CPU, 1 thread of 2 cores",
        "peak_mb": 912,
        "python": "3.13.1",
        "seconds": 750.0,
        "torch": "2.13.0",
    }
    return facts | {"reports": entries} | more


REFERENCE = result("test ELBO ≈ -104.10 nats (±5 %)", "accuracy ≈ 0.500 (±0.001)", "seed ELBO ≈ 1.0 nats (±1 %)")


def test_figures_within_tolerance_agree() -> None:
    other = result("accuracy ≈ 0.501 (±0.001)", "test ELBO ≈ -109.0 nats (±5 %)", "seed ELBO ≈ 1.0 nats (±1 %)")
    assert records.compare(other, REFERENCE) == []


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["accuracy ≈ 0.502 (±0.001)"], '"accuracy": stored 0.500, computed 0.502; off by 0.002'),
        (["accuracy ≈ 0.500 (±0.1)"], '"accuracy": reference 0.500 (±0.001), reported 0.500 (±0.1)'),
        (["accuracy ≈ 0.500 bits (±0.001)"], "reported 0.500 bits (±0.001)"),
        (["accuracy ≈ nan (±0.001)"], "what is not finite equals nothing"),
        ([], "not reported: accuracy"),
        (["accuracy ≈ 0.500 (±0.001)", "loss ≈ 1.0 (±1)"], "not in the reference: loss"),
        (["accuracy ≈ 0.500 (±0.001)"] * 2, "accuracy: reported 2 times, in the reference 1 times"),
    ],
)
def test_each_disagreement_is_told(lines: list[str], problem: str) -> None:
    same = ["test ELBO ≈ -104.10 nats (±5 %)", "seed ELBO ≈ 1.0 nats (±1 %)"]
    problems = records.compare(result(*same, *lines), REFERENCE)
    assert len(problems) == 1
    assert problem in problems[0]


def test_the_same_label_again_and_again_is_compared_in_order() -> None:
    reference = result("ELBO ≈ 1.0 (±0.1)", "ELBO ≈ 2.0 (±0.1)")
    assert records.compare(reference, reference) == []
    assert len(records.compare(result("ELBO ≈ 2.0 (±0.1)", "ELBO ≈ 1.0 (±0.1)"), reference)) == 2


def save(folder: Path, name: str, content: dict[str, Any]) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf8")
    return path


def test_the_command_compares_files_and_folders(book: Any, tmp_path: Path) -> None:
    old = save(tmp_path, "old/2-part/03-vae.json", REFERENCE)
    new = save(tmp_path, "new/2-part/03-vae.json", REFERENCE)
    agree = (0, "All figures agree within their tolerances.\n")
    assert book.run("compare", str(new), str(old)) == agree
    assert book.run("compare", "new", "old") == agree
    save(tmp_path, "new/2-part/03-vae.json", result("test ELBO ≈ -90.0 nats (±5 %)"))
    save(tmp_path, "new/2-part/04-more.json", REFERENCE)
    status, said = book.run("compare", "new", "old")
    assert status == 1
    assert "new/2-part/03-vae.json: not reported: accuracy" in said
    assert '"test ELBO": stored -104.10 nats, computed -90.0 nats' in said
    assert "there is no old/2-part/04-more.json to compare with" in said


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"reports": [{}]}', '{"reports": []}'])
def test_what_is_no_record_is_refused(book: Any, content: str) -> None:
    path = book.write("a.json", content)
    status, said = book.run("compare", "a.json", "a.json")
    assert (status, said.startswith("gensrc-book: a.json is no record of a full run")) == (2, True)
    with pytest.raises(BookError, match="no record"):
        records.load(path)


def test_what_is_not_there_is_refused(book: Any) -> None:
    assert (
        book.run("compare", "a.json", "b.json")[1] == "gensrc-book: cannot read a.json (No such file or directory).\n"
    )
    book.write("empty/readme.txt", "")
    assert "there are no records in empty" in book.run("compare", "empty", "empty")[1]


def test_the_page_has_a_section_a_chapter_with_all_figures() -> None:
    other = result("rate a|b ≈ 7 (±1)", chapter="3-part/01-x", commit="", torch="", gpu_peak_mb=4000)
    page = results.render([REFERENCE, other], {"2-part/03-vae": "Variational autoencoders"})
    assert page.startswith("# Results of the recorded full runs\n")
    first, second = page.split("\n## ")[1:]
    assert first.startswith("Variational autoencoders\n")
    assert second.startswith("3-part/01-x\n")
    assert (
        "{doc}`The chapter </notebooks/2-part/03-vae>` was run "
        "on 2026-11-21 from commit `0123456789ab` with gensrc 0.1.0, torch 2.13.0, python 3.13.1 on "
        "A CPU, 1 thread of 2 cores: 12.5 minutes, 912 MB of memory, 12 claims held." in first
    )
    assert "| test ELBO | -104.10 nats | ±5 % |\n| accuracy | 0.500 | ±0.001 |" in first
    assert "| rate a\\|b | 7 | ±1 |" in second
    assert "was run on 2026-11-21 with gensrc 0.1.0, python 3.13.1" in second
    assert "912 MB of memory and 4000 MB on the GPU" in second


def test_the_page_says_when_a_record_was_carried_over_a_change_of_code() -> None:
    assert "Its code was rearranged" not in results.render([REFERENCE], {})
    page = results.render([REFERENCE | {"carried": "2026-11-28"}], {})
    assert "Its code was rearranged until 2026-11-28, which left every output of the quick profile as it was." in page


def test_the_page_without_results_and_a_chapter_without_reports() -> None:
    assert results.render([], {}).endswith("None yet.\n")
    assert "It reported no number." in results.render([result()], {})


def test_all_records_are_loaded_in_order(tmp_path: Path) -> None:
    for chapter in ("2-b/01-x", "1-a/02-y", "1-a/01-z"):
        save(tmp_path, f"{chapter}.json", result(chapter=chapter))
    assert [found["chapter"] for found in records.load_all(tmp_path)] == ["1-a/01-z", "1-a/02-y", "2-b/01-x"]
