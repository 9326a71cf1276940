"""The adaptive weight equalises gradients, each update changes one network only, codes do not change."""

import pytest
import torch
import torch.nn.functional as F

from gensrc.models.image_tokens.vqgan import PatchDiscriminator, adaptive_weight, update_decoder, update_discriminator
from gensrc.models.image_tokens.vqvae import Tokenizer


@pytest.fixture
def players() -> tuple[Tokenizer, PatchDiscriminator, torch.Tensor]:
    torch.manual_seed(0)
    tokenizer = Tokenizer(codebook_size=16, embed_dim=4, width=8, variance=0.1).eval()
    return tokenizer, PatchDiscriminator(width=4), torch.rand(4, 3, 16, 16)


def kept(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def changed(network: torch.nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name.split(".")[0] for name, value in network.state_dict().items() if not torch.equal(before[name], value)}


def test_a_logit_depends_on_its_own_patch_of_18_pixels_alone():
    x = torch.randn(1, 3, 64, 64, requires_grad=True)
    logits = PatchDiscriminator(width=4)(x)
    assert logits.shape == (1, 16, 16)
    logits[0, 8, 8].backward()
    rows = x.grad.abs().sum((0, 1, 3)).nonzero()[:, 0]
    assert (rows.min().item(), rows.max().item()) == (25, 42)


def test_adaptive_weight_equalises_the_gradient_norms_at_the_last_layer(players):
    tokenizer, discriminator, images = players
    drawn = tokenizer(images)
    reconstruction = F.mse_loss(drawn, images)
    generative = -discriminator(drawn).mean()
    weight = adaptive_weight(reconstruction, generative, tokenizer.last_layer)
    assert not weight.requires_grad
    lengths = [
        torch.autograd.grad(loss, tokenizer.last_layer, retain_graph=True)[0].norm()
        for loss in (reconstruction, weight * generative)
    ]
    torch.testing.assert_close(*lengths, rtol=1e-3, atol=0)


def test_adaptive_weight_is_clamped(players):
    tokenizer, _, images = players
    drawn = tokenizer(images)
    weight = adaptive_weight(drawn.square().mean(), 0 * drawn.mean(), tokenizer.last_layer)
    assert 0 < weight <= 1e4


def test_update_decoder_changes_the_decoder_only(players):
    tokenizer, discriminator, images = players
    codes, before, other = tokenizer.encode(images), kept(tokenizer), kept(discriminator)
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=1e-3)
    drawn, losses = update_decoder(tokenizer, discriminator, optimizer, images, codes)
    assert changed(tokenizer, before) == {"decoder"}
    assert changed(discriminator, other) == set()
    assert torch.equal(tokenizer.encode(images), codes)
    assert not any(value.requires_grad for value in (drawn, *losses))


def test_update_decoder_with_factor_0_is_a_step_on_the_squared_error(players):
    tokenizer, discriminator, images = players
    codes, start = tokenizer.encode(images), kept(tokenizer)
    optimizer = torch.optim.SGD(tokenizer.decoder.parameters(), lr=0.1)
    _, losses = update_decoder(tokenizer, discriminator, optimizer, images, codes, factor=0.0)
    found = kept(tokenizer)
    tokenizer.load_state_dict(start)
    tokenizer.zero_grad()
    error = F.mse_loss(tokenizer.draw(tokenizer.quantizer.lookup(codes)), images) / 0.1
    error.backward()
    optimizer.step()
    for name, value in tokenizer.state_dict().items():
        torch.testing.assert_close(found[name], value)
    torch.testing.assert_close(losses.reconstruction, error.detach())
    assert losses.weight == 0


def test_update_decoder_is_a_step_on_both_losses_with_their_weight(players):
    tokenizer, discriminator, images = players
    codes, start, before = tokenizer.encode(images), kept(tokenizer), kept(discriminator)
    optimizer = torch.optim.SGD(tokenizer.decoder.parameters(), lr=1e-3)
    _, losses = update_decoder(tokenizer, discriminator, optimizer, images, codes)
    found = kept(tokenizer)
    tokenizer.load_state_dict(start)
    tokenizer.zero_grad()
    drawn = tokenizer.draw(tokenizer.quantizer.lookup(codes))
    generative = -discriminator(drawn).mean()
    (F.mse_loss(drawn, images) / 0.1 + losses.weight * generative).backward()
    optimizer.step()
    for name, value in tokenizer.state_dict().items():
        torch.testing.assert_close(found[name], value)
    torch.testing.assert_close(losses.generative, generative.detach())
    assert losses.weight > 0
    assert changed(discriminator, before) == set()


def test_update_discriminator_is_a_step_on_its_loss(players):
    _, discriminator, images = players
    drawn, start = images.flip(3), kept(discriminator)
    optimizer = torch.optim.SGD(discriminator.parameters(), lr=0.1)
    update_discriminator(discriminator, optimizer, images, drawn)
    found = kept(discriminator)
    discriminator.load_state_dict(start)
    discriminator.zero_grad()
    real, fake = discriminator(images), discriminator(drawn)
    ((1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean()).backward()
    optimizer.step()
    for name, value in discriminator.state_dict().items():
        torch.testing.assert_close(found[name], value)


def test_the_discriminators_loss_is_the_hinge_over_all_patches(players):
    _, discriminator, images = players
    drawn = images.flip(3)
    real, fake = discriminator(images), discriminator(drawn)
    expected = (1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean()
    optimizer = torch.optim.SGD(discriminator.parameters(), lr=0.1)
    torch.testing.assert_close(update_discriminator(discriminator, optimizer, images, drawn), expected.detach())


def test_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match="channels must be at least 1, not 0"):
        PatchDiscriminator(channels=0)
