"""Speculative decoding: a cheap draft proposes tokens, and one call checks them all.

Leviathan, Kalman and Matias, Fast Inference from Transformers via Speculative Decoding,
ICML 2023, and Chen and others, Accelerating Large Language Model Decoding with
Speculative Sampling, 2023, are the sources; Saxena, Prompt Lookup Decoding, 2023, of
`PromptLookup`.

With p for the model's distribution of the next token and q for the draft's, a token x
that was drawn from q is accepted with probability min(1, p(x) / q(x)). In place of the
first one that is not, a token is drawn from max(0, p - q), divided by its sum; after
the last one, if all are accepted, from p: this costs nothing, as the same call gave it.
So every token has the distribution p: accepted ones contribute q min(1, p / q) = min(p,
q), and the rest is p - min(p, q). A token is accepted with probability sum(min(p, q)),
which is 1 - TV, with TV the total variation distance.

    table = NGram(ids[None], order=4, vocab_size=gpt.vocab_size)
    draft = NGramDraft(table, ids)
    cool = lambda logits, ids: with_temperature(logits, 0.7)
    speculate(gpt, draft, prompt, max_new_tokens=200, filters=[cool])
    speculate(gpt, draft, prompt, max_new_tokens=200, filters=[likeliest])  # greedy

Deviations: filters, such as a temperature, are applied to p and q alike; a draft may
propose fewer tokens than it is asked for; one text at a time.

Shapes: k proposed tokens, of a text of one row.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gensrc.decoding.filters import Filter, draw
from gensrc.decoding.incremental import IncrementalDecoder, check_prompt
from gensrc.models.checks import check_logits, check_sizes
from gensrc.models.sequences.ngram import NGram
from gensrc.models.transformers.transformer import Transformer

# --- the rule ---


def ratios(
    p: Float[Tensor, "_ vocab"],
    q: Float[Tensor, "k vocab"],
    tokens: Int[Tensor, " k"],
) -> Float[Tensor, " k"]:
    """min(1, p(x) / q(x)) of each proposed token: with what probability it is accepted
    if those before it are."""
    at = tokens[:, None]
    return (p[: len(q)].gather(1, at) / q.gather(1, at)).clamp(max=1)[:, 0]


def after(
    p: Float[Tensor, "k_and_one vocab"], q: Float[Tensor, "k vocab"], accepted: int
) -> Float[Tensor, " vocab"]:
    """The distribution of the token that follows the accepted ones."""
    if accepted == len(q):
        return p[accepted]
    left = (p[accepted] - q[accepted]).clamp(min=0)
    # Where p = q nothing is rejected, unless by a rounding error.
    return left / left.sum() if left.sum() > 0 else p[accepted]


def verify(
    p: Float[Tensor, "k_and_one vocab"],
    q: Float[Tensor, "k vocab"],
    tokens: Int[Tensor, " k"],
    generator: torch.Generator | None = None,
) -> tuple[int, Int[Tensor, " 1"]]:
    """How many of the proposed tokens are accepted, and the token that follows them.

    The random numbers are drawn on the CPU, so that a seed gives the same everywhere.
    """
    luck = torch.rand(len(q), generator=generator, dtype=torch.float64)
    passed = luck.to(p.device) < ratios(p, q, tokens)
    accepted = int(passed.cumprod(0).sum())
    return accepted, draw(after(p, q, accepted).log()[None], generator)


def overlap(
    p: Float[Tensor, "*k vocab"], q: Float[Tensor, "*k vocab"]
) -> Float[Tensor, "*k"]:
    """sum(min(p, q)) = 1 - TV: the probability that a token drawn from q is
    accepted."""
    return torch.minimum(p, q).sum(-1)


def expected_tokens(acceptance: float, gamma: int) -> float:
    """Tokens a call, if each of gamma proposals is accepted with this probability:
    1 + a + ... + a^gamma = (1 - a^(gamma + 1)) / (1 - a).

    Raises ValueError for an acceptance outside [0, 1] and a gamma below 0.
    """
    check_sizes(least=0, gamma=gamma)
    if not 0 <= acceptance <= 1:
        raise ValueError(f"an acceptance lies between 0 and 1, {acceptance} does not")
    return math.fsum(acceptance**number for number in range(gamma + 1))


def likeliest(
    logits: Float[Tensor, "batch vocab"], ids: Int[Tensor, "batch time"]
) -> Float[Tensor, "batch vocab"]:
    """A filter that leaves the likeliest token alone: with it the text is that of
    greedy decoding, and a proposal is accepted if it is the model's choice."""
    check_logits(logits)
    best = logits.argmax(-1, keepdim=True)
    return torch.full_like(logits, -math.inf).scatter(-1, best, 0.0)


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
        # Forget what was read beyond it: later keys and values are overwritten.
        for layer in self.decoder.cache or []:
            layer.length = known
        self.decoder.seen = self.decoder.seen[:, :known]
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


