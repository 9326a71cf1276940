"""PixelRNN: LSTMs that read a picture row by row, or diagonal by diagonal.

Van den Oord, Kalchbrenner and Kavukcuoglu, Pixel Recurrent Neural Networks, ICML 2016,
is the source of the Row LSTM (section 3.1), the diagonal BiLSTM and its skewing (3.2),
the residual connections (3.3, figure 5), the masks (3.4) and the network (table 1).

Deviations: pictures are rescaled as in `gensrc.models.pixels.base`; a class, which the
paper has not, adds a vector after the first layer. The state-to-state convolution has
no bias, as the input-to-state one has. The bias of the forget gates is initialised with
1, of which the paper says nothing. The multi-scale network (section 3.6) is left out.

Shapes: b or n pictures, c h w, f features of a state, p parameters of a pixel.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gensrc.models.checks import widened
from gensrc.models.pixels.base import PixelModel, Step, rescale
from gensrc.models.pixels.pixelcnn import (
    MaskedConv2d,
    MaskedConvCache,
    check_kernel,
    mask,
    pointwise,
)

# --- many LSTM cells in parallel ---


def cell(
    gates: Float[Tensor, "d f4 *cells"], c: Float[Tensor, "d f *cells"]
) -> tuple[Float[Tensor, "d f *cells"], Float[Tensor, "d f *cells"]]:
    """h and c after a step, from the sum of input and state contributions.

    The three gates come first (input, forget, output), then the candidate, so that one
    sigmoid serves all three.
    """
    width = c.shape[1]
    three, candidate = gates.split([3 * width, width], 1)
    i, forget, o = three.sigmoid().chunk(3, 1)
    c = forget * c + i * candidate.tanh()
    return o * c.tanh(), c


def scan(
    inputs: Float[Tensor, "steps d f4 b cells"],
    weight: Float[Tensor, "d f4 k"],
    context: Callable[[Tensor], Tensor],
) -> Float[Tensor, "steps d f b cells"]:
    """The states h of all steps, for d directions in parallel.

    weight: state-to-state. context: from the states of a step, "d f b cells", to those
    that are the input of each cell at the next step, "d k b cells".

    States accumulate over many steps, so they are not rounded to bfloat16. Features
    come before cells, so that the gates are contiguous slices.
    """
    directions, four, b, cells = inputs.shape[1:]
    wide, exact = widened(inputs), widened(weight)
    h = wide.new_zeros(directions, four // 4, b, cells)
    c, states = h.flatten(2), []
    with torch.autocast(inputs.device.type, enabled=False):
        for each in wide.flatten(3).unbind(0):
            gates = torch.baddbmm(each, exact, context(h).flatten(2))
            new, c = cell(gates, c)
            h = new.view_as(h)
            states.append(h)
    return torch.stack(states).to(weight.dtype)


def weight_of_states(directions: int, width: int, neighbours: int) -> nn.Parameter:
    """From the features of all neighbours to the gates, initialised as torch's LSTM."""
    bound = 1 / math.sqrt(width)
    shape = (directions, 4 * width, neighbours * width)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


class InputToState(nn.Conv2d):
    """The input-to-state convolution for all pixels at once: mask B, along the row.

    directions: in which the picture is scanned, each with its own set of gates.
    """

    allowed: Tensor

    def __init__(
        self, width: int, size: int, colours: int, *, directions: int = 1
    ) -> None:
        self.margin = check_kernel(size) if size != 1 else 0
        super().__init__(
            2 * width, 4 * width * directions, (1, size), padding=(0, self.margin)
        )
        # The kernel has a single row, the one of the current pixel.
        one = mask("B", (1, size), 2 * width, width, colours=colours)
        allowed = one.repeat(4 * directions, 1, 1, 1)
        self.register_buffer("allowed", allowed, persistent=False)
        assert self.bias is not None
        with torch.no_grad():
            self.bias.view(directions, 4, width)[:, 1] = 1.0  # forget gates open

    def masked(self) -> Float[Tensor, "outs ins 1 columns"]:
        return self.weight * self.allowed

    def joined(self, directions: int) -> Float[Tensor, "d 1 f4 f3"]:
        """A 1x1 kernel with its bias as last column, for vectors that end with a 1."""
        assert self.bias is not None
        both = torch.cat([self.masked().flatten(1), self.bias[:, None]], 1)
        return both.unflatten(0, (directions, 1, -1))

    def forward(self, x: Float[Tensor, "b f2 h w"]) -> Float[Tensor, "b f4 h w"]:
        return F.conv2d(x, self.masked(), self.bias, padding=(0, self.margin))


