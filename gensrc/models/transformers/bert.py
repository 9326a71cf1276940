"""BERT: a bidirectional Transformer encoder, trained to predict masked tokens.

Devlin, Chang, Lee and Toutanova, BERT: Pre-training of Deep Bidirectional Transformers
for Language Understanding, NAACL 2019, is the source of the network and of the masking
(section 3.1). Heads for fine-tuning are in `gensrc.models.transformers.bert_heads`.

Deviations: no next-sentence task, which Liu and others, RoBERTa, 2019, found to be
unnecessary. The feed-forward layers are always four times as wide as the model. Layer
normalisation adds torch's 1e-5 to the variance, not 1e-12. Weights are initialised with
the published standard deviation of 0.02 at the published width of 768, and with a
larger one in a narrower model. [CLS] is our BOS, [SEP] our EOS.

Ids are those of `gensrc.data.vocabulary`, and one more: `vocab_size` itself is [MASK].
A row is BOS first EOS, or BOS first EOS second EOS, padded with PAD. Segments are
computed from the ids. The output of a row of nothing but PAD is finite but meaningless;
such a row adds nothing to a masked loss.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gensrc.data.vocabulary import BOS, EOS, PAD, SPECIALS
from gensrc.models.checks import check_shape, check_texts, widened
from gensrc.models.transformers.transformer import Config, Encoder, token_mask

# --- rows of ids ---


def row(
    first: Sequence[int], second: Sequence[int] | None = None, *, max_length: int
) -> list[int]:
    """BOS first EOS, or BOS first EOS second EOS, cut or padded to `max_length`.

    Raises ValueError if `first`, BOS, EOS and one more token exceed `max_length`.
    """
    ids = [BOS, *first, EOS]
    if second is not None:
        ids += [*second[: max(max_length - len(ids) - 1, 0)], EOS]
    if len(ids) > max_length or (second and ids[-2:] == [EOS, EOS]):
        raise ValueError(
            f"a first text of {len(first)} tokens leaves no room in {max_length}: "
            "cut it, or make the rows longer"
        )
    return ids + [PAD] * (max_length - len(ids))


def segments(ids: Int[Tensor, "batch time"]) -> Int[Tensor, "batch time"]:
    """Segment of each token: 0 up to and including the first EOS of a row, then 1.

    Raises ValueError for another number of axes.
    """
    check_shape(ids, (None,), "rows")
    ends = (ids == EOS).long()
    return (ends.cumsum(1) - ends).clamp(max=1)


class MaskedTokens(NamedTuple):
    """The input of a masked language model, and the positions that it predicts."""

    inputs: Int[Tensor, "batch time"]
    chosen: Bool[Tensor, "batch time"]
    """The positions to be predicted."""


def mask_tokens(
    ids: Int[Tensor, "batch time"],
    *,
    mask_id: int,
    share: float = 0.15,
    generator: torch.Generator | None = None,
) -> MaskedTokens:
    """Choose tokens with probability `share`, and replace most of them.

    Of the chosen ones, 80 % become `mask_id`, 10 % a random token, 10 % stay. Special
    tokens are never chosen. Raises ValueError for a share outside (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError(f"the share of masked tokens must lie in (0, 1), not {share}")
    luck, fate = torch.rand(2, *ids.shape, generator=generator).to(ids.device)
    others = torch.randint(len(SPECIALS), mask_id, ids.shape, generator=generator)
    chosen = (luck < share) & (ids >= len(SPECIALS))
    inputs = ids.masked_fill(chosen & (fate < 0.8), mask_id)
    inputs = torch.where(chosen & (fate >= 0.9), others.to(ids.device), inputs)
    return MaskedTokens(inputs, chosen)


# --- the encoder ---


class Bert(nn.Module):
    """The encoder: from ids to one vector a token, which depends on the whole row.

    causal: a token's vector depends on that token and earlier ones only.
    Raises ValueError for sizes that do not fit together, as `transformer.Config` and
    `MultiHeadAttention` do.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        max_length: int = 512,
        embed_dim: int = 768,
        num_heads: int = 12,
        num_layers: int = 12,
        dropout: float = 0.1,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.vocab_size, self.causal = vocab_size, causal
        self.tokens = nn.Embedding(vocab_size + 1, embed_dim)
        self.position_embedding = nn.Embedding(max_length, embed_dim)
        self.segments = nn.Embedding(2, embed_dim)
        self.norm = nn.LayerNorm(embed_dim)
        config = Config(
            embed_dim=embed_dim,
            num_heads=num_heads,
            num_layers=num_layers,
            hidden_dim=4 * embed_dim,
            dropout=dropout,
            activation="gelu",
            positions="none",  # added here, before the normalisation
            max_length=max_length,
        )
        self.encoder = Encoder(config)
        initialise(self)

    @property
    def mask_id(self) -> int:
        return self.vocab_size

    def forward(self, ids: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time d"]:
        """Raises ValueError for an id outside the vocabulary or too long a row."""
        advice = f"the vocabulary has {self.vocab_size} tokens, and then the mask"
        check_texts(ids, self.vocab_size + 1, "ids", advice)
        time, limit = ids.shape[1], self.position_embedding.num_embeddings
        if time > limit:
            raise ValueError(
                f"rows of {time} tokens do not fit into a context of {limit}: shorten "
                "them, or build with a larger max_length"
            )
        x = self.tokens(ids) + self.segments(segments(ids))
        x = x + self.position_embedding.weight[:time]
        return self.encoder(self.norm(x), mask=token_mask(ids), causal=self.causal)


def initialise(module: nn.Module) -> None:
    """Weights from N(0, std^2), truncated at two standard deviations; biases 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            # A narrower layer sums fewer terms, so each has to be larger.
            width = part.weight.shape[1]
            std = 0.02 * math.sqrt(768 / width)
            nn.init.trunc_normal_(part.weight, std=std, a=-2 * std, b=2 * std)
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)


