"""Positions: sinusoidal ones by their formula, and rotary ones, whose scores depend on offsets only."""

import math

import pytest
import torch

from gensrc.models.transformers import positions


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_sinusoidal_positions_follow_the_formula():
    found = positions.sinusoidal(torch.arange(50), 16)
    for position in (0, 1, 49):
        for i in range(8):
            angle = position / 10_000 ** (2 * i / 16)
            assert found[position, 2 * i] == pytest.approx(math.sin(angle), abs=1e-5)
            assert found[position, 2 * i + 1] == pytest.approx(math.cos(angle), abs=1e-5)
    torch.testing.assert_close(positions.sinusoidal(torch.tensor([[7], [3]]), 16)[:, 0], found[[7, 3]])


@pytest.mark.parametrize("shift", [1, 10])
def test_a_shift_of_sinusoidal_positions_is_one_rotation_for_all(shift):
    angles = shift * positions.frequencies(16)
    turn = torch.zeros(16, 16)
    for i, angle in enumerate(angles):
        c, s = angle.cos(), angle.sin()
        turn[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = torch.stack([torch.stack([c, s]), torch.stack([-s, c])])
    table = positions.sinusoidal(torch.arange(60), 16)
    torch.testing.assert_close(table[:40] @ turn.T, table[shift : 40 + shift], atol=1e-5, rtol=0)


def test_rope_keeps_norms_and_scores_depend_on_offsets_only():
    q, k = numbers(1, 2, 1, 8).expand(1, 2, 30, 8), numbers(1, 2, 1, 8, seed=1).expand(1, 2, 30, 8)
    turn = positions.rope(torch.arange(30)[None], 8)
    turned_q, turned_k = positions.apply_rope(q, turn), positions.apply_rope(k, turn)
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm(dim=-1))
    torch.testing.assert_close(turned_q[:, :, 0], q[:, :, 0])
    scores = turned_q @ turned_k.transpose(-2, -1)
    for offset in (-20, -1, 0, 3, 20):
        along = scores.diagonal(offset, dim1=-2, dim2=-1)
        torch.testing.assert_close(along, along[..., :1].expand_as(along), atol=1e-4, rtol=0)
    assert (scores[..., 0, 1] - scores[..., 1, 0]).abs().max() > 0.1


def test_rope_is_multiplication_by_a_complex_number():
    x, places = numbers(2, 3, 5, 8), torch.tensor([[4, 0, 9, 2, 1], [0, 1, 2, 3, 4]])
    angles = places[:, None, :, None] * positions.frequencies(8)
    expected = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.polar(torch.ones_like(angles), angles)
    found = positions.apply_rope(x, positions.rope(places, 8))
    torch.testing.assert_close(found, torch.view_as_real(expected).flatten(-2), atol=1e-5, rtol=0)


def test_rope_keeps_the_dtype():
    turn = positions.rope(torch.arange(3)[None], 8)
    assert positions.apply_rope(numbers(1, 2, 3, 8).bfloat16(), turn).dtype == torch.bfloat16


def test_odd_widths_are_refused():
    with pytest.raises(ValueError, match="positions go by pairs of features: 7 is an odd width"):
        positions.sinusoidal(torch.arange(3), 7)
    with pytest.raises(ValueError, match="3 is an odd width"):
        positions.rope(torch.arange(3)[None], 3)
