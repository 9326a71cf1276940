"""GPT: a causal Transformer that predicts the next token of a text.

Radford and others, Improving Language Understanding by Generative Pre-Training, OpenAI,
2018, is the source of the model, a decoder without cross-attention; Radford and others,
Language Models are Unsupervised Multitask Learners, OpenAI, 2019, which is GPT-2, of
pre-norm blocks, the final normalisation and the scaled residual layers. With a GPT-2's
weights, converted by `from_gpt2`, it computes the same.

Deviations: position embeddings are initialised with a standard deviation of 0.02, as in
GPT-1 and the transformers library; OpenAI's code for GPT-2 has 0.01. There is no
dropout of attention weights, which would rule out torch's fast kernel; all other
dropout is GPT-2's. The token PAD is never a target. With positions="rotary" there is no
position embedding: queries and keys are rotated, as in Su and others, RoFormer, 2021,
and later GPTs; training is faster, and GPT-2's weights do not fit, but such a GPT
computes what a GPT-NeoX does (`to_gpt_neox`).
"""

import math
import re
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gensrc.data.vocabulary import PAD
from gensrc.models.checks import check_sizes, check_texts, readable, widened
from gensrc.models.transformers.transformer import (
    Attention,
    Cache,
    Config,
    Encoder,
    FeedForward,
)

STD = 0.02
"""The standard deviation with which matrices and embeddings are initialised."""


