"""A convolutional variational autoencoder.

Salimans, Kingma and Welling, Markov Chain Monte Carlo and Variational Inference:
Bridging the Gap, ICML 2015, train a convolutional variational autoencoder on binarised
digits.

Deviations: the network is our own: two strided convolutions, each followed by a
residual block, halve the size; in the decoder two sub-pixel convolutions (pixel
shuffle) double it.

Shapes: b examples, c h w the picture, d the latent variables.
"""

from jaxtyping import Float
from torch import Tensor, nn

from gensrc.models.checks import check_sizes
from gensrc.models.vae import vae


class ZeroInitResidual(nn.Module):
    """x + two 3x3 convolutions of x; the second is initialised with zeros, so that the
    block starts as the identity.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.second(self.first(x.relu()).relu())


class ConvEncoder(nn.Sequential):
    """From flat pixels to `outputs` numbers: two strided convolutions, each with a
    residual block, and a linear map.

    Raises ValueError if height or width of the picture is not divisible by 4.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], channels: int, outputs: int
    ) -> None:
        (depth, height, width), wide = (
            _checked(image_shape, channels),
            2 * int(channels),
        )
        super().__init__(
            nn.Unflatten(-1, (depth, height, width)),
            nn.Conv2d(depth, channels, 4, stride=2, padding=1),
            ZeroInitResidual(channels),
            nn.ReLU(),
            nn.Conv2d(channels, wide, 4, stride=2, padding=1),
            ZeroInitResidual(wide),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(wide * height * width // 16, outputs),
        )


class ConvDecoder(nn.Sequential):
    """From `inputs` numbers to flat pixels, with any leading axes.

    Raises ValueError if height or width of the picture is not divisible by 4.
    """

    def __init__(
        self, inputs: int, channels: int, image_shape: tuple[int, int, int]
    ) -> None:
        (depth, height, width), wide = (
            _checked(image_shape, channels),
            2 * int(channels),
        )
        super().__init__(
            nn.Linear(inputs, wide * height * width // 16),
            nn.Unflatten(-1, (wide, height // 4, width // 4)),
            ZeroInitResidual(wide),
            nn.ReLU(),
            nn.Conv2d(wide, 4 * channels, 3, padding=1),
            nn.PixelShuffle(2),
            ZeroInitResidual(channels),
            nn.ReLU(),
            nn.Conv2d(channels, 4 * depth, 3, padding=1),
            nn.PixelShuffle(2),
            nn.Flatten(),
        )

    def forward(self, z: Float[Tensor, "*b d"]) -> Float[Tensor, "*b pixels"]:
        return super().forward(z.flatten(0, -2)).unflatten(0, z.shape[:-1])


class ConvVAE(vae.VAE):
    """`vae.VAE` with convolutional networks; bound, loss and sampling are inherited.

    channels: of the larger of the two hidden sizes; the smaller has twice as many.

    Raises ValueError if height or width is not divisible by 4, and as `vae.VAE` does.
    """

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        channels: int = 32,
        latent_dim: int = 32,
        likelihood: str = "bernoulli",
    ) -> None:
        encoder = ConvEncoder(image_shape, channels, 2 * latent_dim)
        decoder = ConvDecoder(latent_dim, channels, image_shape)
        # The parent's networks, built as small as possible, are replaced.
        super().__init__(
            image_shape=image_shape,
            hidden_dim=1,
            latent_dim=latent_dim,
            likelihood=likelihood,
        )
        self.encoder, self.decoder = encoder, decoder


def _checked(image_shape: tuple[int, int, int], channels: int) -> tuple[int, int, int]:
    depth, height, width = map(int, image_shape)  # of numpy's whole numbers as well
    check_sizes(channels=channels)
    if height % 4 or width % 4:
        raise ValueError(
            f"pictures are halved twice, but {height}x{width} is not divisible by 4: "
            "pad or crop them"
        )
    return depth, height, width
