"""The networks have the articles' shapes and counts, conditioning works, and bad input is refused with advice."""

import pytest
import torch

from gensrc.models.gan.dcgan import Discriminator, Generator


def count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameters_of_64_pixel_networks_are_as_many_as_in_the_article():
    assert count(Generator(64, 3, 100, 64)) == 3_576_704
    assert count(Discriminator(64, 3, 64)) == 2_765_568


def test_layers_of_32_pixel_networks_are_those_of_the_article():
    convolutions = [layer for layer in Generator(32, 1).main if isinstance(layer, torch.nn.ConvTranspose2d)]
    channels = [(c.in_channels, c.out_channels) for c in convolutions]
    assert channels == [(100, 256), (256, 128), (128, 64), (64, 1)]
    convolutions = [layer for layer in Discriminator(32, 1).main if isinstance(layer, torch.nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [(1, 64), (64, 128), (128, 256), (256, 1)]
    assert all(convolution.bias is None for convolution in convolutions)


@pytest.mark.parametrize("size", [8, 16, 32, 128])
@pytest.mark.parametrize("norm", ["batch", "spectral", "none"])
def test_every_power_of_two_works_at_any_width(size, norm):
    pictures = Generator(size, 2, latent_dim=5, width=3)(torch.randn(4, 5))
    assert pictures.shape == (4, 2, size, size)
    assert pictures.abs().max() <= 1
    assert Discriminator(size, 2, width=3, norm=norm)(pictures).shape == (4,)


def test_weights_are_initialised_as_in_the_paper():
    torch.manual_seed(0)
    for network in (Generator(32, 1), Discriminator(32, 1)):
        for layer in network.main:
            if isinstance(layer, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)) and layer.weight.numel() > 10_000:
                assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
            if isinstance(layer, torch.nn.BatchNorm2d):
                assert layer.weight.mean().item() == pytest.approx(1, abs=0.02)


def test_spectral_normalisation_makes_the_largest_singular_value_one():
    torch.manual_seed(0)
    network = Discriminator(16, 1, width=4, norm="spectral").train()
    for _ in range(50):  # each pass is one step of the power iteration
        network(torch.randn(2, 1, 16, 16))
    for layer in network.main:
        if isinstance(layer, torch.nn.Conv2d):
            assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("norm", ["spectral", "none"])
def test_without_batch_normalisation_a_logit_depends_on_its_own_picture_alone(norm):
    network = Discriminator(16, 1, width=4, norm=norm)
    pictures = torch.randn(5, 1, 16, 16, requires_grad=True)
    network(pictures)[2].backward()
    assert [bool(gradient.any()) for gradient in pictures.grad] == [False, False, True, False, False]


def test_with_batch_normalisation_a_logit_depends_on_the_whole_batch():
    pictures = torch.randn(5, 1, 16, 16, requires_grad=True)
    Discriminator(16, 1, width=4)(pictures)[2].backward()
    assert all(gradient.any() for gradient in pictures.grad)


def test_sample_is_a_function_of_its_generator_and_of_the_labels():
    network = Generator(8, 1, latent_dim=4, width=4, num_classes=3).eval()

    def sample(seed, labels=None):
        return network.sample(700, labels=labels, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(sample(0), sample(0))
    assert not torch.equal(sample(0), sample(1))
    zeros, ones = (sample(0, torch.full((700,), label)) for label in (0, 1))
    assert not torch.equal(zeros, ones)
    assert torch.equal(zeros[600:], network(_noise(network), torch.zeros(100).long()))


def _noise(network: Generator) -> torch.Tensor:
    return network.noise(700, generator=torch.Generator().manual_seed(0))[600:]


def test_a_class_adds_its_own_output_to_the_logit():
    network = Discriminator(8, 1, width=4, num_classes=3, norm="none")
    pictures = torch.randn(6, 1, 8, 8)
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    inside = network.main[:-1](pictures).flatten(1)
    kernels = network.main[-1].weight.flatten(1)
    expected = (inside * (kernels[0] + kernels[1 + labels])).sum(1)
    torch.testing.assert_close(network(pictures, labels), expected)


# --- Bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Generator, Discriminator])
@pytest.mark.parametrize("size", [0, 4, 28, 48])
def test_a_size_that_is_no_power_of_two_or_too_small_is_refused(kind, size):
    with pytest.raises(ValueError, match=f"power of two from 8 on, not {size}.* pad or resize the pictures"):
        kind(size)


@pytest.mark.parametrize("name", ["channels", "width"])
def test_sizes_below_one_are_refused(name):
    for kind in (Generator, Discriminator):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0"):
            kind(**{name: 0})


@pytest.mark.parametrize("shape", [(4, 99), (4, 100, 1, 1), (100,)])
def test_noise_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"the noise has shape \(.*\); this generator wants \(n, 100\)"):
        Generator(8, width=4)(torch.randn(shape))


@pytest.mark.parametrize("shape", [(4, 3, 32, 32), (4, 1, 28, 28), (4, 1, 64, 64), (4, 32, 32)])
def test_pictures_with_other_channels_or_of_another_size_are_refused(shape):
    with pytest.raises(ValueError, match=r"the pictures have shape .*; this discriminator wants \(n, 1, 32, 32\)"):
        Discriminator(32, 1, width=4)(torch.randn(shape))


def test_superfluous_and_missing_labels_are_refused():
    labels = torch.zeros(2).long()
    with pytest.raises(ValueError, match="knows no classes: leave the labels out"):
        Generator(8, width=4)(torch.randn(2, 100), labels)
    with pytest.raises(ValueError, match="needs labels from 0 to 2"):
        Discriminator(8, width=4, num_classes=3)(torch.randn(2, 1, 8, 8))


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="norm must be one of batch, spectral, none, not 'layer'"):
        Discriminator(norm="layer")