# --- decoding ---


@dataclass
class Speculation:
    """A text with its prompt, and counts of how it was written.

    calls: of the model; each gives at least one token.
    tested: proposals whose turn came: all up to the first that was not accepted.
    overlap: the sum of 1 - TV over the tested ones, which is the number of accepted
        ones to be expected.
    """

    ids: Int[Tensor, "1 longer"]
    calls: int = 0
    proposed: int = 0
    tested: int = 0
    accepted: int = 0
    overlap: float = 0.0

    def count(self, p: Tensor, q: Tensor, accepted: int) -> None:
        tested = min(accepted + 1, len(q))
        self.calls += 1
        self.proposed += len(q)
        self.tested += tested
        self.accepted += accepted
        self.overlap += float(overlap(p[:tested], q[:tested]).sum())


@torch.no_grad()
def speculate(
    model: nn.Module,
    draft: Draft,
    prompt: Int[Tensor, "batch time"],
    *,
    max_new_tokens: int,
    gamma: int = 4,
    filters: Sequence[Filter] = (),
    stop_tokens: Sequence[int] = (),
    generator: torch.Generator | None = None,
    source: Int[Tensor, "1 source"] | None = None,
    use_cache: bool = True,
) -> Speculation:
    """Continue a text by samples of the model, in fewer calls than it has tokens.

    gamma: proposals a call at most; fewer where the text would become too long.
    filters: change the model's logits and the draft's before their softmax: `likeliest`
        for greedy decoding, a temperature, top-k, and so on.
    stop_tokens: the text ends with the first of these.
    source, use_cache: those of `IncrementalDecoder`.

    Raises ValueError for a draft with another vocabulary, more than one prompt, a gamma
    below 1, and as `IncrementalDecoder` does.
    """
    _check(model, draft, prompt, max_new_tokens, gamma)
    reader = Reader(
        model,
        prompt,
        max_new_tokens=max_new_tokens,
        source=source,
        use_cache=use_cache,
    )
    draft.begin(prompt, max_new_tokens)
    done, end = Speculation(prompt), prompt.shape[1] + max_new_tokens
    stops = torch.tensor(stop_tokens, dtype=prompt.dtype, device=prompt.device)
    while (time := done.ids.shape[1]) < end:
        most = min(gamma, end - time - 1)
        longer, q = propose(draft, done.ids, most, filters, generator)
        p = probabilities(reader.logits(longer, len(q) + 1), longer, filters)
        accepted, token = verify(p, q, longer[0, time:], generator)
        done.ids = torch.cat([longer[:, : time + accepted], token[None]], 1)
        done.count(p, q, accepted)
        ends = torch.isin(done.ids[0, time:], stops).nonzero()
        if len(ends):
            done.ids = done.ids[:, : time + int(ends[0]) + 1]
            break
    return done


def propose(
    draft: Draft,
    text: Int[Tensor, "1 time"],
    most: int,
    filters: Sequence[Filter] = (),
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "1 longer"], Float[Tensor, "k vocab"]]:
    """The text with up to `most` tokens more, and the distributions that each of these
    was drawn from."""
    found = [torch.zeros(0, draft.vocab_size, dtype=torch.float64, device=text.device)]
    for _ in range(most):
        logits = draft.logits(text)
        if logits is None:
            break
        q = probabilities(logits, text, filters)
        text = torch.cat([text, draw(q.log(), generator)[None]], 1)
        found.append(q)
    return text, torch.cat(found)


def probabilities(
    logits: Float[Tensor, "count vocab"],
    text: Int[Tensor, "1 time"],
    filters: Sequence[Filter],
) -> Float[Tensor, "count vocab"]:
    """The distribution of the token after each of the last `count` tokens of a text.

    A filter is shown one row of logits, and the text before that token.
    """
    if filters:
        rows, first = [], text.shape[1] - len(logits) + 1
        for end, row in enumerate(logits.split(1), first):
            for each in filters:
                row = each(row, text[:, :end])
            rows.append(row)
        logits = torch.cat(rows)
    check_logits(logits)
    return logits.double().softmax(-1)


def _check(
    model: nn.Module, draft: Draft, prompt: Tensor, max_new_tokens: int, gamma: int
) -> None:
    check_prompt(prompt, max_new_tokens)
    check_sizes(gamma=gamma)
    if len(prompt) != 1:
        raise ValueError(
            f"one text at a time, not {len(prompt)}: each accepts another number of "
            "tokens"
        )
    if draft.vocab_size != vocab_size(model):
        raise ValueError(
            f"the draft has {draft.vocab_size} tokens and the model "
            f"{vocab_size(model)}: both need the same vocabulary"
        )