# --- row by row ---


class RowLSTM(nn.Module):
    """A state for each pixel, from inputs of its row and states of the row above.

    size: of both convolutions, input-to-state (masked) and state-to-state (unmasked).
    """

    def __init__(self, width: int, size: int, colours: int) -> None:
        super().__init__()
        self.width, self.margin = width, check_kernel(size)
        self.inputs = InputToState(width, size, colours)
        self.weight = weight_of_states(1, width, size)

    def context(self, h: Float[Tensor, "d f b w"]) -> Float[Tensor, "d k b w"]:
        """The states of the row above within the kernel, from left to right."""
        columns = h.shape[3]
        padded = F.pad(h, (self.margin, self.margin))
        shifts = range(2 * self.margin + 1)
        return torch.cat([padded[..., k : k + columns] for k in shifts], 1)

    def forward(self, x: Float[Tensor, "b f2 h w"]) -> Float[Tensor, "b f h w"]:
        rows = self.inputs(x).permute(2, 1, 0, 3).unsqueeze(1)
        states = scan(rows, self.weight, self.context)
        return states.squeeze(1).permute(2, 1, 0, 3)

    def kept(self, n: int, columns: int) -> "RowLSTMCache":
        return RowLSTMCache(self, n, columns)


class RowLSTMCache:
    """The cache of a Row LSTM: the states of the row above, and inputs to the left.

    A pixel of several colours takes several steps, so what they need must not be
    overwritten before the row is complete.
    """

    def __init__(self, layer: RowLSTM, n: int, columns: int) -> None:
        self.layer, self.margin = layer, layer.margin
        self.h, self.c = layer.weight.new_zeros(2, 1, layer.width, n, columns)
        self.left = self.h.new_zeros(n, 2 * layer.width, self.margin + columns)
        self.weight = layer.inputs.masked()[:, :, 0, : self.margin + 1].flatten(1)

    def start_row(self) -> None:
        around = self.layer.context(self.h).flatten(2)
        gates = torch.bmm(self.layer.weight, around)
        self.above, self.c_above = gates.unflatten(2, self.h.shape[2:]), self.c.clone()

    def __call__(self, x: Float[Tensor, "n f2"], column: int) -> Float[Tensor, "n f"]:
        self.left[:, :, column + self.margin] = x
        window = self.left[:, :, column : column + self.margin + 1].flatten(1)
        own = F.linear(window, self.weight, self.layer.inputs.bias).mT
        h, c = cell(self.above[..., column] + own, self.c_above[..., column])
        self.h[..., column], self.c[..., column] = h, c
        return h[0].mT


# --- diagonal by diagonal ---


