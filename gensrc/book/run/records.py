"""The records of full runs in book/results: written from an executed notebook, read, and compared with each other."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gensrc
from gensrc import report_lines
from gensrc.book.repository import BookError
from gensrc.report_lines import Report

Result = dict[str, Any]


def printed_lines(nb: dict[str, Any]) -> list[str]:
    """Every line that the notebook's cells printed to stdout, in order."""
    texts = [
        output["text"] if isinstance(output["text"], str) else "".join(output["text"])
        for cell in nb["cells"]
        for output in cell.get("outputs", [])
        if output["output_type"] == "stream" and output["name"] == "stdout"
    ]
    return [line for text in texts for line in text.splitlines()]


def reports(nb: dict[str, Any]) -> list[Report]:
    """The report lines among them."""
    return [report for line in printed_lines(nb) if (report := Report.parse(line))]


def record(nb: dict[str, Any], facts: Result, commit: str) -> str:
    """The JSON kept for a full run: what the executed, stamped notebook reported, and how that came about."""
    stamp = nb["metadata"]["gensrc"]
    kept = {key: stamp[key] for key in stamp if key not in ("parts", "verified", "outputs", "seal")}
    content = kept | {
        "reports": [_entry(report) for report in reports(nb)],
        "claims": sum(map(report_lines.is_claim, printed_lines(nb))),
        "gensrc": gensrc.__version__,
        "gpu_peak_mb": facts["gpu_peak_mb"],
        "commit": commit,
        "date": stamp["verified"],
    }
    return dumps(content)


def machine(run: Result) -> str:
    """What a run was made on and how it computed there, from its stamp or record; an old record tells less."""
    instructions = [f"{run['instructions']} instructions"] if run.get("instructions") else []
    settings = [f"{name}={value}" for name, value in run.get("environment", {}).items()]
    return ", ".join(filter(None, [run["hardware"], *instructions, run.get("precision"), *settings]))


def dumps(result: Result) -> str:
    """A record as the text of its file."""
    return json.dumps(result, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _entry(report: Report) -> Result:
    bound = {"rel" if report.relative else "abs": float(report.tolerance)}
    value = {"value": float(report.value), "printed": report.printed}
    return {"label": report.label, "unit": report.unit, "bound": report.bound} | value | bound


def _report(entry: Result) -> Report:
    return Report(entry["label"], entry["printed"], entry["unit"], entry["bound"])


def load(path: Path) -> Result:
    """One record. Raises BookError if the file is none."""
    try:
        result = json.loads(path.read_text(encoding="utf8"))
        for entry in result["reports"]:
            _report(entry)
        return result | {"chapter": str(result["chapter"])}
    except OSError as error:
        raise BookError(f"cannot read {path} ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BookError(f"{path} is no record of a full run ({error!r}).") from error


def load_all(folder: Path) -> list[Result]:
    """All records below a folder, in the order of the book."""
    return [load(path) for path in sorted(folder.rglob("*.json"))]


def compare(result: Result, reference: Result) -> list[str]:
    """Where `result` disagrees with `reference`, in words; the tolerances are those of the reference."""
    new, old = _by_label(result), _by_label(reference)
    problems = [f"not reported: {label}" for label in old if label not in new]
    problems += [f"not in the reference: {label}" for label in new if label not in old]
    for label in (label for label in old if label in new):
        if len(old[label]) != len(new[label]):
            problems.append(f"{label}: reported {len(new[label])} times, in the reference {len(old[label])} times")
        problems += [problem for pair in zip(old[label], new[label], strict=False) for problem in _apart(*pair)]
    return problems


def _by_label(result: Result) -> dict[str, list[Report]]:
    """The reports in order, those of one label together: a chapter may report the same thing again and again."""
    found = defaultdict(list)
    for entry in result["reports"]:
        found[entry["label"]].append(_report(entry))
    return found


def _apart(old: Report, new: Report) -> Iterator[str]:
    if (old.unit, old.bound) != (new.unit, new.bound):
        yield f'"{old.label}": reference {old} (±{old.bound}), reported {new} (±{new.bound})'
    elif not old.accepts(new):
        yield old.quarrel(new)


def compare_files(result: Path, reference: Path) -> list[str]:
    """The same for two files, or for all records of one folder and their namesakes in another."""
    if not result.is_dir():
        return [f"{result}: {problem}" for problem in compare(load(result), load(reference))]
    names = [path.relative_to(result) for path in sorted(result.rglob("*.json"))]
    if not names:
        raise BookError(f"there are no records in {result}: execute with --profile full first.")
    problems = []
    for name in names:
        if (reference / name).exists():
            problems += compare_files(result / name, reference / name)
        else:
            problems.append(f"{result / name}: there is no {reference / name} to compare with")
    return problems
