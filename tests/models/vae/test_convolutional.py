"""Training on the k-sample bound and convolutional networks: closed forms, written-out gradients, bad input."""

import itertools
import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from gensrc.models.vae import convolutional as conv
from gensrc.models.vae import importance_weighted, vae


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weighted(samples: int, latent_dim: int = 2) -> importance_weighted.ImportanceWeightedVAE:
    """An importance-weighted VAE of 2x2 pictures whose decoder depends on z."""
    torch.manual_seed(0)
    model = importance_weighted.ImportanceWeightedVAE(
        samples=samples, image_shape=(1, 2, 2), hidden_dim=8, latent_dim=latent_dim
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2)
    return model


def all_binary_pictures() -> torch.Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=4))).view(16, 1, 2, 2)


def mean_and_error(model: vae.VAE, repeats: int = 300) -> tuple[float, float]:
    """The expected loss of all pictures, and the standard error of that."""
    x = all_binary_pictures().repeat(20, 1, 1, 1)
    with torch.no_grad():
        losses = torch.stack([model.loss(x) for _ in range(repeats)])
    return losses.mean().item(), (losses.std() / math.sqrt(repeats)).item()


def test_one_sample_is_the_evidence_lower_bound():
    one = weighted(1)
    plain = vae.VAE(image_shape=(1, 2, 2), hidden_dim=8, latent_dim=2)
    plain.load_state_dict(one.state_dict())
    (mine, my_error), (theirs, their_error) = mean_and_error(one), mean_and_error(plain)
    assert abs(mine - theirs) < 4.5 * math.hypot(my_error, their_error)


def test_expected_loss_falls_with_the_number_of_samples():
    found = [mean_and_error(weighted(samples)) for samples in (1, 2, 5, 20)]
    for (more, more_error), (less, less_error) in itertools.pairwise(found):
        assert more - less > 3 * math.hypot(more_error, less_error)


def test_gradient_is_that_of_the_samples_weighted_by_normalised_weights():
    """Burda et al., equation 13, written out: one log-weight and its gradient at a time."""
    model, x = weighted(3), all_binary_pictures()[5:7]
    torch.manual_seed(4)
    model.loss(x).backward()
    torch.manual_seed(4)
    noise = torch.randn(3, 2, 2)
    weights = list(model.parameters())
    expected = [torch.zeros_like(weight) for weight in weights]
    for example in range(2):
        log_w, gradients = [], []
        for sample in range(3):
            mean, log_var = (part[0] for part in model.encode(x[example : example + 1]))
            z = mean + (log_var / 2).exp() * noise[sample, example]
            chance = model.decode(z).probs[0].flatten()
            picture = x[example].flatten()
            value = (picture * chance.log() + (1 - picture) * (1 - chance).log()).sum()
            value = value - 0.5 * z.square().sum()
            value = value + 0.5 * (noise[sample, example].square() + log_var).sum()
            log_w.append(value.item())
            gradients.append(torch.autograd.grad(value, weights))
        shares = torch.tensor(log_w).softmax(0)
        for share, gradient in zip(shares, gradients, strict=True):
            for total, part in zip(expected, gradient, strict=True):
                total -= share * part / 2  # the mean over two examples
    for weight, gradient in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-4, atol=1e-5)


def linear_gaussian() -> tuple[importance_weighted.ImportanceWeightedVAE, torch.Tensor, torch.Tensor]:
    """x = W z + c + noise with orthogonal columns, pictures, and their exact log p(x)."""
    model = importance_weighted.ImportanceWeightedVAE(
        samples=10, image_shape=(1, 2, 2), latent_dim=2, likelihood="gaussian", hidden_layers=0, scale=0.5
    )
    w = torch.tensor([[1.0, 0.5], [1.0, -0.5], [-1.0, 0.5], [-1.0, -0.5]])
    c = torch.tensor([0.1, -0.2, 0.3, 0.0])
    spread = 1 / (1 + w.square().sum(0) / 0.25)  # the posterior variance of each coordinate
    with torch.no_grad():
        model.decoder[0].weight.copy_(w)
        model.decoder[0].bias.copy_(c)
        pull = spread[:, None] * w.T / 0.25
        model.encoder[0].weight.copy_(torch.cat([pull, torch.zeros(2, 4)]))
        model.encoder[0].bias.copy_(torch.cat([-pull @ c, spread.log()]))
    x = torch.randn(6, 4, generator=generator(1))
    exact = MultivariateNormal(c, w @ w.T + 0.25 * torch.eye(4)).log_prob(x)
    return model, x.view(6, 1, 2, 2), exact


