"""Weights come back as they were saved, or an error says why not; no half-written file is ever left."""

import errno
import json
import os

import pytest
import torch

from gensrc import checkpoints
from gensrc.models.vae import vae

CONFIG = {"hidden_dim": 8, "latent_dim": 2}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path / "package" / "gensrc" / "checkpoints")
    return tmp_path / "gensrc-output"


def saved(half: bool = True) -> vae.VAE:
    torch.manual_seed(0)
    model = vae.VAE(**CONFIG)
    checkpoints.save_weights("digits", model, config=CONFIG, about="a test", half=half)
    return model


@pytest.mark.parametrize("half", [False, True])
def test_weights_come_back(folder, half):
    model = saved(half)
    loaded = checkpoints.load_weights("digits", vae.VAE(**CONFIG), config=CONFIG)
    for name, value in model.state_dict().items():
        expected = value.half().float() if half else value
        assert torch.equal(loaded.state_dict()[name], expected), name
    assert not loaded.training


def test_the_card_says_what_is_in_the_file(folder):
    saved()
    card = json.loads((folder / "digits.json").read_text())
    assert (card["model"], card["config"]) == ("VAE", CONFIG)
    assert card["bytes"] == (folder / "digits.safetensors").stat().st_size


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
        checkpoints.save_weights("big", torch.nn.Linear(2000, 2000), config={}, about="a test")
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


def test_every_shipped_checkpoint_matches_its_card():
    assert checkpoints.names()
    for path in checkpoints.SHIPPED.glob("*.safetensors"):
        card = json.loads(path.with_suffix(".json").read_text())
        assert path.stat().st_size == card["bytes"] <= checkpoints.LARGEST
