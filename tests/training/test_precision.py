"""Which arithmetic a training uses."""

import pytest
import torch

from gensrc import training


def test_precision_is_forced_by_the_environment_and_refuses_nonsense(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setenv("GENSRC_PRECISION", "float32")
    assert str(training.precision(cpu)) == "float32"
    monkeypatch.setenv("GENSRC_PRECISION", "bfloat16")
    with training.precision(cpu).autocast():
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.bfloat16
    monkeypatch.setenv("GENSRC_PRECISION", "float8")
    with pytest.raises(ValueError, match="GENSRC_PRECISION must be float32 or bfloat16, not 'float8'"):
        training.precision(cpu)
