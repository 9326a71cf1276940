"""A VAE with a discretised likelihood: a probability for each of 256 levels a pixel.

Salimans, Karpathy, Chen and Kingma, PixelCNN++, ICLR 2017, section 2.1, is the source
of the discretised mixture of logistic distributions. Kingma et al. (Improved
Variational Inference with Inverse Autoregressive Flow, NeurIPS 2016) have a single one
in the decoder.

Deviations: pixels are independent given z, where PixelCNN++ has each depend on those
before it. A level is k/255 in [0, 1], not in [-1, 1].

Shapes: b examples, c h w the picture, d the latent variables, m mixture components.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gensrc.models.checks import as_weights, check_levels, check_sizes, widened
from gensrc.models.distributions import LEVELS, DiscretizedLogisticMixture
from gensrc.models.vae.vae import VAE, mlp


class DiscretizedVAE(VAE):
    """A VAE whose decoder gives each pixel a probability for each of 256 levels.

    Its bound is on the probability of pictures of 8-bit pixels, so it can be stated in
    bits per dimension and compared with file sizes. It cannot be compared with bounds
    of binarised pictures or of densities.

    num_components: of the mixture of logistic distributions at each pixel.
    """

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        hidden_dim: int = 200,
        latent_dim: int = 20,
        num_components: int = 3,
    ) -> None:
        super().__init__(
            image_shape=image_shape, hidden_dim=hidden_dim, latent_dim=latent_dim
        )
        check_sizes(num_components=num_components)
        self.likelihood, self.num_components = "logistic_mixture", num_components
        pixels = math.prod(image_shape)
        self.decoder = mlp(latent_dim, hidden_dim, 3 * num_components * pixels)
        output = self.decoder[-1]
        assert isinstance(output, nn.Linear)
        with torch.no_grad():  # initialise with components spread over the levels
            spread = output.bias.view(3, num_components, pixels)
            spread[1] = torch.linspace(0, 1, num_components).unsqueeze(1)
            spread[2] = -2.0

    def decode(  # type: ignore[override]
        self, z: Float[Tensor, "*b d"]
    ) -> DiscretizedLogisticMixture:
        """p(x|z), one independent distribution over levels a pixel."""
        shape = (3, self.num_components, *self.image_shape)
        output = widened(self.decoder(as_weights(z, self))).unflatten(-1, shape)
        logits, loc, log_scale = output.unbind(-5)
        return DiscretizedLogisticMixture(logits, loc, log_scale)

    def sample(
        self, n: int, *, mean: bool = False, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n c h w"]:
        """n new pictures: z ~ p(z), then x ~ p(x|z), or its mean if `mean` is set."""
        z = torch.randn((n, self.latent_dim), generator=generator)
        with torch.no_grad():
            pixels = self.decode(z)
            return pixels.mean if mean else pixels.sample(generator)

    def _check_range(self, x: Tensor) -> None:
        check_levels(x, LEVELS)
