"""Hierarchies: products of Gaussians, divergences by layers, bounds against exact likelihoods."""

import itertools
import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from gensrc.models.vae import hierarchical, vae
from gensrc.models.vae.hierarchical import Gaussian, HierarchicalVAE, LadderVAE

KINDS = [HierarchicalVAE, LadderVAE]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny(kind: type[HierarchicalVAE], latent_dims: tuple[int, ...] = (1, 1)) -> HierarchicalVAE:
    """A hierarchy over 2x2 pictures with weights large enough that all layers matter."""
    torch.manual_seed(0)
    model = kind(image_shape=(1, 2, 2), latent_dims=latent_dims, hidden_dim=6)
    with torch.no_grad():
        for weight in model.decoder.parameters():
            weight.mul_(2)
        for _ in range(30):
            model.loss(all_binary_pictures())
    return model.eval()  # with batch normalisation an example depends on its batch in training


def all_binary_pictures() -> torch.Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=4))).view(16, 1, 2, 2)


def exact_log_likelihood(model: HierarchicalVAE) -> torch.Tensor:
    """log p(x) of all pictures, for one variable in each of two layers, by sums on a fine grid."""
    line = torch.linspace(-10, 10, 801).view(-1, 1)
    top = vae.standard_normal_log_prob(line)
    p = model.prior(0, line)
    below = Normal(p.mean, (p.log_var / 2).exp()).log_prob(line.view(1, -1))
    z = torch.logsumexp(top[:, None] + below, 0)  # log p(z_1), but for the grid's step
    pixels = model.decode(line).log_prob(all_binary_pictures().unsqueeze(1)).flatten(2).sum(2)
    return torch.logsumexp(pixels + z, 1) + 2 * math.log(20 / 800)


def test_kl_between_equals_torch_distributions():
    a, b, c, d = torch.randn(4, 9, 5, generator=generator())
    theirs = kl_divergence(Normal(a, (b / 2).exp()), Normal(c, (d / 2).exp())).sum(1)
    torch.testing.assert_close(hierarchical.kl_between(Gaussian(a, b), Gaussian(c, d)), theirs)


def test_product_is_the_normalised_product_of_the_densities():
    one, other = (
        Gaussian(torch.tensor([[0.7]]), torch.tensor([[-1.0]])),
        Gaussian(torch.tensor([[-0.4]]), torch.zeros(1, 1)),
    )
    grid = torch.linspace(-8, 8, 8001).view(-1, 1)
    density = (one.log_prob(grid) + other.log_prob(grid)).exp()
    density = density / torch.trapezoid(density, grid[:, 0])
    torch.testing.assert_close(hierarchical.product(one, other).log_prob(grid).exp(), density, atol=1e-5, rtol=1e-4)
    swapped = hierarchical.product(other, one)
    torch.testing.assert_close(swapped.mean, hierarchical.product(one, other).mean)


def test_product_adds_precisions():
    a, b, c, d = torch.randn(4, 9, 5, generator=generator())
    found = hierarchical.product(Gaussian(a, b), Gaussian(c, d))
    torch.testing.assert_close((-found.log_var).exp(), (-b).exp() + (-d).exp())
    vague = hierarchical.product(Gaussian(a, b), Gaussian(c, torch.full_like(d, 60.0)))
    torch.testing.assert_close(vague.mean, a)


def test_ladder_posterior_is_the_product_of_evidence_and_prior():
    model, x = tiny(LadderVAE, (3, 2)), all_binary_pictures()
    lower, upper = model.infer(x, 2, generator())
    hidden = model.climb[0](x.flatten(1))
    evidence = Gaussian(*model.evidence[0](hidden).chunk(2, -1))
    expected = hierarchical.product(Gaussian(*(part.expand(2, 16, 3) for part in evidence)), model.prior(0, upper.z))
    torch.testing.assert_close(lower.q.mean, expected.mean)
    torch.testing.assert_close(lower.q.log_var, expected.log_var)
    alone = model.evidence[1](model.climb[1](hidden)).chunk(2, -1)
    torch.testing.assert_close(upper.q.mean[0], alone[0])
    assert not upper.p.mean.any()
    assert not upper.p.log_var.any()


def test_plain_hierarchy_draws_its_posterior_upwards():
    model, x = tiny(HierarchicalVAE, (3, 2)), all_binary_pictures()
    lower, upper = model.infer(x, 2, generator())
    torch.testing.assert_close(lower.q.mean[1], model.encoders[0](x.flatten(1)).chunk(2, -1)[0])
    torch.testing.assert_close(upper.q.mean, model.encoders[1](lower.z).chunk(2, -1)[0])
    torch.testing.assert_close(lower.p.mean, model.prior(0, upper.z).mean)


