"""Masked diffusion: a text is written by filling in its masked tokens in any order.

Sahoo and others, Simple and Effective Masked Diffusion Language Models, NeurIPS 2024,
and Shi and others, Simplified and Generalized Masked Diffusion for Discrete Data,
NeurIPS 2024, are the sources of the bound with the weight 1/t; Hoogeboom and others,
Autoregressive Diffusion Models, ICLR 2022, and Ou and others, Your Absorbing Discrete
Diffusion Secretly Models the Conditional Distributions of Clean Data, ICLR 2025, of its
form with the number of masked tokens; Nie and others, Large Language Diffusion Models,
2025, of filling in by confidence.

The bound: of a text of T tokens mask k random ones, with k uniform on 1 to T. Then

    -log p(x) <= E[T/k (sum over the masked tokens of -log p(x_i | the others))].

With t = k/T as the rate, the weight is 1/t. The papers draw t uniformly on (0, 1] and
mask each token with probability t. A set of k tokens is masked with probability t^k
(1 - t)^(T-k), and the integral of that over t, divided by t, is 1 / (k C(T, k)), just
as above: both have the same mean. Masking exactly k tokens bounds the weight by T, so
that the variance is finite, and the least t needs no limit.

Further deviations: in each step of sampling a fixed number of tokens is filled in,
where the papers draw this number. The network is a GPT without its causal mask, and is
not told the rate, which it sees. PAD is a token like others: a text has all of its
places, as in Nie and others.

The token MASK is `vocab_size`, one more than a text may have.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gensrc.models.checks import check_sizes, check_texts, widened
from gensrc.models.distributions import sample_categorical
from gensrc.models.transformers.gpt import GPT
from gensrc.models.transformers.transformer import Cache

GOLDEN = (math.sqrt(5) - 1) / 2
ORDERS = ("random", "confidence")
LONGEST = 12
"""Tokens of a block whose masks are enumerated: there are 2^12 - 1 of them."""


# --- masking ---


def masked_places(
    count: int, size: int, *, generator: torch.Generator | None = None
) -> Bool[Tensor, "count size"]:
    """`count` rows with 1 to `size` places True, each number and each place as likely.

    The numbers are spread over the rows, so that a mean over these varies less than
    with independent ones: from a random rate on (0, 1] the next is always GOLDEN
    further, modulo 1, so that the rates of any run of rows lie about equally far apart.
    In Kingma and others, Variational Diffusion Models, 2021, they are 1 / count apart.
    """
    start = torch.rand((), generator=generator, dtype=torch.float64)
    rates = (start + GOLDEN * torch.arange(count, dtype=torch.float64)) % 1
    numbers = (rates * size).long().clamp(max=size - 1) + 1
    permuted = torch.rand(count, size, generator=generator).argsort(1)
    return permuted < numbers[:, None]


# --- filling in ---


@torch.no_grad()
def unmask(
    predict: Callable[[Tensor], Tensor],
    ids: Int[Tensor, "n time"],
    *,
    mask_id: int,
    steps: int,
    temperature: float = 1.0,
    order: str = "random",
    generator: torch.Generator | None = None,
) -> Iterator[Int[Tensor, "n time"]]:
    """Fill in the tokens `mask_id` of each row in `steps` steps; yields the rows as
    given, and as they are after each step.

    predict: from rows to the logits of each place.
    steps: in each, equally many tokens of a row are drawn, independently of each other
        given those before; no more than the masked tokens are needed.
    order: "random" draws the places, so that one token a step samples from the model
        that the bound is of; "confidence" takes those whose drawn token is likeliest
        (before the temperature), which no longer does.

    Tokens are drawn by torch.multinomial in double precision. The largest number below
    1 in single precision gives a Gumbel noise of 16.6, where there is no largest: an
    argmax with such noise draws rare tokens too rarely, which acts as a lower
    temperature (Zheng and others, Masked Diffusion Models Are Secretly Time-Agnostic
    Masked Models, ICLR 2025).

    Raises ValueError for steps below 1 and an unknown order, and as
    `sample_categorical` does.
    """
    check_sizes(steps=steps)
    if order not in ORDERS:
        raise ValueError(f"order must be one of {', '.join(ORDERS)}, not {order}")
    yield ids
    masked = ids == mask_id
    given = masked.sum(1, keepdim=True)
    steps = min(steps, int(given.max()))
    for left in range(steps - 1, -1, -1):
        logits = predict(ids)[masked].double()
        drawn = sample_categorical(logits, temperature=temperature, generator=generator)
        if order == "random":
            score = torch.rand(len(drawn), generator=generator).to(drawn.device)
        else:
            score = logits.softmax(-1).gather(1, drawn[:, None])[:, 0]
        scores = score.new_full(ids.shape, -1.0).masked_scatter(masked, score)
        ranks = scores.argsort(dim=1, descending=True).argsort(dim=1)
        chosen = ranks < masked.sum(1, keepdim=True) - given * left // steps
        filled = ids.masked_scatter(masked, drawn)
        ids = torch.where(chosen & masked, filled, ids)
        masked = ids == mask_id
        yield ids


# --- the model ---


class MaskedDiffusion(nn.Module):
    """p(masked token | the others, of which any may be masked), by a GPT's network
    without its causal mask.

    config: of the GPT, but for the vocabulary's size, to which MASK is added.
    """

    def __init__(self, *, vocab_size: int, **config: Any) -> None:
        super().__init__()
        check_sizes(vocab_size=vocab_size)
        self.vocab_size = vocab_size
        self.gpt = GPT(vocab_size=vocab_size + 1, **config)

    @property
    def mask_id(self) -> int:
        return self.vocab_size

    def forward(self, ids: Int[Tensor, "n time"]) -> Float[Tensor, "n time vocab"]:
        """The logits of the token at each place, MASK among the ids or not."""
        self._check_noisy(ids)
        return self.read(ids)

    def read(
        self,
        ids: Int[Tensor, "n time"],
        *,
        mask: Bool[Tensor, "1 1 time keys"] | None = None,
        cache: Sequence[Cache] | None = None,
    ) -> Float[Tensor, "n time vocab"]:
        """`forward`, unchecked; attention to all places, or to those of the mask."""
        x = self.gpt.encoder(self.gpt.embed(ids), mask=mask, cache=cache)
        return F.linear(x, self.gpt.embed.weight[:-1])  # MASK is never the answer

    def predict(
        self, noisy: Int[Tensor, "n time"], clean: Int[Tensor, "n time"]
    ) -> Float[Tensor, "n time vocab"]:
        """The logits of each place. The text itself, `clean`, is not looked at: this is
        for models that know a part of it, such as `BlockDiffusion`."""
        return self.read(noisy)

    def block_size(self, time: int) -> int:
        """How many of a text's tokens are masked together: here all."""
        return time

    # --- the bound ---

    def loss(
        self,
        batch: Int[Tensor, "n time"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """An estimate of the bound on -log p in nats a token, mean over the batch.

        Raises ValueError for no text, and for tokens of no vocabulary, such as MASK.
        """
        self._check(batch)
        return self._estimate(batch, generator).mean()

    @torch.no_grad()
    def bound(
        self,
        ids: Int[Tensor, "n time"],
        *,
        samples: int,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " n"]:
        """An estimate of the bound on -log p of each text in nats, from as many masks
        as `samples`, whose rates are spread over (0, 1].

        Raises ValueError as `loss` does, and for fewer samples than 1.
        """
        self._check(ids)
        check_sizes(samples=samples)
        nats = self._estimate(ids.repeat_interleave(samples, 0), generator)
        return nats.sum(1).view(-1, samples).mean(1)

    def _estimate(
        self, ids: Tensor, generator: torch.Generator | None
    ) -> Float[Tensor, "n time"]:
        """-log p of each masked token times its weight, 0 elsewhere."""
        size = self.block_size(ids.shape[1])
        masked = masked_places(ids.numel() // size, size, generator=generator)
        weights = masked * (size / masked.sum(1, keepdim=True))
        masked, weights = (x.view(ids.shape).to(ids.device) for x in (masked, weights))
        rows = zip(*(x.split(256) for x in (ids, masked)), strict=True)
        return weights * torch.cat([self._nats(*some) for some in rows])

    def _nats(self, ids: Tensor, masked: Tensor) -> Float[Tensor, "n time"]:
        """-log p of each token, if those of `masked` are masked."""
        logits = self.predict(ids.masked_fill(masked, self.mask_id), ids)
        return F.cross_entropy(widened(logits).transpose(1, 2), ids, reduction="none")

    # --- exact, for short texts ---

    @torch.no_grad()
    def exact_bound(self, ids: Int[Tensor, "n time"]) -> Float[Tensor, " n"]:
        """The bound on -log p of each text in nats, by a sum over all masks.

        Raises ValueError as `loss` does, and for more than 12 tokens.
        """
        total, size = torch.zeros(len(ids), dtype=torch.float64), self._enumerable(ids)
        for number in range(2**size - 1):
            nats, masked = self._known(ids, number, size)
            k = int(masked.sum())
            total += nats[..., masked].sum((1, 2)) / (k * math.comb(size, k))
        return total

    @torch.no_grad()
    def exact_log_prob(self, ids: Int[Tensor, "n time"]) -> Float[Tensor, " n"]:
        """log p of each text in nats, as written one token a step in random order.

        The probability that a set of tokens is written first is a sum over which of
        them came last, so that 2^T sets are enough for T! orders. Raises ValueError as
        `exact_bound` does.
        """
        size = self._enumerable(ids)
        shape = (2**size, len(ids), ids.shape[1] // size)
        log_p = torch.full(shape, -math.inf, dtype=torch.float64)
        log_p[0] = 0.0
        for number in range(2**size - 1):
            nats, masked = self._known(ids, number, size)
            for place in masked.nonzero()[:, 0].tolist():
                step = log_p[number] - nats[..., place] - math.log(masked.sum())
                longer = number + 2**place
                log_p[longer] = torch.logaddexp(log_p[longer], step)
        return log_p[-1].sum(1)

    def _enumerable(self, ids: Tensor) -> int:
        self._check(ids)
        size = self.block_size(ids.shape[1])
        if size > LONGEST:
            raise ValueError(
                f"there are 2^{size} - 1 masks of {size} tokens: enumerate those of "
                f"{LONGEST} at most, and call bound for longer texts"
            )
        return size

    def _known(
        self, ids: Tensor, number: int, size: int
    ) -> tuple[Float[Tensor, "n blocks size"], Bool[Tensor, " size"]]:
        """-log p of each token given those whose bit in `number` is 1, in each block,
        and which are masked."""
        masked = (number >> torch.arange(size)) % 2 == 0
        places = masked.repeat(ids.shape[1] // size).expand(ids.shape)
        nats = self._nats(ids, places.to(ids.device)).double().cpu()
        return nats.unflatten(1, (-1, size)), masked

    # --- sampling ---

    def unmask(
        self, ids: Int[Tensor, "n time"], **settings: Any
    ) -> Iterator[Int[Tensor, "n time"]]:
        """The function `unmask` with this model, whose settings it takes: an iterator
        over the rows, step by step.

        A prompt is what is not masked, wherever it stands. Raises ValueError as the
        function does, and for a token outside the vocabulary.
        """
        self._check_noisy(ids)
        return unmask(self, ids, mask_id=self.mask_id, **settings)

    def sample(
        self, n: int, *, length: int, steps: int | None = None, **settings: Any
    ) -> Int[Tensor, "n length"]:
        """n texts in as many steps, by default one token a step; see `unmask`."""
        check_sizes(n=n, length=length)
        weight = self.gpt.embed.weight
        blank = torch.full((n, length), self.mask_id, device=weight.device)
        *_, ids = self.unmask(
            blank, steps=length if steps is None else steps, **settings
        )
        return ids

    def _check(self, ids: Tensor) -> None:
        advice = (
            "encode the text with the model's own vocabulary, and leave the masking to "
            "the model"
        )
        check_texts(ids, self.vocab_size, "tokens", advice)

    def _check_noisy(self, ids: Tensor) -> None:
        advice = f"the vocabulary has {self.vocab_size} tokens, and then MASK"
        check_texts(ids, self.vocab_size + 1, "tokens", advice)
