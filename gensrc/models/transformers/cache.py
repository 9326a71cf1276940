"""The key-value cache of a Transformer: the keys and values of earlier tokens.

Shazeer, Fast Transformer Decoding: One Write-Head Is All You Need, 2019, section 2.4,
is the source of the analysis: to continue a text, a Transformer needs only each block's
keys and values. A block calls `extend` (see `gensrc.models.transformers.transformer`).
"""

from jaxtyping import Int
from torch import Tensor


class KeyValueCache:
    """The keys and values of one block, in memory that is allocated once.

    Concatenating each new key would copy all earlier ones at every step. To go back,
    set `length`: entries beyond it are overwritten.
    """

    def __init__(self, room: int) -> None:
        self.room, self.length = room, 0
        self.memory: tuple[Tensor, Tensor] | None = None

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values of new positions; returns all so far, as views.

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
        """Copy row `rows[i]` to row i; `memory` must be the same for both."""
        for kept in (self.keys, self.values):
            kept[:, :, : self.length] = kept[rows, :, : self.length]
