"""MNIST and Fashion-MNIST are the published ones, and the reader of their format takes nothing else."""

import gzip
import hashlib
import inspect
import math
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_data import Mirror, write_card

from gensrc.data import registry
from gensrc.data.images import Images, binarize, fashion_mnist, mnist, read_idx
from gensrc.data.registry import DataError

# MD5 of the original files, uncompressed, as published with MNIST's many copies.
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
LOADERS = {
    "mnist": (mnist, {"train": 60000, "test": 10000}),
    "fashion": (fashion_mnist, {"train": 12000, "test": 2000}),
}


@pytest.fixture(scope="module")
def loaded() -> dict[tuple[str, str], Images]:
    return {(name, split): load(split) for name, (load, counts) in LOADERS.items() for split in counts}


# --- The data sets --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MNIST_MD5)
def test_mnist_is_the_original(name: str) -> None:
    assert hashlib.md5(registry.read(f"mnist/{name}.xz")).hexdigest() == MNIST_MD5[name]


@pytest.mark.parametrize("name", LOADERS)
def test_pictures_are_grey_levels_and_labels_are_classes(name: str, loaded: dict[tuple[str, str], Images]) -> None:
    for split, count in LOADERS[name][1].items():
        found = loaded[name, split]
        assert len(found) == count
        assert found.images.shape == (count, 1, 28, 28)
        assert found.images.dtype == torch.float32
        assert found.labels.shape == (count,)
        assert found.labels.dtype == torch.int64
        assert (found.images.min(), found.images.max()) == (0.0, 1.0)
        assert sorted(found.labels.unique().tolist()) == list(range(len(found.names)))


def test_the_cards_counts_are_those_of_the_loaders(loaded: dict[tuple[str, str], Images]) -> None:
    cards = {card.name: card.counts for card in registry.cards(registry.PACK)}
    assert cards["mnist"] == {split: len(loaded["mnist", split]) for split in ("train", "test")}
    assert cards["fashion-mnist"] == {split: len(loaded["fashion", split]) for split in ("train", "test")}


def test_the_first_digits_are_the_well_known_ones(loaded: dict[tuple[str, str], Images]) -> None:
    assert loaded["mnist", "train"].labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert loaded["mnist", "test"].labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert loaded["mnist", "train"].names[5] == "5"


def test_the_first_garments_are_the_well_known_ones(loaded: dict[tuple[str, str], Images]) -> None:
    found = loaded["fashion", "train"]
    assert [found.names[label] for label in found.labels[:3]] == ["Ankle boot", "T-shirt/top", "T-shirt/top"]


def test_fashion_mnist_is_balanced(loaded: dict[tuple[str, str], Images]) -> None:
    assert loaded["fashion", "train"].labels.bincount().tolist() == [1200] * 10
    assert loaded["fashion", "test"].labels.bincount().tolist() == [200] * 10


@pytest.mark.parametrize("name", LOADERS)
def test_no_picture_occurs_twice_within_a_split_or_across(name: str, loaded: dict[tuple[str, str], Images]) -> None:
    pictures = torch.cat([loaded[name, split].images for split in ("train", "test")])
    hashes = {hashlib.sha256(picture.numpy().tobytes()).digest() for picture in pictures}
    assert len(hashes) == len(pictures)


def test_uint8_pictures_are_the_same_as_float_ones(loaded: dict[tuple[str, str], Images]) -> None:
    stored = mnist("test", dtype=torch.uint8)
    assert stored.images.dtype == torch.uint8
    assert torch.equal(stored.images / 255, loaded["mnist", "test"].images)


def test_the_whole_of_fashion_mnist_is_fetched(pack: Path, cache: Path, mirror: Mirror) -> None:
    images = torch.arange(3 * 28 * 28).reshape(3, 28, 28).to(torch.uint8)
    files = {
        "train-images-idx3-ubyte.gz": gzip.compress(idx(3, 28, 28, content=images.numpy().tobytes())),
        "train-labels-idx1-ubyte.gz": gzip.compress(idx(3, content=b"\x09\x00\x03")),
    }
    mirror.files |= {f"/{name}": content for name, content in files.items()}
    on_demand = {name: (content, [mirror.url(f"/{name}")]) for name, content in files.items()}
    write_card(pack, "fashion-mnist", files={}, on_demand=on_demand)
    found = fashion_mnist("train", full=True, dtype=torch.uint8)
    assert torch.equal(found.images[:, 0], images)
    assert [found.names[label] for label in found.labels] == ["Ankle boot", "T-shirt/top", "Dress"]


