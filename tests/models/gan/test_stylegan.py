"""Alias-free blocks: filters by their spectra, kernels one by one, and what a shift of the input does."""

import math

import pytest
import scipy  # its parts are imported where they are used first, and they are large
import torch
import torch.nn.functional as F

from gensrc.models.gan import stylegan
from gensrc.models.gan.stylegan import Synthesis, downsample, equivariance, low_pass, translate, upsample


def attenuation() -> float:
    """In decibels; the rate of the fine grid is 2, its limit 1."""
    return scipy.signal.kaiser_atten(stylegan.TAPS, stylegan.WIDTH)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def wave(size: int, cycles: int, shift: float = 0.0) -> torch.Tensor:
    """A picture of `cycles` waves along either side, moved down by `shift` of the side."""
    place = (torch.arange(size) + 0.5) / size
    column, row = (torch.cos(2 * math.pi * (cycles * p + 0.1)) for p in (place - shift, place))
    return (column[:, None] * row)[None, None]


def network(alias_free: bool, seed: int = 0) -> tuple[Synthesis, torch.Tensor]:
    torch.manual_seed(seed)
    made = Synthesis(w_dim=16, channels=16, alias_free=alias_free)
    return made, torch.randn(2, 16)


def test_low_pass_filter_equals_scipys():
    cutoff, width = 0.2, 0.15
    for taps in (8, 24, 60):
        beta = scipy.signal.kaiser_beta(scipy.signal.kaiser_atten(taps, width))  # in parts of half the rate, which is 1
        theirs = scipy.signal.firwin(taps, cutoff, window=("kaiser", beta), fs=2)
        ours = low_pass(taps, cutoff=cutoff, width=width)
        torch.testing.assert_close(ours, torch.tensor(theirs).float(), rtol=1e-4, atol=1e-6)


def test_filter_passes_below_its_band_and_stops_above():
    response = torch.fft.rfft(low_pass().double(), 4000).abs()
    frequency = torch.fft.rfftfreq(4000, d=1 / 2)
    ripple = 10 ** (-attenuation() / 20)  # an estimate, as is the formula for the window
    low, high = (stylegan.CUTOFF + side * stylegan.WIDTH / 2 for side in (-1, 1))
    assert response[0] == pytest.approx(1)
    assert (response[frequency <= low] - 1).abs().max() < 1.4 * ripple
    assert response[frequency >= high].max() < 1.4 * ripple
    assert high == pytest.approx(0.5), "all that the coarse grid cannot hold has to lie in the stop band"


@pytest.mark.parametrize(("taps", "options"), [(7, {}), (0, {}), (8, {"cutoff": 0.1}), (8, {"cutoff": 0.95})])
def test_impossible_filters_are_refused(taps, options):
    with pytest.raises(ValueError, match=r"taps must be an even number|does not lie in 0 to 1"):
        low_pass(taps, **options)


