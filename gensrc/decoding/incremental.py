"""Incremental decoding with a key-value cache.

To continue a text, a Transformer needs only each block's keys and values (see
`gensrc.models.transformers.cache`). `IncrementalDecoder` serves all decoders of the
book: with a `Transformer`, the keys and values of its source are cached as well.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gensrc.data.vocabulary import PAD
from gensrc.models.checks import check_shape, check_whole
from gensrc.models.transformers.cache import KeyValueCache
from gensrc.models.transformers.transformer import Stack, Transformer


class IncrementalDecoder:
    """A model with a cache, which is fed a text piece by piece.

    model: a causal one, `model(ids, positions=, mask=, cache=)`, built on an `Encoder`,
        or a `Transformer`.
    prompt: the beginning of the text, to be fed by `read` in one or more pieces;
        padded on the left.
    max_new_tokens: how many tokens follow it at most.
    source: of a `Transformer`, whose prompts have one length, such as a BOS.
    use_cache: False recomputes everything for every piece, for comparison.

    Raises ValueError in training mode, for a prompt that is empty, or padded elsewhere
    than on the left, or nothing but padding, for `max_new_tokens` below 1, and for more
    tokens than the model's context holds.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: nn.Module,
        prompt: Int[Tensor, "batch time"],
        *,
        max_new_tokens: int,
        source: Int[Tensor, "batch source"] | None = None,
        use_cache: bool = True,
    ) -> None:
        if model.training:
            raise ValueError("the model is in training mode: call model.eval() first")
        check_prompt(prompt, max_new_tokens)
        padding = (prompt == PAD).sum(1)
        self.padded = bool(padding.any())
        self.forward: Callable[..., Tensor] = model
        if isinstance(model, Transformer):
            if source is None or self.padded:
                raise ValueError(
                    "a Transformer needs its source, and prompts of one length"
                )
            self.forward = partial(model.decode, **model.condition(source))
        stacks = [part for part in model.modules() if isinstance(part, Stack)]
        if not stacks:
            raise TypeError(f"{type(model).__name__} has no blocks that take a cache")
        stack = stacks[-1]  # of an encoder-decoder, the decoder
        room, limit = prompt.shape[1] + max_new_tokens, stack.config.max_length
        if limit is not None and room > limit:
            raise ValueError(
                f"prompt and new tokens are {room} together, more than the context of "
                f"{limit}: shorten the prompt, or ask for fewer new tokens"
            )
        self.cache = [KeyValueCache(room) for _ in stack.blocks] if use_cache else None
        self.seen = prompt[:, :0]  # the tokens so far, if there is no cache
        if self.padded:
            places = torch.arange(room, device=prompt.device) - padding[:, None]
            self.positions, self.mask = places.clamp(min=0), places[:, None, None] >= 0

    @torch.inference_mode()
    def read(
        self, ids: Int[Tensor, "batch time"]
    ) -> Float[Tensor, "batch time *vocab"]:
        """Feed tokens; the logits of the token after each, given all earlier ones.

        Of a model with several heads (`BlockwiseGPT`), those of each head.
        """
        time, start = ids.shape[1], 0
        given: dict[str, Tensor] = {}
        if self.cache is None:
            ids = self.seen = torch.cat([self.seen, ids], 1)
        else:
            start = self.cache[0].length
        if self.padded:
            end = start + ids.shape[1]
            given["positions"] = self.positions[:, start:end]
            given["mask"] = self.mask[..., :end]
        return self.forward(ids, cache=self.cache, **given)[:, -time:]

    def rewind(self, length: int) -> None:
        """Forget all tokens that were fed but the first `length`."""
        self.seen = self.seen[:, :length]
        for each in self.cache or []:
            each.length = length  # later keys and values are overwritten

    @torch.inference_mode()
    def reorder(self, rows: Int[Tensor, " batch"]) -> None:
        """Copy the state of row `rows[i]`, which has the same padding, to row i."""
        self.seen = self.seen[rows]
        for each in self.cache or []:
            each.reorder(rows)


@torch.no_grad()
def log_prob(
    model: nn.Module,
    ids: Int[Tensor, "batch time"],
    *,
    start: int,
    source: Int[Tensor, "batch source"] | None = None,
) -> Float[Tensor, " batch"]:
    """log p of the tokens from position `start` on, given those before, in nats.

    PAD after the end is ignored. Raises ValueError for a start that leaves no token
    before it or after it.
    """
    check_shape(ids, (None,), "texts")
    if not 1 <= start < ids.shape[1]:
        raise ValueError(
            f"start must lie between 1 and {ids.shape[1] - 1}, the last place in these "
            f"texts, not {start}"
        )
    later = ids.shape[1] - start
    decoder = IncrementalDecoder(
        model, ids[:, :start], max_new_tokens=later, source=source
    )
    logits = decoder.read(ids[:, :-1])[:, start - 1 :]
    new = ids[:, start:]
    each = logits.log_softmax(-1).gather(2, new[..., None]).squeeze(2)
    return (each * (new != PAD)).sum(1)


def check_prompt(prompt: Tensor, max_new_tokens: int) -> None:
    """Raises ValueError for prompts that are no batch of texts, empty, or padded
    elsewhere than on the left, and for `max_new_tokens` below 1."""
    if prompt.ndim != 2:
        raise ValueError(
            f"prompts must have the shape (batch, time), not {tuple(prompt.shape)}: "
            "put a single one into a batch by [None]"
        )
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    if prompt.numel() == 0:
        raise ValueError(
            "the prompt is empty: begin with a token at least, such as BOS"
        )
    check_whole(prompt, "prompts", "encode the text with the model's own vocabulary")
    real = prompt != PAD
    if not bool(real[:, -1].all()) or bool((real[:, 1:] < real[:, :-1]).any()):
        raise ValueError(
            "a row of the prompt ends in padding, or has some between tokens: padding "
            "stands before a row's tokens, where left_pad puts it"
        )
