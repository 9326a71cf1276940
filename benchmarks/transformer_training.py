"""Training speed of our encoder against torch's layers: a ratio of tokens a second.

    python benchmarks/transformer_training.py [--threads 1] [--rounds 30] [--precision picked|float32]

Both sides are one causal language model (width 128, 4 heads, 4 pre-norm blocks, 64 letters, batches of 16 sequences of
128) with the same weights: ours from `models.transformer.Encoder`, the baseline from `nn.TransformerEncoderLayer` with
the causal hint that selects its fast kernel. They take a step (forward, backward, fused Adam) in turn, in one process,
in the same arithmetic, that of `training.precision` or float32. Medians and their ratio are printed; compare the ratio,
as times depend on the machine and its load.
"""

import language_models
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gensrc.models.transformers.transformer import Config, Encoder

WIDTH, HEADS, LAYERS, LETTERS, BATCH, TIME = 128, 4, 4, 64, 16, 128


class Ours(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        settings = {"embed_dim": WIDTH, "num_heads": HEADS, "num_layers": LAYERS, "hidden_dim": 4 * WIDTH}
        self.encoder = Encoder(Config(norm_first=True, positions="none", dropout=0.0, **settings))

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x, causal=True)


class Theirs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, LAYERS, norm=nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.register_buffer("future", torch.ones(TIME, TIME, dtype=torch.bool).triu(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x, mask=self.future, is_causal=True)


class LanguageModel(nn.Module):
    """Embeddings of letters and positions, a body, and logits of the next letter."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.letter, self.place = nn.Embedding(LETTERS, WIDTH), nn.Embedding(TIME, WIDTH)
        self.body = body

    def loss(self, ids: Tensor) -> Tensor:
        hidden = self.body(self.letter(ids) + self.place.weight)
        logits = F.linear(hidden, self.letter.weight).float()
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def main() -> None:
    options = language_models.parser(rounds=30).parse_args()
    torch.set_num_threads(options.threads)

    arithmetic = language_models.arithmetic(options.precision)
    ours, theirs = LanguageModel(Ours()), LanguageModel(Theirs())
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            other.copy_(mine)
    sides = {}
    for name, model in (("ours", ours), ("torch's layers", theirs)):
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
        sides[name] = language_models.side(model, optimizer, arithmetic)
    print(arithmetic)
    language_models.race(
        sides,
        lambda generator: torch.randint(LETTERS, (BATCH, TIME), generator=generator),
        rounds=options.rounds,
        tokens=BATCH * TIME,
    )


if __name__ == "__main__":
    main()
