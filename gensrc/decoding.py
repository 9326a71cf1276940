"""From the logits of a model to a text: choose a token, feed it back, go on.

    ids = left_pad([vocabulary.encode("ROMEO:"), vocabulary.encode("A horse!")])
    generate(gpt, ids, max_new_tokens=200)                      the likeliest token, always
    generate(gpt, ids, max_new_tokens=200, choose=sampler(temperature=0.8, top_p=0.9))
    beam_search(gpt, ids, max_new_tokens=200, num_beams=4)

A model is what `gensrc.cache.Reader` takes, a GPT or a `Transformer` with its source.
Settings are named as in the transformers library.

Fan, Lewis and Dauphin, Hierarchical Neural Story Generation, ACL 2018, is the source of
top-k; Holtzman and others, The Curious Case of Neural Text Degeneration, ICLR 2020, of
top-p; Nguyen and others, Turning Up the Heat: Min-p Sampling, ICLR 2025, of min-p;
Keskar and others, CTRL, 2019, of the repetition penalty; Wu and others, Google's Neural
Machine Translation System, 2016, of the length penalty.

Deviations: negative logits are multiplied by the repetition penalty, as in the library,
where CTRL divides all; equally likely tokens at the edge of top-k all stay. A beam's
score has no term for coverage.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gensrc.cache import Reader
from gensrc.data.vocabulary import PAD

Filter = Callable[[Tensor, Tensor], Tensor]  # logits and the tokens so far -> logits
Choose = Callable[[Tensor, Tensor], Tensor]  # the same -> the next token of each row

# --- filters: logits to logits ---


def with_temperature(
    logits: Float[Tensor, "batch vocab"],
    temperature: float,
) -> Float[Tensor, "batch vocab"]:
    """Below 1 the likely becomes likelier; above, all become more alike.

    Raises ValueError unless it is positive: the limit towards 0 is `greedy`.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(
            f"temperature must be positive and finite, not {temperature}: for the "
            "likeliest token, the limit towards 0, choose with greedy"
        )
    return logits / temperature


def keep_top_k(
    logits: Float[Tensor, "batch vocab"],
    top_k: int,
) -> Float[Tensor, "batch vocab"]:
    """The k likeliest tokens, and those as likely as the k-th; all if there are fewer.

    Raises ValueError for a k below 1.
    """
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}: None leaves it out")
    kth = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
    return logits.masked_fill(logits < kth, -math.inf)


def keep_top_p(
    logits: Float[Tensor, "batch vocab"],
    top_p: float,
) -> Float[Tensor, "batch vocab"]:
    """The fewest tokens whose probabilities add up to p or more.

    Raises ValueError unless p is in (0, 1].
    """
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], not {top_p}: 1 keeps every token")
    rising, order = logits.sort(-1)
    # Whatever is not needed, the least likely first; the last one always is.
    spare = rising.softmax(-1).cumsum(-1) <= 1 - top_p
    spare[:, -1] = False
    return logits.masked_fill(spare.scatter(-1, order, spare), -math.inf)


def keep_min_p(
    logits: Float[Tensor, "batch vocab"],
    min_p: float,
) -> Float[Tensor, "batch vocab"]:
    """The tokens that are at least `min_p` times as likely as the likeliest.

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

    Raises ValueError unless the penalty is positive; below 1 it is a reward.
    """
    if not 0 < repetition_penalty < math.inf:
        raise ValueError(f"repetition_penalty must be positive, not {repetition_penalty}: 1 changes nothing")
    old, penalty = logits.gather(-1, ids), repetition_penalty
    new = torch.where(old < 0, old * penalty, old / penalty)
    return logits.scatter(-1, ids, new)


# --- choosing one token ---


def greedy(
    logits: Float[Tensor, "batch vocab"],
    ids: Int[Tensor, "batch time"],
) -> Int[Tensor, " batch"]:
    """The likeliest token."""
    return logits.argmax(-1)


def draw(
    logits: Float[Tensor, "batch vocab"],
    generator: torch.Generator | None = None,
) -> Int[Tensor, " batch"]:
    """One token a row, each with its probability.

    The numbers are drawn on the CPU, and one a row: so a seed gives the same tokens on
    every machine whose logits are the same.
    """
    ladder = logits.double().softmax(-1).cumsum(-1)
    height = torch.rand(len(logits), 1, generator=generator, dtype=torch.float64)
    rung = height.to(logits.device) * ladder[:, -1:]
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
    """Draw a token from what the filters leave, in the library's order, yours last."""

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


# --- one token after another ---


def left_pad(prompts: Sequence[Int[Tensor, " _"]]) -> Int[Tensor, "batch time"]:
    """One batch of prompts of any lengths, which end together and begin with PAD.

    Raises ValueError for no prompt, or an empty one.
    """
    if not prompts or min(len(prompt) for prompt in prompts) == 0:
        raise ValueError("a prompt is empty: begin with a token at least, such as BOS")
    longest = max(len(prompt) for prompt in prompts)
    rows = [F.pad(p, (longest - len(p), 0), value=PAD) for p in prompts]
    return torch.stack(rows)


