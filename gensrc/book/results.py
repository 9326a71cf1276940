"""The figures of recorded full runs: written, compared, and laid out as the book's results page."""

import json
from typing import Any

import gensrc
from gensrc.book.tolerance import Report


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


def record(nb: dict[str, Any], facts: dict[str, Any], commit: str) -> str:
    """The JSON kept for a full run: what the executed, stamped notebook reported, and how that came about."""
    stamp = nb["metadata"]["gensrc"]
    kept = {key: stamp[key] for key in stamp if key not in ("parts", "verified")}
    content = kept | {
        "reports": [_entry(report) for report in reports(nb)],
        "claims": sum(line.startswith("✓ ") for line in printed_lines(nb)),
        "gensrc": gensrc.__version__,
        "gpu_peak_mb": facts["gpu_peak_mb"],
        "commit": commit,
        "date": stamp["verified"],
    }
    return json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _entry(report: Report) -> dict[str, Any]:
    bound = {"rel" if report.relative else "abs": float(report.tolerance)}
    value = {"value": float(report.value), "printed": report.printed}
    return {"label": report.label, "unit": report.unit} | value | bound
