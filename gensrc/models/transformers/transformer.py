"""The Transformer: blocks, encoder, decoder, and the model of source and target.

Vaswani and others, Attention Is All You Need, NeurIPS 2017, is the source of all but
three things: learned positions come from Gehring and others, Convolutional Sequence to
Sequence Learning, ICML 2017; rotary ones are in `gensrc.models.transformers.positions`;
and pre-norm blocks are studied by Xiong and others, On Layer Normalization in the
Transformer Architecture, ICML 2020.

Deviations: dropout also acts on attention weights and within the feed-forward layer, as
in torch; source and target have separate vocabularies, so the output layer shares its
weights with the target's embedding alone. The paper does not say how weights are
initialised: here matrices as in Glorot and Bengio, 2010, which Xiong and others use,
biases with 0, and token embeddings with a variance of 1 / embed_dim.

An encoder with `causal=True` is a decoder without cross-attention, as in GPT. Masks are
those of `gensrc.models.transformers.attention`: True where attention is allowed,
combined by `&`. The output of positions that are masked everywhere is finite but
meaningless.

`cache`, one object a block, lets a sequence be fed in pieces: a block passes keys and
values of the new positions to `cache.extend`, which returns those of all so far, and
stores its keys and values of the encoder's output in `cache.memory`. `positions` are
those of the new tokens; by default they count on from `cache.length`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gensrc.data.vocabulary import PAD
from gensrc.models.checks import check_shape, check_texts, readable, widened
from gensrc.models.transformers.attention import MultiHeadAttention
from gensrc.models.transformers.positions import (
    POSITIONS,
    Rope,
    apply_rope,
    rope,
    sinusoidal,
)

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),  # GPT-2's
}


@runtime_checkable
class Cache(Protocol):
    """A block's cache of earlier positions; made by the caller who feeds in pieces."""

    length: int
    memory: tuple[Tensor, Tensor] | None

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Config:
    """The sizes of an encoder or a decoder; the defaults are the paper's base model.

    Raises ValueError for settings that do not fit together.
    """

    embed_dim: int = 512
    num_heads: int = 8
    num_layers: int = 6
    hidden_dim: int = 2048  # of the feed-forward layers
    dropout: float = 0.1
    activation: str = "relu"
    norm_first: bool = False  # pre-norm; the paper has post-norm
    final_norm: bool | None = None  # None: as `norm_first`, which needs it
    positions: str = "sinusoidal"
    max_length: int | None = None  # longest sequence; learned positions need it

    def __post_init__(self) -> None:
        if self.positions not in POSITIONS:
            kinds = ", ".join(POSITIONS)
            raise ValueError(f"positions must be one of {kinds}, not {self.positions}")
        if self.activation not in ACTIVATIONS:
            kinds = ", ".join(ACTIVATIONS)
            raise ValueError(f"activation must be one of {kinds}: {self.activation}")
        if self.num_layers < 1 or self.hidden_dim < 1:
            sizes = f"{self.num_layers} and {self.hidden_dim}"
            raise ValueError(f"num_layers and hidden_dim start at 1, not {sizes}")
        if self.positions == "learned" and self.max_length is None:
            raise ValueError("learned positions need max_length, the number of them")

    @classmethod
    def gpt(cls, embed_dim: int, *, activation: str = "gelu", **sizes: Any) -> "Config":
        """The blocks that GPT-2 has: pre-norm, feed-forward layers four times as wide.

        sizes: num_heads, num_layers, dropout, positions, max_length.
        """
        return cls(
            embed_dim=embed_dim,
            hidden_dim=4 * embed_dim,
            activation=activation,
            norm_first=True,
            **sizes,
        )


# --- the parts of a block ---


