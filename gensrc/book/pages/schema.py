"""Files that people write by hand, checked against a JSON Schema before anything is made of them.

A schema is a plain dict, by the standard's own words; the keyword `description` of a field says what it must be, and
the messages quote it: "errata.yml, entry A0-E6: the field 'kind' must be one of stop, wrong, not 'wron'."
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from gensrc.book.repository import BookError

Schema = dict[str, Any]
# What a message calls the entries of a list, and the field that tells one from another; "" is the file's own list.
Entries = Mapping[str, tuple[str, str]]

TEXT: Schema = {"type": "string", "pattern": r"\S", "description": "a text in quotes that says something"}
MAY_BE_EMPTY: Schema = {"type": "string", "description": "a text"}
SOME_TEXTS = "a list of texts, [] if there are none"
TEXTS: Schema = {
    "type": "array",
    "items": {"type": "string", "description": SOME_TEXTS},
    "description": SOME_TEXTS,
}


def fields(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """The schema of an entry with these fields and no others."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
        "description": f"a mapping with the fields {', '.join(required)}",
    }


def entries(item: Schema) -> Schema:
    """The schema of a list of such entries."""
    return {"type": "array", "items": item, "description": "a list"}


def load(path: Path, schema: Schema, names: Entries) -> Any:
    """The content of a YAML or JSON file. Raises BookError, which names file, entry and field, where it breaks it."""
    from jsonschema import Draft202012Validator

    try:
        text = path.read_text(encoding="utf8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise BookError(f"{path.name} cannot be read as {kind}: {error}") from error
    fault = next(Draft202012Validator(schema).iter_errors(content), None)
    if fault is not None:
        place, field = _place(path.name, content, list(fault.absolute_path), names)
        raise BookError(f"{place}: {_problem(fault, field)}.")
    return content


def _place(place: str, here: Any, steps: list[Any], names: Entries) -> tuple[str, str]:
    """The file and the entries on the way to `steps`, such as "articles.yml, article A0", and the field of the last."""
    field = lists = ""
    for step in steps:
        if isinstance(step, str):
            field = lists = step
        elif lists in names:
            word, key = names[lists]
            entry, field = here[step], ""
            known = isinstance(entry, dict) and isinstance(entry.get(key), str | int)
            place += f", {word} {entry[key]}" if known else f", {word} number {step + 1}"
        here = here[step]
    return place, field


def _problem(fault: Any, field: str) -> str:
    """What is wrong, in words: `fault` is jsonschema's error, in `field` if it is not an entry itself."""
    if fault.validator == "required":
        missing = next(name for name in fault.validator_value if name not in fault.instance)
        return f"the field {missing!r} is missing"
    if fault.validator == "additionalProperties" and "properties" in fault.schema:
        known = list(fault.schema["properties"])
        unknown = next(name for name in fault.instance if name not in known)
        return f"there is no field {unknown!r}; the fields are {', '.join(known)}"
    subject = f"the field {field!r}" if field else "it"
    return f"{subject} must be {fault.schema['description']}, not {fault.instance!r}"


def refuse_twice(path: Path, what: str, names: Iterable[str]) -> None:
    """Raise BookError if a name comes twice."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BookError(f"{path.name}: two {what} are called {twice[0]!r}.")
