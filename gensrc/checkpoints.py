"""Save and load trained weights: safetensors only, each with a JSON card beside it.

A checkpoint is made by a chapter's full profile and shipped in the package; the quick profile loads it. Nothing is
ever unpickled.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from gensrc import atomic, provenance

SHIPPED = Path(__file__).resolve().parent / "checkpoints"
Model = TypeVar("Model", bound=nn.Module)
LARGEST = 4 * 1024 * 1024  # bytes; so that the whole book stays a quick download


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, damaged or of another model; the message says what to do."""


def save_weights(name: str, model: nn.Module, *, config: dict[str, Any], about: str, half: bool = True) -> Path:
    """Write `model`'s weights as the shipped checkpoint `name` with its card; returns the file's path.

    config: the keyword arguments that build the same network again; kept in the card and compared on loading.
    about: one sentence on what it was trained on and for how long.
    half: keep floating-point weights in half precision.

    Raises CheckpointError if the file would be larger than 4 MB.
    """
    tensors = {key: _small(value, half) for key, value in model.state_dict().items()}
    data = save(tensors)
    if len(data) > LARGEST:
        raise CheckpointError(f"checkpoint {name} would take {len(data) / 2**20:.1f} MB; 4 MB is the most we ship")
    folder = _writable_folder()
    path = folder / f"{name}.safetensors"
    _write(path, data)
    card = {
        "model": type(model).__name__,
        "config": config,
        "about": about,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
    }
    _write(path.with_suffix(".json"), (json.dumps(card, indent=1) + "\n").encode())
    return path


def load_weights(name: str, model: Model, *, config: dict[str, Any]) -> Model:
    """Load checkpoint `name` into `model` and return it, in evaluation mode.

    Looks in the working folder's gensrc-output first, where a full run outside a clone leaves its own, then in the
    package.

    Raises CheckpointError if there is no such checkpoint (naming those that there are), if the file is damaged, or if
    it was made by another class of model or another configuration.
    """
    path = _find(name)
    try:
        data = path.read_bytes()
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {name} cannot be read ({error}): install gensrc again") from error
    if hashlib.sha256(data).hexdigest() != card["sha256"]:
        raise CheckpointError(f"{path} is damaged: its checksum is not the card's. Install gensrc again")
    if (card["model"], card["config"]) != (type(model).__name__, config):
        raise CheckpointError(
            f"checkpoint {name} holds {card['model']} with {card['config']}, not {type(model).__name__} with {config}"
        )
    try:
        tensors = load(data)
        model.load_state_dict(tensors)
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"checkpoint {name} does not fit {type(model).__name__}: {error}") from error
    provenance.record(path)
    return model.eval()


def names() -> list[str]:
    """The checkpoints that can be loaded here."""
    return sorted({path.stem for folder in _folders() for path in folder.glob("*.safetensors")})


def write_safetensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors and text to `path`, whole or not at all."""
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    _write(path, save(contiguous, metadata=metadata))


def _write(path: Path, data: bytes) -> None:
    """Write `data` whole or not at all; CheckpointError when the disk is full or the folder may not be written."""
    try:
        atomic.write(path, data)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path} ({error.strerror}): make room, or use a folder that may be written"
        ) from error


def _small(value: Tensor, half: bool) -> Tensor:
    value = value.detach().cpu().contiguous()
    return value.to(torch.float16) if half and value.is_floating_point() else value


def _writable_folder() -> Path:
    """The package's own folder in a clone of the repository; elsewhere a folder of the working folder's."""
    in_clone = (SHIPPED.parents[1] / "pyproject.toml").exists()
    return SHIPPED if in_clone else Path("gensrc-output")


def _folders() -> list[Path]:
    return [Path("gensrc-output"), SHIPPED]


def _find(name: str) -> Path:
    for folder in _folders():
        if (path := folder / f"{name}.safetensors").exists():
            return path
    raise CheckpointError(f"there is no checkpoint {name!r}; there are: {', '.join(names()) or 'none'}")
