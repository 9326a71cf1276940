"""The decoder of levels: its probabilities sum to one and come from logistic distribution functions."""

import math

import pytest
import torch

from gensrc.models.distributions import LEVELS, DiscretizedLogisticMixture, bits_per_dimension
from gensrc.models.vae.discretized import DiscretizedVAE
from gensrc.models.vae.vae import importance_weighted_bound, standard_normal_log_prob


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixture(pixels: int = 6, parts: int = 3) -> DiscretizedLogisticMixture:
    logits, loc, log_scale = torch.randn(3, parts, 1, 1, pixels, generator=generator())
    return DiscretizedLogisticMixture(logits, loc, log_scale - 3)


def all_levels(pixels: int = 6) -> torch.Tensor:
    return torch.arange(LEVELS).view(-1, 1, 1, 1).expand(-1, 1, 1, pixels) / (LEVELS - 1)


def pictures(n: int, size: int = 2) -> torch.Tensor:
    return torch.randint(0, LEVELS, (n, 1, size, size), generator=generator(3)) / (LEVELS - 1)


def tiny() -> DiscretizedVAE:
    torch.manual_seed(0)
    return DiscretizedVAE(image_shape=(1, 2, 2), hidden_dim=8, latent_dim=1, num_components=2)


def test_probabilities_of_all_levels_sum_to_one():
    total = mixture().log_prob(all_levels()).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-4, rtol=0)


@pytest.mark.parametrize("level", [0, 1, 100, 254, 255])
def test_a_levels_probability_is_that_of_its_bin_under_the_logistic(level):
    p, x = mixture(), torch.full((1, 1, 6), level / 255)
    low = torch.where(x < 0.001, -torch.inf, x - 0.5 / 255).double()
    high = torch.where(x > 0.999, torch.inf, x + 0.5 / 255).double()
    scale = p.log_scale.double().exp()
    gained = torch.sigmoid((high - p.loc) / scale) - torch.sigmoid((low - p.loc) / scale)
    expected = (p.log_share.double().exp() * gained).sum(-4)
    torch.testing.assert_close(p.log_prob(x).double().exp(), expected, atol=1e-6, rtol=1e-3)


def test_the_narrowest_component_gives_a_level_what_that_of_pixelcnn_plus_plus_does():
    level = torch.tensor(100 / 255)
    certain = DiscretizedLogisticMixture(*(torch.full((1, 1, 1, 1), each) for each in (0.0, float(level), -99.0)))
    found = certain.log_prob(level.view(1, 1, 1)).exp()
    # Levels from -1 to 1 are twice as far apart, and the least scale is exp(-7).
    bin_of_one = 2 * torch.sigmoid(torch.tensor(math.exp(7) / 255)) - 1
    assert float(found) == pytest.approx(float(bin_of_one), abs=1e-3)
    assert float(found) > 0.97


def test_far_tails_stay_finite_and_keep_a_gradient():
    loc = torch.zeros(1, 1, 1, 1, requires_grad=True)
    p = DiscretizedLogisticMixture(torch.zeros(1, 1, 1, 1), loc, torch.full((1, 1, 1, 1), -200.0))
    value = p.log_prob(torch.full((1, 1, 1), 200 / 255))
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert loc.grad is not None
    assert loc.grad.item() > 0


def test_samples_are_levels_with_the_probabilities_of_log_prob():
    p = mixture(pixels=2)
    many = DiscretizedLogisticMixture(*(t.expand(20_000, *t.shape) for t in (p.log_share, p.loc, p.log_scale)))
    drawn = many.sample(generator(1))
    levels = (drawn * 255).round()
    torch.testing.assert_close(drawn, levels / 255)
    probability = p.log_prob(all_levels(2)).exp()[:, 0, 0]
    for pixel in range(2):
        found = torch.bincount(levels[..., pixel].flatten().long(), minlength=LEVELS) / 20_000
        error = (found - probability[:, pixel]).abs()
        assert (error < 5 * (probability[:, pixel] / 20_000).sqrt() + 1e-3).all()


def test_elbo_lies_below_the_exact_likelihood_and_many_weights_reach_it():
    model, x = tiny(), pictures(8)
    z = torch.linspace(-8, 8, 4001).view(-1, 1)
    with torch.no_grad():
        likelihood = model.decode(z).log_prob(x.unsqueeze(1)).flatten(2).sum(2)
        exact = torch.logsumexp(likelihood + standard_normal_log_prob(z), 1) + math.log(16 / 4000)
        weights = model.log_weights(x, 20_000, generator=generator(1))
    assert (importance_weighted_bound(weights, 1) < exact + 0.02).all()
    torch.testing.assert_close(importance_weighted_bound(weights, 20_000), exact, atol=0.02, rtol=0)


def test_a_small_step_gains_what_the_slope_of_the_loss_says(gains_what_its_slope_says):
    model, x = tiny(), pictures(64).round()

    def loss():
        torch.manual_seed(3)
        return model.loss(x)

    gains_what_its_slope_says(model.parameters(), loss)


@pytest.mark.parametrize("mean", [False, True])
def test_samples_have_the_shape_of_pictures(mean):
    assert tiny().sample(3, mean=mean, generator=generator()).shape == (3, 1, 2, 2)


def test_a_uniform_byte_costs_eight_bits():
    assert bits_per_dimension(torch.tensor(784 * math.log(256))).item() == pytest.approx(8)


@pytest.mark.parametrize(("pixel", "said"), [(-0.5, "divide"), (1.5, "divide"), (0.5, "round the")])
def test_pixels_between_levels_are_refused(pixel, said):
    with pytest.raises(ValueError, match=said):
        tiny().loss(torch.full((2, 1, 2, 2), pixel))


def test_zero_components_are_refused():
    with pytest.raises(ValueError, match="num_components must be at least 1"):
        DiscretizedVAE(num_components=0)
