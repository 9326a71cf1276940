"""DCGAN: a convolutional generator and discriminator, with classes if wanted.

The networks are those of Radford, Metz and Chintala (Unsupervised Representation
Learning with Deep Convolutional Generative Adversarial Networks, ICLR 2016), at any
size that is a power of two. Losses and updates are in `adversarial`. Spectral
normalisation is that of Miyato et al. (ICLR 2018).

Deviations: the discriminator returns a logit, so its loss can be computed without the
logarithm of a sigmoid. Where it has no batch normalisation, its inner convolutions have
biases. The class is a one-hot vector, concatenated with the generator's noise. The
discriminator has an output for each class, added to the common one: the projection of
Miyato and Koyama (ICLR 2018) without their sum over positions.

Shapes: n pictures of c channels, h by w pixels in [-1, 1]; d numbers of noise.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gensrc.models.checks import as_weights, check_labels, check_sizes, widened

NORMS = ("batch", "spectral", "none")


def _check(image_size: int, **sizes: int) -> None:
    if image_size < 8 or image_size & (image_size - 1):
        raise ValueError(
            f"image_size must be a power of two from 8 on, not {image_size}, as "
            "each layer doubles or halves it: pad or resize the pictures"
        )
    check_sizes(**sizes)


def _initialise(network: nn.Module) -> None:
    """As DCGAN: kernels from N(0, 0.02^2), scales of batch normalisation N(1, 0.02^2).

    The standard deviation of 0.02 suits the width of the paper's networks.
    """
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, 0, 0.02)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1, 0.02)


class Generator(nn.Module):
    """Noise -> picture, by transposed convolutions from 4x4 up.

    width: channels of the last hidden layer; each one before has twice as many.
    num_classes: of a class-conditional generator; 0 for an unconditional one.

    Raises ValueError for an image size that is no power of two or under 8, and for
    other sizes under 1.
    """

    def __init__(
        self,
        image_size: int = 32,
        channels: int = 1,
        latent_dim: int = 100,
        width: int = 64,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        _check(
            image_size,
            channels=channels,
            latent_dim=latent_dim,
            width=width,
        )
        check_sizes(least=0, num_classes=num_classes)
        self.latent_dim, self.num_classes = latent_dim, num_classes
        top = width * image_size // 8
        inputs = latent_dim + num_classes
        layers: list[nn.Module] = [nn.ConvTranspose2d(inputs, top, 4, bias=False)]
        while top > width:
            layers += [nn.BatchNorm2d(top), nn.ReLU()]
            layers.append(nn.ConvTranspose2d(top, top // 2, 4, 2, 1, bias=False))
            top //= 2
        layers += [nn.BatchNorm2d(top), nn.ReLU()]
        layers += [nn.ConvTranspose2d(top, channels, 4, 2, 1, bias=False), nn.Tanh()]
        self.main = nn.Sequential(*layers)
        _initialise(self)

    def forward(
        self, z: Float[Tensor, "n *d"], labels: Int64[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n c h w"]:
        if z.shape[1:] != (self.latent_dim,):
            raise ValueError(
                f"the noise has shape {tuple(z.shape)}; this generator wants "
                f"(n, {self.latent_dim})"
            )
        check_labels(labels, len(z), self.num_classes)
        z = as_weights(z, self)
        if labels is not None:
            z = torch.cat([z, F.one_hot(labels, self.num_classes).to(z.dtype)], 1)
        return self.main(z[:, :, None, None])

    def noise(
        self, n: int, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n d"]:
        """z ~ N(0, I), drawn on the CPU, so that a seed gives the same on a GPU."""
        return as_weights(torch.randn(n, self.latent_dim, generator=generator), self)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        labels: Int64[Tensor, " n"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "n c h w"]:
        """n new pictures; labels that a class-conditional model needs are drawn."""
        z = self.noise(n, generator=generator)
        if labels is None and self.num_classes:
            labels = torch.randint(self.num_classes, (n,), generator=generator)
        chosen = None if labels is None else labels.to(z.device).split(500)
        parts = z.split(500)
        every = [None] * len(parts) if chosen is None else chosen
        return torch.cat([self(*pair) for pair in zip(parts, every, strict=True)])


class Discriminator(nn.Module):
    """Picture -> logit of its being real, by strided convolutions down to 4x4.

    norm: "batch" as in DCGAN, "spectral", or "none". A gradient penalty needs one of
        the latter two: with batch normalisation a picture's logit depends on the other
        pictures of the batch.
    num_classes: as for the generator.

    Raises ValueError for an unknown norm and as the generator does.
    """

    def __init__(
        self,
        image_size: int = 32,
        channels: int = 1,
        width: int = 64,
        norm: str = "batch",
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        _check(image_size, channels=channels, width=width)
        check_sizes(least=0, num_classes=num_classes)
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, not {norm!r}")
        self.picture = (channels, image_size, image_size)
        self.num_classes = num_classes
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1, bias=False)]
        layers.append(nn.LeakyReLU(0.2))
        for size in range(int(math.log2(image_size)) - 3):
            inputs = width * 2**size
            bias = norm != "batch"
            layers.append(nn.Conv2d(inputs, 2 * inputs, 4, 2, 1, bias=bias))
            if norm == "batch":
                layers.append(nn.BatchNorm2d(2 * inputs))
            layers.append(nn.LeakyReLU(0.2))
        top = width * image_size // 8
        layers.append(nn.Conv2d(top, 1 + num_classes, 4, bias=False))
        self.main = nn.Sequential(*layers)
        _initialise(self)
        if norm == "spectral":
            for layer in layers:
                if isinstance(layer, nn.Conv2d):
                    spectral_norm(layer)

    def forward(
        self, x: Float[Tensor, "n *chw"], labels: Int64[Tensor, " n"] | None = None
    ) -> Float[Tensor, " n"]:
        if tuple(x.shape[1:]) != self.picture:
            raise ValueError(
                f"the pictures have shape {tuple(x.shape)}; this discriminator wants "
                f"(n, {', '.join(map(str, self.picture))})"
            )
        check_labels(labels, len(x), self.num_classes)
        logits = widened(self.main(as_weights(x, self)).flatten(1))
        if labels is None:
            return logits[:, 0]
        return logits[:, 0] + logits[:, 1:].gather(1, labels[:, None])[:, 0]
