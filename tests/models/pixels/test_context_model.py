"""The context model: a distribution over all pictures, the best one of its kind, read in order."""

import itertools

import pytest
import torch

from gensrc.models.pixels.context_model import TEMPLATE, ContextModel, contexts


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(n: int, size: int = 8) -> torch.Tensor:
    return (torch.rand(n, 1, size, size, generator=generator()) < 0.3).float()


def test_probabilities_of_all_pictures_sum_to_one():
    everything = torch.tensor(list(itertools.product((0.0, 1.0), repeat=12))).view(-1, 1, 4, 3)
    model = ContextModel().fit(pictures(50))
    assert model.log_prob(everything).exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_a_context_is_the_ten_earlier_neighbours():
    x = pictures(1)
    here = contexts(x)[0]
    for row, column in ((0, 0), (3, 4), (7, 7), (1, 6)):
        bits = 0
        for down, right in TEMPLATE:
            i, j = row + down, column + right
            inside = 0 <= i < 8 and 0 <= j < 8
            bits = 2 * bits + (int(x[0, 0, i, j]) if inside else 0)
        assert here[row, column].item() == bits
    assert all(down < 0 or (down == 0 and right < 0) for down, right in TEMPLATE)
    assert len(set(TEMPLATE)) == 10


def test_no_probability_depends_on_later_pixels():
    x = pictures(1)
    changed = x.clone()
    changed[0, 0, 4, 3] = 1 - changed[0, 0, 4, 3]
    same = contexts(x)[0] == contexts(changed)[0]
    assert same[:4].all()
    assert same[4, :4].all()
    assert not same.all()


def test_fitted_probabilities_are_the_frequencies():
    model = ContextModel().fit(torch.zeros(3, 1, 4, 4)).fit(torch.ones(1, 1, 1, 1))
    assert model.counts[0].tolist() == [48, 1]
    assert model.white[0].item() == pytest.approx(1.5 / 50)
    assert model.white[5].item() == 0.5
    assert model.log_prob(torch.zeros(1, 1, 2, 2)).item() == pytest.approx(4 * torch.tensor(48.5 / 50).log().item())


def test_fitted_probabilities_maximise_the_likelihood():
    x = pictures(200)
    model = ContextModel().fit(x)
    best = model.loss(x)
    for counts in (model.counts.roll(1, 0), model.counts.flip(1), 1 + model.counts // 3):
        other = ContextModel()
        other.counts = counts
        assert other.loss(x) > best


def test_samples_have_the_probabilities_of_log_prob():
    model = ContextModel().fit((torch.rand(200, 1, 6, 6, generator=generator(2)) < 0.3).float())
    everything = torch.tensor(list(itertools.product((0.0, 1.0), repeat=6))).view(-1, 1, 3, 2)
    drawn = model.sample(40_000, size=(3, 2), generator=generator(3))
    index = (drawn.flatten(1) * 2.0 ** torch.arange(5, -1, -1)).sum(1).long()
    found = torch.bincount(index, minlength=64) / 40_000
    expected = model.log_prob(everything).exp()
    assert ((found - expected).abs() < 4.5 * (expected / 40_000).sqrt()).all()


@pytest.mark.parametrize("call", ["fit", "log_prob"])
def test_grey_pictures_are_refused(call):
    with pytest.raises(ValueError, match="binarise the pictures first"):
        getattr(ContextModel(), call)(torch.full((1, 1, 4, 4), 0.5))
