"""Pictures as tokens: autoencoders whose code is a few whole numbers.

Van den Oord, Vinyals and Kavukcuoglu, Neural Discrete Representation Learning, NeurIPS
2017, is the source of the VQ-VAE: nearest entry of a code book, straight-through
gradient, commitment (equation 3), a code book that follows moving averages (appendix
A.1). Mentzer, Minnen, Agustsson and Tschannen, Finite Scalar Quantization: VQ-VAE Made
Simple, ICLR 2024, is the source of the rival that rounds.

Deviations: entries that hardly anything chooses are put where the code book is worst,
instead of anywhere (Dhariwal et al., Jukebox, 2020). The squared error is divided by
the variance of the pixels, so that the best single colour has a loss of 1. The networks
are the paper's, narrower, with a 1x1 convolution around the code book.

Shapes: b pictures of c channels, H by W pixels; h by w codes; d numbers an entry.
"""

import itertools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gensrc.models.checks import check_ids, check_range, check_sizes


def straight_through(
    z: Float[Tensor, "*shape"], quantized: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """The values of `quantized` with the gradient of `z`, as if nothing had happened
    between the two."""
    return z + (quantized - z).detach()


def perplexity(codes: Int[Tensor, "*shape"], codebook_size: int) -> float:
    """exp(entropy) of how often each entry is used: as many as there are if all are
    used equally, 1 if one is always used."""
    shares = codes.flatten().bincount(minlength=codebook_size) / codes.numel()
    return float(torch.special.entr(shares).sum().exp())


def used(codes: Int[Tensor, "*shape"], codebook_size: int) -> float:
    """The share of the entries that occur at all."""
    return len(codes.unique()) / codebook_size


class Quantized(NamedTuple):
    """What a quantiser makes of the encoder's output."""

    vectors: Float[Tensor, "b d h w"]  # for the decoder, with the encoder's gradient
    codes: Int[Tensor, "b h w"]
    commitment: Float[Tensor, ""]  # mean squared distance of the two, if it counts


# --- Two quantisers -------------------------------------------------------------------


class CodeBook(nn.Module):
    """Entries that move to the mean of what chooses them; the nearest one is chosen."""

    decay = 0.99  # of the moving averages
    restart = 0.5
    """An entry that fewer outputs than this choose, on average over the last batches,
    is put on a random output of the batch; 0 leaves dead entries alone."""

    vectors: Float[Tensor, "entries d"]
    counts: Float[Tensor, " entries"]  # of vectors that choose it, a moving average
    sums: Float[Tensor, "entries d"]  # of those vectors, likewise

    def __init__(self, codebook_size: int, dim: int) -> None:
        super().__init__()
        check_sizes(codebook_size=codebook_size, embed_dim=dim)
        self.codebook_size, self.dim = codebook_size, dim
        self.register_buffer("vectors", torch.randn(codebook_size, dim))
        self.register_buffer("counts", torch.zeros(codebook_size))
        self.register_buffer("sums", torch.zeros(codebook_size, dim))

    def forward(self, z: Float[Tensor, "b d h w"]) -> Quantized:
        """In training mode the entries move, too."""
        flat = z.detach().float().permute(0, 2, 3, 1).reshape(-1, self.dim)
        chosen = self.nearest(flat)
        codes = chosen.unflatten(0, (len(z), *z.shape[2:]))
        quantized = self.lookup(codes)
        if self.training:
            self.follow(flat, chosen)
        commitment = F.mse_loss(z.float(), quantized)
        return Quantized(straight_through(z.float(), quantized), codes, commitment)

    @torch.no_grad()
    def nearest(self, flat: Float[Tensor, "n d"]) -> Int[Tensor, " n"]:
        """The entry with the smallest Euclidean distance from each vector."""
        # |z - e|^2 = |z|^2 - 2 z.e + |e|^2, and |z|^2 is the same for all entries. Bits
        # that bfloat16 does not have decide between close neighbours.
        with torch.autocast(flat.device.type, enabled=False):
            lengths = self.vectors.square().sum(1)
            return torch.addmm(lengths, flat, self.vectors.T, alpha=-2).argmin(1)

    def lookup(self, codes: Int[Tensor, "b h w"]) -> Float[Tensor, "b d h w"]:
        """Raises ValueError for a code that is no entry's."""
        check_codes(codes, self.codebook_size)
        return F.embedding(codes, self.vectors).permute(0, 3, 1, 2)

    @torch.no_grad()
    def follow(self, flat: Float[Tensor, "n d"], chosen: Int[Tensor, " n"]) -> None:
        """Move every entry towards the mean of the vectors that chose it."""
        counts = chosen.bincount(minlength=self.codebook_size).float()
        sums = torch.zeros_like(self.sums).index_add_(0, chosen, flat)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        dead = (self.counts < self.restart).nonzero()[:, 0]
        # k-means++: where the code book is worst, entries are needed most.
        away = (flat - self.vectors[chosen]).square().sum(1).cpu() + 1e-12
        others = torch.multinomial(away, len(flat)).to(flat.device)[: len(dead)]
        self.sums[dead], self.counts[dead] = flat[others], 1.0
        # What has no count keeps its place: without restarts it may be 0 in the end.
        alive = self.counts > 1e-5
        self.vectors[alive] = self.sums[alive] / self.counts[alive, None]


class FiniteScalar(nn.Module):
    """Each of d numbers is squeezed into a range and rounded: no code book to learn.

    levels: how many values each number can take; a code counts through all of them.
    """

    def __init__(self, levels: list[int]) -> None:
        super().__init__()
        # With two, 0 would lie at the very edge of one of them.
        if not levels or min(levels) < 3:
            raise ValueError(f"levels must be whole numbers from 3 on, not {levels}")
        self.levels = tuple(levels)
        self.codebook_size, self.dim = math.prod(levels), len(levels)

    def forward(self, z: Float[Tensor, "b d h w"]) -> Quantized:
        bounded = self.bound(z.float())
        rounded = straight_through(bounded, bounded.round())
        steps = (rounded.detach() + _column([n // 2 for n in self.levels], z)).long()
        codes = (steps * _column(self._places(), z).long()).sum(1)
        nothing = z.new_zeros((), dtype=torch.float)
        return Quantized(self._scaled(rounded), codes, nothing)

    def bound(self, z: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        """Squeezed so that rounding gives one of `levels` whole numbers around 0."""
        half = _column([(n - 1) * (1 + 1e-3) / 2 for n in self.levels], z)
        # An even number of levels has no middle one; shifted, 0 stays near 0.
        offset = _column([0.5 * (n % 2 == 0) for n in self.levels], z)
        return (z + (offset / half).atanh()).tanh() * half - offset

    def lookup(self, codes: Int[Tensor, "b h w"]) -> Float[Tensor, "b d h w"]:
        """Raises ValueError for a code that there is not."""
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
    """Pictures with levels in [0, 1] <-> whole numbers, one for each square of pixels.

    codebook_size, embed_dim: of the code book. levels: of finite scalar quantisation,
    which
        takes the code book's place if they are given.
    width: channels at the resolution of the codes. stride: pixels, the side of the
        square that a code stands for; a power of two.
    variance: of the pixels that it learns from.

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
        """Raises ValueError for sides that the stride does not divide, and for levels
        that the decoder cannot draw."""
        self._check(images)
        images = images.contiguous(memory_format=torch.channels_last)
        return self.quantizer(self.encoder(images))

    def draw(self, vectors: Float[Tensor, "b d h w"]) -> Float[Tensor, "b c H W"]:
        """Pixels that are meant to lie in [0, 1]."""
        return self.decoder(vectors).float()

    @property
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last convolution."""
        return self.decoder.get_parameter(f"{len(self.decoder) - 1}.weight")

    def forward(self, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b c H W"]:
        """The pictures after a passage through their codes."""
        return self.draw(self.quantize(images).vectors)

    def loss(self, batch: Float[Tensor, "b c H W"]) -> Float[Tensor, ""]:
        """Mean squared error over the variance of the pixels, plus the commitment."""
        quantized = self.quantize(batch)
        error = F.mse_loss(self.draw(quantized.vectors), batch)
        return error / self.variance + self.beta * quantized.commitment

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "b c H W"]) -> Int[Tensor, "b h w"]:
        """The codes of pictures. Raises ValueError as `quantize` does."""
        return torch.cat([self.quantize(some).codes for some in images.split(500)])

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "b h w"]) -> Float[Tensor, "b c H W"]:
        """The pictures of codes. Raises ValueError for a code that there is not."""
        parts = [self.draw(self.quantizer.lookup(some)) for some in codes.split(500)]
        return torch.cat(parts).clamp(0, 1)

    def _check(self, images: Tensor) -> None:
        height, width = images.shape[2:]
        if height % self.stride or width % self.stride:
            raise ValueError(
                f"pictures of {height} by {width} pixels cannot be cut into squares of "
                f"{self.stride}: pad or resize them to multiples of {self.stride}"
            )
        check_range(images, "the decoder", "rescale them")


def check_codes(codes: Int[Tensor, "*shape"], codebook_size: int) -> None:
    """Raises ValueError for a code that is no entry's."""
    advice = f"the code book has {codebook_size} entries; was another tokenizer used?"
    check_ids(codes, codebook_size, "codes", advice)