class GPT(nn.Module):
    """p(x_t | x_<t) for tokens 0 to vocab_size - 1, by blocks of causal attention.

    max_length: the longest sequence that fits (the context length).
    positions: "learned", a vector for each position, as in GPT-2; or one of the
        others in `gensrc.models.transformers.positions`.
    dropout: of the embeddings and of the output of each sublayer.

    Raises ValueError for sizes that do not fit together.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        max_length: int,
        embed_dim: int = 128,
        num_heads: int = 4,
        num_layers: int = 4,
        dropout: float = 0.0,
        positions: str = "learned",
    ) -> None:
        super().__init__()
        check_sizes(vocab_size=vocab_size, max_length=max_length)
        config = Config.gpt(
            embed_dim,
            num_heads=num_heads,
            num_layers=num_layers,
            dropout=dropout,
            activation="gelu_tanh",
            positions=positions,
            max_length=max_length,
        )
        self.vocab_size, self.max_length = vocab_size, max_length
        self.embed = nn.Embedding(vocab_size, embed_dim)
        self.encoder = Encoder(config)
        for part in self.encoder.modules():
            if isinstance(part, Attention):
                part.dropout = 0.0
            elif isinstance(part, FeedForward):
                part.dropout.p = 0.0
        self._start()

    def _start(self) -> None:
        """Initialise as published: N(0, 0.02^2), output projections scaled down.

        Each block adds two terms to the residual stream. Scaled by 1 / sqrt(2 layers),
        they keep its variance from growing with the depth.
        """
        residual = STD / math.sqrt(2 * len(self.encoder.blocks))
        for name, weight in self.named_parameters():
            if weight.ndim > 1:
                adds = name.endswith(("out_proj.weight", "linear2.weight"))
                nn.init.normal_(weight, std=residual if adds else STD)

    def forward(
        self,
        ids: Int[Tensor, "batch time"],
        *,
        positions: Int[Tensor, "#batch time"] | None = None,
        mask: Bool[Tensor, "#batch #heads #time #key"] | None = None,
        cache: Sequence[Cache] | None = None,
    ) -> Float[Tensor, "batch time vocab"]:
        """Entry t of the logits predicts token t + 1, from tokens 0 to t.

        positions: of the tokens; by default they count from 0, or from the end of the
            cache.
        mask: True where attention is allowed; the causal mask is combined with it.
        cache: one object a block, with the keys and values of earlier tokens.

        The logits of a token that may attend to nothing, as in a row of masked padding,
        are finite but meaningless. Raises ValueError for no tokens, for a token outside
        the vocabulary, and for sequences longer than `max_length`.
        """
        self._check(ids)
        hidden = self.encoder(
            self.embed(ids), mask=mask, causal=True, positions=positions, cache=cache
        )
        # The output layer shares its weight matrix with the token embedding.
        return F.linear(hidden, self.embed.weight)

    def loss(self, batch: Int[Tensor, "batch time"]) -> Float[Tensor, ""]:
        """Cross-entropy in nats a token, of all tokens but the first of each row.

        Padding, at the end of a row, is ignored. Raises ValueError for a batch with
        nothing to predict.
        """
        self._check(batch)
        targets = batch[:, 1:]
        padding = readable(targets) and not bool((targets != PAD).any())
        if targets.numel() == 0 or padding:
            raise ValueError(
                f"a batch of shape {tuple(batch.shape)} has no token to predict: each "
                "text needs two or more, and not padding alone"
            )
        logits = widened(self(batch[:, :-1]))
        return F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=PAD
        )

    @torch.no_grad()
    def log_prob(
        self, text: Int[Tensor, " time"], *, stride: int | None = None
    ) -> Float[Tensor, " later"]:
        """log p of each token of a long text but the first, in nats.

        The text is read in windows of max_length tokens, whose starts are `stride`
        tokens apart (by default half of max_length): beyond the first window, every
        token is predicted from at least max_length - stride tokens.

        Raises ValueError for fewer than two tokens and a stride that skips some.
        """
        if stride is None:
            stride = max(self.max_length // 2, 1)
        if len(text) < 2 or not 1 <= stride <= self.max_length:
            raise ValueError(
                f"log_prob needs two tokens and a stride from 1 to {self.max_length}, "
                f"not {len(text)} and {stride}"
            )
        last = max(len(text) - 1 - self.max_length, 0)  # where the last window begins
        starts = [*range(0, last, stride), last]
        length = min(self.max_length, len(text) - 1) + 1
        windows = torch.stack([text[start : start + length] for start in starts])
        found = torch.cat([self._of_windows(some) for some in windows.split(16)])
        parts, done = [], 0
        for start, row in zip(starts, found, strict=True):
            parts.append(row[done - start :])
            done = start + len(row)
        return torch.cat(parts)

    def _of_windows(self, windows: Tensor) -> Tensor:
        log_probs = widened(self(windows[:, :-1])).log_softmax(-1)
        return log_probs.gather(2, windows[:, 1:, None]).squeeze(2)

    def _check(self, ids: Tensor) -> None:
        advice = "encode the text with the model's own vocabulary"
        check_texts(ids, self.vocab_size, "tokens", advice)


# --- the names of the transformers library ---

# Our names of weights to those of `GPT2LMHeadModel`, without the block's number.
GPT2_NAMES = {
    "embed": "transformer.wte",
    "encoder.position_embedding": "transformer.wpe",
    "encoder.blocks.#.norm1": "transformer.h.#.ln_1",
    "encoder.blocks.#.self_attn.in_proj": "transformer.h.#.attn.c_attn",
    "encoder.blocks.#.self_attn.out_proj": "transformer.h.#.attn.c_proj",
    "encoder.blocks.#.norm2": "transformer.h.#.ln_2",
    "encoder.blocks.#.feed_forward.linear1": "transformer.h.#.mlp.c_fc",
    "encoder.blocks.#.feed_forward.linear2": "transformer.h.#.mlp.c_proj",
    "encoder.norm": "transformer.ln_f",
}


def to_gpt2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A GPT's `state_dict` under the names and in the layout of `GPT2LMHeadModel`.

    Raises ValueError for a GPT without learned positions, which GPT-2 needs.
    """
    if "encoder.position_embedding.weight" not in state:
        raise ValueError(
            'GPT-2 has learned positions: build with positions="learned", or convert a '
            "rotary GPT by to_gpt_neox"
        )
    theirs = {
        _renamed(name, GPT2_NAMES): _transposed(name, w) for name, w in state.items()
    }
    return theirs | {"lm_head.weight": theirs["transformer.wte.weight"]}


