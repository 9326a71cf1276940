"""The importance weighted autoencoder (IWAE): a VAE trained on a k-sample bound.

Burda, Grosse and Salakhutdinov, Importance Weighted Autoencoders, ICLR 2016, is the
source of training on the k-sample bound (equation 8). Its network of one stochastic
layer is `hidden_dim=200, hidden_layers=2, latent_dim=50`.

Deviations: hidden units are ReLUs, where the paper has tanh, and the decoder's bias is
not initialised with the logits of the mean picture.

Shapes: b examples, c h w the picture.
"""

from jaxtyping import Float
from torch import Tensor

from gensrc.models.vae import vae


class ImportanceWeightedVAE(vae.VAE):
    """A VAE trained on the bound of `samples` samples of z instead of one.

    Raises ValueError for fewer than one sample, and as `vae.VAE` does.
    """

    def __init__(self, *, samples: int = 50, **options: object) -> None:
        if samples < 1:
            raise ValueError(
                f"samples must be at least 1, the evidence lower bound, not {samples}"
            )
        super().__init__(**options)  # type: ignore[arg-type]
        self.samples = samples

    def loss(self, batch: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
        """Minus the importance-weighted bound with `samples` samples of z an example,
        in nats, mean over examples.

        `beta` and `free_nats` are ignored: with more than one sample the bound does not
        split into an error and a divergence.
        """
        return -vae.importance_weighted_bound(
            self.log_weights(batch, self.samples), self.samples
        ).mean()
