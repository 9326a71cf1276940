"""PixelCNN: masked convolutions, whose outputs depend on earlier pixels only.

Van den Oord, Kalchbrenner and Kavukcuoglu, Pixel Recurrent Neural Networks, ICML 2016,
section 3.4 and table 1, is the source of masks and network.

Deviations: pictures are rescaled as in `gensrc.models.pixels.base`; a class, which the
paper has not, adds a vector after the first layer.

Shapes: b or n pictures, c h w, f features, p parameters of a pixel's distribution.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gensrc.models.pixels.base import PixelModel, Step, rescale


def mask(
    kind: str, size: tuple[int, int], ins: int, outs: int, *, colours: int = 1
) -> Bool[Tensor, "outs ins rows columns"]:
    """True where a kernel may use its input; its current pixel is in row rows // 2.

    It may use the rows above, and its own row up to the left neighbour. At the current
    pixel, features are grouped by colour. Mask A, for the first layer, allows earlier
    colours only, which hides a value from its own prediction. Mask B also allows the
    same colour, whose features no longer contain the value in later layers.

    size: rows and columns; the current pixel is in column columns // 2.
    Raises ValueError for another kind, and if colours do not divide the features.
    """
    if kind not in ("A", "B"):
        raise ValueError(f"a mask is of kind A or B, not {kind!r}")
    if ins % colours or outs % colours:
        raise ValueError(f"{ins} and {outs} features cannot be shared by {colours}")
    rows, columns = size
    allowed = torch.zeros(outs, ins, rows, columns, dtype=torch.bool)
    row, column = rows // 2, columns // 2
    allowed[:, :, :row] = True
    allowed[:, :, row, :column] = True
    source = torch.arange(ins) // (ins // colours)
    target = torch.arange(outs)[:, None] // (outs // colours)
    allowed[:, :, row, column] = source < target if kind == "A" else source <= target
    return allowed


def check_kernel(size: int) -> int:
    """Half the size, rounded down. Raises ValueError unless it is odd and above 1."""
    if size < 3 or size % 2 == 0:
        raise ValueError(
            f"a kernel must be odd and at least 3, not {size}: an even one has no "
            "middle, and the picture would grow or shift"
        )
    return size // 2


class MaskedConv2d(nn.Conv2d):
    """A convolution with a mask on its weights, padded to keep the picture's size."""

    allowed: Tensor

    def __init__(
        self, kind: str, ins: int, outs: int, size: int, *, colours: int = 1
    ) -> None:
        margin = check_kernel(size) if size != 1 else 0
        super().__init__(ins, outs, size, padding=margin)
        allowed = mask(kind, (size, size), ins, outs, colours=colours)
        self.register_buffer("allowed", allowed, persistent=False)
        self.margin = margin

    def masked(self) -> Float[Tensor, "outs ins rows columns"]:
        return self.weight * self.allowed

    def forward(self, x: Float[Tensor, "b ins h w"]) -> Float[Tensor, "b outs h w"]:
        return F.conv2d(x, self.masked(), self.bias, padding=self.margin)


# --- one stack ---


class Bottleneck(nn.Module):
    """The residual block of the paper's figure 5, with mask B throughout."""

    def __init__(self, width: int, size: int, colours: int) -> None:
        super().__init__()
        half = width // 2
        self.narrow = MaskedConv2d("B", width, half, 1, colours=colours)
        self.middle = MaskedConv2d("B", half, half, size, colours=colours)
        self.wide = MaskedConv2d("B", half, width, 1, colours=colours)

    def forward(self, x: Float[Tensor, "b f h w"]) -> Float[Tensor, "b f h w"]:
        return x + self.wide(F.relu(self.middle(F.relu(self.narrow(F.relu(x))))))