class Attention(MultiHeadAttention):
    """Multi-head attention with optional rotary positions and cache.

    With a cache, the mask covers all keys so far.
    """

    def project(
        self,
        query: Float[Tensor, "batch query d"],
        key: Float[Tensor, "batch key d"] | None = None,
        value: Float[Tensor, "batch key d"] | None = None,
        *,
        rope: Rope | None = None,
        cache: Cache | None = None,
    ) -> tuple[
        Float[Tensor, "batch heads query d_k"],
        Float[Tensor, "batch heads all_keys d_k"],
        Float[Tensor, "batch heads all_keys d_k"],
    ]:
        if key is not None and cache is not None and cache.memory is not None:
            weight, bias = self.in_proj.weight, self.in_proj.bias
            d = self.embed_dim
            q = F.linear(query, weight[:d], None if bias is None else bias[:d])
            return q.unflatten(-1, (self.num_heads, -1)).transpose(1, 2), *cache.memory
        q, k, v = super().project(query, key, value)
        if rope is not None:
            q, k = apply_rope(q, rope), apply_rope(k, rope)
        if cache is not None and key is None:
            k, v = cache.extend(k, v)
        elif cache is not None:
            cache.memory = k, v
        return q, k, v


class FeedForward(nn.Module):
    """Two linear layers with an activation between, applied at each position."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.linear1 = nn.Linear(config.embed_dim, config.hidden_dim)
        self.linear2 = nn.Linear(config.hidden_dim, config.embed_dim)
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "batch time d"]
    ) -> Float[Tensor, "batch time d"]:
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


class Block(nn.Module):
    """The base of both kinds of block: residual connections with normalisation."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.dropout = nn.Dropout(config.dropout)

    def add(
        self, x: Tensor, sublayer: Callable[[Tensor], Tensor], norm: nn.LayerNorm
    ) -> Tensor:
        if self.norm_first:
            return x + self.dropout(sublayer(norm(x)))
        return norm(x + self.dropout(sublayer(x)))


def attention_of(config: Config) -> Attention:
    return Attention(config.embed_dim, config.num_heads, dropout=config.dropout)


