"""Sampling filters for language models (temperature, top-k, top-p, ...) and choices.

Fan, Lewis and Dauphin, Hierarchical Neural Story Generation, ACL 2018, is the source of
top-k; Holtzman and others, The Curious Case of Neural Text Degeneration, ICLR 2020, of
top-p; Nguyen and others, Turning Up the Heat: Min-p Sampling, ICLR 2025, of min-p;
Keskar and others, CTRL, 2019, of the repetition penalty. Settings are named as in the
transformers library.

Deviations: negative logits are multiplied by the repetition penalty, as in the library,
where CTRL divides all. `draw` and `greedy` raise an error for logits that leave no
choice; of the library the likeliest token is then any one.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gensrc.models.checks import check_last, check_logits, check_shape, tempered

Filter = Callable[[Tensor, Tensor], Tensor]  # logits and the tokens so far -> logits
Choose = Callable[[Tensor, Tensor], Tensor]  # the same -> the next token of each row

# --- filters: logits to logits ---


def with_temperature(
    logits: Float[Tensor, "batch vocab"],
    temperature: float,
) -> Float[Tensor, "batch vocab"]:
    """Divide the logits: below 1 samples are more conservative, above 1 more diverse.

    Raises ValueError unless it is positive; the limit towards 0 is `greedy`.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(
            f"temperature must be positive and finite, not {temperature}: for the "
            "likeliest token, the limit towards 0, choose with greedy"
        )
    return tempered(logits, temperature)


def keep_top_k(
    logits: Float[Tensor, "batch vocab"],
    top_k: int,
) -> Float[Tensor, "batch vocab"]:
    """Keep the k likeliest tokens, and those as likely as the k-th.

    Raises ValueError for a k below 1 and logits that are no rows.
    """
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}: None leaves it out")
    check_shape(logits, (None,), "logits")
    kth = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
    return logits.masked_fill(logits < kth, -math.inf)


def keep_top_p(
    logits: Float[Tensor, "batch vocab"],
    top_p: float,
) -> Float[Tensor, "batch vocab"]:
    """Keep the fewest likeliest tokens whose probabilities add up to p or more.

    Raises ValueError unless p is in (0, 1], and for logits that are no rows.
    """
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], not {top_p}: 1 keeps every token")
    check_shape(logits, (None,), "logits")
    rising, order = logits.sort(-1)
    # Drop the least likely tokens while they sum to at most 1 - p, never the likeliest.
    spare = rising.softmax(-1).cumsum(-1) <= 1 - top_p
    spare[:, -1] = False
    return logits.masked_fill(spare.scatter(-1, order, spare), -math.inf)


def keep_min_p(
    logits: Float[Tensor, "batch vocab"],
    min_p: float,
) -> Float[Tensor, "batch vocab"]:
    """Keep the tokens at least `min_p` times as likely as the likeliest.

    Raises ValueError unless it is in [0, 1].
    """
    if not 0 <= min_p <= 1:
        raise ValueError(f"min_p must lie in [0, 1], not {min_p}: 0 keeps every token")
    p = logits.softmax(-1)
    return logits.masked_fill(p < min_p * p.amax(-1, keepdim=True), -math.inf)


def penalise_repetition(
    logits: Float[Tensor, "batch vocab"],
    ids: Int[Tensor, "batch time"],
    repetition_penalty: float,
) -> Float[Tensor, "batch vocab"]:
    """Lower the logits of all tokens in `ids`: divided if positive, else multiplied.

    Raises ValueError unless the penalty is positive, below 1 it raises them, and for
    ids of other rows than the logits.
    """
    if not 0 < repetition_penalty < math.inf:
        raise ValueError(
            f"repetition_penalty must be positive, not {repetition_penalty}: 1 "
            "changes nothing"
        )
    check_shape(logits, (None,), "logits")
    check_last(ids, (len(logits), ids.shape[-1]), "tokens so far")
    old, penalty = logits.gather(-1, ids), repetition_penalty
    new = torch.where(old < 0, old * penalty, old / penalty)
    return logits.scatter(-1, ids, new)


# --- choosing one token ---


def greedy(
    logits: Float[Tensor, "batch vocab"],
    ids: Int[Tensor, "batch time"],
) -> Int[Tensor, " batch"]:
    """The likeliest token.

    Raises ValueError for a row of logits without one: see `check_logits`.
    """
    check_logits(logits)
    return logits.argmax(-1)


def draw(
    logits: Float[Tensor, "batch vocab"],
    generator: torch.Generator | None = None,
) -> Int[Tensor, " batch"]:
    """Sample one token a row from the softmax of the logits.

    One random number a row is drawn on the CPU, so that a seed gives the same tokens on
    every machine with the same logits.

    Raises ValueError for logits that are no rows, and for a row without a softmax: see
    `check_logits`.
    """
    check_shape(logits, (None,), "logits")
    check_logits(logits)
    ladder = logits.double().softmax(-1).cumsum(-1)
    height = torch.rand(len(logits), 1, generator=generator, dtype=torch.float64)
    total = ladder[:, -1:]
    # Below the top even where the product is rounded up, so within the vocabulary.
    below = torch.nextafter(total, torch.zeros_like(total))
    rung = torch.minimum(height.to(logits.device) * total, below)
    return torch.searchsorted(ladder, rung, right=True).squeeze(1)


def sampler(
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    filters: Sequence[Filter] = (),
    generator: torch.Generator | None = None,
) -> Choose:
    """A function that samples the next token of each row from its filtered logits.

    It applies the repetition penalty, temperature, top-k, top-p and min-p, in the order
    of the transformers library, then your own `filters`, then takes one sample a row.
    Filters whose setting is None are left out. `generate` shows a filter no padding: it
    calls it with each row alone where rows are padded.
    """

    def choose(logits: Tensor, ids: Tensor) -> Tensor:
        if repetition_penalty is not None:
            logits = penalise_repetition(logits, ids, repetition_penalty)
        logits = with_temperature(logits, temperature)
        if top_k is not None:
            logits = keep_top_k(logits, top_k)
        if top_p is not None:
            logits = keep_top_p(logits, top_p)
        if min_p is not None:
            logits = keep_min_p(logits, min_p)
        for each in filters:
            logits = each(logits, ids)
        return draw(logits, generator)

    return choose
