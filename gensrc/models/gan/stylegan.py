"""A small StyleGAN3 with alias-free blocks, and the same network without them.

Karras, Aittala, Laine, Härkönen, Hellsten, Lehtinen and Aila, Alias-Free Generative
Adversarial Networks, NeurIPS 2021, is the source: feature maps stand for continuous
signals, every up- and downsampling is low-pass filtered, and a nonlinearity is wrapped
in a pair of them (section 3.2). So is the measure of equivariance, EQ-T (section 2.2).
Mapping network and modulated convolution are those of Karras et al., Analyzing and
Improving the Image Quality of StyleGAN, CVPR 2020 (sections 2 and 2.2). The filters are
windowed by Kaiser and Schafer's formulas, which the paper uses too (appendix C).

Deviations: pictures are periodic, so that no edge reveals a pixel's position, and the
frequencies of the input are whole numbers; the paper extends the canvas and crops it.
All rates are powers of two and all layers have the same relative cutoff. There are no
noise inputs, no skip connections, no learned transformation of the input, no equalised
learning rate, and no running estimate of magnitudes. All layers use the same code w.

The centre of pixel i of s is at (i + 1/2) / s of the picture's side.

Shapes: b examples, c channels (i at the input, o at the output), h w the picture, d the
code, k the side of a kernel, t the taps of a filter.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gensrc.models.checks import as_weights

TAPS = 16
CUTOFF, WIDTH = 0.375, 0.25
"""Centre and width of the filters' transition band, in cycles a pixel of the lower
rate. The stop band begins at the Nyquist frequency, 1/2."""
SLOPE = 0.2
GAIN = math.sqrt(2 / (1 + SLOPE**2))
"""Keeps the mean square through a leaky ReLU (He et al., ICCV 2015, equation 15)."""
Shift = tuple[float | int, float | int]
"""The distance down and the distance to the right."""


# --- Filters --------------------------------------------------------------------------


def low_pass(
    taps: int = TAPS, *, cutoff: float = CUTOFF, width: float = WIDTH, rate: float = 2.0
) -> Float[Tensor, " t"]:
    """A windowed sinc: low-pass at `cutoff` with a transition band of `width`.

    The window is Kaiser's. cutoff, width and rate have the same unit; the taps sum to
    1. Raises ValueError for a band beyond 0 to rate/2 and for an odd number of taps,
    whose centre would not lie between two pixels.
    """
    if taps < 2 or taps % 2:
        raise ValueError(f"taps must be an even number from 2, not {taps}")
    if not 0 < width / 2 <= cutoff <= rate / 2 - width / 2:
        raise ValueError(
            f"a band of {width} around {cutoff} does not lie in 0 to {rate / 2}"
        )
    attenuation = 2.285 * (taps - 1) * 2 * math.pi * width / rate + 7.95
    place = torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2
    window = torch.kaiser_window(
        taps, periodic=False, beta=_kaiser_beta(attenuation), dtype=torch.float64
    )
    weights = window * torch.sinc(2 * cutoff / rate * place)
    return (weights / weights.sum()).float()


def _kaiser_beta(attenuation: float) -> float:
    """The window's parameter for that attenuation of the stop band, in decibels."""
    if attenuation > 50:
        return 0.1102 * (attenuation - 8.7)
    over = max(attenuation - 21, 0.0)
    return 0.5842 * over**0.4 + 0.07886 * over


