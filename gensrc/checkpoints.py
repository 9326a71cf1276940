"""Save and load trained weights and recordings: safetensors only, each with a JSON card. Nothing is ever unpickled.

A checkpoint holds the weights of a model; a chapter's full profile makes it, and the quick profile loads it from the
package. Most hold their weights in 8 bits: a tensor of two dimensions or more is kept as int8, and under its name
with `.scale` at the end stands one half-precision number for each of its rows (a row is all that shares the first
index). The weight is their product. Small tensors stay in half precision, and so does a whole file where 8 bits would
move a chapter's figures too far; its card says which.

A recording holds what a training has shown and no weights tell afterwards: pictures on the way, curves, tables.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from gensrc import atomic, provenance

SHIPPED = Path(__file__).resolve().parent / "checkpoints"
RECORDINGS = Path(__file__).resolve().parent / "recordings"
Model = TypeVar("Model", bound=nn.Module)
LARGEST = 4 * 1024 * 1024  # bytes; so that the whole book stays a quick download
ENCODINGS = {8: "int8 rows", 16: "float16", 32: "float32"}
SCALE = ".scale"  # ends the name of a tensor that holds the scales of another's rows


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, damaged or of another model; the message says what to do."""


def save_weights(name: str, model: nn.Module, *, config: dict[str, Any], about: str, bits: int = 8) -> Path:
    """Write `model`'s weights as the shipped checkpoint `name` with its card; returns the file's path.

    config: the keyword arguments that build the same network again; kept in the card and compared on loading, both as
        JSON has them (see `as_json`).
    about: one sentence on what it was trained on and for how long.
    bits: of a weight in the file; 8 (in rows with a scale), 16 or 32.

    Raises CheckpointError if the file would be larger than 4 MB, for a config that JSON does not have and for weights
    that are not finite, or too large for these bits; ValueError for other bits.
    """
    if bits not in ENCODINGS:
        raise ValueError(f"bits must be one of {', '.join(map(str, ENCODINGS))}, not {bits}")
    exact = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    encoded = encode(exact, bits)
    kept = decode(encoded)
    _check_kept(exact, kept, ENCODINGS[bits])
    card = {
        "model": type(model).__name__,
        "config": as_json(config),
        "about": about,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "encoding": ENCODINGS[bits],
        "relative_error": round(largest_error(exact, kept), 6),
    }
    return _write(SHIPPED, name, encoded, card)


def load_weights(name: str, model: Model, *, config: dict[str, Any]) -> Model:
    """Load checkpoint `name` into `model` and return it, in evaluation mode.

    Outside a clone it looks in the working folder's gensrc-output first, where a full run leaves its own, then in the
    package. In a clone the package alone counts, so that what a run has read is known by the repository's files.

    Raises CheckpointError if there is no such checkpoint (naming those that there are), if the file is damaged, or if
    it was made by another class of model or another configuration.
    """
    tensors, card = _read(SHIPPED, name)
    wanted = as_json(config)
    if (card["model"], card["config"]) != (type(model).__name__, wanted):
        raise CheckpointError(
            f"checkpoint {name} holds {card['model']} with {card['config']}, not {type(model).__name__} with {wanted}"
        )
    try:
        model.load_state_dict(decode(tensors))
    except RuntimeError as error:
        raise CheckpointError(f"checkpoint {name} does not fit {type(model).__name__}: {error}") from error
    return model.eval()


def as_json(value: Any) -> Any:
    """A setting as a card holds it, so that it equals itself when it is read again.

    Tuples become lists; keys and paths text; numbers of numpy and torch plain ones; numbers that are not finite, which
    JSON has not, text; a dataclass the dict of its fields. Raises CheckpointError for anything else.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        if len({str(key) for key in value}) < len(value):
            raise CheckpointError(f"two keys of the setting {value!r} are the same as text: rename one")
        return {str(key): as_json(each) for key, each in value.items()}
    if isinstance(value, set | frozenset):
        return as_json(_sorted(value))
    if isinstance(value, list | tuple | range):
        return [as_json(each) for each in value]
    if hasattr(value, "tolist"):  # of numpy and torch, numbers as well as arrays
        return as_json(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path | torch.dtype):
        return str(value)
    raise CheckpointError(
        f"a card cannot hold the setting {value!r} ({type(value).__name__}): use numbers, text, lists or dicts"
    )


def _sorted(members: set[Any] | frozenset[Any]) -> list[Any]:
    try:
        return sorted(members)
    except TypeError as error:
        raise CheckpointError(f"a card cannot hold the set {members!r}, which has no order: use a list") from error


def save_recording(name: str, tensors: dict[str, Tensor], *, about: str) -> Path:
    """Write `tensors` as the shipped recording `name`, in the types that they have; returns the file's path.

    Raises CheckpointError if the file would be larger than 4 MB.
    """
    kept = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    shapes = {key: [str(value.dtype).removeprefix("torch."), *value.shape] for key, value in sorted(kept.items())}
    return _write(RECORDINGS, name, kept, {"about": about, "tensors": shapes})


def load_recording(name: str) -> dict[str, Tensor]:
    """The tensors of recording `name`, found where `load_weights` looks.

    Raises CheckpointError if there is no such recording or the file is damaged.
    """
    return _read(RECORDINGS, name)[0]


def encode(tensors: dict[str, Tensor], bits: int) -> dict[str, Tensor]:
    """What a file holds of a model's tensors; whole numbers, such as counters, stay as they are."""
    encoded = {}
    for key, value in tensors.items():
        if bits == 8 and _in_rows(value):
            encoded[key], encoded[key + SCALE] = quantize_rows(value)
        elif bits != 32 and value.is_floating_point():
            encoded[key] = value.to(torch.float16)
        else:
            encoded[key] = value
    return encoded


