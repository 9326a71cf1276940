"""Schedules of the learning rate, and which weights decay."""

import pytest
from torch import nn

from gensrc import training


def test_cosine_falls_from_one_to_zero():
    factors = [training.cosine(100)(step) for step in range(101)]
    assert factors[0] == 1
    assert factors[50] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0)
    assert factors == sorted(factors, reverse=True)
    with pytest.raises(ValueError, match="steps must be at least 1, not 0"):
        training.cosine(0)


def test_a_warmed_up_cosine_rises_evenly_and_falls_to_its_floor():
    schedule = training.warmup_cosine(110, warmup=10, floor=0.1)
    factors = [schedule(step) for step in range(111)]
    assert factors[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert factors[10] == 1
    assert factors[60] == pytest.approx(0.55)
    assert factors[110] == pytest.approx(0.1)
    assert [training.warmup_cosine(50, warmup=0)(step) for step in range(51)] == [
        training.cosine(50)(step) for step in range(51)
    ]
    for wrong in ({"warmup": 50}, {"warmup": -1}, {"warmup": 0, "floor": 1.5}):
        with pytest.raises(ValueError, match="need 0 <= warmup < steps and 0 <= floor <= 1"):
            training.warmup_cosine(50, **wrong)


def test_matrices_decay_and_biases_and_norms_do_not():
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 4), nn.LayerNorm(4))
    model[1].weight.requires_grad_(False)
    decayed, kept = training.decay_groups(model, 0.1)
    assert [group["weight_decay"] for group in (decayed, kept)] == [0.1, 0.0]
    assert [weight.shape for weight in decayed["params"]] == [(5, 3)]
    assert [weight.shape for weight in kept["params"]] == [(4,), (4,), (4,)]
