"""BERT fine-tuned: heads for text classification and for extractive answers.

Devlin, Chang, Lee and Toutanova, BERT: Pre-training of Deep Bidirectional Transformers
for Language Understanding, NAACL 2019, is the source of both (figures 4b and 4c).

Deviations: the class is predicted from the mean of all tokens' vectors, not from the
first one's, which no next-sentence task has trained to represent its row (see
`gensrc.models.transformers.bert`). So the layer in between, the pooler, is not
pre-trained either.

Rows of ids are those of `gensrc.models.transformers.bert`. Both heads raise an error
for a row of nothing but PAD.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gensrc.data.vocabulary import PAD, SPECIALS
from gensrc.models.checks import (
    check_labels,
    check_last,
    check_shape,
    readable,
    widened,
)
from gensrc.models.transformers.bert import Bert, initialise, segments


class BertClassifier(nn.Module):
    """Logits of the class of each row, from the mean of its tokens' vectors."""

    def __init__(self, *, num_classes: int, **config: int | float | bool) -> None:
        super().__init__()
        self.bert = Bert(**config)  # type: ignore[arg-type]
        embed_dim = self.bert.tokens.embedding_dim
        self.pooler = nn.Linear(embed_dim, embed_dim)
        self.dropout = nn.Dropout(self.bert.encoder.config.dropout)
        self.to_logits = nn.Linear(embed_dim, num_classes)
        initialise(self.pooler)
        initialise(self.to_logits)

    def forward(self, ids: Int[Tensor, "batch time"]) -> Float[Tensor, "batch classes"]:
        """Raises ValueError for a row of nothing but padding."""
        check_shape(ids, (None,), "rows")
        check_rows(ids)
        real = (ids >= len(SPECIALS)).unsqueeze(2)
        mean = (self.bert(ids) * real).sum(1) / real.sum(1).clamp(min=1)
        return self.to_logits(self.dropout(self.pooler(mean).tanh()))

    def loss(
        self, ids: Int[Tensor, "batch time"], labels: Int[Tensor, " batch"]
    ) -> Float[Tensor, ""]:
        """Cross-entropy in nats a row. Raises ValueError for a label out of range."""
        check_labels(labels, len(ids), self.to_logits.out_features)
        return F.cross_entropy(widened(self(ids)), labels)


class BertSpanReader(nn.Module):
    """The span of a row's second text that answers its first: first and last token.

    A span is a pair of positions, those of the answer's first and last token.
    """

    def __init__(self, **config: int | float | bool) -> None:
        super().__init__()
        self.bert = Bert(**config)  # type: ignore[arg-type]
        self.to_ends = nn.Linear(self.bert.tokens.embedding_dim, 2)
        initialise(self.to_ends)

    def forward(
        self, ids: Int[Tensor, "batch time"]
    ) -> tuple[Float[Tensor, "batch time"], Float[Tensor, "batch time"]]:
        """Logits of each position as first and as last token of the answer.

        They are -inf outside the second text.

        Raises ValueError for a row that has no second text.
        """
        inside = second_text(ids)
        check_rows(ids)
        if readable(ids) and not bool(inside.any(1).all()):
            raise ValueError("each row needs a second text, in which to find the span")
        ends = widened(self.to_ends(self.bert(ids)))
        first, last = ends.masked_fill(~inside.unsqueeze(2), -torch.inf).unbind(2)
        return first, last

    def loss(
        self, ids: Int[Tensor, "batch time"], spans: Int[Tensor, "batch 2"]
    ) -> Float[Tensor, ""]:
        """Mean of both cross-entropies in nats a row.

        Raises ValueError for a span that is not within the second text.
        """
        inside = second_text(ids)
        check_shape(spans, (2,), "spans")
        check_last(spans, (len(ids), 2), "spans")
        within = (spans >= 0) & (spans < ids.shape[1])
        if readable(spans) and not (within.all() and inside.gather(1, spans).all()):
            raise ValueError("spans must lie within the second text of their row")
        first, last = self(ids)
        begin, end = spans.unbind(1)
        return (F.cross_entropy(first, begin) + F.cross_entropy(last, end)) / 2

    def answer(
        self, ids: Int[Tensor, "batch time"], *, longest: int = 8
    ) -> Int[Tensor, "batch 2"]:
        """The most probable span of 1 to `longest` tokens: its first and its last."""
        first, last = self(ids)
        pairs = first.unsqueeze(2) + last.unsqueeze(1)
        fits = torch.ones_like(pairs[0], dtype=torch.bool).triu().tril(longest - 1)
        best = pairs.masked_fill(~fits, -torch.inf).flatten(1).argmax(1)
        time = ids.shape[1]
        return torch.stack([best // time, best % time], 1)


def check_rows(ids: Int[Tensor, "batch time"]) -> None:
    """Raises ValueError for a row of nothing but padding."""
    if not readable(ids):
        return
    empty = (ids == PAD).all(1).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"rows {empty[:5]} are nothing but padding: leave them out")


def second_text(ids: Int[Tensor, "batch time"]) -> Bool[Tensor, "batch time"]:
    """True at the tokens of a row's second text."""
    return (segments(ids) == 1) & (ids >= len(SPECIALS))