class PixelCNN(PixelModel):
    """A large kernel with mask A, residual blocks with mask B, two 1x1 layers.

    width: features, a multiple of twice the colours. num_layers: the number of layers
    with a kernel above 1, the first included. Other keywords are those of `PixelModel`.
    """

    def __init__(
        self,
        *,
        width: int = 64,
        num_layers: int = 8,
        first_kernel: int = 7,
        kernel_size: int = 3,
        **about: Any,
    ) -> None:
        super().__init__(**about)
        colours = self.family.colours
        if width % (2 * colours) or width < 1 or num_layers < 1:
            raise ValueError(
                f"width must be a multiple of {2 * colours} and num_layers at least 1, "
                f"not {width} and {num_layers}"
            )
        for size in (first_kernel, kernel_size):
            check_kernel(size)
        self.first = MaskedConv2d(
            "A", self.channels, width, first_kernel, colours=colours
        )
        self.label = nn.Embedding(self.num_classes, width) if self.num_classes else None
        self.blocks = nn.ModuleList(
            Bottleneck(width, kernel_size, colours) for _ in range(num_layers - 1)
        )
        self.hidden = MaskedConv2d("B", width, width, 1, colours=colours)
        self.out = MaskedConv2d("B", width, self.family.outputs, 1, colours=colours)

    def forward(
        self, x: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b p h w"]:
        self.check_pictures(x)
        return self.head(self.features(self.first(rescale(x)), labels))

    def features(self, x: Tensor, labels: Tensor | None) -> Tensor:
        if self.label is not None:
            x = x + self.label(labels)[:, :, None, None]
        for block in self.blocks:
            x = block(x)
        return x

    def head(self, x: Float[Tensor, "b f h w"]) -> Float[Tensor, "b p h w"]:
        return self.out(F.relu(self.hidden(F.relu(x))))

    def cached(self, x: Float[Tensor, "n c h w"], labels: Tensor | None) -> Step:
        """Each layer's outputs at earlier pixels are cached; a step adds one pixel."""
        first = MaskedConvCache(self.first, x.shape)
        blocks = [each for each in self.blocks if isinstance(each, Bottleneck)]
        caches = [(block, MaskedConvCache(block.middle, x.shape)) for block in blocks]

        def step(row: int, column: int) -> Tensor:
            first.update(rescale(x))
            h = first(rescale(x[:, :, row, column]), row, column)
            if self.label is not None:
                h = h + self.label(labels)
            for block, middle in caches:
                inner = middle(F.relu(pointwise(block.narrow, F.relu(h))), row, column)
                h = h + pointwise(block.wide, F.relu(inner))
            h = F.relu(pointwise(self.hidden, F.relu(h)))
            return pointwise(self.out, h)

        return step


def pointwise(conv: MaskedConv2d, x: Float[Tensor, "n ins"]) -> Float[Tensor, "n outs"]:
    """A 1x1 convolution of a single pixel."""
    return F.linear(x, conv.masked()[:, :, 0, 0], conv.bias)


class MaskedConvCache:
    """The cached input of a masked convolution; a call gives its output at a pixel."""

    def __init__(self, conv: MaskedConv2d, shape: torch.Size) -> None:
        n, _, height, width = shape
        self.margin, self.bias = conv.margin, conv.bias
        # Rows below are masked; earlier colours of the current pixel are not.
        self.weight = conv.masked()[:, :, : self.margin + 1].flatten(1)
        room = (n, conv.in_channels, height + self.margin, width + 2 * self.margin)
        self.seen = conv.weight.new_zeros(room)

    def update(self, x: Float[Tensor, "n ins h w"]) -> None:
        """Store the picture again: the last pixel was drawn after its own step."""
        margin = self.margin
        self.seen[:, :, margin:, margin : margin + x.shape[3]] = x

    def __call__(self, x: Float[Tensor, "n ins"], row: int, column: int) -> Tensor:
        margin = self.margin
        self.seen[:, :, row + margin, column + margin] = x
        window = self.seen[
            :, :, row : row + margin + 1, column : column + 2 * margin + 1
        ]
        return F.linear(window.flatten(1), self.weight, self.bias)


# --- receptive field ---


def receptive_field(
    network: Callable[[Tensor], Tensor],
    shape: tuple[int, int, int],
    row: int,
    column: int,
) -> Float[Tensor, "c h w"]:
    """How strongly the output at one pixel depends on each value of the picture.

    The mean absolute gradient over eight random pictures; exactly 0 outside of the
    receptive field.
    """
    x = torch.rand(8, *shape, requires_grad=True)
    output = network(x)[:, :, row, column]
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(0))
    (slope,) = torch.autograd.grad((output * weights.to(output)).sum(), x)
    return slope.abs().mean(0)