def test_another_split_or_dtype_is_an_error() -> None:
    with pytest.raises(ValueError, match="split has to be 'train' or 'test', not 'valid'"):
        mnist("valid")
    with pytest.raises(ValueError, match=r"torch\.float32 or torch\.uint8, not torch\.float16"):
        fashion_mnist(dtype=torch.float16)


def test_a_damaged_file_stops_the_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte.xz").write_bytes(b"half a file")
    monkeypatch.setenv("GENSRC_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.xz is damaged"):
        mnist("test")


# --- IDX ------------------------------------------------------------------------------------------


def idx(*shape: int, content: bytes, kind: int = 0x08) -> bytes:
    return struct.pack(f">4B{len(shape)}I", 0, 0, kind, len(shape), *shape) + content


def test_an_idx_file_is_read_row_by_row() -> None:
    assert read_idx(idx(2, 3, content=b"\x00\x01\x02\x03\x04\xff")).tolist() == [[0, 1, 2], [3, 4, 255]]


WRONG = {
    "starts with two zero bytes": (b"", "no IDX file"),
    "another magic": (b"\x01" + idx(1, content=b"a")[1:], "no IDX file"),
    "floats": (idx(1, content=b"abcd", kind=0x0D), "type 0x0d; only unsigned bytes"),
    "no axes": (idx(content=b""), "no whole header"),
    "five axes": (idx(1, 1, 1, 1, 1, content=b"a"), "no whole header"),
    "half a header": (idx(2, 3, content=b"")[:9], "no whole header"),
    "too short": (idx(2, 3, content=b"abcde"), r"17 bytes; its header \(2, 3\) asks for 18"),
    "too long": (idx(2, 3, content=b"abcdefg"), r"19 bytes; its header \(2, 3\) asks for 18"),
    "an empty axis": (idx(0, 2**32 - 1, content=b""), "no empty axis"),
}


@pytest.mark.parametrize("case", WRONG)
def test_files_that_are_no_idx_of_bytes_are_refused(case: str) -> None:
    content, message = WRONG[case]
    with pytest.raises(DataError, match=message):
        read_idx(content)


sizes = st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 4), max_size=6)
headers = st.builds(lambda kind, shape: idx(*shape, content=b"", kind=kind), st.sampled_from([8, 9, 13]), sizes)


@given(st.binary(max_size=64) | st.builds(bytes.__add__, headers, st.binary(max_size=32)))
def test_any_bytes_give_an_array_of_them_or_the_documented_error(content: bytes) -> None:
    try:
        array = read_idx(content)
    except DataError:
        return
    assert content.endswith(array.numpy().tobytes())
    assert len(content) == 4 + 4 * array.dim() + array.numel()


# --- Binarisation ---------------------------------------------------------------------------------


def test_binarisation_is_the_same_everywhere(loaded: dict[tuple[str, str], Images]) -> None:
    digits = loaded["mnist", "test"].images[:100]
    drawn = binarize(digits, torch.Generator().manual_seed(0))
    assert hashlib.sha256(drawn.numpy().tobytes()).hexdigest().startswith("a3c042df96d469a2")


def test_the_frequency_of_ones_is_the_grey_level() -> None:
    levels = torch.tensor([0.0, 0.25, 0.9, 1.0])
    drawn = binarize(levels.repeat(100_000, 1), torch.Generator().manual_seed(1))
    assert drawn.unique().tolist() == [0.0, 1.0]
    often = drawn.mean(0)
    assert (often[0], often[3]) == (0.0, 1.0)
    assert often[1:3].tolist() == pytest.approx([0.25, 0.9], abs=0.006)  # four standard errors


def test_binarize_refuses_bytes() -> None:
    with pytest.raises(ValueError, match=r"grey levels in \[0, 1\], not torch\.uint8"):
        inspect.unwrap(binarize)(torch.zeros(3, dtype=torch.uint8))


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -0.1, 255.0])
def test_binarize_refuses_what_is_no_grey_level(wrong) -> None:
    binarize(torch.tensor([-1e-6, 1 + 1e-6]))
    with pytest.raises(ValueError, match=r"grey levels in \[0, 1\], and these span"):
        binarize(torch.tensor([0.5, wrong]))
