"""Weights come back as they were saved, or an error says why not; no half-written file is ever left."""

import errno
import json
import math
import os
import struct
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gensrc import checkpoints, notebook
from gensrc.models.vae import vae

CONFIG = {"hidden_dim": 8, "latent_dim": 2}
MB = 2**20
BIG = {"hidden_dim": 64, "latent_dim": 2}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for shelf in ("checkpoints", "recordings"):
        monkeypatch.setattr(checkpoints, shelf.upper().replace("CHECKPOINTS", "SHIPPED"), tmp_path / "gensrc" / shelf)
    return tmp_path / "gensrc-output" / "checkpoints"


def saved(bits: int = 16, config: dict = CONFIG) -> vae.VAE:
    torch.manual_seed(0)
    model = vae.VAE(**config)
    checkpoints.save_weights("digits", model, config=config, about="a test", bits=bits)
    return model


# --- Files and cards ------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [16, 32])
def test_weights_come_back(folder, bits):
    model = saved(bits)
    loaded = checkpoints.load_weights("digits", vae.VAE(**CONFIG), config=CONFIG)
    for name, value in model.state_dict().items():
        expected = value.half().float() if bits == 16 else value
        assert torch.equal(loaded.state_dict()[name], expected), name
    assert not loaded.training


def test_eight_bits_come_back_within_one_percent_and_biases_in_half_precision(folder):
    model = saved(8, BIG)
    loaded = checkpoints.load_weights("digits", vae.VAE(**BIG), config=BIG).state_dict()
    for name, value in model.state_dict().items():
        if name.endswith("bias"):
            assert torch.equal(loaded[name], value.half().float()), name
        else:
            assert (loaded[name] - value).norm() < 0.01 * value.norm(), name


def test_eight_bits_take_half_the_room_of_half_precision(folder):
    sizes = {}
    for bits in (8, 16):
        saved(bits, {"hidden_dim": 200, "latent_dim": 20})
        sizes[bits] = (folder / "digits.safetensors").stat().st_size
    assert sizes[8] < 0.52 * sizes[16]


def test_the_card_says_what_is_in_the_file(folder):
    for bits, encoding, error in ((8, "int8 rows", 0.01), (16, "float16", 3e-4), (32, "float32", 0)):
        model = saved(bits, BIG)
        card = json.loads((folder / "digits.json").read_text())
        loaded = checkpoints.load_weights("digits", vae.VAE(**BIG), config=BIG).state_dict()
        moved = [((loaded[name] - value).norm() / value.norm()).item() for name, value in model.state_dict().items()]
        assert (card["model"], card["config"], card["encoding"]) == ("VAE", BIG, encoding)
        assert card["bytes"] == (folder / "digits.safetensors").stat().st_size
        assert card["relative_error"] == pytest.approx(max(moved), abs=1e-6)
        assert card["relative_error"] <= error


def test_other_bits_are_refused(folder):
    with pytest.raises(ValueError, match="bits must be one of 8, 16, 32, not 4"):
        saved(4)


def test_missing_checkpoint_lists_those_there_are(folder):
    saved()
    with pytest.raises(checkpoints.CheckpointError, match=r"no checkpoint 'letters'; there are: digits"):
        checkpoints.load_weights("letters", vae.VAE(**CONFIG), config=CONFIG)


@pytest.mark.parametrize("damage", [lambda data: data[:-10], lambda data: data[:-1] + bytes([data[-1] ^ 1])])
def test_damaged_checkpoint_is_refused(folder, damage):
    saved()
    path = folder / "digits.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(checkpoints.CheckpointError, match="is damaged"):
        checkpoints.load_weights("digits", vae.VAE(**CONFIG), config=CONFIG)


def test_checkpoint_of_another_model_is_refused(folder):
    saved()
    with pytest.raises(checkpoints.CheckpointError, match="holds VAE with .*not Autoencoder"):
        checkpoints.load_weights("digits", vae.Autoencoder(**CONFIG), config=CONFIG)
    with pytest.raises(checkpoints.CheckpointError, match="'latent_dim': 3"):
        checkpoints.load_weights("digits", vae.VAE(hidden_dim=8, latent_dim=3), config={**CONFIG, "latent_dim": 3})