def decode(encoded: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a model again: an int8 tensor is multiplied by its rows' scales, in single precision."""
    # One without scales is a model's own.
    quantized = {key for key, value in encoded.items() if value.dtype == torch.int8 and key + SCALE in encoded}
    scales = {key + SCALE for key in quantized}
    return {
        key: dequantize_rows(value, encoded[key + SCALE]) if key in quantized else value
        for key, value in encoded.items()
        if key not in scales
    }


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers from -127 to 127 and a scale for each row: the row's largest weight divided by 127.

    Smaller scales, which cut off a row's largest weights to round the others more finely, were tried on our models:
    at 8 bits they lower the squared error by 1 % only. Scales are rounded to half precision before the weights are
    divided by them, so that their own rounding adds no error.

    Returns int8 of the weight's shape, and float16 of one number a row.
    """
    rows = weight.float().flatten(1)
    scale = (rows.abs().amax(1) / 127).half()
    step = scale.float().clamp(min=2**-24)[:, None]  # a row of zeros has scale 0 and stays so
    return (rows / step).round().clamp(-127, 127).to(torch.int8).view(weight.shape), scale


def dequantize_rows(quantized: Tensor, scale: Tensor) -> Tensor:
    """The weights, in single precision: every number times the scale of its row."""
    return quantized.float() * scale.float().view(-1, *[1] * (quantized.dim() - 1))


def largest_error(exact: dict[str, Tensor], kept: dict[str, Tensor]) -> float:
    """Of all tensors the largest |kept - exact| / |exact|, in Euclidean norms."""
    moved = (
        ((kept[key].float() - value.float()).norm() / value.float().norm().clamp(min=1e-30)).item()
        for key, value in exact.items()
        if value.is_floating_point()
    )
    return max(moved, default=0.0)


def write_safetensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors and text to `path`, whole or not at all."""
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    _write_file(path, save(contiguous, metadata=metadata))


def _write_file(path: Path, data: bytes) -> None:
    """Write `data` whole or not at all; CheckpointError when the disk is full or the folder may not be written."""
    try:
        atomic.write(path, data)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path} ({error.strerror}): make room, or use a folder that may be written"
        ) from error


def _check_kept(exact: dict[str, Tensor], kept: dict[str, Tensor], encoding: str) -> None:
    """Raises CheckpointError, naming the tensor, for numbers that are not finite before or after they are encoded."""
    for key, value in exact.items():
        if not bool(value.isfinite().all()):
            raise CheckpointError(f"{key} has values that are not finite: train again, or from an earlier checkpoint")
        if not bool(kept[key].isfinite().all()):
            raise CheckpointError(f"{key} has values too large for {encoding}: save with more bits (bits=32 is exact)")


def _in_rows(value: Tensor) -> bool:
    """Whether 8 bits save anything: not for biases and norms, nor for rows so short that the scales outweigh them."""
    return value.is_floating_point() and value.dim() >= 2 and value[0].numel() >= 16 and value.numel() >= 1024


def _write(shelf: Path, name: str, tensors: dict[str, Tensor], card: dict[str, Any]) -> Path:
    data = save(tensors)
    if len(data) > LARGEST:
        raise CheckpointError(f"{shelf.name}: {name} would take {len(data) / 2**20:.1f} MB; 4 MB is the most we ship")
    path = _folders(shelf)[0] / f"{name}.safetensors"
    _write_file(path, data)
    card = card | {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    _write_file(path.with_suffix(".json"), (json.dumps(card, indent=1) + "\n").encode())
    return path


def _read(shelf: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    path = _find(shelf, name)
    try:
        data = path.read_bytes()
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): install gensrc again") from error
    if hashlib.sha256(data).hexdigest() != card["sha256"]:
        raise CheckpointError(f"{path} is damaged: its checksum is not the card's. Install gensrc again")
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no safetensors file ({error}): install gensrc again") from error
    provenance.record(path)
    return tensors, card


def _folders(shelf: Path) -> list[Path]:
    """Where files are looked for, and written to the first: outside a clone in a folder of the working folder's."""
    in_clone = (shelf.parents[1] / "pyproject.toml").exists()
    return [shelf] if in_clone else [Path("gensrc-output") / shelf.name, shelf]


def _names(shelf: Path) -> list[str]:
    return sorted({path.stem for folder in _folders(shelf) for path in folder.glob("*.safetensors")})


def _find(shelf: Path, name: str) -> Path:
    for folder in _folders(shelf):
        if (path := folder / f"{name}.safetensors").exists():
            return path
    there = ", ".join(_names(shelf)) or "none"
    raise CheckpointError(f"there is no {shelf.name.removesuffix('s')} {name!r}; there are: {there}")
