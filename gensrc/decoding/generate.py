"""Autoregressive generation of texts: choose a token, feed it to the model, repeat.

    ids = left_pad([vocabulary.encode("ROMEO:"), vocabulary.encode("A horse!")])
    generate(gpt, ids, max_new_tokens=200)  # greedy
    choose = sampler(temperature=0.8, top_p=0.9)
    generate(gpt, ids, max_new_tokens=200, choose=choose)
    beam_search(gpt, ids, max_new_tokens=200, num_beams=4)

The model is one that `IncrementalDecoder` takes: a GPT, or a `Transformer` with its
source.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from gensrc.data.vocabulary import PAD
from gensrc.decoding.filters import Choose, greedy
from gensrc.decoding.incremental import IncrementalDecoder, check_prompt


def left_pad(prompts: Sequence[Int[Tensor, " _"]]) -> Int[Tensor, "batch time"]:
    """One batch of prompts of any lengths, padded on the left.

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
    """An iterator over the next tokens, one of every row at each step.

    After its stop token a row has PAD; it ends when all rows have reached one.
    choose: from the logits and the tokens so far, without padding: rows of different
        lengths are chosen for one by one, and a row that has ended is shown as if it
        repeated its stop token.
    source: of an encoder-decoder, whose prompt is a column of BOS.
    use_cache: False recomputes all tokens at every step, for comparison.

    Raises ValueError as `IncrementalDecoder` does.
    """
    check_prompt(prompt, max_new_tokens)
    time = prompt.shape[1]
    written = F.pad(prompt, (0, max_new_tokens), value=PAD)
    decoder = IncrementalDecoder(
        model,
        prompt,
        max_new_tokens=max_new_tokens,
        source=source,
        use_cache=use_cache,
    )
    stops = torch.tensor(stop_tokens, dtype=prompt.dtype, device=prompt.device)
    ended = torch.zeros(len(prompt), dtype=torch.bool, device=prompt.device)
    if decoder.padded:
        choose = _row_by_row(choose, (prompt == PAD).sum(1).tolist())
    for end in range(time, time + max_new_tokens):
        with torch.no_grad():
            token = choose(decoder.read(prompt)[:, -1], written[:, :end])
        if len(stops):
            token = token.masked_fill(ended, PAD)
        written[:, end] = torch.where(ended, written[:, end - 1], token)
        if len(stops):
            ended |= torch.isin(token, stops)
        yield token
        if len(stops) and ended.all():
            return
        prompt = token[:, None]


def generate(
    model: nn.Module,
    prompt: Int[Tensor, "batch time"],
    **settings: Any,
) -> Int[Tensor, "batch longer"]:
    """The prompt and its continuation; the settings are those of `stream`."""
    tokens = [*stream(model, prompt, **settings)]
    return torch.cat([prompt, torch.stack(tokens, 1)], 1)


def _row_by_row(choose: Choose, padding: Sequence[int]) -> Choose:
    """`choose` called for each row alone, without its padding on the left."""

    def alone(logits: Tensor, ids: Tensor) -> Tensor:
        rows = zip(logits.split(1), ids.split(1), padding, strict=True)
        return torch.cat([choose(row, text[:, start:]) for row, text, start in rows])

    return alone