def skew(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w2"]:
    """Row i moved to the right by i, so that diagonals become columns; w2 = w + h - 1.

    Each row is padded with h zeros, all rows are concatenated, and the result is cut
    into rows that are one shorter, so that each begins one column later.
    """
    height, width = x.shape[2:]
    line = F.pad(x, (0, height)).flatten(2)
    return line[:, :, :-height].unflatten(2, (height, width + height - 1))


def unskew(x: Float[Tensor, "b c h w2"]) -> Float[Tensor, "b c h w"]:
    """The inverse of `skew`."""
    height, columns = x.shape[2:]
    line = F.pad(x.flatten(2), (0, height))
    return line.unflatten(2, (height, columns + 1))[..., : columns + 1 - height]


class DiagonalBiLSTM(nn.Module):
    """Two maps of states: one scans from the top left, one from the top right.

    A state of the first depends on the states to its left and above, a state of the
    second on those to its right and above. The second map would reveal a pixel's right
    neighbour, so it is shifted down by a row.
    """

    def __init__(self, width: int, colours: int) -> None:
        super().__init__()
        self.width = width
        self.inputs = InputToState(width, 1, colours, directions=2)
        self.weight = weight_of_states(2, width, 2)

    def context(self, h: Float[Tensor, "d f b h"]) -> Float[Tensor, "d k b h"]:
        """On the diagonal before: the state a row higher, and that of the same row."""
        return torch.cat([F.pad(h, (1, -1)), h], 1)

    def maps(
        self, x: Float[Tensor, "b f2 h w"]
    ) -> tuple[Float[Tensor, "b f h w"], Float[Tensor, "b f h w"]]:
        """Both maps of states, before the second is shifted down."""
        # The bias is the weight of a feature that is 1 in the picture and 0 outside.
        # So states outside are 0: c = 0.5 * 0 + 0.5 * 0.
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        both = skew(torch.cat([x, x.flip(3)])).unflatten(0, (2, len(x)))
        diagonals = both.permute(0, 4, 2, 1, 3)  # d steps f2 b h
        inputs = self.inputs.joined(2) @ diagonals.flatten(3)
        inputs = inputs.unflatten(3, diagonals.shape[3:]).transpose(0, 1)
        states = scan(inputs, self.weight, self.context)
        left, right = unskew(states.permute(1, 3, 2, 4, 0).flatten(0, 1)).chunk(2)
        return left, right.flip(3)

    def forward(self, x: Float[Tensor, "b f2 h w"]) -> Float[Tensor, "b f h w"]:
        left, right = self.maps(x)
        return left + F.pad(right, (0, 0, 1, -1))

    def kept(self, n: int, columns: int) -> "DiagonalBiLSTMCache":
        return DiagonalBiLSTMCache(self, n, columns)


class DiagonalBiLSTMCache:
    """The cache of a diagonal BiLSTM: states of the row above, states to the left.

    The states of the map from the right are those of the row above. They are computed
    when that row is complete, from its inputs, which are stored in `aside`; above the
    picture these are 0.
    """

    def __init__(self, layer: DiagonalBiLSTM, n: int, columns: int) -> None:
        self.layer, self.columns = layer, columns
        self.weight = layer.inputs.masked()[:, :, 0, 0]
        # One column more, outside the picture: left of the first, right of the last.
        room = (1, layer.width, n, columns + 1)
        self.left, self.c_left, self.right, self.c_right = layer.weight.new_zeros(
            4, *room
        )
        self.aside = layer.weight.new_zeros(1, 4 * layer.width, n, columns)

    def states(
        self, side: int, gates: Tensor, above: Tensor, h: Tensor, c: Tensor
    ) -> tuple[Tensor, Tensor]:
        """h and c of a pixel, from its inputs, the h above, and the h and c beside."""
        around = torch.cat([above, h], 1)
        weight = self.layer.weight[side : side + 1]
        return cell(torch.baddbmm(gates, weight, around), c)

    def start_row(self) -> None:
        right, c = self.right, self.c_right
        for at in reversed(range(self.columns)):
            beside = right[..., at + 1], c[..., at + 1]
            gates = self.aside[..., at]
            right[..., at], c[..., at] = self.states(1, gates, right[..., at], *beside)
        self.above = self.left.clone()

    def __call__(self, x: Float[Tensor, "n f2"], column: int) -> Float[Tensor, "n f"]:
        own = F.linear(x, self.weight, self.layer.inputs.bias).mT.unsqueeze(0)
        gates, self.aside[..., column] = own.chunk(2, 1)
        above, left, c = self.above[..., column + 1], self.left, self.c_left
        h, c[..., column + 1] = self.states(
            0, gates, above, left[..., column], c[..., column]
        )
        left[..., column + 1] = h
        return (h + self.right[..., column])[0].mT


# --- the network ---


class ResidualLSTM(nn.Module):
    """x + a 1x1 convolution of an LSTM layer, which has half as many features as x."""

    def __init__(self, layer: RowLSTM | DiagonalBiLSTM, colours: int) -> None:
        super().__init__()
        self.layer = layer
        self.wide = MaskedConv2d("B", layer.width, 2 * layer.width, 1, colours=colours)

    def forward(self, x: Float[Tensor, "b f2 h w"]) -> Float[Tensor, "b f2 h w"]:
        return x + self.wide(self.layer(x))


class PixelRNN(PixelModel):
    """A large kernel with mask A, residual layers of LSTMs, two 1x1 layers.

    layer: "row" or "diagonal". width: features of a state, a multiple of the colours;
    there are twice as many between the layers. kernel_size: of the Row LSTM; the
    diagonal one does not use it. Other keywords are those of `PixelModel`.
    """

    def __init__(
        self,
        *,
        layer: str = "row",
        width: int = 16,
        num_layers: int = 2,
        first_kernel: int = 7,
        kernel_size: int = 3,
        **about: Any,
    ) -> None:
        super().__init__(**about)
        colours = self.family.colours
        if layer not in ("row", "diagonal"):
            raise ValueError(f"layer must be 'row' or 'diagonal', not {layer!r}")
        if width % colours or width < 1 or num_layers < 1:
            raise ValueError(
                f"width must be a multiple of {colours} and num_layers at least 1, "
                f"not {width} and {num_layers}"
            )
        for size in (first_kernel, kernel_size):
            check_kernel(size)
        features = 2 * width
        self.first = MaskedConv2d(
            "A", self.channels, features, first_kernel, colours=colours
        )
        self.label = (
            nn.Embedding(self.num_classes, features) if self.num_classes else None
        )
        layers = (
            RowLSTM(width, kernel_size, colours)
            if layer == "row"
            else DiagonalBiLSTM(width, colours)
            for _ in range(num_layers)
        )
        self.layers = nn.ModuleList(ResidualLSTM(each, colours) for each in layers)
        self.hidden = MaskedConv2d("B", features, features, 1, colours=colours)
        self.out = MaskedConv2d("B", features, self.family.outputs, 1, colours=colours)

    def forward(
        self, x: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b p h w"]:
        self.check_pictures(x)
        x = self.first(rescale(x))
        if self.label is not None:
            x = x + self.label(labels)[:, :, None, None]
        for layer in self.layers:
            x = layer(x)
        return self.out(F.relu(self.hidden(F.relu(x))))

    def cached(self, x: Float[Tensor, "n c h w"], labels: Tensor | None) -> Step:
        """The states are cached; a step computes those of one pixel."""
        first = MaskedConvCache(self.first, x.shape)
        layers = [each for each in self.layers if isinstance(each, ResidualLSTM)]
        kept = [(each, each.layer.kept(len(x), x.shape[3])) for each in layers]
        begun = -1

        def step(row: int, column: int) -> Tensor:
            nonlocal begun
            if row != begun:
                begun = row
                for _, states in kept:
                    states.start_row()
            first.update(rescale(x))
            h = first(rescale(x[:, :, row, column]), row, column)
            if self.label is not None:
                h = h + self.label(labels)
            for layer, states in kept:
                h = h + pointwise(layer.wide, states(h, column))
            h = F.relu(pointwise(self.hidden, F.relu(h)))
            return pointwise(self.out, h)

        return step
