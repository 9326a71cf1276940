"""Speculative decoding: a cheap draft proposes tokens, and one call checks them all.

Leviathan, Kalman and Matias, Fast Inference from Transformers via Speculative Decoding,
ICML 2023, and Chen and others, Accelerating Large Language Model Decoding with
Speculative Sampling, 2023, are the sources. Drafts are in `gensrc.decoding.drafts`.

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

from gensrc.data.vocabulary import PAD
from gensrc.decoding.drafts import Draft, Reader, vocab_size
from gensrc.decoding.filters import Filter, draw
from gensrc.decoding.incremental import check_prompt
from gensrc.models.checks import check_logits, check_sizes, readable

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

    Raises ValueError for a draft with another vocabulary, more than one prompt or a
    padded one, a gamma below 1, and as `IncrementalDecoder` does.
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


def check_one(prompt: Tensor) -> None:
    """Raises ValueError for other than one prompt, and a padded one."""
    if len(prompt) != 1:
        raise ValueError(
            f"one text at a time, not {len(prompt)}: each accepts another number of "
            "tokens"
        )
    if readable(prompt) and bool((prompt == PAD).any()):
        raise ValueError("one text needs no padding: leave it out of the prompt")


def _check(
    model: nn.Module, draft: Draft, prompt: Tensor, max_new_tokens: int, gamma: int
) -> None:
    check_prompt(prompt, max_new_tokens)
    check_sizes(gamma=gamma)
    check_one(prompt)
    if draft.vocab_size != vocab_size(model):
        raise ValueError(
            f"the draft has {draft.vocab_size} tokens and the model "
            f"{vocab_size(model)}: both need the same vocabulary"
        )
