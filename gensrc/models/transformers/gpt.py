"""GPT: a causal Transformer that predicts the next token of a text.

Radford and others, Improving Language Understanding by Generative Pre-Training, OpenAI,
2018, is the source of the model, a decoder without an encoder to look at; Radford and
others, Language Models are Unsupervised Multitask Learners, OpenAI, 2019, which is
GPT-2, of blocks that normalise first, the last normalisation and the scaled residual
layers. With a GPT-2's weights, brought here by `from_gpt2`, it computes the same.

Deviations: positions start with a standard deviation of 0.02, as in GPT-1 and the
transformers library, where OpenAI's code for GPT-2 has 0.01. Attention weights are not
dropped out, which would keep torch from its fast kernel; all other places of dropout
are GPT-2's. The token PAD is never a target. With positions="rotary" there is no
position embedding: queries and keys are turned, as in Su and others, RoFormer, 2021,
and later GPTs; it learns sooner, and GPT-2's weights do not fit it.
"""

import math
import re
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gensrc.data.vocabulary import PAD
from gensrc.models.checks import check_ids, check_sizes
from gensrc.models.transformers.transformer import (
    Attention,
    Cache,
    Config,
    Encoder,
    FeedForward,
)

STD = 0.02
"""The standard deviation with which matrices and embeddings start."""


class GPT(nn.Module):
    """p(x_t | x_<t) for tokens 0 to vocab_size - 1, by blocks of causal attention.

    max_length: of a sequence, the context.
    positions: "learned", a vector for each position, as GPT-2 has them; or
        one of the others in `gensrc.models.transformers.positions`.
    dropout: of the embeddings and of what each sublayer adds.

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
        """Weights as published: N(0, 0.02^2), and less where a block adds its results.

        The stream of vectors is a sum of two terms a block. With 1 / sqrt(2 layers) in
        each of them its variance does not grow with the depth.
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
        """Entry t of the logits is about token t + 1 and has seen those up to t.

        positions: where the tokens stand, if not one after another from 0 on, or after
            those in the cache.
        mask: True where attention is allowed; the causal one is joined to it.
        cache: one object a block, with what was computed of earlier tokens.

        A token that may see nothing, as where a whole row is padding and masked, gets
        finite logits that mean nothing. Raises ValueError for no tokens, for a token
        outside the vocabulary, and for sequences longer than `max_length`.
        """
        self._check(ids)
        hidden = self.encoder(
            self.embed(ids), mask=mask, causal=True, positions=positions, cache=cache
        )
        # One matrix for both ends: what a token means, and what speaks for it.
        return F.linear(hidden, self.embed.weight)

    def loss(self, batch: Int[Tensor, "batch time"]) -> Float[Tensor, ""]:
        """Cross-entropy in nats a token, of all tokens but the first of each row.

        Padding comes at the end of a row and counts for nothing. Raises ValueError for
        a batch with nothing to predict.
        """
        targets = batch[:, 1:]
        if not bool((targets != PAD).any()):
            raise ValueError(
                f"a batch of shape {tuple(batch.shape)} has no token to predict: each "
                "text needs two or more, and not padding alone"
            )
        logits = self(batch[:, :-1]).float()
        return F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=PAD
        )

    @torch.no_grad()
    def log_prob(
        self, text: Int[Tensor, " time"], *, stride: int | None = None
    ) -> Float[Tensor, " later"]:
        """log p of each token of a long text but the first, in nats.

        The text is read in windows of the context's length that begin `stride` tokens
        apart (half the context, if not given): all but its first tokens are judged with
        at least max_length - stride tokens before them.

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
        log_probs = self(windows[:, :-1]).float().log_softmax(-1)
        return log_probs.gather(2, windows[:, 1:, None]).squeeze(2)

    def _check(self, ids: Tensor) -> None:
        if ids.shape[1] == 0:
            raise ValueError("there are no tokens: a text needs at least one")
        advice = "encode the text with the model's own vocabulary"
        check_ids(ids, self.vocab_size, "tokens", advice)


# --- the names of the transformers library ---

# Ours and those of `GPT2LMHeadModel`, without the number of the block.
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

    Raises ValueError for a GPT without learned positions, which GPT-2 cannot be.
    """
    if "encoder.position_embedding.weight" not in state:
        raise ValueError('GPT-2 has learned positions: build with positions="learned"')
    theirs = {
        _renamed(name, GPT2_NAMES): _transposed(name, w) for name, w in state.items()
    }
    return theirs | {"lm_head.weight": theirs["transformer.wte.weight"]}


def from_gpt2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The `state_dict` of a `GPT2LMHeadModel` under the names and in the layout of GPT.

    Raises ValueError for a weight that GPT has not.
    """
    names = {theirs: ours for ours, theirs in GPT2_NAMES.items()}
    # The output matrix is the embedding once more; old files hold their masks as well.
    kept = {
        name: weight
        for name, weight in state.items()
        if name != "lm_head.weight" and not name.endswith((".attn.bias", "masked_bias"))
    }
    return {_renamed(name, names): _transposed(name, w) for name, w in kept.items()}


def _renamed(name: str, names: Mapping[str, str]) -> str:
    layer, kind = name.rsplit(".", 1)
    numbers = re.findall(r"\.(\d+)\.", layer)
    known = names.get(re.sub(r"\.\d+\.", ".#.", layer))
    if known is None:
        raise ValueError(f"{name} is no weight of a GPT with GPT-2's layers")
    return f"{known.replace('#', *numbers) if numbers else known}.{kind}"


def _transposed(name: str, weight: Tensor) -> Tensor:
    """The library keeps matrices of linear layers the other way round."""
    linear = re.search(r"(proj|linear\d|c_attn|c_fc)\.weight$", name)
    return weight.T.contiguous() if linear else weight
