"""What all models have in common, tried on each of them."""

import pytest
import torch

from gensrc import checkpoints
from tests.models.cases import CASES, with_a_loss


def test_no_model_is_left_out():
    assert with_a_loss() == {case.kind for case in CASES.values()}


# --- configurations ---


@pytest.mark.parametrize("name", CASES)
def test_a_model_is_loaded_by_the_configuration_that_saved_it(name, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path / "gensrc" / "checkpoints")
    monkeypatch.chdir(tmp_path)
    case = CASES[name]
    model = case.model()
    checkpoints.save_weights("small", model, config=case.config, about="a test", bits=32)
    loaded = checkpoints.load_weights("small", case.model(), config=case.config)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
