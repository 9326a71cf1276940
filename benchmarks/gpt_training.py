"""Training speed of our GPT against the same network of torch's layers: a ratio of tokens a second.

    python benchmarks/gpt_training.py [--threads 1] [--rounds 20] [--precision picked|float32] [--dropout 0.0]

Both sides are a GPT like the chapter's, but with learned positions (width 192, 6 heads, 4 pre-norm blocks with GELU, a
context of 256, tied embeddings, batches of 16) and the same weights: ours, and one whose blocks are
`nn.TransformerEncoderLayer` with the causal hint that selects its fast kernel. They take a step (forward, backward,
clipping, fused AdamW) in turn, in one process, in the same arithmetic, that of `training.precision` or float32.
Medians and their ratio are printed; compare the ratio, as times depend on the machine and its load.
"""

import language_models
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gensrc import training
from gensrc.models.transformers.gpt import GPT

CONTEXT, BATCH = 256, 16
SIZES = {"vocab_size": 77, "max_length": CONTEXT, "embed_dim": 192, "num_heads": 6, "num_layers": 4}


class Theirs(nn.Module):
    """The weights of a GPT in torch's layers."""

    def __init__(self, ours: GPT, dropout: float) -> None:
        super().__init__()
        width, heads = SIZES["embed_dim"], SIZES["num_heads"]
        settings = {"batch_first": True, "norm_first": True, "activation": nn.GELU("tanh")}
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, **settings)
        self.embed, self.position_embedding = nn.Embedding(77, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.TransformerEncoder(layer, SIZES["num_layers"], nn.LayerNorm(width), enable_nested_tensor=False)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("future", torch.ones(CONTEXT, CONTEXT, dtype=torch.bool).triu(1), persistent=False)
        for block in self.blocks.layers:  # as ours: none on attention weights, none within the feed-forward layer
            block.self_attn.dropout, block.dropout = 0.0, nn.Identity()
        with torch.no_grad():
            pairs = zip(ours.encoder.blocks.parameters(), self.blocks.layers.parameters(), strict=True)
            for mine, other in [*pairs, (ours.embed.weight, self.embed.weight)]:
                other.copy_(mine)
            self.position_embedding.weight.copy_(ours.encoder.position_embedding.weight)

    def loss(self, batch: Tensor) -> Tensor:
        x = self.dropout(self.embed(batch[:, :-1]) + self.position_embedding.weight)
        hidden = self.blocks(x, mask=self.future, is_causal=True)
        logits = F.linear(hidden, self.embed.weight).float()
        return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), ignore_index=0)


def main() -> None:
    parser = language_models.parser(rounds=20)
    parser.add_argument("--dropout", type=float, default=0.0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    arithmetic = language_models.arithmetic(options.precision)
    torch.manual_seed(0)
    ours = GPT(**SIZES, dropout=options.dropout)
    sides = {}
    for name, model in (("ours", ours), ("torch's layers", Theirs(ours, options.dropout))):
        optimizer = torch.optim.AdamW(training.decay_groups(model, 0.1), lr=1e-3, fused=True)
        sides[name] = language_models.side(model, optimizer, arithmetic, clip=1.0)
    print(arithmetic)
    language_models.race(
        sides,
        lambda generator: torch.randint(1, 77, (BATCH, CONTEXT + 1), generator=generator),
        rounds=options.rounds,
        tokens=BATCH * CONTEXT,
    )


if __name__ == "__main__":
    main()
