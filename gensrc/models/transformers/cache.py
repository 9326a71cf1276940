"""The keys and values of earlier tokens, kept so that nothing is computed twice.

Shazeer, Fast Transformer Decoding: One Write-Head Is All You Need, 2019, section 2.4,
is the source of the analysis: to continue a text, a Transformer needs only each block's
keys and values. A block calls `extend` (see `gensrc.models.transformers.transformer`).
"""

from jaxtyping import Int
from torch import Tensor


class KeyValueCache:
    """The keys and values of one block, in room that is set aside once.

    Joining each new key to those before would copy them all at every step. To go back,
    set `length`: what lies beyond it is overwritten.
    """

    def __init__(self, room: int) -> None:
        self.room, self.length = room, 0
        self.memory: tuple[Tensor, Tensor] | None = None

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keep those of new positions; returns all so far, as views.

        Raises ValueError if there is no more room.
        """
        start, end = self.length, self.length + key.shape[2]
        if end > self.room:
            raise ValueError(f"the cache has room for {self.room} tokens, not {end}")
        if start == 0:
            batch, heads, _, width = key.shape
            self.keys = key.new_empty(batch, heads, self.room, width)
            self.values = value.new_empty(batch, heads, self.room, width)
        self.keys[:, :, start:end], self.values[:, :, start:end] = key, value
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def reorder(self, rows: Int[Tensor, " batch"]) -> None:
        """Row i becomes what row `rows[i]` was; `memory` must be the same for both."""
        for kept in (self.keys, self.values):
            kept[:, :, : self.length] = kept[rows, :, : self.length]
