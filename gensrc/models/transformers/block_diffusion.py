"""Block diffusion: blocks are written in order, the tokens of each by masked diffusion.

Arriola and others, Block Diffusion: Interpolating Between Autoregressive and Diffusion
Language Models, ICLR 2025, is the source.

With blocks of one token it is an autoregressive model, p(x_t | x_<t), whose network is
asked for x_t by MASK at place t; with one block of all tokens it is `MaskedDiffusion`.

Deviations: exactly k tokens of a block are masked, with k uniform on 1 to its size, as
in `gensrc.models.transformers.diffusion`. The paper masks each with probability t, so
that its estimates vary even for blocks of one token, against which it limits t; here
the loss of these is the autoregressive one, without variance. The text and its noisy
copy are read one after the other, not side by side: the attention is the same.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gensrc.models.checks import check_sizes
from gensrc.models.transformers.cache import KeyValueCache
from gensrc.models.transformers.diffusion import MaskedDiffusion, unmask


def block_causal_mask(
    time: int, block: int, *, device: torch.device | None = None
) -> Bool[Tensor, "1 1 query key"]:
    """Each query may attend to its own block of `block` places, and to earlier ones."""
    number = torch.arange(time, device=device) // block
    return (number[:, None] >= number)[None, None]


class Earlier:
    """A block's cache with the keys and values of the clean text, to which those of the
    noisy one are added; the places of both count from 0."""

    length = 0
    memory: tuple[Tensor, Tensor] | None = None

    def __init__(self) -> None:
        self.clean: tuple[Tensor, Tensor] | None = None

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if self.clean is None:
            self.clean = key, value
            return self.clean
        keys, values = self.clean
        return torch.cat([keys, key], 2), torch.cat([values, value], 2)


class BlockDiffusion(MaskedDiffusion):
    """p(text) as a product over its blocks, each written in any order.

    block: tokens of a block; it has to divide the length of a text.
    config: of `MaskedDiffusion`.
    """

    def __init__(self, *, vocab_size: int, block: int, **config: Any) -> None:
        super().__init__(vocab_size=vocab_size, **config)
        check_sizes(block=block)
        self.block = block

    def block_size(self, time: int) -> int:
        """Raises ValueError for a time that is not a multiple of the block."""
        if time % self.block:
            raise ValueError(
                f"blocks of {self.block} do not divide a text of {time} tokens: cut it "
                "to a multiple, or build with another block"
            )
        return self.block

    def forward(self, ids: Int[Tensor, "n time"]) -> Float[Tensor, "n time vocab"]:
        """The logits of each place, given its own block and earlier ones."""
        self._check_noisy(ids)
        mask = block_causal_mask(ids.shape[1], self.block, device=ids.device)
        return self.read(ids, mask=mask)

    def predict(
        self, noisy: Int[Tensor, "n time"], clean: Int[Tensor, "n time"]
    ) -> Float[Tensor, "n time vocab"]:
        """The logits of each place, given its block in `noisy` and earlier ones in
        `clean`: all blocks at once."""
        seen = block_causal_mask(noisy.shape[1], self.block, device=noisy.device)
        own = seen & seen.mT
        cache = [Earlier() for _ in self.gpt.encoder.blocks]
        self.gpt.encoder(self.gpt.embed(clean), mask=seen, cache=cache)
        return self.read(noisy, mask=torch.cat([seen & ~own, own], -1), cache=cache)

    def unmask(
        self, ids: Int[Tensor, "n time"], **settings: Any
    ) -> Iterator[Int[Tensor, "n time"]]:
        """The function `unmask` on one block after the other; an iterator over the
        rows, as given and as they are after each step.

        settings: those of the function; the steps are those of each block. With one
            step, a block's tokens are drawn all at once, as in the semi-autoregressive
            decoding of Wang, Zhang and Chen, EMNLP 2018.

        A prompt may mask any places. Keys and values of earlier blocks are computed
        once. Raises ValueError as the function does, for a token outside the
        vocabulary, and for a block that does not divide the rows.
        """
        self._check_noisy(ids)
        self.block_size(ids.shape[1])
        return self._unmask(ids, settings)

    @torch.no_grad()
    def _unmask(self, ids: Tensor, settings: dict[str, Any]) -> Iterator[Tensor]:
        cache = [KeyValueCache(ids.shape[1]) for _ in self.gpt.encoder.blocks]
        yield ids
        for start in range(0, ids.shape[1], self.block):
            end = start + self.block
            predict = partial(self._read_block, cache=cache, start=start)
            part = ids[:, start:end]
            states = unmask(predict, part, mask_id=self.mask_id, **settings)
            for part in islice(states, 1, None):
                ids = torch.cat([ids[:, :start], part, ids[:, end:]], 1)
                yield ids
            predict(part)  # leaves the keys and values of the written block

    def _read_block(
        self, part: Tensor, cache: Sequence[KeyValueCache], start: int
    ) -> Tensor:
        """The logits of a block, of which the cache then knows what it is now."""
        for layer in cache:
            layer.length = start
        return self.read(part, cache=cache)
