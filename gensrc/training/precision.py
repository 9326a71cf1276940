"""The device, the arithmetic and the seeds of a training."""

import os
import random
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


def device() -> torch.device:
    """The fastest device at hand: a CUDA GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch on every device."""
    random.seed(int(seed))  # of numpy's whole numbers as well
    np.random.seed(int(seed))
    torch.manual_seed(int(seed))


@dataclass(frozen=True)
class Precision:
    """The arithmetic of a forward pass: bfloat16 under autocast, or plain float32."""

    device_type: str
    bfloat16: bool

    def autocast(self) -> AbstractContextManager[Any]:
        if not self.bfloat16:
            return nullcontext()
        return torch.autocast(self.device_type, dtype=torch.bfloat16)

    def __str__(self) -> str:
        return "bfloat16" if self.bfloat16 else "float32"


FLOAT32 = Precision("cpu", bfloat16=False)
"""Plain float32, on any device."""


def precision(device: torch.device) -> Precision:
    """The fastest sound arithmetic of `device`: bfloat16 where the hardware multiplies it, else float32.

    Weights, their gradients and the optimiser stay in float32 either way. The environment variable GENSRC_PRECISION
    (float32 or bfloat16) decides instead, for comparing the two. Raises ValueError for any other value of it.
    """
    forced = os.environ.get("GENSRC_PRECISION")
    if forced not in (None, "", "float32", "bfloat16"):
        raise ValueError(f"GENSRC_PRECISION must be float32 or bfloat16, not {forced!r}")
    if forced:
        return Precision(device.type, forced == "bfloat16")
    if device.type == "cuda":
        return Precision("cuda", torch.cuda.is_bf16_supported())
    return Precision("cpu", _cpu_multiplies_bfloat16())


def _cpu_multiplies_bfloat16() -> bool:
    # torch has no public question for this before 2.8; the private ones exist since 2.4.
    asks = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(ask() for ask in asks if ask is not None)
