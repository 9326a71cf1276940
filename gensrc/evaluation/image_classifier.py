"""Small convolutional classifiers of pictures, and their features for metrics.

They follow LeNet-5 (LeCun, Bottou, Bengio and Haffner, Gradient-Based Learning Applied
to Document Recognition, 1998). Deviations: strides instead of subsampling, ReLUs, batch
normalisation (Ioffe and Szegedy, ICML 2015) and dropout. The last hidden layer gives
the features for metrics such as the Frechet distance; in the second classifier it is a
mean over all positions (Lin, Chen and Yan, Network in Network, ICLR 2014).

Shapes: n pictures of c channels, h by w pixels in [-1, 1].
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from gensrc.models.checks import (
    as_weights,
    check_finite,
    check_labels,
    check_shape,
    check_some,
    widened,
)


class ImageClassifier(nn.Module):
    """Three convolutions of stride 2, a hidden layer of 4 * width units, and logits.

    width: channels of the first convolution; the others have twice as many.

    Raises ValueError for an image size that 8 does not divide, and sizes below 1.
    """

    def __init__(
        self,
        image_size: int = 32,
        channels: int = 1,
        width: int = 16,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        if min(image_size, channels, width, num_classes) < 1 or image_size % 8:
            raise ValueError(
                "image_size must be a multiple of 8 and no size below 1, not "
                f"{image_size} and {channels}, {width}, {num_classes}: pad the pictures"
            )
        self.picture = (channels, image_size, image_size)
        self.body = nn.Sequential(
            *_convolution(channels, width),
            *_convolution(width, 2 * width),
            *_convolution(2 * width, 2 * width),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(2 * width * (image_size // 8) ** 2, 4 * width),
            nn.ReLU(),
        )
        self.head = nn.Linear(4 * width, num_classes)

    def features(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n f"]:
        """The input of the last layer, 4 * width numbers a picture.

        Raises ValueError for another shape, and for values that are not finite.
        """
        if tuple(x.shape[1:]) != self.picture:
            raise ValueError(
                f"the pictures have shape {tuple(x.shape)}; this classifier wants "
                f"(n, {', '.join(map(str, self.picture))})"
            )
        check_some(x, "pictures")
        check_finite(x, "pictures")
        return widened(self.body(as_weights(x, self)))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Logits of the classes."""
        return widened(self.head(as_weights(self.features(x), self)))

    def loss(
        self, x: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"]
    ) -> Float[Tensor, ""]:
        """Cross-entropy in nats, mean over the pictures.

        Raises ValueError as `features` does, and for labels of no class.
        """
        check_labels(labels, len(x), self.head.out_features)
        return F.cross_entropy(self(x), labels)

    @torch.no_grad()
    def classify(self, x: Float[Tensor, "n c h w"]) -> Int64[Tensor, " n"]:
        """The most probable class of each picture; call it in evaluation mode."""
        return torch.cat([self(some).argmax(1) for some in x.split(1000)])


class PooledClassifier(nn.Module):
    """Three convolutions of stride 2, the mean over all positions, and logits.

    The mean makes it deaf to where something is, and lets it read pictures of any size
    that 8 divides. Half of the features are dropped in training.

    width: channels of the first convolution; each of the next has twice as many.
    """

    def __init__(self, width: int, num_classes: int, channels: int = 3) -> None:
        super().__init__()
        self.channels = channels
        layers: list[nn.Module] = []
        for outputs in (width, 2 * width, 4 * width):
            layers.append(nn.Conv2d(channels, outputs, 4, 2, 1, bias=False))
            layers += [nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]
            channels = outputs
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(channels, num_classes)

    def features(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n f"]:
        """What the last layer decides from, 4 * width numbers a picture.

        Raises ValueError for another shape, and for values that are not finite.
        """
        check_shape(x, (self.channels, None, None), "pictures")
        check_finite(x, "pictures")
        return self.body(as_weights(x, self)).mean((2, 3))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Logits of the classes."""
        return self.head(F.dropout(self.features(x), 0.5, self.training))

    def loss(
        self, x: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"]
    ) -> Float[Tensor, ""]:
        """Cross-entropy in nats, mean over the pictures.

        Raises ValueError as `features` does, and for labels of no class.
        """
        check_labels(labels, len(x), self.head.out_features)
        return F.cross_entropy(self(x), labels)


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    layers = [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs)]
    return [*layers, nn.ReLU()]
