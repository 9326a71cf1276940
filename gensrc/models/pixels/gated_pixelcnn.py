"""Gated PixelCNN: a vertical and a horizontal stack, without a blind spot.

Van den Oord and others, Conditional Image Generation with PixelCNN Decoders, NeurIPS
2016, is the source of the two stacks (figure 2), the gates (equation 2) and the classes
(equation 4).

Deviations: the vertical stack sees only rows above from its first layer on; the paper
shifts it down where it feeds the horizontal stack. The first layer has no residual
connection, as a picture has another number of channels. `position_embedding` adds a
vector for each position, as in image GPT (Chen and others, Generative Pretraining from
Pixels, ICML 2020). Pictures are rescaled as in `gensrc.models.pixels.base`.

Shapes: b or n pictures, c h w, f features, p parameters of a pixel's distribution.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gensrc.models.activations import gated_tanh
from gensrc.models.pixels.base import PixelModel, Step, rescale
from gensrc.models.pixels.pixelcnn import MaskedConv2d, check_kernel, mask, pointwise


class GatedLayer(nn.Module):
    """One layer of both stacks (the paper's figure 2), with gates.

    The vertical stack sees whole rows above and needs no mask. The horizontal one sees
    its row up to the current pixel, and the vertical one's features of the rows above.
    """

    def __init__(
        self, kind: str, ins: int, width: int, size: int, colours: int, num_classes: int
    ) -> None:
        super().__init__()
        self.margin, self.first = check_kernel(size), kind == "A"
        rows = self.margin if self.first else self.margin + 1
        self.vertical = nn.Conv2d(ins, 2 * width, (rows, size))
        self.link = nn.Conv2d(2 * width, 2 * width, 1)
        self.horizontal = nn.Conv2d(ins, 2 * width, (1, self.margin + 1))
        self.out = MaskedConv2d("B", width, width, 1, colours=colours)
        self.label = nn.Embedding(num_classes, 4 * width) if num_classes else None
        allowed = mask(kind, (1, 2 * self.margin + 1), ins, width, colours=colours)
        twice = torch.cat([allowed, allowed])[..., : self.margin + 1]
        self.allowed: Tensor
        self.register_buffer("allowed", twice, persistent=False)

    def masked(self) -> Float[Tensor, "f2 ins 1 columns"]:
        return self.horizontal.weight * self.allowed

    def of_class(self, labels: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """The vectors of each class that are added before the gates of both stacks."""
        return None if self.label is None else self.label(labels).chunk(2, 1)

    def rows_above(self, v: Float[Tensor, "b ins rows w"], above: int) -> Tensor:
        """The vertical convolution, before its gate, with `above` rows of padding."""
        conv, padding = self.vertical, (above, self.margin)
        return F.conv2d(v, conv.weight, conv.bias, padding=padding)

    def forward(
        self, v: Tensor, h: Tensor, labels: Tensor | None
    ) -> tuple[Float[Tensor, "b f h w"], Float[Tensor, "b f h w"]]:
        height, width = v.shape[2:]
        # Torch pads at both ends; the surplus outputs at the end are cut off.
        up = self.rows_above(v, self.margin)[:, :, :height]
        left = F.conv2d(
            h, self.masked(), self.horizontal.bias, padding=(0, self.margin)
        )[..., :width] + self.link(up)
        if (classes := self.of_class(labels)) is not None:
            up = up + classes[0][:, :, None, None]
            left = left + classes[1][:, :, None, None]
        new = self.out(gated_tanh(left))
        return gated_tanh(up), new if self.first else h + new


class GatedPixelCNN(PixelModel):
    """Gated layers of a vertical and a horizontal stack, then two 1x1 layers.

    width: features of each stack, a multiple of the colours. position_embedding: adds a
        learned vector for each position to both stacks after the first layer; it fixes
        the size of a picture. Other keywords are those of `PixelModel`.
    """

    def __init__(
        self,
        *,
        width: int = 32,
        num_layers: int = 8,
        first_kernel: int = 7,
        kernel_size: int = 3,
        position_embedding: bool = False,
        **about: Any,
    ) -> None:
        super().__init__(**about)
        colours = self.family.colours
        if width % colours or width < 1 or num_layers < 1:
            raise ValueError(
                f"width must be a multiple of {colours} and num_layers at least 1, "
                f"not {width} and {num_layers}"
            )
        check_kernel(kernel_size)
        first = GatedLayer(
            "A", self.channels, width, first_kernel, colours, self.num_classes
        )
        rest = (
            GatedLayer("B", width, width, kernel_size, colours, self.num_classes)
            for _ in range(num_layers - 1)
        )
        self.layers = nn.ModuleList([first, *rest])
        self.position_embedding: Tensor | None  # one for each stack
        zeros = nn.Parameter(torch.zeros(2, width, *self.size))
        self.register_parameter(
            "position_embedding", zeros if position_embedding else None
        )
        self.hidden = MaskedConv2d("B", width, 2 * width, 1, colours=colours)
        self.out = MaskedConv2d("B", 2 * width, self.family.outputs, 1, colours=colours)

    def forward(
        self, x: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b p h w"]:
        """Raises ValueError for pictures of another number of axes or channels, and of
        another size than the embedding's."""
        self.check_pictures(x)
        v = h = rescale(x).contiguous(memory_format=torch.channels_last)
        first, *rest = self.layers
        v, h = first(v, h, labels)
        if self.position_embedding is not None:
            self.check_size(x)
            v, h = v + self.position_embedding[0], h + self.position_embedding[1]
        for layer in rest:
            v, h = layer(v, h, labels)
        return self.out(F.relu(self.hidden(F.relu(h))))

    def cached(self, x: Float[Tensor, "n c h w"], labels: Tensor | None) -> Step:
        """Computes the vertical stack row by row, the horizontal one by pixels."""
        layers = [each for each in self.layers if isinstance(each, GatedLayer)]
        first, *rest = [GatedLayerCache(layer, x, labels) for layer in layers]
        where = self.position_embedding
        where = x.new_zeros(2, 1, *self.size) if where is None else where
        begun = -1

        def step(row: int, column: int) -> Tensor:
            nonlocal begun
            if row != begun:
                begun = row
                v = rescale(x[:, :, row - 1 : row]) if row else x[:, :, :0]
                v = first.start_row(v) + where[0, :, row : row + 1]
                for layer in rest:
                    v = layer.start_row(v)
            first.update(rescale(x[:, :, row]))
            h = first(rescale(x[:, :, row, column]), column) + where[1, :, row, column]
            for layer in rest:
                h = layer(h, column)
            return pointwise(self.out, F.relu(pointwise(self.hidden, F.relu(h))))

        return step


class GatedLayerCache:
    """The cache of a gated layer: the rows above and the pixels to the left it needs.

    A new row replaces the oldest one. The input of the first layer is the row above.
    """

    def __init__(self, layer: GatedLayer, x: Tensor, labels: Tensor | None) -> None:
        n, width = len(x), x.shape[3]
        ins, rows = layer.vertical.in_channels, layer.vertical.kernel_size[0]
        self.layer, self.margin = layer, layer.margin
        self.classes = layer.of_class(labels)
        self.rows = x.new_zeros(n, ins, rows, width)
        # Features of a column are contiguous, so a kernel's window is one slice.
        self.left = x.new_zeros(n, (self.margin + width) * ins)
        self.weight = layer.masked()[:, :, 0].transpose(1, 2).flatten(1)
        self.ins = ins

    def start_row(self, v: Float[Tensor, "n ins rows w"]) -> Float[Tensor, "n f 1 w"]:
        """Takes the row above (none for the first) and returns the stack's new row."""
        self.rows = torch.cat([self.rows, v], 2)[:, :, v.shape[2] :]
        self.left.zero_()
        up = self.layer.rows_above(self.rows, 0)
        self.joined = self.layer.link(up)[:, :, 0] + self.bias()[:, :, None]
        if self.classes is not None:
            up = up + self.classes[0][:, :, None, None]
        return gated_tanh(up)

    def update(self, row: Float[Tensor, "n ins w"]) -> None:
        """Store the pixels of the row again: the last was drawn after its own step."""
        self.left[:, self.margin * self.ins :] = row.mT.flatten(1)

    def bias(self) -> Float[Tensor, "n f2"]:
        bias = self.layer.horizontal.bias
        assert bias is not None
        own = bias[None]
        return own if self.classes is None else own + self.classes[1]

    def __call__(self, h: Float[Tensor, "n ins"], column: int) -> Tensor:
        end = column + self.margin + 1
        self.left[:, (end - 1) * self.ins : end * self.ins] = h
        window = self.left[:, column * self.ins : end * self.ins]
        left = F.linear(window, self.weight) + self.joined[:, :, column]
        new = pointwise(self.layer.out, gated_tanh(left))
        return new if self.layer.first else h + new