def test_too_large_a_checkpoint_is_refused(folder):
    with pytest.raises(checkpoints.CheckpointError, match="would take .* 4 MB is the most"):
        checkpoints.save_weights("big", torch.nn.Linear(2060, 2060), config={}, about="a test")
    assert not folder.exists()


def test_full_disk_leaves_the_old_file_and_no_other(folder, monkeypatch):
    saved()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(checkpoints.CheckpointError, match="No space left on device.*make room"):
        checkpoints.save_weights("digits", vae.VAE(**CONFIG), config=CONFIG, about="a test")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# --- Rows of 8 bits -------------------------------------------------------------------------------


@given(st.integers(1, 5), st.sampled_from([(16,), (4, 4), (3, 2, 2)]), st.integers(0, 2**31), st.floats(-4, 4))
@settings(max_examples=50, deadline=None)
def test_no_weight_that_is_not_cut_off_moves_by_more_than_half_a_step(rows, shape, seed, exponent):
    weight = torch.randn(rows, *shape, generator=torch.Generator().manual_seed(seed)) * 10**exponent
    quantized, scale = checkpoints.quantize_rows(weight)
    back = checkpoints.dequantize_rows(quantized, scale)
    inside = quantized.abs() < 127
    step = scale.float().view(-1, *[1] * len(shape)).expand_as(weight)
    assert ((back - weight).abs() <= 0.5001 * step)[inside].all()


def test_each_row_has_the_scale_of_its_own_weights():
    weight = torch.randn(3, 64, generator=torch.Generator().manual_seed(1)) * torch.tensor([[1e-3], [1.0], [1e3]])
    back = checkpoints.dequantize_rows(*checkpoints.quantize_rows(weight))
    assert ((back - weight).norm(dim=1) < 0.01 * weight.norm(dim=1)).all()


def test_rows_of_zeros_and_of_equal_weights_come_back_exactly():
    weight = torch.zeros(3, 16)
    weight[1] = 0.5
    weight[2, :8] = -127.0
    back = checkpoints.dequantize_rows(*checkpoints.quantize_rows(weight))
    assert torch.equal(back[[0, 2]], weight[[0, 2]])
    torch.testing.assert_close(back[1], weight[1], rtol=5e-4, atol=0)


def test_small_tensors_short_rows_and_counters_are_kept_as_they_are_in_half_precision():
    tensors = {
        "bias": torch.randn(5000),
        "small": torch.randn(8, 16),
        "short": torch.randn(500, 9),
        "one": torch.tensor(0.5),
        "count": torch.arange(3),
        "weight": torch.randn(64, 16),
    }
    encoded = checkpoints.encode(tensors, 8)
    kinds = {name: value.dtype for name, value in encoded.items()}
    assert kinds == dict.fromkeys(["bias", "small", "short", "one", "weight.scale"], torch.float16) | {
        "count": torch.int64,
        "weight": torch.int8,
    }
    assert encoded["weight.scale"].shape == (64,)
    assert checkpoints.decode(encoded).keys() == tensors.keys()


