"""Beam search for the likeliest text of a language model.

Wu and others, Google's Neural Machine Translation System, 2016, is the source of the
length normalisation. Deviations: a beam's score has no coverage penalty, and `alpha` is
0 unless it is given. The `length_penalty` of the transformers library is another: it
divides by length^penalty, and is 1 unless it is given. At 0 both give the likeliest
text.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from gensrc.data.vocabulary import PAD
from gensrc.decoding.incremental import IncrementalDecoder, check_prompt
from gensrc.models.checks import check_logits


def wu_length(length: int, alpha: float) -> float:
    """((5 + length) / 6)^alpha, by which a log-likelihood is divided (Wu et al.)."""
    return ((5 + length) / 6) ** alpha


@torch.no_grad()
def beam_search(
    model: nn.Module,
    prompt: Int[Tensor, "batch time"],
    *,
    max_new_tokens: int,
    num_beams: int,
    alpha: float = 0.0,
    stop_tokens: Sequence[int] = (),
    source: Int[Tensor, "batch source"] | None = None,
) -> Int[Tensor, "batch longer"]:
    """The best text of each row, by a search that keeps `num_beams` at every length.

    The score is log p / `wu_length`; an alpha of 0 gives the likeliest text, a higher
    one favours longer texts. A text ends with a stop token or after `max_new_tokens`. A
    finished text is a candidate only if it is among the best `num_beams` of its length.

    Raises ValueError as `stream` does, for fewer beams than 1, and for an alpha that
    is not finite.
    """
    if num_beams < 1:
        raise ValueError(f"num_beams must be at least 1, not {num_beams}: 1 is greedy")
    if not math.isfinite(alpha):
        raise ValueError(f"alpha must be a finite number, not {alpha}: 0 is no penalty")
    check_prompt(prompt, max_new_tokens)
    (batch, start), device = prompt.shape, prompt.device
    each = partial(torch.repeat_interleave, repeats=num_beams, dim=0)
    prompts, sources = each(prompt), None if source is None else each(source)
    decoder = IncrementalDecoder(
        model, prompts, max_new_tokens=max_new_tokens, source=sources
    )
    stops = torch.tensor(stop_tokens, dtype=prompt.dtype, device=device)
    first = num_beams * torch.arange(batch, device=device)[:, None]
    # At the beginning all beams are equal, so only the first one may be extended.
    live = torch.full((batch, num_beams), -math.inf, device=device)
    live[:, 0] = 0.0
    texts = F.pad(prompts, (0, max_new_tokens), value=PAD).unflatten(0, (batch, -1))
    best, answer = live.new_full((batch,), -math.inf), texts[:, 0].clone()
    new = prompts
    for length in range(1, max_new_tokens + 1):
        logits = decoder.read(new)[:, -1].float()
        check_logits(logits)
        log_p = logits.log_softmax(-1)
        vocab = log_p.shape[1]
        totals = (live.view(-1, 1) + log_p).view(batch, -1)
        # Enough candidates that num_beams remain if all possible ones end.
        wanted = min(num_beams * (1 + len(stops)), totals.shape[1])
        ranked, at = totals.topk(wanted)
        parents, token = at // vocab, at % vocab
        texts = texts.gather(1, parents[..., None].expand(-1, -1, texts.shape[2]))
        texts[..., start + length - 1] = token
        ends = torch.isin(token, stops)
        last = length == max_new_tokens
        ended = ranked.masked_fill(~(ends | last), -math.inf)[:, :num_beams]
        top, which = (ended / wu_length(length, alpha)).max(1)
        rows = (top > best).nonzero().squeeze(1)
        best[rows], answer[rows] = top[rows], texts[rows, which[rows]]
        live, kept = ranked.masked_fill(ends, -math.inf).topk(num_beams)
        # log p never grows with the length, but the divisor may.
        divisor = max(wu_length(n, alpha) for n in (length + 1, max_new_tokens))
        if last or bool((best >= live[:, 0] / divisor).all()):
            break
        texts = texts.gather(1, kept[..., None].expand(-1, -1, texts.shape[2]))
        new = token.gather(1, kept).view(-1, 1)
        decoder.reorder((first + parents.gather(1, kept)).view(-1))
    return answer[:, : start + length]
