"""Pictures with classes: MNIST and Fashion-MNIST.

Both come as `Images`: pictures in [0, 1], labels, and the names of the classes. The files are those of their publishers
in IDX, a format of four magic bytes, the sizes of the axes, and the numbers.
"""

import math
import struct
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from gensrc.data import registry
from gensrc.data.registry import DataError

DIGITS = tuple("0123456789")
GARMENTS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
PREFIXES = {"train": "train", "test": "t10k"}  # how the publishers name the files of a split
UNSIGNED_BYTE = 0x08


@dataclass(frozen=True, eq=False)
class Images:
    """n pictures with a class each."""

    images: Float[Tensor, "n channels height width"] | UInt8[Tensor, "n channels height width"]
    labels: Int64[Tensor, " n"]  # index into names
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def mnist(split: str = "train", *, dtype: torch.dtype = torch.float32) -> Images:
    """MNIST, all of it: 60,000 ("train") or 10,000 ("test") handwritten digits, 1x28x28, white on black.

    dtype: torch.float32 for grey levels in [0, 1], torch.uint8 for the stored 0 to 255 in a quarter of the memory.

    Raises ValueError for another split or dtype, DataError if a file is damaged.
    """
    return _load("mnist", split, ".xz", DIGITS, dtype)


def fashion_mnist(split: str = "train", *, full: bool = False, dtype: torch.dtype = torch.float32) -> Images:
    """Fashion-MNIST: garments in ten classes of equal size, 1x28x28, white on black.

    full: False for the pack's 12,000 ("train") or 2,000 ("test") pictures, the first of each class in the original's
        order; True for the original's 60,000 or 10,000, which are fetched once (26 and 4 MB).
    dtype: torch.float32 for grey levels in [0, 1], torch.uint8 for the stored 0 to 255 in a quarter of the memory.

    Raises ValueError for another split or dtype, DataError if a file is damaged or cannot be fetched.
    """
    return _load("fashion-mnist", split, ".gz" if full else ".xz", GARMENTS, dtype)


def _load(name: str, split: str, suffix: str, names: tuple[str, ...], dtype: torch.dtype) -> Images:
    if split not in PREFIXES:
        raise ValueError(f"split has to be 'train' or 'test', not {split!r}.")
    if dtype not in (torch.float32, torch.uint8):
        raise ValueError(f"dtype has to be torch.float32 or torch.uint8, not {dtype}.")
    start = f"{name}/{PREFIXES[split]}"
    images = read_idx(registry.read(f"{start}-images-idx3-ubyte{suffix}"))[:, None]
    labels = read_idx(registry.read(f"{start}-labels-idx1-ubyte{suffix}"))
    if dtype == torch.float32:
        images = images.to(torch.float32).div_(255)
    return Images(images, labels.to(torch.int64), names)


def read_idx(content: bytes) -> UInt8[Tensor, "..."]:
    """The array in the bytes of an IDX file of unsigned bytes, the only kind that the book has.

    Raises DataError if `content` is no such file, or is shorter or longer than its header says.
    """
    if len(content) < 4 or content[:2] != b"\0\0":
        raise DataError("This is no IDX file: it has to start with two zero bytes, a type and a number of axes.")
    kind, axes = content[2], content[3]
    if kind != UNSIGNED_BYTE:
        raise DataError(f"This IDX file is of type 0x{kind:02x}; only unsigned bytes, 0x08, can be read.")
    start = 4 + 4 * axes
    if not 1 <= axes <= 4 or len(content) < start:
        raise DataError(f"This IDX file of {len(content)} bytes has no whole header of 1 to 4 axes.")
    shape = struct.unpack(f">{axes}I", content[4:start])
    expected = start + math.prod(shape)
    if len(content) != expected or 0 in shape:
        raise DataError(
            f"This IDX file has {len(content)} bytes; its header {shape} asks for {expected} and no empty axis."
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).view(shape)


def binarize(images: Float[Tensor, "*shape"], generator: torch.Generator | None = None) -> Float[Tensor, "*shape"]:
    """Pictures of zeros and ones: each pixel is one with the probability of its grey level in [0, 1].

    Repeated for every batch this is the dynamic binarisation of Salakhutdinov and Murray (2008), "On the quantitative
    analysis of deep belief networks", with which the likelihoods of MNIST in nats are published. A grey level of 0 is
    never one, a grey level of 1 always.

    generator: of the CPU, where the numbers are drawn for any device of `images`, so that they are always the same.

    Raises ValueError for pictures of whole numbers, of which every one above 0 would count as white, and for values
    outside [0, 1] by more than rounding, which are read in the computer's own memory only.
    """
    if not images.is_floating_point():
        raise ValueError(
            f"binarize needs grey levels in [0, 1], not {images.dtype}: load the pictures as torch.float32."
        )
    if images.numel() and images.device.type == "cpu":
        low, high = (float(end) for end in images.aminmax())
        if not (low >= -1e-5 and high <= 1 + 1e-5):  # NaN fails this too
            raise ValueError(
                f"binarize needs grey levels in [0, 1], and these span [{low:.3g}, {high:.3g}]: rescale them."
            )
    uniform = torch.rand(images.shape, generator=generator)
    return (uniform.to(images.device) < images).to(images.dtype)
