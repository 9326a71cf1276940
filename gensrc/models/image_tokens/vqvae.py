"""VQ-VAE and finite scalar quantisation (FSQ): autoencoders with discrete codes.

Van den Oord, Vinyals and Kavukcuoglu, Neural Discrete Representation Learning, NeurIPS
2017, is the source of the VQ-VAE: nearest entry of a code book, straight-through
gradient, commitment (equation 3), a code book updated by moving averages (appendix
A.1). Mentzer, Minnen, Agustsson and Tschannen, Finite Scalar Quantization: VQ-VAE Made
Simple, ICLR 2024, is the source of the quantiser that rounds.

Deviations: entries that are hardly used are reset to outputs with a large quantisation
error, not to any output (Dhariwal et al., Jukebox, 2020). The squared error is divided
by the variance of the pixels, so that the best single colour has a loss of 1. The
networks are the paper's, narrower, with 1x1 convolutions around the code book.

Shapes: b pictures of c channels, H by W pixels; h by w codes; d numbers an entry.
"""

import itertools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gensrc.models.checks import (
    as_weights,
    check_finite,
    check_ids,
    check_range,
    check_same_shape,
    check_shape,
    check_sizes,
    widened,
)


def straight_through(
    z: Float[Tensor, "*shape"], quantized: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """The values of `quantized`, with the gradient passed to `z` unchanged.

    Raises ValueError for shapes that differ.
    """
    check_same_shape("vectors and their quantised ones", z, quantized)
    return z + (quantized - z).detach()


def perplexity(codes: Int[Tensor, "*shape"], codebook_size: int) -> float:
    """exp(entropy) of the frequencies of the entries: codebook_size if all are used
    equally, 1 if only one is used. Raises ValueError for no codes, and for one that is
    no entry's."""
    _check_some(codes, codebook_size)
    shares = codes.flatten().bincount(minlength=codebook_size) / codes.numel()
    return float(torch.special.entr(shares).sum().exp())


def used(codes: Int[Tensor, "*shape"], codebook_size: int) -> float:
    """The share of the entries that occur at all. Raises ValueError as `perplexity`."""
    _check_some(codes, codebook_size)
    return len(codes.unique()) / codebook_size


class Quantized(NamedTuple):
    """The quantised output of the encoder."""

    vectors: Float[Tensor, "b d h w"]  # for the decoder, straight-through
    codes: Int[Tensor, "b h w"]
    commitment: Float[Tensor, ""]  # mean squared error of quantisation; 0 for FSQ


# --- Two quantisers -------------------------------------------------------------------


class CodeBook(nn.Module):
    """Quantisation to the nearest entry; entries follow the means of their inputs."""

    decay = 0.99  # of the moving averages
    restart = 0.5
    """An entry with fewer vectors than this, in the moving average of a batch, is reset
    to an output of the encoder; 0 for no resets."""

    vectors: Float[Tensor, "entries d"]
    counts: Float[Tensor, " entries"]  # of vectors assigned to it, a moving average
    sums: Float[Tensor, "entries d"]  # of those vectors, likewise

    def __init__(self, codebook_size: int, dim: int) -> None:
        super().__init__()
        check_sizes(codebook_size=codebook_size, embed_dim=dim)
        self.codebook_size, self.dim = codebook_size, dim
        self.register_buffer("vectors", torch.randn(codebook_size, dim))
        self.register_buffer("counts", torch.zeros(codebook_size))
        self.register_buffer("sums", torch.zeros(codebook_size, dim))

    def forward(self, z: Float[Tensor, "b d h w"]) -> Quantized:
        """In training mode the entries are updated, too."""
        _check_vectors(z, self.dim)
        flat = (
            widened(z.detach())
            .to(self.vectors)
            .permute(0, 2, 3, 1)
            .reshape(-1, self.dim)
        )
        chosen = self.nearest(flat)
        codes = chosen.unflatten(0, (len(z), *z.shape[2:]))
        quantized = self.lookup(codes)
        if self.training:
            self.follow(flat, chosen)
        commitment = F.mse_loss(widened(z), quantized)
        return Quantized(straight_through(widened(z), quantized), codes, commitment)

    @torch.no_grad()
    def nearest(self, flat: Float[Tensor, "n d"]) -> Int[Tensor, " n"]:
        """The entry with the smallest Euclidean distance from each vector."""
        # |z - e|^2 = |z|^2 - 2 z.e + |e|^2, and |z|^2 is the same for all entries.
        # bfloat16 is too coarse to compare distances to close entries.
        with torch.autocast(flat.device.type, enabled=False):
            lengths = self.vectors.square().sum(1)
            return torch.addmm(lengths, flat, self.vectors.T, alpha=-2).argmin(1)

    def lookup(self, codes: Int[Tensor, "b h w"]) -> Float[Tensor, "b d h w"]:
        """The entries of codes. Raises ValueError for a code out of range."""
        check_codes(codes, self.codebook_size)
        return F.embedding(codes, self.vectors).permute(0, 3, 1, 2)

    @torch.no_grad()
    def follow(self, flat: Float[Tensor, "n d"], chosen: Int[Tensor, " n"]) -> None:
        """Move every entry towards the mean of the vectors assigned to it."""
        counts = chosen.bincount(minlength=self.codebook_size).to(self.counts)
        sums = torch.zeros_like(self.sums).index_add_(0, chosen, flat)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        # As many as there are outputs; the other entries are reset in later batches.
        dead = (self.counts < self.restart).nonzero()[: len(flat), 0]
        # As in k-means++, with a probability proportional to the squared error.
        away = (flat - self.vectors[chosen]).square().sum(1).cpu() + 1e-12
        others = torch.multinomial(away, len(flat)).to(flat.device)[: len(dead)]
        self.sums[dead], self.counts[dead] = flat[others], 1.0
        # Without restarts a count may decay to 0: such an entry stays as it is.
        alive = self.counts > 1e-5
        self.vectors[alive] = self.sums[alive] / self.counts[alive, None]


class FiniteScalar(nn.Module):
    """FSQ: each of d numbers is bounded and rounded; there is no learned code book.

    levels: how many values each number can take; a code indexes their combinations.
    """

    def __init__(self, levels: list[int]) -> None:
        super().__init__()
        # With two levels, 0 would be at the boundary between them.
        if not levels or min(levels) < 3:
            raise ValueError(f"levels must be whole numbers from 3 on, not {levels}")
        self.levels = tuple(levels)
        self.codebook_size, self.dim = math.prod(levels), len(levels)

    def forward(self, z: Float[Tensor, "b d h w"]) -> Quantized:
        _check_vectors(z, self.dim)
        bounded = self.bound(widened(z))
        rounded = straight_through(bounded, bounded.round())
        steps = (rounded.detach() + _column([n // 2 for n in self.levels], z)).long()
        codes = (steps * _column(self._places(), z).long()).sum(1)
        nothing = z.new_zeros((), dtype=torch.float)
        return Quantized(self._scaled(rounded), codes, nothing)

    def bound(self, z: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        """Bounded so that rounding gives one of `levels` whole numbers around 0."""
        half = _column([(n - 1) * (1 + 1e-3) / 2 for n in self.levels], z)
        # An even number of levels has no middle one; the shift keeps 0 near 0.
        offset = _column([0.5 * (n % 2 == 0) for n in self.levels], z)
        return (z + (offset / half).atanh()).tanh() * half - offset

    def lookup(self, codes: Int[Tensor, "b h w"]) -> Float[Tensor, "b d h w"]:
        """The vectors of codes. Raises ValueError for a code out of range."""
        check_codes(codes, self.codebook_size)
        pairs = zip(self._places(), self.levels, strict=True)
        steps = [codes // place % n - n // 2 for place, n in pairs]
        return self._scaled(torch.stack(steps, 1).float())

    def _scaled(self, rounded: Tensor) -> Tensor:
        return rounded / _column([n // 2 for n in self.levels], rounded)

    def _places(self) -> list[int]:
        return [math.prod(self.levels[:i]) for i in range(self.dim)]


def _column(values: list, like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float, device=like.device)[:, None, None]


# --- From pictures to codes and back --------------------------------------------------


class ResidualBlock(nn.Module):
    """x + f(x) with a 3x3 and a 1x1 convolution (van den Oord et al., section 4.1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(width, width, 3, 1, 1)
        self.narrow = nn.Conv2d(width, width, 1)

    def forward(self, x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        return x + self.narrow(F.relu(self.wide(F.relu(x))))


class Tokenizer(nn.Module):
    """Pictures in [0, 1] to codes and back, one code for each square of pixels.

    codebook_size, embed_dim: of the code book. levels: of finite scalar quantisation,
        which replaces the code book if they are given.
    width: channels at the resolution of the codes. stride: pixels, the side of the
        square of a code; a power of two.
    variance: of the pixels of the training set.

    Raises ValueError for sizes below 1, a stride that is no power of two from 2 on,
    and a variance that is not positive.
    """

    beta = 0.25  # weight of the commitment in `loss`, the paper's

    def __init__(
        self,
        *,
        codebook_size: int = 512,
        embed_dim: int = 32,
        levels: list[int] | None = None,
        width: int = 64,
        stride: int = 4,
        channels: int = 3,
        variance: float = 1.0,
    ) -> None:
        super().__init__()
        check_sizes(channels=channels)
        if stride < 2 or stride & (stride - 1):
            raise ValueError(f"stride must be a power of two from 2 on, not {stride}")
        if width < stride // 2:
            raise ValueError(f"width must be at least {stride // 2}, not {width}")
        if not variance > 0:
            raise ValueError(f"variance must be positive, not {variance}")
        self.quantizer = (
            FiniteScalar(levels)
            if levels is not None
            else CodeBook(codebook_size, embed_dim)
        )
        self.codebook_size, self.stride = self.quantizer.codebook_size, stride
        self.variance, dim = variance, self.quantizer.dim
        self.channels = channels
        halvings = stride.bit_length() - 1
        sizes = [channels, *(width // 2**i for i in reversed(range(halvings)))]
        down: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(sizes):
            down += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.ReLU()]
        down[-1:] = [ResidualBlock(width), ResidualBlock(width), nn.ReLU()]
        self.encoder = nn.Sequential(*down, nn.Conv2d(width, dim, 1))
        up: list[nn.Module] = [nn.Conv2d(dim, width, 3, 1, 1)]
        up += [ResidualBlock(width), ResidualBlock(width)]
        for inputs, outputs in itertools.pairwise(reversed(sizes)):
            up += [nn.ReLU(), nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)]
        self.decoder = nn.Sequential(*up)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def quantize(self, images: Float[Tensor, "b c H W"]) -> Quantized:
        """Raises ValueError for sides that the stride does not divide, and for pixels
        outside [0, 1]."""
        self._check(images)
        images = images.contiguous(memory_format=torch.channels_last)
        return self.quantizer(self.encoder(as_weights(images, self)))

    def draw(self, vectors: Float[Tensor, "b d h w"]) -> Float[Tensor, "b c H W"]:
        """The decoder's pixels, which may leave [0, 1]."""
        return widened(self.decoder(as_weights(vectors, self)))

    @property
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last convolution."""
        return self.decoder.get_parameter(f"{len(self.decoder) - 1}.weight")

    def forward(self, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b c H W"]:
        """The reconstructions of pictures from their codes."""
        return self.draw(self.quantize(images).vectors)

    def loss(self, batch: Float[Tensor, "b c H W"]) -> Float[Tensor, ""]:
        """Mean squared error over the variance of the pixels, plus the commitment."""
        quantized = self.quantize(batch)
        drawn = self.draw(quantized.vectors)
        error = F.mse_loss(drawn, batch.to(drawn))
        return error / self.variance + self.beta * quantized.commitment

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "b c H W"]) -> Int[Tensor, "b h w"]:
        """The codes of pictures. Raises ValueError as `quantize` does."""
        return torch.cat([self.quantize(some).codes for some in images.split(500)])

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "b h w"]) -> Float[Tensor, "b c H W"]:
        """The pictures of codes. Raises ValueError for a code out of range."""
        parts = [self.draw(self.quantizer.lookup(some)) for some in codes.split(500)]
        return torch.cat(parts).clamp(0, 1)

    def _check(self, images: Tensor) -> None:
        check_shape(images, (self.channels, None, None), "pictures")
        height, width = images.shape[2:]
        if height % self.stride or width % self.stride:
            raise ValueError(
                f"pictures of {height} by {width} pixels cannot be cut into squares of "
                f"{self.stride}: pad or resize them to multiples of {self.stride}"
            )
        check_range(images, "the decoder", "rescale them")


def _check_vectors(z: Tensor, dim: int) -> None:
    """Raises ValueError for another number of channels, and values not finite."""
    check_shape(z, (dim, None, None), "vectors")
    check_finite(z, "vectors", "look for such values in the weights of the encoder")


def _check_some(codes: Tensor, codebook_size: int) -> None:
    if codes.numel() == 0:
        raise ValueError(
            "there are no codes to count: give those of a picture at least"
        )
    check_codes(codes, codebook_size)


def check_codes(codes: Int[Tensor, "*shape"], codebook_size: int) -> None:
    """Raises ValueError for a code outside 0 to codebook_size - 1."""
    advice = f"the code book has {codebook_size} entries; was another tokenizer used?"
    check_ids(codes, codebook_size, "codes", advice)
