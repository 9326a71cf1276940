"""Image GPT: a causal Transformer over the pixels of a picture in raster order.

Chen and others, Generative Pretraining from Pixels, ICML 2020 (image GPT), is the
source: a causal Transformer over values in raster order, with learned positions.

Deviations: the blocks are those of `gensrc.models.transformers.transformer`. The paper
has one token of a palette a pixel; here the colours of a pixel are values one after
another, as in the PixelCNN. With a mixture of logistics, which models all colours at
once, a pixel is one value.

Shapes: b or n pictures, c h w, p parameters of a pixel's distribution, d features.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gensrc.models.pixels.base import PixelModel, Step, rescale
from gensrc.models.transformers.cache import KeyValueCache
from gensrc.models.transformers.transformer import Config, Encoder


class PixelTransformer(PixelModel):
    """p(x_i | x_<i) by causal attention to all values before.

    The position embedding fixes the size of a picture. Other keywords are those of
    `PixelModel`.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 64,
        num_heads: int = 4,
        num_layers: int = 4,
        dropout: float = 0.0,
        **about: Any,
    ) -> None:
        super().__init__(**about)
        colours = self.family.colours
        self.at_once = self.channels // colours  # values that are read as one
        self.length = self.size[0] * self.size[1] * colours
        self.embed = nn.Linear(self.at_once, embed_dim)
        # The start token: one for each class, or a single one without classes.
        self.start = nn.Embedding(max(self.num_classes, 1), embed_dim)
        config = Config.gpt(
            embed_dim,
            num_heads=num_heads,
            num_layers=num_layers,
            dropout=dropout,
            positions="learned",
            max_length=self.length,
        )
        self.encoder = Encoder(config)
        self.head = nn.Linear(embed_dim, self.family.outputs // colours)

    def read(
        self, x: Float[Tensor, "b c h w"], labels: Tensor | None, start: int, end: int
    ) -> Float[Tensor, "b some d"]:
        """Inputs start to end - 1 of the blocks: the start token, then each value."""
        values = rescale(x).flatten(2).mT.reshape(len(x), self.length, self.at_once)
        embedded = self.embed(values[:, max(start - 1, 0) : end - 1])
        if start > 0:
            return embedded
        if labels is None:
            labels = torch.zeros(len(x), dtype=torch.long, device=x.device)
        return torch.cat([self.start(labels)[:, None].to(embedded), embedded], 1)

    def forward(
        self, x: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b p h w"]:
        """Raises ValueError for pictures of another size."""
        self.check_pictures(x)
        self.check_size(x)
        read = self.read(x, labels, 0, self.length)
        params = self.head(self.encoder(read, causal=True))
        return params.reshape(len(x), -1, self.family.outputs).mT.unflatten(
            2, self.size
        )

    def cached(self, x: Float[Tensor, "n c h w"], labels: Tensor | None) -> Step:
        """Keys and values are cached; a step feeds one value more."""
        cache = [KeyValueCache(self.length) for _ in self.encoder.blocks]
        each, colours = self.head.out_features, self.family.colours
        params = x.new_zeros(len(x), self.family.outputs)
        pixel, colour = -1, 0

        def step(row: int, column: int) -> Tensor:
            nonlocal pixel, colour
            place = row * self.size[1] + column
            colour, pixel = colour + 1 if place == pixel else 0, place
            start, end = cache[0].length, place * colours + colour + 1
            read = self.read(x, labels, start, end)
            hidden = self.encoder(read, causal=True, cache=cache)[:, -1]
            params[:, colour * each : (colour + 1) * each] = self.head(hidden)
            return params

        return step
