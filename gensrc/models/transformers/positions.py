"""Position encodings of Transformers: sinusoidal, and rotary embedding (RoPE).

Sinusoidal positions are those of Vaswani and others, Attention Is All You Need, NeurIPS
2017, section 3.5; rotary ones of Su and others, RoFormer: Enhanced Transformer with
Rotary Position Embedding, 2021.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

POSITIONS = ("sinusoidal", "learned", "rotary", "none")
Rope = tuple[Tensor, Tensor]  # cosines and sines, each "batch 1 time d_k/2"


def frequencies(
    dim: int, *, device: torch.device | None = None
) -> Float[Tensor, " half"]:
    """10000^(-2i/dim) for i = 0, 1, ...: one for each pair of features.

    Raises ValueError for an odd `dim`.
    """
    if dim % 2:
        raise ValueError(f"positions go by pairs of features: {dim} is an odd width")
    return 10_000 ** (-torch.arange(0, dim, 2, device=device) / dim)


def sinusoidal(
    positions: Int[Tensor, "*batch time"], embed_dim: int
) -> Float[Tensor, "*batch time d"]:
    """Sines in the even features, cosines in the odd ones (Vaswani et al., 3.5)."""
    angles = positions.unsqueeze(-1) * frequencies(embed_dim, device=positions.device)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)


def rope(positions: Int[Tensor, "batch time"], d_k: int) -> Rope:
    """Cosines and sines of the angles by which `apply_rope` rotates each pair of
    features at these positions."""
    angles = positions[:, None, :, None] * frequencies(d_k, device=positions.device)
    return angles.cos(), angles.sin()


def apply_rope(
    x: Float[Tensor, "batch heads time d_k"], angles: Rope
) -> Float[Tensor, "batch heads time d_k"]:
    """Rotate each pair of features of a query or a key (Su et al., equation 34)."""
    (a, b), (cos, sin) = x.unflatten(-1, (-1, 2)).unbind(-1), angles
    turned = torch.stack([a * cos - b * sin, a * sin + b * cos], -1)
    return turned.flatten(-2).to(x.dtype)
