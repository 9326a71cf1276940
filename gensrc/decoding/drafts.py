"""Drafts for speculative decoding: n-grams, prompt look-up, and a smaller model.

Leviathan, Kalman and Matias, Fast Inference from Transformers via Speculative Decoding,
ICML 2023, name n-grams and copying from the text as drafts that cost nothing, beside a
smaller model; Saxena, Prompt Lookup Decoding, 2023, is the source of `PromptLookup`.

Deviation: of several earlier places, prompt look-up takes the latest.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gensrc.decoding.incremental import IncrementalDecoder
from gensrc.models.checks import check_sizes
from gensrc.models.sequences.ngram import NGram
from gensrc.models.transformers.transformer import Transformer

# --- reading a text that is sometimes shortened ---


class Reader:
    """A model's logits after the last tokens of a text, of which it reads only what it
    has not read before.

    Arguments and errors are those of `IncrementalDecoder`.
    """

    def __init__(
        self,
        model: nn.Module,
        prompt: Int[Tensor, "1 time"],
        *,
        max_new_tokens: int,
        source: Int[Tensor, "1 source"] | None = None,
        use_cache: bool = True,
    ) -> None:
        self.decoder = IncrementalDecoder(
            model,
            prompt,
            max_new_tokens=max_new_tokens,
            source=source,
            use_cache=use_cache,
        )
        self.text = prompt[:, :0]

    def logits(
        self, text: Int[Tensor, "1 time"], count: int = 1
    ) -> Float[Tensor, "count vocab"]:
        """Of the token after each of the last `count` tokens, by one call."""
        shared = min(self.text.shape[1], text.shape[1] - count)
        same = self.text[0, :shared] == text[0, :shared]
        known = int(same.cumprod(0).sum())
        self.decoder.rewind(known)
        self.text = text
        return self.decoder.read(text[:, known:])[0, -count:]


# --- drafts ---


class Draft:
    """What proposes tokens: `logits` of the next one, for a vocabulary of this size."""

    vocab_size: int

    def begin(self, prompt: Int[Tensor, "1 time"], max_new_tokens: int) -> None:
        """Called before a text's first token is proposed."""

    def logits(self, text: Int[Tensor, "1 time"]) -> Float[Tensor, "1 vocab"] | None:
        """Of the token after the text; None if there is nothing to propose."""
        raise NotImplementedError


class NGramDraft(Draft):
    """Counts, whose answers are kept: a context that was asked for is a look-up in a
    dictionary from then on, which costs next to nothing beside a call of a network.

    text: its contexts are asked for at once, which is faster than one by one.
    """

    def __init__(self, model: NGram, text: Int[Tensor, " time"] | None = None) -> None:
        self.model, self.vocab_size = model, model.vocab_size
        self.known: dict[tuple[int, ...], Tensor] = {}
        if text is not None and model.order > 1:
            # As numbers, digit by digit, they are sorted faster than as rows.
            powers = self.vocab_size ** torch.arange(model.order - 1)
            codes = (text.unfold(0, model.order - 1, 1) * powers).sum(1).unique()
            for some in codes.split(512):
                self._ask(some[:, None] // powers % self.vocab_size)

    def logits(self, text: Int[Tensor, "1 time"]) -> Float[Tensor, "1 vocab"]:
        """log p of each token, given the last ones."""
        context = text[:, max(text.shape[1] - self.model.order + 1, 0) :].cpu()
        key = tuple(context[0].tolist())
        if key not in self.known:
            self._ask(context)
        return self.known[key].to(text.device)

    def _ask(self, contexts: Int[Tensor, "n time"]) -> None:
        tokens = torch.arange(self.vocab_size).repeat(len(contexts))[:, None]
        each = contexts.repeat_interleave(self.vocab_size, 0)
        log_p = self.model.log_prob(torch.cat([each, tokens], 1))[:, -1]
        rows = log_p.view(len(contexts), 1, -1)
        keys = [tuple(row) for row in contexts.tolist()]
        self.known.update(zip(keys, rows, strict=True))


class PromptLookup(Draft):
    """What followed the last tokens where the text had them before, as a certainty.

    Of the last `longest` tokens it looks for the latest earlier occurrence, then of one
    token fewer, down to `shortest`.

    Raises ValueError for sizes below 1, and a shortest above the longest.
    """

    def __init__(self, vocab_size: int, *, longest: int = 3, shortest: int = 1) -> None:
        check_sizes(vocab_size=vocab_size, shortest=shortest)
        check_sizes(least=shortest, longest=longest)
        self.vocab_size, self.longest, self.shortest = vocab_size, longest, shortest

    def logits(self, text: Int[Tensor, "1 time"]) -> Float[Tensor, "1 vocab"] | None:
        """0 for one token and -inf for the others; None without such a place."""
        row = text[0]
        for size in range(min(self.longest, len(row) - 1), self.shortest - 1, -1):
            same = (row.unfold(0, size, 1)[:-1] == row[-size:]).all(1).nonzero()
            if len(same):
                certain = torch.full((1, self.vocab_size), -math.inf).to(row.device)
                certain[0, row[same[-1, 0] + size]] = 0.0
                return certain
        return None


class ModelDraft(Draft):
    """A model of the same vocabulary, smaller than the one that checks."""

    def __init__(
        self, model: nn.Module, *, source: Int[Tensor, "1 source"] | None = None
    ) -> None:
        self.model, self.source, self.vocab_size = model, source, vocab_size(model)

    def begin(self, prompt: Int[Tensor, "1 time"], max_new_tokens: int) -> None:
        self.reader = Reader(
            self.model, prompt, max_new_tokens=max_new_tokens, source=self.source
        )

    def logits(self, text: Int[Tensor, "1 time"]) -> Float[Tensor, "1 vocab"]:
        return self.reader.logits(text)


def vocab_size(model: nn.Module) -> int:
    """How many tokens a model chooses from."""
    if isinstance(model, Transformer):
        return model.target.num_embeddings
    return int(model.vocab_size)  # type: ignore[arg-type]
