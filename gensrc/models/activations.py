"""The gated activation unit of the gated PixelCNN and of WaveNet."""

from jaxtyping import Float
from torch import Tensor


def gated_tanh(x: Float[Tensor, "b f2 *rest"]) -> Float[Tensor, "b f *rest"]:
    """tanh(filter) * sigmoid(gate): the first half of the features, then the second.

    Van den Oord and others, Conditional Image Generation with PixelCNN Decoders,
    NeurIPS 2016, equation 2.
    """
    filter, gate = x.chunk(2, 1)
    return filter.tanh() * gate.sigmoid()
