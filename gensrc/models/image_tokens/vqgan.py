"""VQGAN: adversarial training of a tokenizer's decoder, for sharper pictures.

Esser, Rombach and Ommer, Taming Transformers for High-Resolution Image Synthesis, CVPR
2021, is the source of the VQGAN: a reconstruction loss plus an adversarial one, whose
weight follows from the gradients of the two at the decoder's last layer (equation 7).
The discriminator scores patches, as that of Isola, Zhu, Zhou and Efros (Image-to-Image
Translation with Conditional Adversarial Networks, CVPR 2017).

Deviations: the reconstruction loss is the squared error alone, since the paper's
perceptual loss needs a large pre-trained network. Only the decoder is trained, so that
the codes of a picture, and their number of bits, do not change. The loss is the hinge
loss, as in the authors' code; the discriminator has no batch normalisation.

Shapes: b pictures of c channels, H by W pixels; h by w codes or patches.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gensrc.models.checks import as_weights, check_same_shape, check_sizes, widened
from gensrc.models.gan.adversarial import HINGE
from gensrc.models.image_tokens.vqvae import Tokenizer

LARGEST_WEIGHT = 1e4  # of the generative loss, as in the authors' code


class PatchDiscriminator(nn.Module):
    """Pictures -> one logit for each patch; patches of 18 pixels, 4 pixels apart.

    width: channels of the first convolution; the others have twice as many.
    """

    def __init__(self, *, channels: int = 3, width: int = 32) -> None:
        super().__init__()
        check_sizes(channels=channels, width=width)
        self.main = nn.Sequential(
            nn.Conv2d(channels, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 2 * width, 3, 1, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 1),
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Float[Tensor, "b c H W"]) -> Float[Tensor, "b h w"]:
        return widened(self.main(as_weights(x, self))[:, 0])


def adaptive_weight(
    reconstruction: Float[Tensor, ""],
    generative: Float[Tensor, ""],
    last_layer: Tensor,
) -> Float[Tensor, ""]:
    """The norm of the gradient of `reconstruction` at the decoder's last layer, divided
    by that of `generative` (equation 7); detached."""

    def length(loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm()

    ratio = length(reconstruction) / (length(generative) + 1e-6)
    return ratio.clamp(0, LARGEST_WEIGHT).detach()


class Losses(NamedTuple):
    """The losses of an update of the decoder, detached."""

    reconstruction: Float[Tensor, ""]
    """Mean squared error over the variance of the pixels."""
    generative: Float[Tensor, ""]
    """Minus the mean logit of the discriminator for the decoded pictures."""
    weight: Float[Tensor, ""]
    """The factor on the generative loss."""


def update_decoder(
    tokenizer: Tokenizer,
    discriminator: PatchDiscriminator,
    optimizer: torch.optim.Optimizer,
    images: Float[Tensor, "b c H W"],
    codes: Int[Tensor, "b h w"],
    *,
    factor: float = 1.0,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> tuple[Float[Tensor, "b c H W"], Losses]:
    """One step of the decoder; returns the pictures before the step, detached.

    factor: on the adaptive weight; 0 for the squared error alone.
    """
    with autocast():
        drawn = tokenizer.draw(tokenizer.quantizer.lookup(codes))
        check_same_shape("pictures and those decoded", images, drawn)
        reconstruction = F.mse_loss(drawn, images) / tokenizer.variance
        generative = HINGE.generator(discriminator(drawn).flatten())
    weight = factor * adaptive_weight(reconstruction, generative, tokenizer.last_layer)
    optimizer.zero_grad(set_to_none=True)
    (reconstruction + weight * generative).backward()
    optimizer.step()
    losses = Losses(reconstruction.detach(), generative.detach(), weight)
    return drawn.detach(), losses


def update_discriminator(
    discriminator: PatchDiscriminator,
    optimizer: torch.optim.Optimizer,
    images: Float[Tensor, "b c H W"],
    drawn: Float[Tensor, "b c H W"],
    *,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Float[Tensor, ""]:
    """One step of the discriminator on real and decoded pictures."""
    with autocast():
        real, fake = discriminator(images).flatten(), discriminator(drawn).flatten()
        loss = HINGE.discriminator(real, fake)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()
