"""Does a chapter's stamp belong to the outputs that are stored beside it?

Executing a chapter stamps it: `metadata.gensrc` says when, where and from what its outputs were made. Among this stand
two short hashes. `outputs` is one of all that the run left in the code cells, cell by cell: texts, pictures, sounds,
explorers and execution counts. `seal` is one of the stamp itself. A number that somebody writes into a stored output, a
run of the notebook with other settings, and an edited stamp are seen by them.
"""

import hashlib
import json
from typing import Any

from gensrc.book import repository

PACKAGE = "gensrc"
UNSEALED = "its stamp does not tell of which outputs it is"
EDITED = "its stamp was changed after the run"
CHANGED = "outputs were changed after the run"


def sealed(facts: dict[str, Any], nb: dict[str, Any]) -> dict[str, Any]:
    """A run's facts as the stamp of the notebook that it left, whose outputs must have been cleaned."""
    stamp = facts | {"outputs": outputs(nb)}
    return stamp | {"seal": _seal(stamp)}


def problems(nb: dict[str, Any]) -> list[str]:
    """What in the notebook is not as the run that stamped it left it, in words."""
    stamp = nb.get("metadata", {}).get(PACKAGE) or {}
    if not {"seal", "outputs"} <= {*stamp}:
        return [UNSEALED]
    edited = [EDITED] if stamp["seal"] != _seal(stamp) else []
    return edited + ([CHANGED] if stamp["outputs"] != outputs(nb) else [])


def outputs(nb: dict[str, Any]) -> str:
    """A short hash of all outputs and execution counts: the same for a notebook in memory and for its file."""
    kept = []
    for cell in (cell for cell in nb["cells"] if cell["cell_type"] == "code"):
        stored = [_joined(output) for output in cell.get("outputs", [])]
        if stored or repository.source(cell).strip():
            kept.append([cell.get("execution_count"), stored, _shown(cell)])
    return _digest(kept)


def _shown(cell: dict[str, Any]) -> list[Any]:
    """The caption and the description that the site shows of a figure: `clean` takes them from the output."""
    mystnb = cell.get("metadata", {}).get("mystnb", {})
    return [mystnb.get("figure"), mystnb.get("image")]


def _joined(output: dict[str, Any]) -> dict[str, Any]:
    """The output with each of its texts in one piece: files keep them as lists of lines."""
    data = {mime: _text(value) for mime, value in output.get("data", {}).items()}
    return {**output, "text": _text(output.get("text")), "data": data}


def _text(value: Any) -> Any:
    is_lines = isinstance(value, list) and all(isinstance(line, str) for line in value)
    return "".join(value) if is_lines else value


def _seal(stamp: dict[str, Any]) -> str:
    return _digest({name: value for name, value in stamp.items() if name != "seal"})


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