class EncoderBlock(Block):
    """Self-attention, then the feed-forward layer."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.self_attn = attention_of(config)
        self.feed_forward = FeedForward(config)
        self.norm1, self.norm2 = (nn.LayerNorm(config.embed_dim) for _ in range(2))

    def forward(
        self,
        x: Float[Tensor, "batch time d"],
        *,
        mask: Bool[Tensor, "#batch #heads #time #key"] | None = None,
        causal: bool = False,
        rope: Rope | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch time d"]:
        attend = partial(
            self.self_attn, mask=mask, causal=causal, rope=rope, cache=cache
        )
        x = self.add(x, attend, self.norm1)
        return self.add(x, self.feed_forward, self.norm2)


class DecoderBlock(Block):
    """Self-attention, attention to the encoder's output, the feed-forward layer."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.self_attn, self.cross_attn = (attention_of(config) for _ in range(2))
        self.feed_forward = FeedForward(config)
        self.norm1, self.norm2, self.norm3 = (
            nn.LayerNorm(config.embed_dim) for _ in range(3)
        )

    def forward(
        self,
        x: Float[Tensor, "batch time d"],
        memory: Float[Tensor, "batch source d"],
        *,
        mask: Bool[Tensor, "#batch #heads #time #key"] | None = None,
        memory_mask: Bool[Tensor, "#batch #heads #time #source"] | None = None,
        causal: bool = True,
        rope: Rope | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch time d"]:
        attend = partial(
            self.self_attn, mask=mask, causal=causal, rope=rope, cache=cache
        )
        look = partial(self.cross_attn, key=memory, mask=memory_mask, cache=cache)
        x = self.add(x, attend, self.norm1)
        x = self.add(x, look, self.norm2)
        return self.add(x, self.feed_forward, self.norm3)


# --- stacks of blocks ---


class Stack(nn.Module):
    """Positions, blocks, and a final normalisation where the blocks need one."""

    def __init__(self, config: Config, block: Callable[[Config], Block]) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(block(config) for _ in range(config.num_layers))
        last = config.norm_first if config.final_norm is None else config.final_norm
        self.norm = nn.LayerNorm(config.embed_dim) if last else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        for name, weight in self.named_parameters():
            if weight.ndim > 1:
                nn.init.xavier_uniform_(weight)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)
        if config.positions == "learned":
            # Variance 1, as token vectors have when they enter the stack.
            length = config.max_length or 0
            self.position_embedding = nn.Embedding(length, config.embed_dim)

    def run(
        self,
        x: Float[Tensor, "batch time d"],
        positions: Int[Tensor, "#batch time"] | None,
        cache: Sequence[Cache] | None,
        **given: Any,
    ) -> Float[Tensor, "batch time d"]:
        """Add positions, apply all blocks and the final normalisation.

        given: further arguments of each block.

        Raises ValueError for a position that is negative or beyond `max_length`.
        """
        if positions is None:
            start = cache[0].length if cache else 0
            first, last = start, start + x.shape[1] - 1
            positions = torch.arange(first, last + 1, device=x.device)[None]
        else:
            first, last = int(positions.min()), int(positions.max())
        limit = math.inf if self.config.max_length is None else self.config.max_length
        if first < 0 or last >= limit:
            raise ValueError(
                f"positions {first} to {last} are not within a context of {limit}: "
                "shorten the sequence, or build with a larger max_length"
            )
        x, angles = self.add_positions(x, positions)
        caches: Sequence[Cache | None] = cache or [None] * len(self.blocks)
        for block, own in zip(self.blocks, caches, strict=True):
            x = block(x, rope=angles, cache=own, **given)
        return self.norm(x)

    def add_positions(
        self, x: Float[Tensor, "batch time d"], positions: Int[Tensor, "#batch time"]
    ) -> tuple[Float[Tensor, "batch time d"], Rope | None]:
        """The vectors with positions added, and the angles of rotary positions."""
        kind, angles = self.config.positions, None
        if kind == "sinusoidal":
            x = x + sinusoidal(positions, self.config.embed_dim).to(x.dtype)
        elif kind == "learned":
            x = x + self.position_embedding(positions)
        elif kind == "rotary":
            angles = rope(positions, self.config.embed_dim // self.config.num_heads)
        return self.dropout(x), angles


class Encoder(Stack):
    """Self-attention blocks: vectors to vectors of the same shape."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, EncoderBlock)

    def forward(
        self,
        x: Float[Tensor, "batch time d"],
        *,
        mask: Bool[Tensor, "#batch #heads #time #key"] | None = None,
        causal: bool = False,
        positions: Int[Tensor, "#batch time"] | None = None,
        cache: Sequence[Cache] | None = None,
    ) -> Float[Tensor, "batch time d"]:
        return self.run(x, positions, cache, mask=mask, causal=causal)


class Decoder(Stack):
    """The same, with cross-attention to the encoder's output, `memory`."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, DecoderBlock)

    def forward(
        self,
        x: Float[Tensor, "batch time d"],
        memory: Float[Tensor, "batch source d"],
        *,
        mask: Bool[Tensor, "#batch #heads #time #key"] | None = None,
        memory_mask: Bool[Tensor, "#batch #heads #time #source"] | None = None,
        causal: bool = True,
        positions: Int[Tensor, "#batch time"] | None = None,
        cache: Sequence[Cache] | None = None,
    ) -> Float[Tensor, "batch time d"]:
        seen = {"memory": memory, "memory_mask": memory_mask}
        return self.run(x, positions, cache, mask=mask, causal=causal, **seen)


# --- from tokens to tokens ---


class TokenEmbedding(nn.Embedding):
    """A learned vector for each token, times sqrt(embed_dim) (section 3.4)."""

    def __init__(self, vocab_size: int, embed_dim: int) -> None:
        super().__init__(vocab_size, embed_dim)
        nn.init.normal_(self.weight, std=embed_dim**-0.5)

    def forward(self, ids: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time d"]:
        """Raises ValueError for an id outside the vocabulary."""
        advice = f"the vocabulary has {len(self.weight)} tokens"
        check_texts(ids, len(self.weight), "ids", advice)
        return super().forward(ids) * math.sqrt(self.embedding_dim)


def token_mask(ids: Int[Tensor, "batch key"]) -> Bool[Tensor, "batch 1 1 key"]:
    """The mask that allows all tokens but padding."""
    return (ids != PAD)[:, None, None, :]


def source_mask(ids: Int[Tensor, "batch key"]) -> Bool[Tensor, "batch 1 1 key"]:
    """The same for a source. Raises ValueError for a row of padding alone: there is
    nothing to read in it."""
    mask = token_mask(ids)
    if readable(ids) and not bool(mask.any(-1).all()):
        raise ValueError("a source has no token but padding: leave this pair out")
    return mask


class Transformer(nn.Module):
    """Encoder and decoder: logits of each next token of a target, given a source.

    Each is padded with PAD at the end to one length. A target begins with BOS and ends
    with EOS; a source is as it is.
    """

    def __init__(self, config: Config, *, source_vocab: int, target_vocab: int) -> None:
        super().__init__()
        self.source = TokenEmbedding(source_vocab, config.embed_dim)
        self.target = TokenEmbedding(target_vocab, config.embed_dim)
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    def encode(
        self, source: Int[Tensor, "batch time"]
    ) -> Float[Tensor, "batch time d"]:
        """Raises ValueError for a token of no vocabulary, and a source without any."""
        x = self.source(source)
        return self.encoder(x, mask=source_mask(source))

    def condition(self, source: Int[Tensor, "batch time"]) -> dict[str, Any]:
        """What `decode` needs of a source, computed once for all of a target.

        Raises ValueError as `encode` does.
        """
        return {"memory": self.encode(source), "memory_mask": token_mask(source)}

    def decode(
        self,
        target: Int[Tensor, "batch time"],
        memory: Float[Tensor, "batch source d"],
        *,
        memory_mask: Bool[Tensor, "#batch #heads #time #source"] | None = None,
        positions: Int[Tensor, "#batch time"] | None = None,
        cache: Sequence[Cache] | None = None,
    ) -> Float[Tensor, "batch time vocab"]:
        """The logits of the token that follows each token of `target`.

        Padding at a target's end needs no mask: the causal mask hides it.
        """
        hidden = self.decoder(
            self.target(target),
            memory,
            memory_mask=memory_mask,
            positions=positions,
            cache=cache,
        )
        return F.linear(hidden, self.target.weight)

    def forward(
        self, source: Int[Tensor, "batch source"], target: Int[Tensor, "batch time"]
    ) -> Float[Tensor, "batch time vocab"]:
        return self.decode(target, **self.condition(source))

    def loss(
        self, source: Int[Tensor, "batch source"], target: Int[Tensor, "batch time"]
    ) -> Float[Tensor, ""]:
        """Cross-entropy in nats a token of the target, with EOS, without PAD.

        Raises ValueError for another number of axes, tokens of no vocabulary, and a
        source without a token.
        """
        check_shape(target, (None,), "targets")
        logits = widened(self(source, target[:, :-1]))
        return F.cross_entropy(
            logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=PAD
        )


@contextmanager
def attention_maps(module: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Context manager: records the weights of every attention layer in `module`.

    The keys are the names of the layers, such as "decoder.blocks.0.cross_attn"; each
    forward pass overwrites the maps of the one before. Raises ValueError for a pass
    with a cache, as its maps would lack the earlier keys.
    """
    maps: dict[str, Tensor] = {}

    def keep(name: str, layer: MultiHeadAttention, given: tuple, named: dict) -> None:
        if named.pop("cache", None) is not None:
            raise ValueError("maps are drawn of whole sequences: leave out the cache")
        with torch.no_grad():
            maps[name] = layer.with_weights(*given, **named)[1]

    hooks = [
        layer.register_forward_hook(
            lambda layer, given, named, _, name=name: keep(name, layer, given, named),
            with_kwargs=True,
        )
        for name, layer in module.named_modules()
        if isinstance(layer, MultiHeadAttention)
    ]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()