def from_gpt2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The `state_dict` of a `GPT2LMHeadModel` under the names and in the layout of GPT.

    Raises ValueError for a weight that GPT has not.
    """
    names = {theirs: ours for ours, theirs in GPT2_NAMES.items()}
    # Left out: the output matrix, which is the embedding, and old files' masks.
    kept = {
        name: weight
        for name, weight in state.items()
        if name != "lm_head.weight" and not name.endswith((".attn.bias", "masked_bias"))
    }
    return {_renamed(name, names): _transposed(name, w) for name, w in kept.items()}


# Our names of weights to those of `GPTNeoXForCausalLM`.
GPT_NEOX_NAMES = {
    "embed": "gpt_neox.embed_in",
    "encoder.blocks.#.norm1": "gpt_neox.layers.#.input_layernorm",
    "encoder.blocks.#.self_attn.in_proj": "gpt_neox.layers.#.attention.query_key_value",
    "encoder.blocks.#.self_attn.out_proj": "gpt_neox.layers.#.attention.dense",
    "encoder.blocks.#.norm2": "gpt_neox.layers.#.post_attention_layernorm",
    "encoder.blocks.#.feed_forward.linear1": "gpt_neox.layers.#.mlp.dense_h_to_4h",
    "encoder.blocks.#.feed_forward.linear2": "gpt_neox.layers.#.mlp.dense_4h_to_h",
    "encoder.norm": "gpt_neox.final_layer_norm",
}
GPT_NEOX_SETTINGS = {
    "hidden_act": "gelu_new",
    "use_parallel_residual": False,
    "rotary_pct": 1.0,
    "tie_word_embeddings": True,
}
"""What a `GPTNeoXConfig` needs besides the sizes, to compute what a rotary GPT does."""


def to_gpt_neox(state: Mapping[str, Tensor], *, num_heads: int) -> dict[str, Tensor]:
    """A rotary GPT's `state_dict` under the names and in the layout of the transformers
    library's `GPTNeoXForCausalLM`, whose settings are `GPT_NEOX_SETTINGS`.

    Its output layer, which shares the embedding's weights and whose name is another in
    every version, is left out: load with strict=False.

    Raises ValueError for a GPT with learned positions, which `to_gpt2` converts.
    """
    if "encoder.position_embedding.weight" in state:
        raise ValueError(
            "GPT-NeoX has rotary positions: convert learned ones by to_gpt2"
        )
    return {
        _renamed(name, GPT_NEOX_NAMES): _by_heads(w, num_heads)
        if ".in_proj." in name
        else w
        for name, w in state.items()
    }


def _by_heads(stacked: Tensor, num_heads: int) -> Tensor:
    """Rows of Q, K and V of all heads -> rows of q, k and v of each head in turn.

    Pairs that are rotated lie side by side in ours; in theirs they are half a head
    apart.
    """
    q, k, v = stacked.unflatten(0, (3, num_heads, -1))
    q, k = (torch.cat([part[:, ::2], part[:, 1::2]], 1) for part in (q, k))
    return torch.stack([q, k, v], 1).flatten(0, 2)


def _renamed(name: str, names: Mapping[str, str]) -> str:
    layer, kind = name.rsplit(".", 1)
    numbers = re.findall(r"\.(\d+)\.", layer)
    known = names.get(re.sub(r"\.\d+\.", ".#.", layer))
    if known is None:
        raise ValueError(f"{name} is no weight of a GPT with GPT-2's layers")
    return f"{known.replace('#', *numbers) if numbers else known}.{kind}"


def _transposed(name: str, weight: Tensor) -> Tensor:
    """The library stores the matrices of linear layers transposed."""
    linear = re.search(r"(proj|linear\d|c_attn|c_fc)\.weight$", name)
    return weight.T.contiguous() if linear else weight