def test_a_file_can_be_read_without_torch_from_its_header_alone(folder):
    """What another reader, such as a browser, has to do: header, int8 rows, half-precision scales, one product."""
    model = saved(8, BIG)
    data = (folder / "digits.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    body = data[8 + size :]

    def read(name: str) -> np.ndarray:
        entry = header[name]
        kind = {"I8": "i1", "F16": "<f2"}[entry["dtype"]]
        return np.frombuffer(body[slice(*entry["data_offsets"])], kind).reshape(entry["shape"])

    name = next(name for name, value in header.items() if value.get("dtype") == "I8")
    weight = read(name).astype(np.float32) * read(f"{name}.scale").astype(np.float32)[:, None]
    np.testing.assert_allclose(
        weight, model.state_dict()[name], atol=0.02 * float(model.state_dict()[name].abs().max())
    )
    loaded = checkpoints.load_weights("digits", vae.VAE(**BIG), config=BIG).state_dict()[name]
    np.testing.assert_array_equal(weight, loaded)


# --- Recordings -----------------------------------------------------------------------------------


def test_a_recording_comes_back_in_the_types_it_was_made_of(folder):
    run = notebook.start("part/chapter", profile="full")
    film = {"frames": torch.randint(256, (2, 3, 4), dtype=torch.uint8), "curve": torch.tensor([0.1, 0.2])}
    made = notebook.recorded(run, "film", lambda: film, about="a test")
    shown = notebook.recorded(notebook.start("part/chapter"), "film", lambda: {}, about="a test")
    for tensors in (made, shown):
        assert tensors.keys() == film.keys()
        assert all(torch.equal(tensors[name], value) for name, value in film.items())
        assert tensors["frames"].dtype == torch.uint8
    card = json.loads((folder.parent / "recordings" / "film.json").read_text())
    assert card["tensors"] == {"frames": ["uint8", 2, 3, 4], "curve": ["float32", 2]}
    assert card["about"] == "a test"


def test_a_recording_of_another_seed_is_shown_and_not_kept(folder):
    run = notebook.start("part/chapter", profile="full", seed=1)
    made = notebook.recorded(run, "film", lambda: {"curve": torch.ones(2)}, about="a test")
    assert torch.equal(made["curve"], torch.ones(2))
    with pytest.raises(checkpoints.CheckpointError, match="no recording 'film'; there are: none"):
        notebook.recorded(notebook.start("part/chapter"), "film", lambda: {}, about="a test")


def test_a_damaged_recording_is_refused(folder):
    path = checkpoints.save_recording("film", {"curve": torch.ones(2)}, about="a test")
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(checkpoints.CheckpointError, match="is damaged"):
        checkpoints.load_recording("film")


@pytest.mark.parametrize("in_clone", [True, False])
def test_an_old_output_folder_counts_outside_a_clone_alone(folder, tmp_path, monkeypatch, in_clone):
    """There, what a run has read would be no file of the repository, and its stamp could not tell."""
    saved()
    checkpoints.save_recording("film", {"curve": torch.ones(2)}, about="a test")
    if in_clone:
        (tmp_path / "pyproject.toml").touch()
        with pytest.raises(checkpoints.CheckpointError, match="no checkpoint 'digits'; there are: none"):
            checkpoints.load_weights("digits", vae.VAE(**CONFIG), config=CONFIG)
        with pytest.raises(checkpoints.CheckpointError, match="no recording 'film'"):
            checkpoints.load_recording("film")
        checkpoints.save_recording("film", {"curve": torch.zeros(2)}, about="a test")
    assert checkpoints.load_recording("film")["curve"].sum() == (0 if in_clone else 2)


# --- What is shipped ------------------------------------------------------------------------------


@pytest.mark.parametrize("shelf", [checkpoints.SHIPPED, checkpoints.RECORDINGS], ids=["checkpoints", "recordings"])
def test_every_shipped_file_matches_its_card(shelf):
    paths = list(shelf.glob("*.safetensors"))
    assert paths
    assert {path.stem for path in paths} == {path.stem for path in shelf.glob("*.json")}
    for path in paths:
        card = json.loads(path.with_suffix(".json").read_text())
        tensors, _ = checkpoints._read(shelf, path.stem)  # raises where the checksum is not the card's
        assert path.stat().st_size == card["bytes"] <= checkpoints.LARGEST, path
        if shelf == checkpoints.SHIPPED:
            rows = any(value.dtype == torch.int8 for value in tensors.values())
            assert card["encoding"] == ("int8 rows" if rows else "float16"), path
            assert card["relative_error"] <= 0.05, path


def test_the_weights_of_the_book_take_20_mb_at_most_and_its_recordings_4():
    """The final budget of the weights is 30 MB, for 31 chapters; the 17 that are written get two thirds of it."""
    sizes = [
        sum(path.stat().st_size for path in shelf.iterdir()) for shelf in (checkpoints.SHIPPED, checkpoints.RECORDINGS)
    ]
    assert sizes[0] <= 20 * MB
    assert sizes[1] <= 4 * MB


def test_the_wheel_holds_weights_and_recordings():
    """The build takes the package's folder whole, so they only have to lie in it and be in no ignored place."""
    root = Path(checkpoints.__file__).parents[1]
    build = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert build == {"packages": ["gensrc"]}
    for shelf in (checkpoints.SHIPPED, checkpoints.RECORDINGS):
        assert shelf.parent == root / "gensrc"


# --- settings ---


@dataclass(frozen=True)
class Sizes:
    width: int
    shape: tuple[int, ...] = (1, 2)


SETTINGS = [
    ((1, (2, 3)), [1, [2, 3]]),
    ({1: {2: (3,)}}, {"1": {"2": [3]}}),
    (np.float32(0.5), 0.5),
    (np.int64(7), 7),
    (np.bool_(True), True),
    (np.arange(3), [0, 1, 2]),
    (torch.tensor(3), 3),
    (torch.Size([1, 28]), [1, 28]),
    (Path("a") / "b", str(Path("a") / "b")),
    (math.inf, "inf"),
    (math.nan, "nan"),
    (None, None),
    (range(2), [0, 1]),
    ({"b", "a"}, ["a", "b"]),
    (Sizes(3), {"width": 3, "shape": [1, 2]}),
]


@pytest.mark.parametrize(("value", "kept"), SETTINGS, ids=lambda value: type(value).__name__)
def test_a_setting_equals_itself_when_it_is_read_again(folder, value, kept):
    config = CONFIG | {"more": value}
    checkpoints.save_weights("digits", vae.VAE(**CONFIG), config=config, about="a test")
    card = (folder / "digits.json").read_text()
    assert json.loads(card, parse_constant=pytest.fail)["config"]["more"] == kept
    checkpoints.load_weights("digits", vae.VAE(**CONFIG), config=config)


def test_a_setting_that_no_card_can_hold_is_named(folder):
    with pytest.raises(checkpoints.CheckpointError, match="a card cannot hold the setting <function .*: use numbers"):
        checkpoints.save_weights("digits", vae.VAE(**CONFIG), config={"loss": saved}, about="a test")


# --- weights and settings that a file cannot hold ---


@pytest.mark.parametrize(
    ("bits", "value"), [(8, math.nan), (16, math.inf), (32, -math.inf), (16, 1e5), (8, 1e8), (8, 1e5)]
)
def test_weights_that_a_file_cannot_hold_are_named(bits, value, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path / "checkpoints")
    model = torch.nn.Linear(32, 32)
    part = model.bias if value == 1e5 else model.weight
    with torch.no_grad():
        part[3] = value
    with pytest.raises(checkpoints.CheckpointError, match="bias has values" if value == 1e5 else "weight has values"):
        checkpoints.save_weights("wrong", model, config={}, about="nothing", bits=bits)


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_a_buffer_of_small_whole_numbers_is_kept(bits, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path / "checkpoints")
    model = torch.nn.Linear(32, 32)
    model.register_buffer("moves", torch.arange(-4, 4, dtype=torch.int8))
    checkpoints.save_weights("moves", model, config={}, about="nothing", bits=bits)
    model.moves.zero_()
    assert checkpoints.load_weights("moves", model, config={}).moves.tolist() == list(range(-4, 4))


@pytest.mark.parametrize(("wrong", "message"), [({1, "b"}, "no order"), ({1: 2, "1": 3}, "same as text")])
def test_settings_that_would_be_lost_are_named(wrong, message):
    with pytest.raises(checkpoints.CheckpointError, match=message):
        checkpoints.as_json({"setting": wrong})