@pytest.mark.parametrize("kind", KINDS)
def test_divergences_of_the_layers_add_up_to_the_total(kind):
    model, x = tiny(kind, (2, 2, 1)), all_binary_pictures()[:4]
    with torch.no_grad():
        layers = model.infer(x, 20_000, generator(1))
        charged = model.divergences(layers)
        total = torch.stack([layer.log_ratio for layer in layers]).sum(0)
    difference = charged.sum(-1) - total
    error = difference.std(0) / math.sqrt(20_000)
    assert charged.shape == (20_000, 4, 3)
    assert (difference.mean(0).abs() < 4.5 * error + 1e-5).all()


def test_every_divergence_of_the_ladder_is_its_monte_carlo_mean():
    model, x = tiny(LadderVAE, (2, 2, 1)), all_binary_pictures()[:4]
    with torch.no_grad():
        layers = model.infer(x, 20_000, generator(1))
        difference = model.divergences(layers) - torch.stack([layer.log_ratio for layer in layers], -1)
    error = difference.std(0) / math.sqrt(20_000)
    assert (difference.mean(0).abs() < 4.5 * error).all()


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_of_all_pictures_sum_to_one(kind):
    with torch.no_grad():
        assert exact_log_likelihood(tiny(kind)).exp().sum().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_rise_to_the_exact_likelihood(kind):
    model, x = tiny(kind), all_binary_pictures()
    with torch.no_grad():
        exact = exact_log_likelihood(model).mean().item()
        weights = model.log_weights(x, 20_000, generator=generator(1))
        elbo = torch.stack([model.elbo(x, generator=generator(seed)).bound.mean() for seed in range(1000)])
    bounds = [vae.importance_weighted_bound(weights, k).mean().item() for k in (1, 10, 20_000)]
    assert bounds[0] < bounds[1] < bounds[2] + 1e-3
    assert bounds[2] == pytest.approx(exact, abs=0.01)
    assert elbo.mean().item() == pytest.approx(bounds[0], abs=5 * elbo.std().item() / math.sqrt(1000) + 0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_models_moments(kind):
    model = tiny(kind)
    with torch.no_grad():
        chance = exact_log_likelihood(model).exp()
    expected = (chance.view(-1, 1, 1, 1) * all_binary_pictures()).sum(0)
    drawn = model.sample(20_000, generator=generator(3)).mean(0)
    means = model.sample(20_000, mean=True, generator=generator(4)).mean(0)
    torch.testing.assert_close(drawn, expected, atol=0.02, rtol=0)
    torch.testing.assert_close(means, expected, atol=0.02, rtol=0)


def test_posterior_means_average_over_samples():
    x = all_binary_pictures()
    ladder = tiny(LadderVAE, (3, 2))
    with torch.no_grad():
        lower, upper = ladder.posterior_means(x, samples=5, generator=generator())
        drawn = ladder.infer(x, 5, generator())
    torch.testing.assert_close(upper, drawn[1].q.mean[0])
    torch.testing.assert_close(lower, drawn[0].q.mean.mean(0))


@pytest.mark.parametrize("kind", KINDS)
def test_beta_weights_the_divergences_only(kind):
    model, x = tiny(kind), all_binary_pictures()
    torch.manual_seed(1)
    terms = model.elbo(x)
    model.beta = 0.25
    torch.manual_seed(1)
    torch.testing.assert_close(model.loss(x), (0.25 * terms.kl.sum(1) - terms.reconstruction).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_has_a_gradient(kind):
    torch.manual_seed(0)
    model = kind(image_shape=(1, 4, 8), latent_dims=(3, 2), hidden_dim=6)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    model.loss(torch.rand(5, 1, 4, 8, generator=generator()).round()).backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_in_evaluation_an_example_does_not_depend_on_its_batch(kind):
    model, x = tiny(kind, (3, 2)), all_binary_pictures()
    for trained in range(20):
        model.train().loss(x[trained % 3 :])
    model.eval()
    with torch.no_grad():
        together, alone = (model.infer(some, 1, generator())[0].q.mean[0, 0] for some in (x, x[:1]))
        if kind is HierarchicalVAE:
            torch.testing.assert_close(together, alone)
        normal = hierarchical.BatchNorm(3).train()
        out = normal(torch.randn(4, 50, 3, generator=generator()) * 5 + 2)
    torch.testing.assert_close(out.mean((0, 1)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std((0, 1)), torch.ones(3), atol=1e-2, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_is_refused(kind):
    with pytest.raises(ValueError, match=r"a hierarchy has at least two layers, not 1: take vae\.VAE for one"):
        kind(latent_dims=(8,))
    with pytest.raises(ValueError, match=r"sizes must be at least 1, not latent_dims=\(4, 0\)"):
        kind(latent_dims=(4, 0))
    with pytest.raises(ValueError, match="hidden_dim=0"):
        kind(hidden_dim=0)
    with pytest.raises(ValueError, match=r"wants pixels in \[0, 1\], these span \[-1, 1\]: rescale them"):
        tiny(kind).loss(2 * all_binary_pictures() - 1)