def test_with_the_exact_posterior_every_weight_is_the_likelihood():
    model, x, exact = linear_gaussian()
    with torch.no_grad():
        weights = model.log_weights(x, 7)
        torch.testing.assert_close(weights, exact[:, None].expand(6, 7), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(model.loss(x), -exact.mean(), atol=1e-4, rtol=1e-4)


def test_with_a_wrong_posterior_the_bound_rises_to_the_exact_likelihood():
    model, x, exact = linear_gaussian()
    with torch.no_grad():
        model.encoder[0].bias[2:] += 1.0
        weights = model.log_weights(x, 40_000, generator=generator(2))
    bounds = [vae.importance_weighted_bound(weights, k).mean().item() for k in (1, 10, 40_000)]
    assert bounds[0] < bounds[1] < exact.mean().item()
    assert bounds[2] == pytest.approx(exact.mean().item(), abs=0.01)


def test_residual_block_is_initialised_as_the_identity():
    x = torch.randn(2, 3, 4, 4, generator=generator())
    assert torch.equal(conv.ZeroInitResidual(3)(x), x)


def convolutional() -> conv.ConvVAE:
    torch.manual_seed(0)
    return conv.ConvVAE(image_shape=(2, 8, 12), channels=3, latent_dim=4)


def test_convolutional_decoder_keeps_leading_axes():
    model, z = convolutional(), torch.randn(5, 3, 4, generator=generator())
    with torch.no_grad():
        together = model.decode(z).mean
        apart = torch.stack([model.decode(some).mean for some in z])
    assert together.shape == (5, 3, 2, 8, 12)
    torch.testing.assert_close(together, apart)


def test_convolutions_are_local_and_every_weight_has_a_gradient():
    model, x = convolutional(), torch.rand(3, 2, 8, 12, generator=generator()).round()
    model.loss(x).backward()
    model.zero_grad()
    with torch.no_grad():
        for block in (part for part in model.modules() if isinstance(part, conv.ZeroInitResidual)):
            block.second.weight.normal_(std=0.1)
    model.loss(x).backward()
    assert all(weight.grad.abs().sum() > 0 for weight in model.parameters())
    first = model.encoder[1](x)
    other = x.clone()
    other[:, :, 0, 0] = 1 - other[:, :, 0, 0]
    changed = (model.encoder[1](other) != first).any(1)
    assert changed[:, 0, 0].all()
    assert not changed[:, 1:, 1:].any()


def test_convolutional_bound_is_that_of_its_log_weights():
    model, x, draws = convolutional(), torch.rand(2, 2, 8, 12, generator=generator()).round(), 20_000
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5)  # else the divergence is next to nothing
        weights = model.log_weights(x, draws, generator=generator(1))
        bounds = model.elbo(x.repeat(draws, 1, 1, 1), generator=generator(2)).bound.reshape(draws, 2)
    error = ((weights.var(1) + bounds.var(0)) / draws).sqrt()
    assert ((weights.mean(1) - bounds.mean(0)).abs() < 4.5 * error).all()


def test_convolutional_sample_has_the_shape_of_the_pictures():
    pictures = convolutional().sample(3, generator=generator())
    assert pictures.shape == (3, 2, 8, 12)
    assert set(pictures.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("shape", [(1, 30, 28), (1, 28, 27)])
def test_pictures_that_cannot_be_halved_twice_are_refused(shape):
    with pytest.raises(ValueError, match=f"{shape[1]}x{shape[2]} is not divisible by 4: pad or crop them"):
        conv.ConvVAE(image_shape=shape)


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="channels must be at least 1, not 0"):
        conv.ConvVAE(channels=0)
    with pytest.raises(ValueError, match="latent_dim must be at least 1, not 0"):
        conv.ConvVAE(latent_dim=0)
    with pytest.raises(ValueError, match="samples must be at least 1, the evidence lower bound, not 0"):
        importance_weighted.ImportanceWeightedVAE(samples=0)


def test_pixels_out_of_range_are_refused():
    x = 2 * all_binary_pictures() - 1
    with pytest.raises(ValueError, match=r"the bernoulli decoder wants pixels in \[0, 1\], these span \[-1, 1\]"):
        weighted(5).loss(x)