def stream(
    model: nn.Module,
    prompt: Int[Tensor, "batch time"],
    *,
    max_new_tokens: int,
    choose: Choose = greedy,
    stop_tokens: Sequence[int] = (),
    source: Int[Tensor, "batch source"] | None = None,
    use_cache: bool = True,
) -> Iterator[Int[Tensor, " batch"]]:
    """The next token of every row, and the next, as they come.

    A row that has come to a stop token is followed by PAD; when all have, it is over.
    source: what an encoder-decoder reads; its prompt is a column of BOS.
    use_cache: False computes all tokens anew at every step, to compare.

    Raises ValueError for what `Reader` refuses.
    """
    time = prompt.shape[1]
    written = F.pad(prompt, (0, max_new_tokens), value=PAD)
    reader = Reader(
        model,
        prompt,
        max_new_tokens=max_new_tokens,
        source=source,
        use_cache=use_cache,
    )
    stops = torch.tensor(stop_tokens, dtype=prompt.dtype, device=prompt.device)
    ended = torch.zeros(len(prompt), dtype=torch.bool, device=prompt.device)
    for end in range(time, time + max_new_tokens):
        with torch.no_grad():
            token = choose(reader.read(prompt)[:, -1], written[:, :end])
        if len(stops):
            token = token.masked_fill(ended, PAD)
            ended |= torch.isin(token, stops)
        written[:, end] = token
        yield token
        if len(stops) and ended.all():
            return
        prompt = token[:, None]


def generate(
    model: nn.Module,
    prompt: Int[Tensor, "batch time"],
    **settings: Any,
) -> Int[Tensor, "batch longer"]:
    """The prompt and what comes after it; the settings are those of `stream`."""
    tokens = [*stream(model, prompt, **settings)]
    return torch.cat([prompt, torch.stack(tokens, 1)], 1)


# --- searching for the likeliest text ---


def wu_length(length: int, length_penalty: float) -> float:
    """((5 + length) / 6)^penalty, by which a log-likelihood is divided (Wu et al.)."""
    return ((5 + length) / 6) ** length_penalty


@torch.no_grad()
def beam_search(
    model: nn.Module,
    prompt: Int[Tensor, "batch time"],
    *,
    max_new_tokens: int,
    num_beams: int,
    length_penalty: float = 0.0,
    stop_tokens: Sequence[int] = (),
    source: Int[Tensor, "batch source"] | None = None,
) -> Int[Tensor, "batch longer"]:
    """For each row the best text found while keeping `num_beams` at every length.

    Best is the highest log p / `wu_length`; with a penalty of 0 the likeliest text, and
    the higher the penalty the longer. Texts end at a stop token or are `max_new_tokens`
    long; ends count only if they are among the best `num_beams` of their length.

    Raises ValueError as `stream` does, and for fewer beams than 1.
    """
    if num_beams < 1:
        raise ValueError(f"num_beams must be at least 1, not {num_beams}: 1 is greedy")
    (batch, start), device = prompt.shape, prompt.device
    each = partial(torch.repeat_interleave, repeats=num_beams, dim=0)
    prompts, sources = each(prompt), None if source is None else each(source)
    reader = Reader(model, prompts, max_new_tokens=max_new_tokens, source=sources)
    stops = torch.tensor(stop_tokens, dtype=prompt.dtype, device=device)
    first = num_beams * torch.arange(batch, device=device)[:, None]
    # At the beginning all beams are alike: only one of them is alive.
    live = torch.full((batch, num_beams), -math.inf, device=device)
    live[:, 0] = 0.0
    texts = F.pad(prompts, (0, max_new_tokens), value=PAD).unflatten(0, (batch, -1))
    best, answer = live.new_full((batch,), -math.inf), texts[:, 0].clone()
    new = prompts
    for length in range(1, max_new_tokens + 1):
        log_p = reader.read(new)[:, -1].float().log_softmax(-1)
        vocab = log_p.shape[1]
        totals = (live.view(-1, 1) + log_p).view(batch, -1)
        # So many that, whichever of them end, enough go on.
        wanted = min(num_beams * (1 + len(stops)), totals.shape[1])
        ranked, at = totals.topk(wanted)
        parents, token = at // vocab, at % vocab
        texts = texts.gather(1, parents[..., None].expand(-1, -1, texts.shape[2]))
        texts[..., start + length - 1] = token
        ends = torch.isin(token, stops)
        last = length == max_new_tokens
        ended = ranked.masked_fill(~(ends | last), -math.inf)[:, :num_beams]
        top, which = (ended / wu_length(length, length_penalty)).max(1)
        rows = (top > best).nonzero().squeeze(1)
        best[rows], answer[rows] = top[rows], texts[rows, which[rows]]
        live, kept = ranked.masked_fill(ends, -math.inf).topk(num_beams)
        # No text gets likelier as it grows, but its divisor may.
        reach = max(wu_length(n, length_penalty) for n in (length + 1, max_new_tokens))
        if last or bool((best >= live[:, 0] / reach).all()):
            break
        texts = texts.gather(1, kept[..., None].expand(-1, -1, texts.shape[2]))
        new = token.gather(1, kept).view(-1, 1)
        reader.reorder((first + parents.gather(1, kept)).view(-1))
    return answer[:, : start + length]
