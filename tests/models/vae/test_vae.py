"""The VAE's mathematics: closed forms against torch.distributions, bounds against exact likelihoods, gradients."""

import itertools
import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from gensrc.models.vae import vae


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny(likelihood: str = "bernoulli", latent_dim: int = 1) -> vae.VAE:
    """A VAE of 2x2 pictures with weights large enough that its decoder depends on z."""
    torch.manual_seed(0)
    model = vae.VAE(image_shape=(1, 2, 2), hidden_dim=8, latent_dim=latent_dim, likelihood=likelihood)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2)
    return model


def all_binary_pictures() -> torch.Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=4))).view(16, 1, 2, 2)


def exact_log_likelihood(model: vae.VAE, x: torch.Tensor) -> torch.Tensor:
    """log p(x) for a one-dimensional z by the trapezoidal rule on a fine grid."""
    z = torch.linspace(-8, 8, 4001).view(-1, 1)
    prior = vae.standard_normal_log_prob(z)
    likelihood = model.decode(z).log_prob(x.unsqueeze(1)).flatten(2).sum(2)
    return torch.logsumexp(likelihood + prior, dim=1) + math.log(16 / 4000)


def test_kl_equals_torch_distributions():
    mean, log_var = torch.randn(2, 64, 7, generator=generator())
    theirs = kl_divergence(Normal(mean, (log_var / 2).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(vae.gaussian_kl(mean, log_var), theirs)


def test_log_probabilities_equal_torch_distributions():
    z, mean, log_var = torch.randn(3, 64, 7, generator=generator())
    torch.testing.assert_close(
        vae.gaussian_log_prob(z, mean, log_var), Normal(mean, (log_var / 2).exp()).log_prob(z).sum(1)
    )
    torch.testing.assert_close(vae.standard_normal_log_prob(z), Normal(0.0, 1.0).log_prob(z).sum(1))


def test_exact_probabilities_of_all_pictures_sum_to_one():
    log_likelihood = exact_log_likelihood(tiny(), all_binary_pictures())
    assert log_likelihood.exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_elbo_lies_below_and_importance_weighted_bound_rises_to_the_exact_likelihood():
    model, x = tiny(), all_binary_pictures()
    with torch.no_grad():
        exact = exact_log_likelihood(model, x).mean().item()
        weights = model.log_weights(x, 20_000, generator=generator(1))
    bounds = [vae.importance_weighted_bound(weights, k).mean().item() for k in (1, 10, 100, 20_000)]
    assert bounds[0] < bounds[1] < bounds[2] < bounds[3] + 1e-3
    assert bounds[0] < exact - 0.01
    assert bounds[3] == pytest.approx(exact, abs=0.01)


def test_elbo_is_the_bound_of_one_weight():
    model, x = tiny(latent_dim=3), all_binary_pictures()
    with torch.no_grad():
        bounds = torch.stack([model.elbo(x, generator=generator(seed)).bound for seed in range(3000)])
        weights = model.log_weights(x, 30_000, generator=generator(9))
    standard_error = (bounds.var(0) / 3000 + weights.var(1) / 30_000).sqrt()
    difference = bounds.mean(0) - vae.importance_weighted_bound(weights, 1)
    assert ((difference / standard_error).abs() < 4.5).all()


@pytest.mark.parametrize("likelihood", ["continuous_bernoulli", "gaussian"])
def test_grey_decoders_are_densities(likelihood):
    pixel = tiny(likelihood).decode(torch.zeros(1, 1))
    low, high = (0, 1) if likelihood == "continuous_bernoulli" else (-12, 12)
    grid = torch.linspace(low, high, 20_001).view(-1, 1, 1, 1)
    with torch.no_grad():
        integral = torch.trapezoid(pixel.log_prob(grid.expand(-1, 1, 2, 2)).exp(), grid, dim=0)
    torch.testing.assert_close(integral, torch.ones_like(integral), atol=1e-3, rtol=0)


def test_loss_does_not_depend_on_the_size_of_the_batch():
    model, x = tiny(), all_binary_pictures()
    with torch.no_grad():
        model.encoder[-1].weight.zero_()
        model.encoder[-1].bias.copy_(torch.tensor([0.3, -30.0]))  # sd ~ 0: no noise in the loss
    torch.testing.assert_close(model.loss(x), model.loss(x.repeat(5, 1, 1, 1)))


def test_gradient_reaches_mean_and_variance_of_the_code():
    model = tiny(latent_dim=2)
    model.loss(all_binary_pictures()).backward()
    last = model.encoder[-1].weight.grad
    assert (last.abs().sum(1) > 0).all()


@pytest.mark.parametrize("likelihood", vae.LIKELIHOODS)
def test_sample_has_the_moments_of_the_model(likelihood):
    model = tiny(likelihood)
    pictures = model.sample(40_000, generator=generator(2))
    means = model.sample(40_000, mean=True, generator=generator(3))
    assert pictures.shape == (40_000, 1, 2, 2)
    standard_error = ((pictures.var(0) + means.var(0)) / 40_000).sqrt()
    assert ((pictures.mean(0) - means.mean(0)) / standard_error).abs().max() < 4.5
    if likelihood == "bernoulli":
        assert set(pictures.unique().tolist()) == {0.0, 1.0}


def test_sample_is_a_function_of_the_generator():
    model = tiny()
    first, again, other = (model.sample(20, generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_number_of_parameters_is_the_articles():
    assert sum(weight.numel() for weight in vae.VAE(hidden_dim=400, latent_dim=20).parameters()) == 652_824


def test_a_given_scale_is_used_and_not_learned():
    model = vae.VAE(image_shape=(1, 2, 2), hidden_dim=8, latent_dim=1, likelihood="gaussian", scale=0.25)
    assert model.decode(torch.zeros(1, 1)).stddev.unique().item() == pytest.approx(0.25)
    model.loss(all_binary_pictures()).backward()
    assert model.log_scale.grad is None
    learned = tiny("gaussian")
    learned.loss(all_binary_pictures()).backward()
    assert learned.log_scale.grad.abs() > 0


def test_without_hidden_layers_the_networks_are_linear():
    model = vae.VAE(image_shape=(1, 2, 2), latent_dim=3, likelihood="gaussian", hidden_layers=0)
    one, other = torch.randn(2, 5, 3, generator=generator())
    middle = model.decode((one + other) / 2).mean
    torch.testing.assert_close(middle, (model.decode(one).mean + model.decode(other).mean) / 2)


def test_hidden_layers_are_counted():
    deep = vae.VAE(image_shape=(1, 2, 2), hidden_dim=8, latent_dim=1, hidden_layers=2)
    for network in (deep.encoder, deep.decoder):
        assert sum(isinstance(part, torch.nn.Linear) for part in network) == 3


def test_beta_weights_the_divergence_only():
    model, x = tiny(latent_dim=2), all_binary_pictures()
    torch.manual_seed(1)
    terms = model.elbo(x)
    model.beta = 3.0
    torch.manual_seed(1)
    torch.testing.assert_close(model.loss(x), (3 * terms.kl - terms.reconstruction).mean())


def test_free_nats_are_the_least_divergence_of_each_variable():
    mean = torch.tensor([[2.0, 0.0], [0.0, 0.0]], requires_grad=True)
    log_var = torch.zeros(2, 2)
    # KLs of the two variables, averaged over the batch: (2 + 0) / 2 = 1 and 0.
    charged = vae.free_nats_kl(mean, log_var, 0.5)
    assert charged.item() == pytest.approx(1.5)
    charged.backward()
    assert mean.grad[0, 0] != 0
    assert not mean.grad[:, 1].any()
    assert vae.free_nats_kl(mean, log_var, 0.0).item() == pytest.approx(vae.gaussian_kl(mean, log_var).mean().item())


def test_loss_with_free_nats_replaces_the_divergence():
    model, x = tiny(latent_dim=2), all_binary_pictures()
    torch.manual_seed(1)
    terms = model.elbo(x)
    model.free_nats = 5.0
    torch.manual_seed(1)
    expected = vae.free_nats_kl(*model.encode(x), 5.0) - terms.reconstruction.mean()
    torch.testing.assert_close(model.loss(x), expected)
    assert expected != (terms.kl - terms.reconstruction).mean()


@pytest.mark.parametrize(
    ("likelihood", "scale", "message"),
    [
        ("bernoulli", 0.5, "it is 0.5, and the decoder bernoulli"),
        ("gaussian", 0.0, "must be positive; it is 0.0, and the decoder gaussian"),
    ],
)
def test_wrong_scales_are_refused(likelihood, scale, message):
    with pytest.raises(ValueError, match=message):
        vae.VAE(likelihood=likelihood, scale=scale)


def test_a_negative_number_of_hidden_layers_is_refused():
    with pytest.raises(ValueError, match="hidden_layers must be at least 0, not -1"):
        vae.VAE(hidden_layers=-1)


def test_autoencoder_loss_is_the_cross_entropy_of_its_own_picture():
    torch.manual_seed(0)
    model = vae.Autoencoder(image_shape=(1, 2, 2), hidden_dim=8, latent_dim=2)
    x = torch.rand(5, 1, 2, 2)
    rebuilt = model.decode(model.encode(x))
    by_hand = -(x * rebuilt.log() + (1 - x) * (1 - rebuilt).log()).sum() / 5
    torch.testing.assert_close(model.loss(x), by_hand)


@pytest.mark.parametrize("likelihood", ["bernoulli", "continuous_bernoulli"])
def test_pixels_out_of_range_are_refused(likelihood):
    with pytest.raises(ValueError, match=rf"the {likelihood} decoder wants pixels in \[0, 1\].*\[-1, 1\]"):
        tiny(likelihood).loss(2 * all_binary_pictures() - 1)


def test_gaussian_decoder_takes_any_pixels():
    assert torch.isfinite(tiny("gaussian").loss(2 * all_binary_pictures() - 1))


@pytest.mark.parametrize("kind", [vae.VAE, vae.Autoencoder])
@pytest.mark.parametrize("size", [{"latent_dim": 0}, {"hidden_dim": -3}])
def test_bad_sizes_are_refused(kind, size):
    (name, value), *_ = size.items()
    with pytest.raises(ValueError, match=f"{name} must be at least 1, not {value}"):
        kind(**size)


def test_unknown_likelihood_is_refused():
    with pytest.raises(ValueError, match="likelihood must be one of bernoulli, continuous_bernoulli, gaussian"):
        vae.VAE(likelihood="poisson")


@pytest.mark.parametrize("k", [0, 11])
def test_bound_refuses_more_samples_than_there_are(k):
    with pytest.raises(ValueError, match=f"k must lie between 1 and the 10 weights an example, not {k}"):
        vae.importance_weighted_bound(torch.zeros(3, 10), k)


def test_beta_also_weights_the_divergence_with_free_nats():
    model, x = tiny(latent_dim=2), all_binary_pictures()
    model.free_nats = 0.3
    losses = []
    for beta in (1.0, 3.0):
        model.beta = beta
        torch.manual_seed(4)
        losses.append(model.loss(x))
    charged = vae.free_nats_kl(*model.encode(x), 0.3)
    torch.testing.assert_close(losses[1] - losses[0], 2 * charged)
