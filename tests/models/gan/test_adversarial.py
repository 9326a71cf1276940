"""Losses against their formulas, penalties against closed-form gradients, updates of one network only."""

import copy
import math

import pytest
import torch
from torch import nn

from gensrc.models.gan import adversarial
from gensrc.models.gan.dcgan import Discriminator, Generator


class Linear(nn.Module):
    """A discriminator whose gradient is known: its weights."""

    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))

    def forward(self, x):
        return x @ self.weights


LOGITS = torch.tensor([-9.0, -1.0, 0.0, 0.5, 4.0])


def test_the_losses_are_their_formulas():
    real, fake = LOGITS, LOGITS.flip(0) + 0.3
    d_real, d_fake = real.double().sigmoid(), fake.double().sigmoid()
    value = d_real.log().mean() + (1 - d_fake).log().mean()
    assert adversarial.bce_loss(real, fake).item() == pytest.approx(-value.item(), rel=1e-5)
    assert adversarial.minimax_loss(fake).item() == pytest.approx((1 - d_fake).log().mean().item(), rel=1e-5)
    assert adversarial.nonsaturating_loss(fake).item() == pytest.approx(-d_fake.log().mean().item(), rel=1e-5)
    hinge = (1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean()
    assert adversarial.hinge_loss(real, fake).item() == pytest.approx(hinge.item())
    assert adversarial.critic_loss(real, fake).item() == pytest.approx((fake.mean() - real.mean()).item())
    assert adversarial.score_loss(fake).item() == pytest.approx(-fake.mean().item())


def test_losses_stay_finite_where_the_sigmoid_is_zero_or_one():
    far = torch.tensor([-1e4, 1e4])
    for loss in (adversarial.minimax_loss(far), adversarial.nonsaturating_loss(far), adversarial.bce_loss(far, far)):
        assert torch.isfinite(loss)


def test_minimax_gradients_vanish_for_a_sure_discriminator_and_nonsaturating_ones_do_not():
    logit = torch.tensor([math.log(0.00034 / 0.99966)], requires_grad=True)
    (minimax,) = torch.autograd.grad(adversarial.minimax_loss(logit), logit)
    (other,) = torch.autograd.grad(adversarial.nonsaturating_loss(logit), logit)
    assert minimax.item() == pytest.approx(-0.00034, rel=1e-3)
    assert other.item() == pytest.approx(-0.99966, rel=1e-3)


def test_penalties_of_a_linear_discriminator_follow_from_its_weights():
    real, fake = torch.randn(2, 7, 2)
    network = Linear(3.0, 4.0)
    r1 = adversarial.r1_penalty(network, real, fake, weight=0.2)
    assert r1.item() == pytest.approx(0.1 * 25)
    gp = adversarial.gradient_penalty(network, real, fake, weight=10.0)
    assert gp.item() == pytest.approx(10 * (5 - 1) ** 2)
    r1.backward()  # weight / 2 * |w|^2
    torch.testing.assert_close(network.weights.grad, 0.2 * network.weights.detach())


def test_r1_is_taken_at_real_pictures_and_the_gradient_penalty_between_both():
    seen = []

    def record(x):
        seen.append(x)
        return x.square().sum(1)

    real, fake = torch.zeros(50, 1), torch.ones(50, 1)
    adversarial.r1_penalty(record, real, fake)
    adversarial.gradient_penalty(record, real, fake)
    assert torch.equal(seen[0], real)
    assert ((seen[1] > 0) & (seen[1] < 1)).all()
    assert seen[1].std() > 0.2  # not the same place for all


def test_penalty_of_a_constant_discriminator_has_a_finite_gradient():
    network = Linear(0.0, 0.0)
    adversarial.gradient_penalty(network, *torch.randn(2, 4, 2)).backward()
    assert torch.isfinite(network.weights.grad).all()


def pair():
    torch.manual_seed(0)
    generator, discriminator = Generator(8, 1, 4, 4), Discriminator(8, 1, 4)
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.1) for network in (generator, discriminator)]
    return generator, discriminator, *optimizers


def weights(network):
    return [parameter.detach().clone() for parameter in network.parameters()]


def same(before, network):
    return all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_each_update_changes_its_own_network_only():
    generator, discriminator, on_g, on_d = pair()
    real, z = torch.randn(6, 1, 8, 8), torch.randn(6, 4)
    g, d = weights(generator), weights(discriminator)
    adversarial.update_discriminator(generator, discriminator, on_d, real, z)
    assert same(g, generator)
    assert not same(d, discriminator)
    d = weights(discriminator)
    on_d.zero_grad()
    adversarial.update_generator(generator, discriminator, on_g, z)
    assert same(d, discriminator)
    assert all(parameter.grad is None for parameter in discriminator.parameters())  # that would be wasted work
    assert not same(g, generator)
    assert all(parameter.requires_grad for parameter in discriminator.parameters())


def test_the_generators_update_is_the_gradient_of_its_loss():
    generator, discriminator, on_g, _ = pair()
    z = torch.randn(6, 4)
    twin, twin_d = copy.deepcopy(generator), copy.deepcopy(discriminator)
    loss = -torch.log(torch.sigmoid(twin_d(twin(z)))).mean()
    loss.backward()
    found = adversarial.update_generator(generator, discriminator, on_g, z)
    assert found.item() == pytest.approx(loss.item(), rel=1e-5)
    for moved, old in zip(generator.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(moved, old - 0.1 * old.grad)


def test_the_discriminator_is_unfrozen_even_if_the_update_fails():
    generator, discriminator, on_g, _ = pair()
    with pytest.raises(ValueError, match="the noise has shape"):
        adversarial.update_generator(generator, discriminator, on_g, torch.randn(6, 5))
    assert all(parameter.requires_grad for parameter in discriminator.parameters())


def test_real_and_fake_pictures_are_augmented_and_gradients_pass_through():
    generator, discriminator, on_g, on_d = pair()
    seen = []

    def augment(x):
        seen.append(x.requires_grad)
        return x * 0.5

    adversarial.update_discriminator(
        generator, discriminator, on_d, torch.randn(6, 1, 8, 8), torch.randn(6, 4), augment=augment
    )
    before = weights(generator)
    adversarial.update_generator(generator, discriminator, on_g, torch.randn(6, 4), augment=augment)
    assert seen == [False, False, True]
    assert not same(before, generator)


def test_ema_weights_approach_the_model_geometrically():
    _, discriminator, *_ = pair()
    average = copy.deepcopy(discriminator)
    start = average.main[0].weight.detach().clone()
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter += 1
    for _ in range(3):
        adversarial.update_ema(average, discriminator, 0.8)
    torch.testing.assert_close(average.main[0].weight, start + 1 - 0.8**3)
    discriminator.train()(torch.randn(4, 1, 8, 8) + 3)  # statistics of batch normalisation take part
    adversarial.update_ema(average, discriminator, 0.0)
    for a, b in zip(average.buffers(), discriminator.buffers(), strict=True):
        assert torch.equal(a, b)
