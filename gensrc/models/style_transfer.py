"""Neural style transfer: a picture with the content of one and the style of another.

Gatys, Ecker and Bethge, A Neural Algorithm of Artistic Style, 2015, and Image Style
Transfer Using Convolutional Neural Networks, CVPR 2016: no network is trained. The
pixels of a picture are optimised until its features are near those of a content picture
and the Gram matrices of its features are near those of a style picture.

Deviations: the features are not those of VGG-19, whose trained weights would have to be
downloaded, but of one layer of random filters, which Ustyuzhaninov, Brendel, Gatys and
Bethge (What Does It Take to Generate Natural Textures?, ICLR 2017) found to be enough
for textures. Their filters are of eight sizes; here they are of one size, on an image
pyramid (as Snelgrove did with VGG, High-Resolution Multi-Scale Neural Texture
Synthesis, SIGGRAPH Asia 2017 technical briefs), which costs less. Filters sum to zero,
and colours have separate 1x1 filters. Both losses are divided by the squared size of
their targets, so that weights mean the same for every picture. Pixels are the sigmoid
of the variables that are optimised, so they stay in [0, 1].

Shapes: n pictures, k maps of one layer, h w its positions.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gensrc.models.checks import check_range, check_same_shape, check_shape

MARGIN = 0.02
"""Least distance of initial pixels from 0 and 1, where the gradient vanishes."""


class RandomFeatures(nn.Module):
    """Outputs of random filters after a ReLU: of colours, and of shapes by scale.

    The first layer has `colours` filters of a single pixel. Each of the following
    `levels` layers has the same `filters` filters of size x size pixels, applied to a
    picture half as large as for the layer before. The filters are not trained.

    seed: of the filters.

    Raises ValueError for a number below 1 or an even size.
    """

    filters: Tensor
    colours: Tensor
    thresholds: Tensor
    blur: Tensor

    def __init__(
        self,
        *,
        filters: int = 48,
        size: int = 5,
        levels: int = 4,
        colours: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(filters, size, levels, colours) < 1 or size % 2 == 0:
            raise ValueError(
                "filters, levels and colours must be at least 1 and size odd, not "
                f"{filters}, {levels}, {colours} and {size}"
            )
        self.size, self.levels = size, levels
        generator = torch.Generator().manual_seed(int(seed))

        def uniform(*shape: int) -> Tensor:
            return 2 * torch.rand(shape, generator=generator) - 1

        shapes = uniform(filters, 3, size, size)
        shapes = shapes - shapes.mean((2, 3), keepdim=True)  # 0 for a flat colour
        self.register_buffer("filters", _unit(shapes))
        self.register_buffer("colours", _unit(uniform(colours, 3, 1, 1)))
        self.register_buffer("thresholds", uniform(colours) / 2)
        row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16  # binomial, against aliasing
        self.register_buffer("blur", (row[:, None] * row).expand(3, 1, 5, 5).clone())

    @property
    def smallest(self) -> int:
        """The least height or width of a picture whose coarsest copy can be padded."""
        return (max(self.size // 2, 2) + 1) * 2 ** (self.levels - 1)

    def forward(
        self, images: Float[Tensor, "n 3 h w"]
    ) -> list[Float[Tensor, "n k _ _"]]:
        """The maps, colours first, then from fine to coarse. images: in [0, 1].

        Raises ValueError for pictures without three channels or below `smallest`.
        """
        check(images, self.smallest)
        x = 2 * images.to(self.filters) - 1
        maps = [F.conv2d(x, self.colours, self.thresholds).relu()]
        for level in range(self.levels):
            if level:
                x = F.conv2d(_padded(x, 2), self.blur, stride=2, groups=3)
            maps.append(F.conv2d(_padded(x, self.size // 2), self.filters).relu())
        return maps


def check(images: Tensor, smallest: int = 1) -> None:
    """Raises ValueError unless these are large enough, in colour and in [0, 1]."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"pictures must have the shape (n, 3, height, width), not "
            f"{tuple(images.shape)}: for grey ones, repeat the channel three times"
        )
    if min(images.shape[2:]) < smallest:
        raise ValueError(
            f"pictures of {images.shape[2]}x{images.shape[3]} pixels are too small for "
            f"these features: they need {smallest} at least, or fewer levels"
        )
    check_range(images, "style transfer", "rescale the pictures")


def gram(maps: Float[Tensor, "n k h w"]) -> Float[Tensor, "n k k"]:
    """The Gram matrix: products of all pairs of maps, averaged over positions.

    It tells which maps are active together, but not where. Raises ValueError for
    another number of axes.
    """
    check_shape(maps, (None, None, None), "maps")
    flat = maps.flatten(2)
    return flat @ flat.mT / flat.shape[2]


