"""The layers of WaveNet: gated dilated causal convolutions, and a cache for sampling.

Van den Oord and others, WaveNet: A Generative Model for Raw Audio, 2016, sections 2.1
and 2.3 to 2.5, is the source of the layers; Paine and others, Fast Wavenet Generation
Algorithm, 2016, of the cache.

Deviation: the 1x1 convolutions of the residual connections have no biases, since those
of the next layers would make them redundant.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gensrc.models.activations import gated_tanh


class CausalConv1d(nn.Conv1d):
    """torch's `nn.Conv1d`, padded so that output t depends on inputs up to t only.

    Its last weight is for the input at t, the one before for that at t - dilation.
    The kernel size may be even, as the kernel needs no centre.

    Raises ValueError for a kernel size below 2 and a dilation below 1.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, dilation: int
    ) -> None:
        if kernel_size < 2:
            raise ValueError(f"kernel_size must be at least 2, not {kernel_size}")
        if dilation < 1:
            raise ValueError(f"a dilation must be at least 1, not {dilation}")
        super().__init__(in_channels, out_channels, kernel_size, dilation=dilation)
        self.left_padding = (kernel_size - 1) * dilation
        """How many steps before t the earliest input of output t is."""

    def forward(
        self, x: Float[Tensor, "batch channels time"]
    ) -> Float[Tensor, "batch out_channels time"]:
        """Raises ValueError for another number of channels."""
        if x.shape[1] != self.in_channels:
            raise ValueError(
                f"the input has {x.shape[1]} channels, the convolution "
                f"{self.in_channels}: build it with in_channels={x.shape[1]}"
            )
        return super().forward(F.pad(x, (self.left_padding, 0)))


class DilatedStack(nn.Module):
    """Layers z = tanh(filter) * sigmoid(gate), each added to the input of the next.

    dilations: one a layer.
    num_classes: of global conditioning, where a vector for the recording's class is
        added before the gates of each layer; 0 for none.

    Raises ValueError for no layers, and as `CausalConv1d` does.
    """

    def __init__(
        self,
        channels: int,
        *,
        dilations: Sequence[int],
        kernel_size: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        if not dilations:
            raise ValueError("dilations must name a layer at least, such as (1, 2, 4)")
        self.convs = nn.ModuleList(
            CausalConv1d(channels, 2 * channels, kernel_size, dilation=each)
            for each in dilations
        )
        # The last layer needs no residual: no layer follows it.
        self.residuals = nn.ModuleList(
            nn.Conv1d(channels, channels, 1, bias=False) for _ in dilations[1:]
        )
        self.layers, self.both = len(dilations), 2 * channels
        self.receptive_field = 1 + (kernel_size - 1) * sum(dilations)
        """How many inputs an output of the last layer depends on."""
        if num_classes:
            self.shifts = nn.Embedding(num_classes, self.layers * self.both)
            nn.init.normal_(self.shifts.weight, std=0.1)

    def forward(
        self,
        x: Float[Tensor, "batch channels time"],
        labels: Int[Tensor, " batch"] | None = None,
    ) -> tuple[Float[Tensor, "batch gated time"], list[Tensor]]:
        """The gated outputs of all layers, concatenated, and the input of each layer.

        The first entries depend on zero padding before the first input.
        """
        gated: list[Tensor] = []
        inputs, shifts = [x], self.of_classes(labels)
        for layer, conv in enumerate(self.convs):
            if layer:
                inputs.append(inputs[-1] + self.residuals[layer - 1](gated[-1]))
            gated.append(gated_tanh(conv(inputs[-1]) + shifts[layer].unsqueeze(2)))
        return torch.cat(gated, 1), inputs

    def of_classes(
        self, labels: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "layers _ both"]:
        """The class vectors that are added before the gates of each layer."""
        if labels is None:
            zeros = next(self.parameters()).new_zeros
            return zeros(self.layers, 1, self.both)
        shifts = self.shifts(labels).unflatten(1, (self.layers, self.both))
        return shifts.transpose(0, 1)


class FastWaveNetCache:
    """The Fast WaveNet cache: the latest inputs of each layer of a stack.

    A layer needs its last `left_padding` inputs. They are in a ring buffer of that
    length, where the newest overwrites the oldest. A step computes one position of each
    layer, so its cost depends neither on the receptive field nor on the number of
    earlier inputs. Weights are copied and rearranged.

    x: the inputs so far: receptive_field - 1 or more.
    """

    def __init__(
        self,
        stack: DilatedStack,
        x: Float[Tensor, "batch channels time"],
        labels: Int[Tensor, " batch"] | None = None,
    ) -> None:
        if x.shape[2] < stack.receptive_field - 1:
            raise ValueError(
                f"the stack needs {stack.receptive_field - 1} inputs before the next, "
                f"and {x.shape[2]} were read: put silence before them"
            )
        self.time, where = 0, x.device
        convs = cast(list[CausalConv1d], list(stack.convs))
        residuals = cast(list[nn.Conv1d], list(stack.residuals))
        sizes = [conv.left_padding for conv in convs]
        rings = zip(stack(x, labels)[1], sizes, strict=True)
        self.rings = torch.cat([x[..., -size:].permute(2, 0, 1) for x, size in rings])
        self.size = torch.tensor(sizes, device=where)
        self.start = self.size.cumsum(0) - self.size
        taps = convs[0].weight.shape[2] - 1  # besides the one at t
        back = torch.arange(taps, 0, -1, device=where)
        self.back = back * self.size[:, None] // taps
        weight = torch.stack([conv.weight for conv in convs])
        self.of_past = weight[..., :-1].permute(0, 3, 2, 1).flatten(1, 2)
        self.of_now = weight[..., -1].mT.contiguous().unbind()
        bias = torch.stack([cast(Tensor, conv.bias) for conv in convs])
        self.bias = (bias[:, None] + stack.of_classes(labels)).expand(-1, len(x), -1)
        self.residuals = [conv.weight[:, :, 0].T for conv in residuals]

    def step(self, x: Float[Tensor, "batch channels"]) -> Float[Tensor, "batch gated"]:
        """Feed one more input; returns the stack's output at its position."""
        # The cached inputs of all layers are known: one batched product for all.
        old = self.start[:, None] + (self.time - self.back) % self.size[:, None]
        past = self.rings[old].transpose(1, 2).flatten(2)
        known = torch.baddbmm(self.bias, past, self.of_past).unbind()
        gated: list[Tensor] = []
        inputs = [x]
        for layer, of_now in enumerate(self.of_now):
            if layer:
                residual = self.residuals[layer - 1]
                inputs.append(torch.addmm(inputs[-1], gated[-1], residual))
            gated.append(gated_tanh(torch.addmm(known[layer], inputs[-1], of_now)))
        self.rings[self.start + self.time % self.size] = torch.stack(inputs)
        self.time += 1
        return torch.cat(gated, 1)
