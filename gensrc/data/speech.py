"""Recorded speech of one speaker, 8,000 samples a second, as waves and as mu-law codes.

The 256 levels of mu-law companding are close together for soft sounds and far apart for loud ones. It is used in
telephony, and in WaveNet (van den Oord and others, 2016), which predicts codes instead of waves; here by the smooth
formula, not in the piecewise linear form of the standard G.711.
"""

import io
import json
import math
import struct
import wave
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from gensrc.data import registry
from gensrc.data.images import read_idx
from gensrc.data.registry import DataError

RATE = 8000  # samples a second
LEVELS = 256


@dataclass(frozen=True, eq=False)
class Speech:
    """n recordings of unequal length, 8,000 samples a second."""

    waves: tuple[Float[Tensor, "_"], ...]  # in [-1, 1]
    codes: tuple[Int64[Tensor, "_"], ...]  # the same as mu-law codes, 0 to 255
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)


def speech(split: str = "train") -> Speech:
    """Spoken prompts of a telephone system, three to twelve seconds each; each prompt is in one split.

    The waves are decoded from the codes, so that `mu_law(wave)` gives exactly the codes.

    Raises ValueError for another split than "train" and "test", DataError if a file is damaged.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split has to be 'train' or 'test', not {split!r}.")
    table = json.loads(registry.read("speech/table.json.xz"))
    whole = read_idx(registry.read("speech/codes-idx1-ubyte.xz")).to(torch.int64).split(table["lengths"])
    rows = [row for row, name in enumerate(table["splits"]) if name == split]
    codes = tuple(whole[row] for row in rows)
    return Speech(tuple(map(from_mu_law, codes)), codes, tuple(table["names"][row] for row in rows))


def mu_law(waves: Float[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """The mu-law code of each sample: ln(1 + 255 |x|) / ln 256, with the sign of x, in 256 levels from -1 to 1.

    Samples beyond [-1, 1] are clipped. Codes are the nearest of 256 levels that lie symmetrically around 0, which is
    none of them: 0 becomes 127, where torchaudio, which rounds half up, has 128. Raises ValueError for samples that are
    not finite, or whole numbers.
    """
    if not waves.is_floating_point():
        raise ValueError(f"the wave is {waves.dtype}: divide 16-bit samples by 32768, so that they lie in [-1, 1]")
    if not bool(waves.isfinite().all()):
        raise ValueError("the wave has samples that are not finite, which no code stands for: repair or cut it")
    return torch.bucketize(waves.contiguous(), _between().to(waves))


def from_mu_law(codes: Int64[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The sample in [-1, 1] of each code from 0 to 255.

    Raises ValueError for other codes.
    """
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < LEVELS:
        raise ValueError(
            f"codes must lie between 0 and {LEVELS - 1}, not from {int(codes.min())} to {int(codes.max())}"
        )
    return _levels().to(codes.device)[codes]


@cache
def _levels() -> Float[Tensor, "256"]:
    return _expanded([2 * code / (LEVELS - 1) - 1 for code in range(LEVELS)])


@cache
def _between() -> Float[Tensor, "255"]:
    """The thresholds between the samples of successive codes."""
    return _expanded([(2 * code + 1) / (LEVELS - 1) - 1 for code in range(LEVELS - 1)])


def _expanded(companded: list[float]) -> Float[Tensor, " n"]:
    # Rounded to 24 bits, so that machines whose powers differ in the last place agree.
    exact = [math.copysign((LEVELS ** abs(value) - 1) / (LEVELS - 1), value) for value in companded]
    return torch.tensor([round(value * 2**24) / 2**24 for value in exact])


def read_wav(content: bytes) -> tuple[Float[Tensor, "channels time"], int]:
    """The samples in [-1, 1) in the bytes of a WAV file, and the sample rate.

    Raises DataError if `content` is no WAV file of uncompressed samples of 8 or 16 bits, or is incomplete.
    """
    try:
        with wave.open(io.BytesIO(content)) as file:
            channels, width, rate, frames = file.getparams()[:4]
            data = bytearray(file.readframes(frames))
    except (wave.Error, EOFError, RuntimeError, struct.error) as error:  # RuntimeError: chunks beyond the end
        raise DataError(f"This is no WAV file of uncompressed samples ({error or 'it ends too soon'}).") from error
    if width not in (1, 2) or rate < 1:
        raise DataError(f"This WAV file has {8 * width} bits and {rate} samples a second; convert it to 8 or 16 bits.")
    if not data or len(data) != frames * channels * width:
        raise DataError(f"This WAV file is incomplete: {len(data)} of {frames * channels * width} bytes are there.")
    if width == 1:  # from 0 to 255, the middle is silence
        samples = (torch.frombuffer(data, dtype=torch.uint8).to(torch.float32) - 128) / 128
    else:
        samples = torch.frombuffer(data, dtype=torch.int16).to(torch.float32) / 32768
    return samples.view(-1, channels).T.contiguous(), rate