def relative_error(
    found: Sequence[Tensor], wanted: Sequence[Tensor]
) -> Float[Tensor, ""]:
    """Sum of squared differences, divided by the sum of squares of `wanted`.

    Raises ValueError for a pair of different shapes.
    """
    pairs = list(zip(found, wanted, strict=True))
    for f, w in pairs:
        check_same_shape("what is found and what is wanted", f, w)
    off = torch.stack([(f - w).square().sum() for f, w in pairs]).sum()
    return off / torch.stack([w.square().sum() for w in wanted]).sum()


class Losses(NamedTuple):
    """How far a picture is from the target's style and content."""

    style: Float[Tensor, ""]
    """Relative squared error of the Gram matrices of all maps."""
    content: Float[Tensor, ""]
    """Relative squared error of the maps of one level; 1 if all of them are zero."""


class Target:
    """The target: Gram matrices of the style picture, maps of the content picture.

    The two pictures may differ in size, as the size of a Gram matrix does not depend on
    it.

    content_level: the level whose maps are the content, from 0, the finest. With a
    coarse level the detail comes from the style.

    Raises ValueError as `RandomFeatures` does, for a level out of range, and for a
    content or style picture whose features are all zero.
    """

    def __init__(
        self,
        features: RandomFeatures,
        content: Float[Tensor, "1 3 h w"],
        style: Float[Tensor, "1 3 sh sw"],
        *,
        content_level: int = 2,
    ) -> None:
        if not 0 <= content_level < features.levels:
            raise ValueError(
                f"content_level must lie between 0 and {features.levels - 1}, not "
                f"{content_level}"
            )
        self.features, self.level = features, content_level + 1  # colours are first
        self.shape = content.shape
        with torch.no_grad():
            self.grams = [gram(maps) for maps in features(style)]
            self.maps = features(content)[self.level]
        if not self.maps.square().mean() > 1e-10:
            raise ValueError("the content is one flat colour: there is nothing to keep")
        if not torch.stack([each.abs().max() for each in self.grams]).max() > 1e-10:
            raise ValueError("the features see nothing of the style: take more colours")

    def losses(self, picture: Float[Tensor, "1 3 h w"]) -> Losses:
        maps = self.features(picture)
        return Losses(
            relative_error([gram(each) for each in maps], self.grams),
            relative_error([maps[self.level]], [self.maps]),
        )


class Transfer(NamedTuple):
    """The resulting picture, and both losses at each evaluation."""

    picture: Float[Tensor, "1 3 h w"]
    style: list[float]
    content: list[float]


def transfer(
    target: Target,
    start: Float[Tensor, "1 3 h w"],
    *,
    style_weight: float,
    content_weight: float = 1.0,
    evaluations: int = 60,
) -> Transfer:
    """Minimise the weighted sum of the two losses over the pixels of `start`.

    The optimiser is L-BFGS with a line search, as in the paper: the sum never grows. So
    if `start` has the content, content_weight * content loss stays below
    style_weight * the style loss at the start.

    start: the content picture, or noise of its size.
    evaluations: of loss and gradient, approximately.

    Raises ValueError for a negative weight, two zeros, fewer than one evaluation, or
    a start of another size than the content.
    """
    weights = (style_weight, content_weight)
    if not (all(0 <= weight < torch.inf for weight in weights) and any(weights)):
        raise ValueError(
            "weights must not be negative or infinite, nor both zero, as are "
            f"{style_weight} and {content_weight}"
        )
    if evaluations < 1:
        raise ValueError(f"evaluations must be at least 1, not {evaluations}")
    check(start)
    if start.shape != target.shape:
        sizes = ["x".join(map(str, shape[2:])) for shape in (start.shape, target.shape)]
        raise ValueError(f"the start is {sizes[0]}, the content {sizes[1]}: resize one")
    logits = torch.logit(start.detach().clamp(MARGIN, 1 - MARGIN)).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits],
        max_iter=evaluations,
        max_eval=evaluations,
        history_size=20,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )
    style: list[float] = []
    content: list[float] = []

    def closure() -> Tensor:
        losses = target.losses(logits.sigmoid())
        style.append(losses.style.item())
        content.append(losses.content.item())
        loss = style_weight * losses.style + content_weight * losses.content
        (logits.grad,) = torch.autograd.grad(loss, logits)
        return loss.detach()

    optimizer.step(closure)
    return Transfer(logits.detach().sigmoid(), style, content)


def _unit(filters: Float[Tensor, "k 3 s s"]) -> Float[Tensor, "k 3 s s"]:
    return filters / filters.flatten(1).norm(dim=1)[:, None, None, None].clamp(
        min=1e-12
    )


def _padded(x: Float[Tensor, "n 3 h w"], by: int) -> Tensor:
    return F.pad(x, [by] * 4, mode="reflect")