# --- training objectives ---


class MaskedLM(nn.Module):
    """p(token | masked row) for each masked token, independently of each other.

    Arguments are those of `Bert`.
    """

    def __init__(self, **config: int | float | bool) -> None:
        super().__init__()
        self.bert = Bert(**config)  # type: ignore[arg-type]
        embed_dim = self.bert.tokens.embedding_dim
        self.dense = nn.Linear(embed_dim, embed_dim)
        self.norm = nn.LayerNorm(embed_dim)
        self.bias = nn.Parameter(torch.zeros(self.bert.vocab_size + 1))
        initialise(self.dense)

    def forward(
        self, ids: Int[Tensor, "batch time"]
    ) -> Float[Tensor, "batch time vocab"]:
        return self.to_logits(self.bert(ids))

    def to_logits(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch vocab"]:
        """The output layer shares its weight matrix with the token embedding."""
        x = self.norm(F.gelu(self.dense(x)))
        return F.linear(x, self.bert.tokens.weight, self.bias)

    def loss(
        self,
        batch: Int[Tensor, "batch time"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Cross-entropy in nats a masked token; 0 if no token was chosen."""
        masked = mask_tokens(batch, mask_id=self.bert.mask_id, generator=generator)
        logits = self.to_logits(self.bert(masked.inputs)[masked.chosen])
        return mean_cross_entropy(logits, batch[masked.chosen])


class LeftToRight(MaskedLM):
    """The same network with a causal mask: p(token | earlier tokens).

    Entry t of the logits predicts token t + 1.

    share: of the tokens that enter the loss: 1 for all, 0.15 for as few as in BERT.
    """

    def __init__(self, *, share: float = 1.0, **config: int | float) -> None:
        super().__init__(**config, causal=True)
        self.share = share

    def loss(
        self,
        batch: Int[Tensor, "batch time"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Cross-entropy in nats a token, without padding and the first token."""
        check_shape(batch, (None,), "rows")
        luck = torch.rand(batch[:, 1:].shape, generator=generator).to(batch.device)
        chosen = (batch[:, 1:] != PAD) & (luck < self.share)
        logits = self.to_logits(self.bert(batch[:, :-1])[chosen])
        return mean_cross_entropy(logits, batch[:, 1:][chosen])


def mean_cross_entropy(
    logits: Float[Tensor, "n classes"], targets: Int[Tensor, " n"]
) -> Float[Tensor, ""]:
    """In nats; 0, not NaN, if there is nothing to predict."""
    total = F.cross_entropy(widened(logits), targets, reduction="sum")
    return total / max(len(targets), 1)