@cache
def upsampling(size: int) -> Float[Tensor, "{2*size} {size}"]:
    """The matrix that upsamples a periodic signal from size to 2 size pixels.

    Zeros are inserted between the pixels and `low_pass` is applied. The factor 2 makes
    up for the zeros.
    """
    weights = 2 * low_pass()
    fine, coarse = torch.arange(2 * size)[:, None], torch.arange(size)
    matrix = torch.zeros(2 * size, size)
    for tap, weight in enumerate(weights):
        # The centre of coarse pixel i lies between fine pixels 2i and 2i + 1.
        reached = (fine - 2 * coarse - tap + TAPS // 2 - 1) % (2 * size) == 0
        matrix += weight * reached
    return matrix


def upsample(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 2*h 2*w"]:
    """Twice as many pixels of the same signal, in both axes."""
    height, width = (upsampling(size).to(x) for size in x.shape[2:])
    return height @ x @ width.T


def downsample(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h//2 w//2"]:
    """Half as many pixels: low-pass, then every other pixel (upsampling transposed)."""
    height, width = (upsampling(size // 2).to(x) / 2 for size in x.shape[2:])
    return height.T @ x @ width


def filtered(
    nonlinearity: Callable[[Tensor], Tensor],
    x: Float[Tensor, "b c h w"],
) -> Float[Tensor, "b c h w"]:
    """The nonlinearity at twice the resolution, then low-pass and downsampling.

    A nonlinearity such as ReLU creates arbitrarily high frequencies. On the finer grid
    most of them are not aliased, and the low-pass removes them.
    """
    return downsample(nonlinearity(upsample(x)))


def _activation(x: Tensor) -> Tensor:
    return GAIN * F.leaky_relu(x, SLOPE)


# --- Networks -------------------------------------------------------------------------


class Mapping(nn.Sequential):
    """From noise z, normalised to a sphere, to the code w that modulates each layer."""

    def __init__(self, latent_dim: int = 64, w_dim: int = 64, layers: int = 2) -> None:
        parts: list[nn.Module] = []
        for number in range(layers):
            linear = nn.Linear(latent_dim if number == 0 else w_dim, w_dim)
            parts += [linear, nn.LeakyReLU(SLOPE)]
        super().__init__(*parts)

    def forward(self, z: Float[Tensor, "b n"]) -> Float[Tensor, "b d"]:
        length = z.square().mean(1, keepdim=True)
        return super().forward(as_weights(z * (length + 1e-8).rsqrt(), self))


def modulated_conv2d(
    x: Float[Tensor, "b i h w"],
    weight: Float[Tensor, "o i k k"],
    style: Float[Tensor, "b i"],
    *,
    demodulate: bool = True,
) -> Float[Tensor, "b o h w"]:
    """A convolution with circular padding and a separate kernel for each example.

    The kernel's input channels are multiplied by `style`; demodulation then makes the
    squares of each output channel's kernel sum to 1, so that inputs of variance 1 give
    outputs of variance 1 for any style.
    """
    b, _, h, w = x.shape
    kernels = weight * style[:, None, :, None, None]
    if demodulate:
        size = kernels.square().sum((2, 3, 4), keepdim=True)
        kernels = kernels * (size + 1e-8).rsqrt()
    margin = weight.shape[-1] // 2
    x = F.pad(x, [margin] * 4, mode="circular") if margin else x
    # All examples in one convolution, each a group of channels with its own kernel.
    x = F.conv2d(x.flatten(0, 1)[None], kernels.flatten(0, 1), groups=b)
    return x.view(b, -1, h, w)


class ModulatedConv2d(nn.Module):
    """`modulated_conv2d` with learned weights and a style linear in the code."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int,
        w_dim: int,
        *,
        demodulate: bool = True,
    ) -> None:
        super().__init__()
        self.demodulate = demodulate
        fan_in = inputs * kernel_size**2
        shape = (outputs, inputs, kernel_size, kernel_size)
        self.weight = nn.Parameter(torch.randn(shape) / math.sqrt(fan_in))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.affine = nn.Linear(w_dim, inputs)
        nn.init.normal_(self.affine.weight, std=1 / math.sqrt(w_dim))
        nn.init.ones_(self.affine.bias)

    def forward(
        self, x: Float[Tensor, "b i h w"], code: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b o h w"]:
        style = self.affine(code)
        x = modulated_conv2d(x, self.weight, style, demodulate=self.demodulate)
        return x + self.bias[:, None, None]


class FourierInput(nn.Module):
    """The synthesis network's input: sine waves, which can be shifted by any amount.

    Each channel is a wave with a whole number of cycles along either side, within the
    pass band of the filters. Raises ValueError for a size that is no power of two.
    """

    cycles: Tensor
    phases: Tensor

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        if size < 4 or size & (size - 1):
            raise ValueError(f"size must be a power of two from 4, not {size}")
        highest = math.floor(size * (CUTOFF - WIDTH / 2))
        cycles = torch.randint(-highest, highest + 1, (channels, 2))
        self.size = size
        self.register_buffer("cycles", cycles.float())
        self.register_buffer("phases", torch.rand(channels))

    def forward(self, n: int, shift: Shift = (0, 0)) -> Float[Tensor, "{n} c s s"]:
        """The waves shifted down and to the right, by fractions of the side."""
        place = (torch.arange(self.size, device=self.cycles.device) + 0.5) / self.size
        down, right = self.cycles[:, :, None].unbind(1)
        turns = (down * (place - shift[0]))[:, :, None] + self.phases[:, None, None]
        turns = turns + (right * (place - shift[1]))[:, None, :]
        waves = math.sqrt(2) * torch.cos(2 * math.pi * turns)  # of mean square 1
        return waves.to(self.phases.dtype).expand(n, -1, -1, -1)


class Synthesis(nn.Module):
    """From a code to a picture: sine waves, then blocks that double the resolution.

    alias_free: True for filtered up-sampling and nonlinearities, False for repeated
        pixels and bare nonlinearities; the weights are the same.

    Raises ValueError for sizes that are no powers of two, or a size below the start's.
    """

    def __init__(
        self,
        *,
        w_dim: int = 64,
        channels: int = 32,
        start: int = 8,
        size: int = 32,
        image_channels: int = 3,
        alias_free: bool = True,
    ) -> None:
        super().__init__()
        if size < start or size & (size - 1):
            raise ValueError(f"size must be a power of two from {start}, not {size}")
        self.size, self.alias_free = size, alias_free
        self.input = FourierInput(channels, start)
        blocks = int(math.log2(size // start))
        self.convolutions = nn.ModuleList(
            ModulatedConv2d(channels, channels, 3, w_dim) for _ in range(blocks + 1)
        )
        self.to_image = ModulatedConv2d(
            channels, image_channels, 1, w_dim, demodulate=False
        )
        # The picture is not normalised: it is initialised well within [-1, 1].
        nn.init.normal_(self.to_image.weight, std=0.25 / math.sqrt(channels))

    def forward(
        self, code: Float[Tensor, "b d"], shift: Shift = (0, 0)
    ) -> Float[Tensor, "b c s s"]:
        """Pictures with values around -1 to 1; `shift` is in their own pixels."""
        x = self.input(len(code), (shift[0] / self.size, shift[1] / self.size))
        for number, convolution in enumerate(self.convolutions):
            x = convolution(x if number == 0 else self._double(x), code)
            x = self._activate(x)
        return self.to_image(x, code)

    def _double(self, x: Tensor) -> Tensor:
        if self.alias_free:
            return upsample(x)
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def _activate(self, x: Tensor) -> Tensor:
        return filtered(_activation, x) if self.alias_free else _activation(x)


class StyleGenerator(nn.Module):
    """Mapping and synthesis: from noise to a picture; arguments as in `Synthesis`."""

    def __init__(
        self,
        *,
        latent_dim: int = 64,
        w_dim: int = 64,
        channels: int = 32,
        size: int = 32,
        alias_free: bool = True,
    ) -> None:
        super().__init__()
        self.mapping = Mapping(latent_dim, w_dim)
        self.synthesis = Synthesis(
            w_dim=w_dim, channels=channels, size=size, alias_free=alias_free
        )

    def forward(
        self, z: Float[Tensor, "b n"], shift: Shift = (0, 0)
    ) -> Float[Tensor, "b c s s"]:
        return self.synthesis(self.mapping(z), shift)


# --- Equivariance ---------------------------------------------------------------------


def translate(
    x: Float[Tensor, "b c h w"], down: float | int, right: float | int
) -> Float[Tensor, "b c h w"]:
    """The periodic picture shifted by any number of pixels, by the Fourier transform.

    This is exact for frequencies below half a cycle a pixel; those at exactly half a
    cycle can be shifted by whole pixels only.
    """
    for axis, amount in ((2, down), (3, right)):
        size = x.shape[axis]
        cycles = torch.fft.rfftfreq(size, device=x.device) * amount
        turn = torch.polar(torch.ones_like(cycles), -2 * math.pi * cycles)
        spectrum = torch.fft.rfft(x, dim=axis)
        x = torch.fft.irfft(
            spectrum * (turn[:, None] if axis == 2 else turn), size, dim=axis
        )
    return x


def equivariance(
    network: Callable[..., Float[Tensor, "b c h w"]],
    z: Float[Tensor, "b d"],
    shifts: Sequence[Shift],
    *,
    value_range: float = 2.0,
) -> float:
    """EQ-T in decibels, the translation equivariance of a network; higher is better.

    10 log10(value_range^2 / mean squared difference) between network(z, shift), whose
    input is shifted, and the shifted network(z); equation 3 of the paper, where shifts
    are random whole pixels of the output and pictures range from -1 to 1.
    """
    still = network(z)
    errors = [
        (network(z, shift) - translate(still, *shift)).square().mean()
        for shift in shifts
    ]
    return float(10 * torch.log10(value_range**2 / torch.stack(errors).mean()))
