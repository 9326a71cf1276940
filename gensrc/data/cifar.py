"""CIFAR-10: small colour photographs of ten kinds of things, fetched on demand.

The files are those of the publisher's binary version: a byte for the label, then 1,024 bytes each for red, green and
blue, for each picture. The version for Python is a pickle, which can execute any code, and is not used.
"""

import tarfile
import zlib
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from gensrc.data import registry
from gensrc.data.handwriting import as_levels
from gensrc.data.images import Images
from gensrc.data.registry import DataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ARCHIVE = "cifar-10/cifar-10-binary.tar.gz"
BATCHES = {"train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "test": ("test_batch.bin",)}
PICTURE = 1 + 3 * 32 * 32  # bytes: the label, and three planes of 32x32


def cifar10(split: str = "train", *, dtype: torch.dtype = torch.float32) -> Images:
    """CIFAR-10: 50,000 ("train") or 10,000 ("test") colour photographs in ten classes of equal size, 3x32x32.

    The first call fetches 170 MB into the cache; later calls need no network.

    dtype: torch.float32 for levels in [0, 1], torch.uint8 for the stored 0 to 255 in a quarter of the memory.

    Raises ValueError for another split or dtype, DataError if the file is damaged or cannot be fetched.
    """
    if split not in BATCHES:
        raise ValueError(f"split has to be 'train' or 'test', not {split!r}.")
    if dtype not in (torch.float32, torch.uint8):  # before anything is fetched
        raise ValueError(f"dtype has to be torch.float32 or torch.uint8, not {dtype}.")
    images, labels = read_cifar(read_batches(registry.path(ARCHIVE), BATCHES[split]))
    return Images(as_levels(images, dtype), labels, CLASSES)


def read_batches(archive: Path, names: tuple[str, ...]) -> bytes:
    """The content of the named files of the archive's folder, one after the other.

    Raises DataError if it is no archive of CIFAR-10 or lacks one of them.
    """
    try:
        with tarfile.open(archive, "r:gz") as tar:
            members = [tar.extractfile(f"cifar-10-batches-bin/{name}") for name in names]
            return b"".join(member.read() for member in members if member)
    except (tarfile.TarError, zlib.error, EOFError, KeyError, OSError) as error:
        raise DataError(f"{archive} is no archive of CIFAR-10 ({error}): delete it and run again.") from error


def read_cifar(content: bytes) -> tuple[UInt8[Tensor, "n 3 32 32"], Int64[Tensor, " n"]]:
    """The pictures and the labels in the bytes of files of the binary version.

    Raises DataError if they are no whole number above 0 of pictures, or if a label is above 9.
    """
    if not content or len(content) % PICTURE:
        raise DataError(f"This is no file of CIFAR-10: {len(content)} bytes are no whole number of {PICTURE} each.")
    rows = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(-1, PICTURE)
    labels = rows[:, 0].to(torch.int64)
    if labels.max() >= len(CLASSES):
        raise DataError(f"This is no file of CIFAR-10: it has the label {int(labels.max())}, and the last is 9.")
    return rows[:, 1:].reshape(-1, 3, 32, 32), labels
