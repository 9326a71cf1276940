"""Patterns: of the size asked for, within [0, 1], and built as their names say."""

import pytest
import torch

from gensrc.data.patterns import GLASS, INDIGO, PAPER, mosaic, waves


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("picture", [mosaic(20, 31, generator=generator()), waves(20, 31)])
def test_a_pattern_is_a_picture_in_colour(picture):
    assert picture.shape == (1, 3, 20, 31)
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert picture.std() > 0.1


def test_a_pane_has_the_colour_of_the_nearest_point():
    picture = mosaic(40, 60, tiles=5, generator=generator(3))
    source = generator(3)
    centres = torch.rand(5, 2, generator=source) * torch.tensor([40, 60])
    colours = torch.tensor(GLASS)[torch.randint(0, len(GLASS), (5,), generator=source)]
    panes = 0
    for row, column in torch.cartesian_prod(torch.arange(0, 40, 7), torch.arange(0, 60, 7)).tolist():
        away = (torch.tensor([row + 0.5, column + 0.5]) - centres).norm(dim=1)
        first, second = away.topk(2, largest=False).values
        if second - first > 2:  # then the line between them is more than 1 away
            panes += 1
            torch.testing.assert_close(picture[0, :, row, column], colours[away.argmin()])
    assert panes > 20


def test_waves_repeat_after_a_disc_to_the_right_and_a_radius_below():
    picture = waves(64, 64, radius=16.0)
    torch.testing.assert_close(picture[..., 32:], picture[..., :32], atol=1e-3, rtol=0)
    torch.testing.assert_close(picture[..., 16:48, :], picture[..., 32:64, :], atol=1e-3, rtol=0)
    # Each row stands between the discs of the one above it.
    torch.testing.assert_close(picture[..., 16:40, 16:], picture[..., 24:48, :48], atol=1e-3, rtol=0)
    assert not torch.allclose(picture[..., 16:40, :], picture[..., 24:48, :], atol=0.1)


def test_waves_are_of_paper_and_indigo_and_mixtures():
    pixels = waves(48, 48, radius=12.0).flatten(2)[0].T
    paper, indigo = torch.tensor(PAPER), torch.tensor(INDIGO)
    share = ((pixels - indigo) @ (paper - indigo)) / (paper - indigo).square().sum()
    torch.testing.assert_close(pixels, indigo + share[:, None] * (paper - indigo))
    assert share.min() < 0.05
    assert share.max() > 0.95


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="must have pixels, not 0 by 5"):
        waves(0, 5)
    with pytest.raises(ValueError, match="radius must be positive"):
        waves(5, 5, radius=0.0)
    with pytest.raises(ValueError, match="at least 2 tiles"):
        mosaic(5, 5, tiles=1)
