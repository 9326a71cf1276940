"""Attention: scores, masks, the weighted mean of values, and multi-head attention.

Bahdanau, Cho and Bengio, Neural Machine Translation by Jointly Learning to Align and
Translate, ICLR 2015, is the source of the additive score (section 3.1 and appendix
A.1.2); Vaswani and others, Attention Is All You Need, NeurIPS 2017, of the scaled dot
product (equation 1) and of several heads (section 3.2.2); Graves, Wayne and Danihelka,
Neural Turing Machines, 2014, of the cosine, which they multiply by a key strength where
it is divided by a temperature here (equations 5 and 6).

Deviations: the linear maps of `MultiHeadAttention` have biases, as in torch and unlike
the paper. Weights are initialised as in torch; the paper does not say how.

A mask is True where a query may attend to a key, as in torch's
`F.scaled_dot_product_attention` and contrary to `nn.MultiheadAttention`. Masks are
combined by `&`. A query that may attend to no key has weights and output of zero.

Shapes: axes `batch heads query key`; d_k is the width of a query or a key within one
head, d_v that of a value.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

# --- scores: one number for each pair of query and key ---


def dot_scores(
    query: Float[Tensor, "*batch query d_k"], key: Float[Tensor, "*batch key d_k"]
) -> Float[Tensor, "*batch query key"]:
    """q . k, whose variance grows with d_k."""
    return query @ key.transpose(-2, -1)


def scaled_dot_scores(
    query: Float[Tensor, "*batch query d_k"], key: Float[Tensor, "*batch key d_k"]
) -> Float[Tensor, "*batch query key"]:
    """q . k / sqrt(d_k) (Vaswani et al., equation 1)."""
    return dot_scores(query, key) / math.sqrt(query.shape[-1])


def cosine_scores(
    query: Float[Tensor, "*batch query d_k"],
    key: Float[Tensor, "*batch key d_k"],
    *,
    temperature: float | Tensor = 1.0,
) -> Float[Tensor, "*batch query key"]:
    """cos(q, k) / temperature; the cosine of a vector of zeros is 0.

    Raises ValueError for a temperature that is not positive.
    """
    if not bool(torch.as_tensor(temperature > 0).all()):
        raise ValueError(f"temperature must be positive, not {temperature}")
    return (
        dot_scores(F.normalize(query, dim=-1), F.normalize(key, dim=-1)) / temperature
    )


class AdditiveScores(nn.Module):
    """w . tanh(W q + U k + b) (Bahdanau et al.): a perceptron with one hidden layer.

    Queries and keys may differ in width. Raises ValueError for a width below 1.
    """

    def __init__(self, *, query_dim: int, key_dim: int, hidden_dim: int) -> None:
        super().__init__()
        if min(query_dim, key_dim, hidden_dim) < 1:
            widths = f"{query_dim}, {key_dim} and {hidden_dim}"
            raise ValueError(f"the widths must be at least 1, not {widths}")
        self.from_query = nn.Linear(query_dim, hidden_dim)
        self.from_key = nn.Linear(key_dim, hidden_dim, bias=False)
        self.to_score = nn.Linear(hidden_dim, 1, bias=False)

    def forward(
        self,
        query: Float[Tensor, "*batch query d_q"],
        key: Float[Tensor, "*batch key d_k"],
    ) -> Float[Tensor, "*batch query key"]:
        pairs = self.from_query(query).unsqueeze(-2) + self.from_key(key).unsqueeze(-3)
        return self.to_score(pairs.tanh()).squeeze(-1)


# --- masks: True where a query may attend to a key ---


def padding_mask(
    lengths: Int[Tensor, " batch"], time: int
) -> Bool[Tensor, "batch 1 1 key"]:
    """True for the first `lengths[b]` of `time` keys; the rest are padding.

    Raises ValueError for a length that is negative or beyond `time`.
    """
    if len(lengths) and not 0 <= int(lengths.min()) <= int(lengths.max()) <= time:
        raise ValueError(f"lengths must lie between 0 and {time}: {lengths.tolist()}")
    allowed = torch.arange(time, device=lengths.device) < lengths.unsqueeze(1)
    return allowed[:, None, None, :]


def causal_mask(
    time: int, *, key_time: int | None = None, device: torch.device | None = None
) -> Bool[Tensor, "1 1 query key"]:
    """Each of `time` queries may attend to its own position and earlier ones.

    With `key_time` keys, the queries are at the last `time` positions of the keys.
    Raises ValueError if there are fewer keys than queries.
    """
    key_time = time if key_time is None else key_time
    if key_time < time:
        raise ValueError(f"{time} queries need at least as many keys, not {key_time}")
    allowed = torch.ones(time, key_time, dtype=torch.bool, device=device)
    return allowed.tril(key_time - time)[None, None]


# --- the weighted mean ---


def masked_softmax(
    scores: Float[Tensor, "*batch query key"],
    mask: Bool[Tensor, "*#batch #query #key"] | None = None,
) -> Float[Tensor, "*batch query key"]:
    """The softmax over the allowed keys; a row without any is zero, not NaN."""
    if mask is None:
        return scores.softmax(-1)
    any_allowed = mask.any(-1, keepdim=True)
    # A row of nothing but -inf would give 0/0, and a NaN gradient even if not used.
    blocked = ~mask & any_allowed
    return scores.masked_fill(blocked, -math.inf).softmax(-1) * any_allowed


def scaled_dot_product_attention(
    query: Float[Tensor, "*batch query d_k"],
    key: Float[Tensor, "*batch key d_k"],
    value: Float[Tensor, "*batch key d_v"],
    *,
    mask: Bool[Tensor, "*#batch #query #key"] | None = None,
) -> tuple[Float[Tensor, "*batch query d_v"], Float[Tensor, "*batch query key"]]:
    """softmax(Q K^T / sqrt(d_k)) V, written out; returns the output and the weights."""
    weights = masked_softmax(scaled_dot_scores(query, key), mask)
    return weights @ value, weights


def fused_attention(
    query: Float[Tensor, "*batch query d_k"],
    key: Float[Tensor, "*batch key d_k"],
    value: Float[Tensor, "*batch key d_v"],
    *,
    mask: Bool[Tensor, "*#batch #query #key"] | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> Float[Tensor, "*batch query d_v"]:
    """The same output from torch's fused kernel, which does not store the weights.

    causal: combines `causal_mask` with the mask; faster than passing it as a mask.
    dropout: probability of setting a weight to zero; the others are scaled up.
    """
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        # The kernel is several times slower in bfloat16 on most CPUs.
        q, k, v = query.float(), key.float(), value.float()
        with torch.autocast("cpu", enabled=False):
            output = fused_attention(q, k, v, mask=mask, causal=causal, dropout=dropout)
        return output.to(query.dtype)
    q_time, k_time = query.shape[-2], key.shape[-2]
    causal = causal and q_time > 1  # a single query is at the last position: no mask
    if causal and (mask is not None or q_time != k_time):
        triangle = causal_mask(q_time, key_time=k_time, device=query.device)[0, 0]
        mask, causal = triangle if mask is None else mask & triangle, False
    if mask is None:
        return F.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=causal
        )
    any_allowed = mask.any(-1, keepdim=True)
    # Kernels differ on rows without an allowed key, so these are allowed all keys here.
    output = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask | ~any_allowed, dropout_p=dropout
    )
    return output * any_allowed


# --- several heads ---


class MultiHeadAttention(nn.Module):
    """Concat(head_1, ..., head_h) W^O, each head with its own projections.

    dropout: of the attention weights, while training.
    Raises ValueError unless `num_heads` divides `embed_dim`, and for a dropout outside
    [0, 1).
    """

    def __init__(
        self, embed_dim: int, num_heads: int, *, bias: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if embed_dim < 1 or num_heads < 1 or embed_dim % num_heads:
            raise ValueError(
                f"num_heads must divide embed_dim, and {num_heads} does not divide "
                f"{embed_dim}: every head gets embed_dim / num_heads features"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), not {dropout}")
        self.embed_dim, self.num_heads, self.dropout = embed_dim, num_heads, dropout
        # W^Q, W^K and W^V of all heads, stacked: one matrix product instead of 3 h.
        self.in_proj = nn.Linear(embed_dim, 3 * embed_dim, bias=bias)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        nn.init.xavier_uniform_(self.in_proj.weight)
        if bias:
            nn.init.zeros_(self.in_proj.bias)
            nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Float[Tensor, "batch query d"],
        key: Float[Tensor, "batch key d"] | None = None,
        value: Float[Tensor, "batch key d"] | None = None,
        *,
        mask: Bool[Tensor, "#batch #heads #query #all_keys"] | None = None,
        causal: bool = False,
        **given: Any,
    ) -> Float[Tensor, "batch query d"]:
        """Attention of `query` to `key`; self-attention if `key` is left out.

        value: the same as `key` if it is left out.
        given: further arguments of a subclass's `project`.
        The output of a query that may attend to no key is the bias of `out_proj`.
        Raises ValueError for shapes that do not fit together.
        """
        q, k, v = self.project(query, key, value, **given)
        self._check_mask(mask, q, k)
        dropout = self.dropout if self.training else 0.0
        heads = fused_attention(q, k, v, mask=mask, causal=causal, dropout=dropout)
        return self.merge(heads)

    def with_weights(
        self,
        query: Float[Tensor, "batch query d"],
        key: Float[Tensor, "batch key d"] | None = None,
        value: Float[Tensor, "batch key d"] | None = None,
        *,
        mask: Bool[Tensor, "#batch #heads #query #all_keys"] | None = None,
        causal: bool = False,
        **given: Any,
    ) -> tuple[
        Float[Tensor, "batch query d"], Float[Tensor, "batch heads query all_keys"]
    ]:
        """As `forward`, without the fused kernel and dropout: output and weights."""
        q, k, v = self.project(query, key, value, **given)
        self._check_mask(mask, q, k)
        if causal:
            triangle = causal_mask(q.shape[2], key_time=k.shape[2], device=q.device)
            mask = triangle if mask is None else mask & triangle
        heads, weights = scaled_dot_product_attention(q, k, v, mask=mask)
        return self.merge(heads), weights

    def project(
        self,
        query: Float[Tensor, "batch query d"],
        key: Float[Tensor, "batch key d"] | None = None,
        value: Float[Tensor, "batch key d"] | None = None,
    ) -> tuple[
        Float[Tensor, "batch heads query d_k"],
        Float[Tensor, "batch heads time d_k"],
        Float[Tensor, "batch heads time d_k"],
    ]:
        """Queries, keys and values of all heads, from the arguments of `forward`."""
        if key is None and value is not None:
            raise ValueError("values need keys: give key as well as value")
        self._check_shapes(query, key, value)
        if key is None:
            parts = self.in_proj(query).chunk(3, dim=-1)
        else:
            weights = self.in_proj.weight.chunk(3)
            biases = (
                (None,) * 3 if self.in_proj.bias is None else self.in_proj.bias.chunk(3)
            )
            inputs = (query, key, key if value is None else value)
            parts = tuple(map(F.linear, inputs, weights, biases))
        q, k, v = (p.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for p in parts)
        return q, k, v

    def merge(
        self, heads: Float[Tensor, "batch heads query d_k"]
    ) -> Float[Tensor, "batch query d"]:
        """The heads concatenated, times W^O."""
        return self.out_proj(heads.transpose(1, 2).flatten(2))

    def _check_shapes(
        self, query: Tensor, key: Tensor | None, value: Tensor | None
    ) -> None:
        given = {"query": query, "key": key, "value": value}
        for name, tensor in given.items():
            if tensor is None:
                continue
            if tensor.ndim != 3 or tensor.shape[-1] != self.embed_dim:
                wanted = f"(batch, time, {self.embed_dim})"
                raise ValueError(
                    f"{name} must have shape {wanted}, not {tuple(tensor.shape)}"
                )
            if len(tensor) != len(query):
                raise ValueError(
                    f"query and {name} must be of one batch, not {len(query)} and "
                    f"{len(tensor)} examples"
                )
        if key is not None and value is not None and key.shape[1] != value.shape[1]:
            raise ValueError(
                f"each key needs one value, not {key.shape[1]} keys and "
                f"{value.shape[1]} values"
            )

    def _check_mask(self, mask: Tensor | None, q: Tensor, k: Tensor) -> None:
        if mask is None:
            return
        if mask.dtype != torch.bool:
            raise TypeError(
                "a mask must be boolean, True where attention is allowed, not "
                f"{mask.dtype}"
            )
        wanted = (*q.shape[:3], k.shape[2])
        fits = mask.ndim == 4 and all(
            m in (1, w) for m, w in zip(mask.shape, wanted, strict=True)
        )
        if not fits:
            raise ValueError(
                f"a mask must have shape {wanted}, or 1 in place of any of these, not "
                f"{tuple(mask.shape)}"
            )
