"""A GPT with further heads, for the tokens after the next one.

Stern, Shazeer and Uszkoreit, Blockwise Parallel Decoding for Deep Autoregressive
Models, NeurIPS 2018, is the source; `gensrc.decoding.parallel` decodes with it.

Deviations: the first head is the GPT's own output layer, unchanged, so that a trained
GPT keeps its texts, as in the paper's experiments with frozen weights. All heads learn
from every batch, where the paper draws one.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gensrc.data.vocabulary import PAD
from gensrc.models.checks import check_sizes, check_texts, readable, widened
from gensrc.models.transformers.gpt import GPT, STD
from gensrc.models.transformers.transformer import Cache


class Head(nn.Module):
    """x + W2 relu(W1 x + b1) + b2."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(embed_dim, embed_dim)
        self.linear2 = nn.Linear(embed_dim, embed_dim)
        for layer in (self.linear1, self.linear2):
            nn.init.normal_(layer.weight, std=STD)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        return x + self.linear2(F.relu(self.linear1(x)))


class BlockwiseGPT(nn.Module):
    """p(x_(t+i) | x_<t) for i = 0 to num_ahead - 1, each without knowledge of those
    between: of i = 0 by the GPT, of the others by a head each.

    config: of the GPT.
    """

    def __init__(self, *, num_ahead: int, **config: Any) -> None:
        super().__init__()
        check_sizes(num_ahead=num_ahead)
        self.gpt = GPT(**config)
        width = self.gpt.embed.embedding_dim
        self.heads = nn.ModuleList(Head(width) for _ in range(num_ahead - 1))

    @property
    def num_ahead(self) -> int:
        return 1 + len(self.heads)

    def forward(
        self,
        ids: Int[Tensor, "batch time"],
        *,
        cache: Sequence[Cache] | None = None,
    ) -> Float[Tensor, "batch time ahead vocab"]:
        """Entry (t, i) predicts token t + 1 + i, from tokens 0 to t.

        cache: as in the GPT. Raises ValueError as the GPT does.
        """
        self._check(ids)
        x = self.gpt.encoder(self.gpt.embed(ids), causal=True, cache=cache)
        outputs = torch.stack([x, *(head(x) for head in self.heads)], 2)
        return F.linear(outputs, self.gpt.embed.weight)

    def loss(self, batch: Int[Tensor, "batch time"]) -> Float[Tensor, ""]:
        """Cross-entropy in nats a token, over the tokens of all heads.

        Padding, at the end of a row, is ignored. Raises ValueError as the GPT does, and
        for rows too short for the last head.
        """
        self._check(batch)
        if batch.shape[1] <= self.num_ahead:
            raise ValueError(
                f"{self.num_ahead} tokens ahead need texts of {self.num_ahead + 1}, "
                f"not {batch.shape[1]}: give longer ones, or build with fewer"
            )
        ahead = F.pad(batch[:, 1:], (0, self.num_ahead - 1), value=PAD)
        targets = ahead.unfold(1, self.num_ahead, 1)
        if readable(targets) and not bool((targets != PAD).any()):
            raise ValueError("a batch of padding has no token to predict")
        logits = widened(self(batch[:, :-1]))
        return F.cross_entropy(
            logits.flatten(0, 2), targets.flatten(), ignore_index=PAD
        )

    def _check(self, ids: Tensor) -> None:
        advice = "encode the text with the model's own vocabulary"
        check_texts(ids, self.gpt.vocab_size, "tokens", advice)
