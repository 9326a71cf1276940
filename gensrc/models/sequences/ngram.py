"""The n-gram language model, from counts, with Kneser-Ney smoothing.

Shannon, A Mathematical Theory of Communication, 1948, is the source of the model;
Kneser and Ney, Improved Backing-off for M-gram Language Modeling, ICASSP 1995, of the
smoothing, in the interpolated form of Chen and Goodman, An Empirical Study of Smoothing
Techniques for Language Modeling, Harvard University, 1998.

Deviation: one discount for all orders, given and not estimated.

Shapes: n texts of the same length `time`, `vocab` tokens.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gensrc.models.checks import check_texts

ADVICE = "encode the text with the model's own vocabulary"


class NGram:
    """p(x_t | the order - 1 tokens before it), from counts.

    With c(.) for counts, n(h) for how many different tokens followed the context h, and
    h' for h without its oldest token,

        p(x | h) = (max(c(h x) - discount, 0) + discount n(h) p(x | h')) / c(h),

    down to the empty context, below which all tokens are equally likely; for a context
    that never occurred, p(x | h) = p(x | h'). So p sums to 1. Below the full order, c(h
    x) is the number of different tokens before h x, not of its occurrences. Near the
    start of a text the context is all of the text so far.

    discount: with 0 the frequencies themselves are the probabilities.

    Raises ValueError for texts shorter than the order, an order below 1, tokens outside
    the vocabulary, a discount outside [0, 1), and contexts too many to be numbered.
    """

    def __init__(
        self,
        tokens: Int[Tensor, "n time"],
        *,
        order: int,
        vocab_size: int,
        discount: float = 0.75,
    ) -> None:
        if order < 1 or not 0 <= discount < 1:
            raise ValueError(
                "order must be at least 1 and discount from 0 to below 1, not "
                f"{order} and {discount}"
            )
        if tokens.ndim == 2 and tokens.shape[1] < order:
            raise ValueError(
                f"texts of {tokens.shape[1]} tokens are shorter than the order {order}:"
                " give longer ones, or a lower order"
            )
        check_texts(tokens, vocab_size, "tokens", ADVICE)
        self.base = vocab_size + 1
        if self.base ** (order + 1) >= 2**63:
            raise ValueError(f"order {order} is too high for {vocab_size} tokens")
        self.order, self.vocab_size, self.discount = order, vocab_size, discount
        grams, counts = self._codes(tokens, order).unique(return_counts=True)
        self._tables = [Table.of(grams, counts, self.base)]
        for k in range(order - 1, 0, -1):
            # The distinct (k + 1)-grams, without their oldest token.
            longer = self._codes(tokens, k + 1).unique()
            grams, counts = (longer % self.base**k).unique(return_counts=True)
            self._tables.insert(0, Table.of(grams, counts, self.base))

    def log_prob(self, tokens: Int[Tensor, "n time"]) -> Float[Tensor, "n time"]:
        """log p(x_t | x_<t) of every token, in nats.

        Raises ValueError for a token outside the vocabulary.
        """
        check_texts(tokens, self.vocab_size, "tokens", ADVICE)
        p = torch.full(tokens.shape, 1 / self.vocab_size, dtype=torch.float64)
        for k, table in enumerate(self._tables, 1):
            gram = self._codes(tokens, k)
            seen = _look_up(table.grams, table.counts, gram)
            total = _look_up(table.contexts, table.totals, gram // self.base)
            kinds = _look_up(table.contexts, table.kinds, gram // self.base)
            kept = (seen - self.discount).clamp(min=0) + self.discount * kinds * p
            p = torch.where(total > 0, kept / total, p)
        return p.log()

    def probs(self, context: Int[Tensor, " time"]) -> Float[Tensor, " vocab"]:
        """The distribution of the token after `context`, the whole text so far."""
        each = torch.arange(self.vocab_size).unsqueeze(1)
        after = torch.cat([context.expand(self.vocab_size, -1), each], dim=1)
        # Only the last `order` tokens matter, and whether the text began before them.
        return self.log_prob(after[:, -self.order :])[:, -1].exp()

    def sample(
        self, length: int, *, generator: torch.Generator | None = None
    ) -> Int[Tensor, " time"]:
        """One text of `length` tokens, each drawn given those before it."""
        text = torch.empty(0, dtype=torch.int64)
        for _ in range(length):
            drawn = torch.multinomial(self.probs(text), 1, generator=generator)
            text = torch.cat([text, drawn])
        return text

    def _codes(self, tokens: Tensor, k: int) -> Tensor:
        """An integer for the k tokens that end at each position, last token last digit.

        The digit 0 stands for positions before the beginning.
        """
        code = torch.zeros_like(tokens)
        for back in range(k):
            digit = torch.zeros_like(tokens)
            digit[:, back:] = tokens[:, : max(tokens.shape[1] - back, 0)] + 1
            code += digit * self.base**back
        return code


class Table(NamedTuple):
    """Counts of k-grams, and for each context their sum and the number of k-grams."""

    grams: Tensor
    counts: Tensor
    contexts: Tensor
    totals: Tensor
    kinds: Tensor

    @classmethod
    def of(cls, grams: Tensor, counts: Tensor, base: int) -> "Table":
        contexts, place, kinds = (grams // base).unique(
            return_inverse=True, return_counts=True
        )
        totals = torch.zeros_like(contexts).index_add(0, place, counts)
        return cls(grams, counts, contexts, totals, kinds)


def _look_up(keys: Tensor, values: Tensor, codes: Tensor) -> Float[Tensor, "n time"]:
    """The values of the codes, 0 where a code is not among the sorted keys."""
    at = torch.searchsorted(keys, codes).clamp(max=len(keys) - 1)
    return torch.where(keys[at] == codes, values[at], 0).double()