def test_resampling_is_convolution_on_a_circle():
    x = torch.randn(2, 3, 8, 16, generator=generator())
    kernel = low_pass().outer(low_pass())[None, None]
    half = stylegan.TAPS // 2

    def convolve(x, before, after):
        # Padded by whole turns: the filter may be longer than the side.
        turns = x.repeat(1, 1, 3, 3)
        top, left = x.shape[2] - before, x.shape[3] - before
        piece = turns[:, :, top : 2 * x.shape[2] + after, left : 2 * x.shape[3] + after]
        return F.conv2d(piece.flatten(0, 1)[:, None], kernel)[:, 0].unflatten(0, x.shape[:2])

    spread = torch.zeros(2, 3, 16, 32)
    spread[:, :, ::2, ::2] = 4 * x
    torch.testing.assert_close(upsample(x), convolve(spread, half, half - 1), rtol=1e-4, atol=1e-6)
    filtered = convolve(x, half - 1, half)[:, :, ::2, ::2]
    torch.testing.assert_close(downsample(x), filtered, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("cycles", [0, 1, 4])
def test_upsampling_a_band_limited_wave_reproduces_it(cycles):
    # 4 cycles on 16 pixels: the last frequency that is passed in full
    expected = wave(32, cycles)
    error = (upsample(wave(16, cycles)) - expected).abs().max() / expected.abs().max()
    assert error < 5 * 10 ** (-attenuation() / 20)
    torch.testing.assert_close(downsample(expected), wave(16, cycles), rtol=0, atol=0.05)


def test_downsampling_removes_frequencies_above_the_nyquist_limit():
    fine = wave(32, 12)  # would fold to 4 cycles on 16 pixels
    assert fine[:, :, ::2, ::2].square().mean() > 0.1
    assert downsample(fine).abs().max() < 0.05


def test_filtered_nonlinearity_leaves_a_signal_where_it_is_linear():
    x = 3 + wave(16, 3)
    torch.testing.assert_close(stylegan.filtered(torch.relu, x), x, rtol=0, atol=0.1)


def test_filtered_relu_commutes_with_half_a_pixel_and_relu_does_not():
    x, moved = wave(16, 3), wave(16, 3, shift=0.5 / 16)

    def error(function):
        return (function(moved) - translate(function(x), 0.5, 0)).square().mean()

    assert error(lambda x: stylegan.filtered(torch.relu, x)) < 0.01 * error(torch.relu)


@pytest.mark.parametrize("size", [1, 3])
def test_modulated_convolution_equals_a_convolution_for_each_example(size):
    x, style = torch.randn(4, 5, 6, 6, generator=generator()), torch.randn(4, 5, generator=generator(1))
    weight = torch.randn(7, 5, size, size, generator=generator(2))
    for demodulate in (True, False):
        made = stylegan.modulated_conv2d(x, weight, style, demodulate=demodulate)
        for number in range(4):
            kernel = weight * style[number].view(1, 5, 1, 1)
            if demodulate:
                kernel = kernel / kernel.square().sum((1, 2, 3), keepdim=True).sqrt()
            padded = F.pad(x[number : number + 1], [size // 2] * 4, mode="circular")
            torch.testing.assert_close(made[number : number + 1], F.conv2d(padded, kernel), rtol=1e-4, atol=1e-5)


def test_demodulation_keeps_the_variance_for_any_style():
    x = torch.randn(3, 8, 64, 64, generator=generator())
    weight = torch.randn(6, 8, 3, 3, generator=generator(1))
    style = torch.tensor([0.01, 1.0, 100.0])[:, None] * torch.rand(3, 8, generator=generator(2))
    variance = stylegan.modulated_conv2d(x, weight, style).var((1, 2, 3))
    assert (variance - 1).abs().max() < 0.1


def test_mapping_depends_on_the_direction_of_the_noise_only():
    torch.manual_seed(0)
    mapping, z = stylegan.Mapping(8, 5), torch.randn(4, 8)
    assert mapping(z).shape == (4, 5)
    lengths = torch.tensor([0.1, 1, 10, 100])[:, None]
    torch.testing.assert_close(mapping(z), mapping(lengths * z))


def test_translation_by_whole_pixels_is_a_roll_and_halves_add_up():
    x = torch.randn(2, 3, 8, 16, generator=generator())
    torch.testing.assert_close(translate(x, 3, -5), x.roll((3, -5), (2, 3)), rtol=1e-4, atol=1e-5)
    smooth = wave(16, 2)
    torch.testing.assert_close(translate(translate(smooth, 0.5, 0.25), 0.5, 0.75), smooth.roll((1, 1), (2, 3)))
    torch.testing.assert_close(translate(smooth, 0.3, 0), wave(16, 2, shift=0.3 / 16), rtol=1e-4, atol=1e-5)


def test_input_waves_move_with_the_shift():
    torch.manual_seed(0)
    waves = stylegan.FourierInput(12, 8)
    still = waves(2)
    assert still.square().mean() == pytest.approx(1, abs=0.3)
    torch.testing.assert_close(waves(2, (2 / 8, -1 / 8)), still.roll((2, -1), (2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(waves(2, (0.3 / 8, 0.7 / 8)), translate(still, 0.3, 0.7), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", [True, False])
def test_shifts_by_whole_input_pixels_move_the_picture_exactly(kind):
    made, code = network(kind)
    with torch.no_grad():
        still = made(code)
        torch.testing.assert_close(made(code, (4, -8)), still.roll((4, -8), (2, 3)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_alias_free_blocks_beat_plain_ones_by_20_decibels_between_pixels(seed):
    found = {}
    for kind in (True, False):
        made, code = network(kind, seed)
        with torch.no_grad():
            found[kind] = [equivariance(made, code, shifts) for shifts in ([(1, 2), (3, 1)], [(0.5, 0.25)])]
    assert all(ours > plain + 20 for ours, plain in zip(found[True], found[False], strict=True)), found


def test_alias_free_and_plain_networks_have_the_same_weights():
    (ours, _), (plain, _) = network(True), network(False)
    plain.load_state_dict(ours.state_dict())
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in plain.parameters())


def test_equivariance_in_decibels_of_a_known_error():
    pattern = torch.randn(1, 1, 8, 8, generator=generator())
    code = torch.zeros(1, 2)

    def off_by(amount):
        return lambda code, shift=(0, 0): translate(pattern, *shift) + amount * any(shift)

    assert equivariance(off_by(0.2), code, [(1, 0)]) == pytest.approx(20, abs=1e-3)  # 10 log10(4 / 0.04)
    # The mean is over squares, before the logarithm; one shift of two is without error.
    assert equivariance(off_by(0.2), code, [(1, 0), (0, 0)]) == pytest.approx(23.0103, abs=1e-3)
    assert equivariance(off_by(0.2), code, [(1, 0)], value_range=1.0) == pytest.approx(13.9794, abs=1e-3)


@pytest.mark.parametrize("options", [{"size": 48}, {"size": 4}, {"start": 6}, {"start": 2, "size": 16}])
def test_impossible_sizes_are_refused(options):
    with pytest.raises(ValueError, match="must be a power of two"):
        Synthesis(**options)


def test_the_activation_keeps_the_mean_square_of_normal_numbers():
    x = torch.randn(1_000_000, generator=generator(5))
    assert stylegan._activation(x).square().mean() == pytest.approx(1, abs=0.01)  # without the gain it is 0.52
