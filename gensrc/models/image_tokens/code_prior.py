"""An autoregressive prior over the codes of a VQ-VAE or VQGAN, by a Transformer.

Van den Oord, Vinyals and Kavukcuoglu, Neural Discrete Representation Learning, NeurIPS
2017, section 3.3: once the codes are learned, an autoregressive model is fitted to
their distribution, and its samples are decoded.

Deviations: a causal Transformer (Vaswani et al., 2017) where the paper has a PixelCNN,
as in Ramesh et al. (DALL-E, ICML 2021).

Shapes: b pictures of h by w codes, in rows of `time` codes.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gensrc.models.checks import (
    check_last,
    check_shape,
    check_sizes,
    check_temperature,
    widened,
)
from gensrc.models.distributions import sample_categorical
from gensrc.models.image_tokens.vqvae import check_codes
from gensrc.models.transformers.cache import KeyValueCache
from gensrc.models.transformers.transformer import Config, Encoder, TokenEmbedding


class CodePrior(nn.Module):
    """p(codes) = prod_i p(code i | codes before), row by row, by a causal Transformer.

    max_length: codes of a picture.
    """

    def __init__(
        self,
        *,
        codebook_size: int = 512,
        max_length: int = 64,
        embed_dim: int = 128,
        num_heads: int = 4,
        num_layers: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(codebook_size=codebook_size, max_length=max_length)
        self.codebook_size, self.max_length = codebook_size, max_length
        # The extra token, codebook_size, is the start token.
        self.embed = TokenEmbedding(codebook_size + 1, embed_dim)
        config = Config.gpt(
            embed_dim,
            num_heads=num_heads,
            num_layers=num_layers,
            dropout=dropout,
            positions="learned",
            max_length=max_length,
        )
        self.encoder = Encoder(config)
        self.head = nn.Linear(embed_dim, codebook_size)

    def forward(
        self, codes: Int[Tensor, "b time"]
    ) -> Float[Tensor, "b time_and_one entries"]:
        """Logits of the first code and of the code after each of `codes`."""
        start = codes.new_full((len(codes), 1), self.codebook_size)
        given = torch.cat([start, codes], 1)
        return widened(self.head(self.encoder(self.embed(given), causal=True)))

    def loss(self, batch: Int[Tensor, "b h w"]) -> Float[Tensor, ""]:
        """-log p(codes) in nats a picture, mean over b.

        Raises ValueError for another number of axes and a code that is no entry's.
        """
        check_shape(batch, (None, None), "codes")
        check_codes(batch, self.codebook_size)
        codes = batch.flatten(1).long()
        logits = self(codes[:, :-1])
        nats = F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="sum")
        return nats / len(batch)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        given: Int[Tensor, "n time"] | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "n length"]:
        """n new rows of codes, which continue those of `given`.

        Raises ValueError for a temperature that is not positive, and for given codes
        that are no entries' or more than a picture has.
        """
        check_temperature(temperature)
        device = self.head.weight.device
        codes = torch.zeros(n, 0).long() if given is None else given
        check_last(codes, (n, codes.shape[-1]), "given codes")
        check_codes(codes, self.codebook_size)
        if codes.shape[1] > self.max_length:
            raise ValueError(
                f"{codes.shape[1]} codes are given, more than the {self.max_length} of "
                "a picture: give fewer"
            )
        codes = codes.to(device)
        start = codes.new_full((n, 1), self.codebook_size)
        cache = [KeyValueCache(self.max_length) for _ in self.encoder.blocks]
        new = torch.cat([start, codes], 1)[:, : self.max_length]
        while codes.shape[1] < self.max_length:
            hidden = self.encoder(self.embed(new), causal=True, cache=cache)
            new = sample_categorical(
                widened(self.head(hidden[:, -1])),
                temperature=temperature,
                generator=generator,
            )[:, None]
            codes = torch.cat([codes, new], 1)
        return codes
