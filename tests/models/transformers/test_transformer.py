"""The Transformer: equal to torch's on copied weights; masks, positions, cache, bad input."""

import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gensrc.data.vocabulary import BOS, EOS, PAD
from gensrc.models.transformers import transformer
from gensrc.models.transformers.attention import causal_mask, padding_mask
from gensrc.models.transformers.transformer import Config, Decoder, DecoderBlock, Encoder, EncoderBlock, Transformer

EMBED, HEADS, HIDDEN, LAYERS = 24, 4, 40, 2
SMALL = {"embed_dim": EMBED, "num_heads": HEADS, "hidden_dim": HIDDEN, "num_layers": LAYERS, "dropout": 0.0}
LENGTHS, FEW = torch.tensor([7, 4, 1]), torch.tensor([5, 2, 1])
FUTURE = torch.ones(7, 7, dtype=torch.bool).triu(1)
PLACES = ("sinusoidal", "learned", "rotary")


def small(**changes) -> Config:
    return Config(**{**SMALL, "max_length": 16, **changes})


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ready(module: nn.Module) -> nn.Module:
    """The module with weights of which none is zero or one."""
    with torch.no_grad():
        for number, weight in enumerate(module.parameters()):
            weight.copy_(numbers(*weight.shape, seed=number) / 4 + (0.8 if weight.ndim == 1 else 0))
    return module.eval()


def copied(ours: nn.Module, theirs: nn.Module) -> nn.Module:
    """torch's module with our weights, which come in the same order."""
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert mine.shape == other.shape
            other.copy_(mine)
    # Not eval(): there torch takes a shortcut for inference, and fills padding with zeros.
    return theirs.train()


def outputs_and_gradients(module, inputs, call):
    inputs = [each.clone().requires_grad_() for each in inputs]
    output = call(module, *inputs)
    wanted = [output, *torch.autograd.grad((output * numbers(*output.shape, seed=9)).sum(), inputs, retain_graph=True)]
    (output * numbers(*output.shape, seed=9)).sum().backward()
    return [*wanted, *(weight.grad for weight in module.parameters())]


def assert_equal(ours, theirs, inputs, we, they):
    pairs = (outputs_and_gradients(ours, inputs, we), outputs_and_gradients(theirs, inputs, they))
    for mine, other in zip(*pairs, strict=True):
        assert (mine - other).abs().max() <= 1e-5


def torch_block(kind, *, norm_first, activation="relu"):
    return kind(EMBED, HEADS, HIDDEN, 0.0, activation=activation, batch_first=True, norm_first=norm_first)


MASKS = {
    "none": ({}, {}),
    "padding": ({"mask": padding_mask(LENGTHS, 7)}, {"src_key_padding_mask": ~padding_mask(LENGTHS, 7)[:, 0, 0]}),
    "causal": ({"causal": True}, {"src_mask": FUTURE}),
    "causal mask": ({"mask": causal_mask(7)}, {"src_mask": FUTURE}),
    "both": (
        {"mask": padding_mask(LENGTHS, 7), "causal": True},
        {"src_mask": FUTURE, "src_key_padding_mask": ~padding_mask(LENGTHS, 7)[:, 0, 0]},
    ),
}


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("masks", MASKS)
def test_an_encoder_block_equals_torchs_in_outputs_and_gradients(masks, norm_first, activation):
    ours = ready(EncoderBlock(small(norm_first=norm_first, activation=activation)))
    theirs = copied(ours, torch_block(nn.TransformerEncoderLayer, norm_first=norm_first, activation=activation))
    we, they = MASKS[masks]
    inputs = [numbers(3, 7, EMBED)]
    assert_equal(ours, theirs, inputs, lambda block, x: block(x, **we), lambda block, x: block(x, **they))


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_a_decoder_block_equals_torchs_in_outputs_and_gradients(causal, padded, norm_first):
    ours = ready(DecoderBlock(small(norm_first=norm_first)))
    theirs = copied(ours, torch_block(nn.TransformerDecoderLayer, norm_first=norm_first))
    we, they = {"causal": causal}, {"tgt_mask": FUTURE if causal else None}
    if padded:
        we |= {"mask": padding_mask(LENGTHS, 7), "memory_mask": padding_mask(FEW, 5)}
        they |= {
            "tgt_key_padding_mask": ~padding_mask(LENGTHS, 7)[:, 0, 0],
            "memory_key_padding_mask": ~padding_mask(FEW, 5)[:, 0, 0],
        }
    inputs = [numbers(3, 7, EMBED), numbers(3, 5, EMBED, seed=1)]
    assert_equal(ours, theirs, inputs, lambda m, x, y: m(x, y, **we), lambda m, x, y: m(x, y, **they))


class Halves(nn.Module):
    """Our encoder and decoder without tokens, which is what torch calls a Transformer."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    def forward(self, x, y):
        source = padding_mask(FEW, 5)
        memory = self.encoder(x, mask=source)
        return self.decoder(y, memory, mask=padding_mask(LENGTHS, 7), memory_mask=source)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("norm_first", [False, True])
def test_encoder_and_decoder_equal_torchs_transformer(norm_first):
    ours = ready(Halves(small(norm_first=norm_first, final_norm=True, positions="none")))
    theirs = copied(
        ours, nn.Transformer(EMBED, HEADS, LAYERS, LAYERS, HIDDEN, 0.0, batch_first=True, norm_first=norm_first)
    )
    blind, few = ~padding_mask(LENGTHS, 7)[:, 0, 0], ~padding_mask(FEW, 5)[:, 0, 0]

    def they(model, x, y):
        return model(
            x,
            y,
            tgt_mask=FUTURE,
            src_key_padding_mask=few,
            tgt_key_padding_mask=blind,
            memory_key_padding_mask=few,
        )

    inputs = [numbers(3, 5, EMBED, seed=1), numbers(3, 7, EMBED)]
    assert_equal(ours, theirs, inputs, lambda model, x, y: model(x, y), they)


def test_the_paper_has_no_last_norm_after_post_norm_and_pre_norm_needs_one():
    assert isinstance(Encoder(small()).norm, nn.Identity)
    assert isinstance(Decoder(small(norm_first=True)).norm, nn.LayerNorm)
    assert isinstance(Encoder(small(final_norm=True)).norm, nn.LayerNorm)
    assert isinstance(Encoder(small(norm_first=True, final_norm=False)).norm, nn.Identity)


# --- positions ---


def test_encoder_with_rotary_positions_depends_on_offsets_only():
    model = ready(Encoder(small(positions="rotary")))
    x = numbers(2, 7, EMBED)
    moved = model(x, positions=torch.arange(5, 12)[None])
    torch.testing.assert_close(model(x), moved, atol=1e-5, rtol=0)
    absolute = ready(Encoder(small(positions="sinusoidal")))
    assert (absolute(x) - absolute(x, positions=torch.arange(5, 12)[None])).abs().max() > 0.1


@pytest.mark.parametrize("positions", ["none", *PLACES])
def test_an_encoder_commutes_with_a_permutation_only_without_positions(positions):
    model = ready(Encoder(small(positions=positions)))
    x, order = numbers(2, 7, EMBED), torch.tensor([3, 0, 6, 1, 5, 2, 4])
    difference = (model(x[:, order]) - model(x)[:, order]).abs().max()
    assert difference < 1e-5 if positions == "none" else difference > 0.1


@pytest.mark.parametrize("positions", PLACES)
def test_given_positions_replace_the_default_ones(positions):
    model = ready(Encoder(small(positions=positions)))
    x, order = numbers(2, 7, EMBED), torch.tensor([3, 0, 6, 1, 5, 2, 4])
    found = model(x[:, order], positions=order[None])
    torch.testing.assert_close(found, model(x)[:, order], atol=1e-5, rtol=0)


# --- what may be seen ---


@pytest.mark.parametrize("positions", ["none", *PLACES])
@pytest.mark.parametrize("norm_first", [False, True])
def test_a_causal_encoder_has_a_gradient_of_exactly_zero_from_every_later_position(norm_first, positions):
    model = ready(Encoder(small(norm_first=norm_first, positions=positions)))
    x = numbers(1, 6, EMBED).requires_grad_()
    output = model(x, causal=True)
    for t in range(6):
        (gradient,) = torch.autograd.grad((output[0, t] * numbers(EMBED)).sum(), x, retain_graph=True)
        reached = gradient[0].abs().sum(-1)
        assert (reached[: t + 1] > 0).all()
        assert (reached[t + 1 :] == 0).all()


def test_a_target_position_sees_the_whole_source_and_no_later_target():
    model = ready(Halves(small(positions="none")))
    x, y = numbers(1, 5, EMBED, seed=1).requires_grad_(), numbers(1, 6, EMBED).requires_grad_()
    output = model.decoder(y, model.encoder(x))
    for t in range(6):
        of_x, of_y = torch.autograd.grad((output[0, t] * numbers(EMBED)).sum(), (x, y), retain_graph=True)
        assert (of_x[0].abs().sum(-1) > 0).all()
        assert (of_y[0, : t + 1].abs().sum(-1) > 0).all()
        assert (of_y[0, t + 1 :] == 0).all()


def pairs() -> torch.Tensor:
    """Sources and targets of several lengths, padded."""
    rows = torch.full((3, 2, 8), PAD)
    for row, (many, few) in enumerate([(8, 5), (5, 8), (2, 3)]):
        rows[row, 0, :many] = torch.arange(many) % 6 + 4
        rows[row, 1, :few] = torch.tensor([BOS, *(4 + i % 5 for i in range(few - 2)), EOS])
    return rows


def both(**changes) -> Transformer:
    torch.manual_seed(0)
    return Transformer(small(**changes), source_vocab=10, target_vocab=9).eval()


@pytest.mark.parametrize("positions", ["none", *PLACES])
def test_padding_does_not_change_outputs_at_real_tokens(positions):
    model = both(positions=positions)
    for source, target in pairs():
        source, target = source[source != PAD][None], target[target != PAD][None]
        alone = model(source, target)
        more = model(F.pad(source, (0, 3), value=PAD), F.pad(target, (0, 4), value=PAD))
        torch.testing.assert_close(more[:, : target.shape[1]], alone, atol=1e-5, rtol=0)


def test_tokens_at_masked_positions_change_no_output():
    model = ready(Halves(small(positions="sinusoidal")))
    x, y = numbers(3, 5, EMBED, seed=1), numbers(3, 7, EMBED)
    real, kept = padding_mask(LENGTHS, 7)[:, 0, 0], padding_mask(FEW, 5)[:, 0, 0]
    other_x = x.masked_fill(~kept.unsqueeze(-1), 100.0)
    other_y = y.masked_fill(~real.unsqueeze(-1), -100.0)
    assert torch.equal(model(x, y)[real], model(other_x, other_y)[real])


def test_a_source_of_padding_alone_is_refused():
    model, batch = both(), pairs()
    batch[1, 0] = PAD
    source, target = batch.unbind(1)
    for call in (model.encode, model.condition, lambda ids: model(ids, target), lambda ids: model.loss(ids, target)):
        with pytest.raises(ValueError, match="no token but padding"):
            call(source)
    source[1, 3] = 4
    model.loss(source, target)


def test_cross_attention_to_nothing_is_finite_and_ignores_the_memory():
    # It returns the bias of its last layer, whatever the memory holds.
    block = ready(DecoderBlock(small()))
    nothing = padding_mask(torch.tensor([0, 0]), 5)
    y = numbers(2, 7, EMBED)
    found = [block(y, numbers(2, 5, EMBED, seed=seed), memory_mask=nothing) for seed in (1, 2)]
    assert torch.equal(*found)
    before = block.norm1(y + block.self_attn(y, causal=True))
    middle = block.norm2(before + block.cross_attn.out_proj.bias)
    torch.testing.assert_close(found[0], block.norm3(middle + block.feed_forward(middle)), atol=1e-5, rtol=0)


# --- a cache, as a decoding loop will bring it ---


class Kept:
    """The plainest cache: keys and values, joined to those before."""

    def __init__(self) -> None:
        self.length, self.memory, self.parts = 0, None, None

    def extend(self, key, value):
        new = key, value
        joined = new if self.parts is None else tuple(torch.cat(each, 2) for each in zip(self.parts, new, strict=True))
        self.parts, self.length = joined, joined[0].shape[2]
        return joined


@pytest.mark.parametrize("positions", ["none", *PLACES])
@pytest.mark.parametrize("sizes", [[1] * 8, [5, 1, 2]])
def test_decoder_in_pieces_with_a_cache_equals_the_whole(sizes, positions):
    model, (source, target) = both(positions=positions), pairs().unbind(1)
    memory, mask = model.encode(source), transformer.token_mask(source)
    cache = [Kept() for _ in model.decoder.blocks]
    found = [
        model.decode(piece, memory if not number else torch.zeros_like(memory), memory_mask=mask, cache=cache)
        for number, piece in enumerate(target.split(sizes, 1))
    ]
    torch.testing.assert_close(torch.cat(found, 1), model(source, target), atol=1e-5, rtol=0)


def test_causal_encoder_in_pieces_with_left_padding_equals_the_whole():
    model, x = ready(Encoder(small(positions="learned"))), numbers(2, 6, EMBED)
    whole = model(x, causal=True)
    shifted = torch.cat([numbers(2, 3, EMBED, seed=3), x], 1)
    positions, mask = (torch.arange(9) - 3).clamp(min=0)[None], torch.ones(2, 1, 1, 9, dtype=torch.bool)
    mask[..., :3] = False
    cache = [Kept() for _ in model.blocks]
    found = [
        model(
            shifted[:, first:last],
            mask=mask[..., :last],
            causal=True,
            positions=positions[:, first:last],
            cache=cache,
        )
        for first, last in [(0, 5), (5, 6), (6, 9)]
    ]
    torch.testing.assert_close(torch.cat(found, 1)[:, 3:], whole, atol=1e-5, rtol=0)


# --- tokens, loss, maps ---


def test_the_loss_is_the_mean_over_real_tokens_and_shifts_the_target():
    model, batch = both(), pairs()
    terms = []
    for source, target in batch:
        source, target = source[source != PAD][None], target[target != PAD][None]
        log_probs = model(source, target).log_softmax(-1)
        terms += [-log_probs[0, t - 1, target[0, t]] for t in range(1, target.shape[1])]
    torch.testing.assert_close(model.loss(*batch.unbind(1)), torch.stack(terms).mean())


def test_weights_start_as_described():
    torch.manual_seed(0)
    model = Transformer(Config(num_layers=1, max_length=50), source_vocab=1000, target_vocab=500)
    block = model.encoder.blocks[0]
    for weight in (block.feed_forward.linear1.weight, block.self_attn.out_proj.weight):
        bound = math.sqrt(6 / sum(weight.shape))
        assert weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert not any(bias.any() for name, bias in model.named_parameters() if name.endswith("bias"))
    assert model.source.weight.std().item() == pytest.approx(512**-0.5, rel=0.02)
    assert model.source(torch.arange(1000)[None]).std().item() == pytest.approx(1, rel=0.02)
    learned = Encoder(Config(num_layers=1, positions="learned", max_length=100))
    assert learned.position_embedding.weight.std().item() == pytest.approx(1, rel=0.02)


def test_the_output_layer_is_the_target_embedding():
    model, (source, target) = both(), pairs().unbind(1)
    hidden = model.decoder(model.target(target), model.encode(source), memory_mask=transformer.token_mask(source))
    torch.testing.assert_close(model(source, target), hidden @ model.target.weight.T)
    # Neither constants of positions nor a second output matrix are counted as weights.
    assert model.target.weight.shape == (9, EMBED)
    assert not list(Encoder(small()).buffers())
    assert sum(weight.numel() for weight in model.parameters()) == (
        19 * EMBED + sum(w.numel() for half in (model.encoder, model.decoder) for w in half.blocks.parameters())
    )


@pytest.mark.parametrize("positions", ["none", *PLACES])
def test_attention_maps_are_the_weights_that_were_used(positions):
    model, (source, target) = both(positions=positions), pairs().unbind(1)
    inner = {}
    probe = model.decoder.blocks[1].cross_attn
    hook = probe.register_forward_hook(
        lambda _, given, named, out: inner.update(named, q=given[0], out=out), with_kwargs=True
    )
    with transformer.attention_maps(model) as maps:
        model(source, target)
    hook.remove()
    assert set(maps) == {
        f"{half}.blocks.{i}.{kind}"
        for half, kind in [("encoder", "self_attn"), ("decoder", "self_attn"), ("decoder", "cross_attn")]
        for i in range(LAYERS)
    }
    cross = maps["decoder.blocks.1.cross_attn"]
    assert cross.shape == (3, HEADS, 8, 8)
    torch.testing.assert_close(cross.sum(-1), torch.ones(3, HEADS, 8))
    assert not cross[2, ..., 2:].any()
    _, _, v = probe.project(inner["q"], inner["key"])
    torch.testing.assert_close(probe.merge(cross @ v), inner["out"], atol=1e-5, rtol=0)
    own = maps["decoder.blocks.0.self_attn"]
    assert not own.triu(1).any()
    maps.clear()
    model(source, target)
    assert not maps


def test_attention_maps_include_rotary_positions():
    model, x = ready(Encoder(small(positions="rotary"))), numbers(1, 6, EMBED)
    with transformer.attention_maps(model) as maps:
        model(x)
        first = maps["blocks.0.self_attn"]
        model(x, positions=torch.tensor([[0, 3, 1, 9, 4, 7]]))
        assert (first - maps["blocks.0.self_attn"]).abs().max() > 0.01
        with pytest.raises(ValueError, match="maps are drawn of whole sequences: leave out the cache"):
            model(x, cache=[Kept() for _ in model.blocks])


def test_dropout_acts_in_training_only():
    model, x = Encoder(small(dropout=0.5)), numbers(2, 7, EMBED)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_bfloat16_autocast_runs_with_every_kind_of_position():
    for positions in ("none", *PLACES):
        model = both(positions=positions)
        exact = model.loss(*pairs().unbind(1)).detach()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = model.loss(*pairs().unbind(1)).detach()
        assert rounded.dtype == torch.float32
        assert abs(float(rounded - exact)) < 0.05 * float(exact)


# --- bad input ---


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"positions": "relative"}, "positions must be one of sinusoidal, learned, rotary, none, not relative"),
        ({"activation": "tanh"}, "activation must be one of relu, gelu, gelu_tanh: tanh"),
        ({"num_layers": 0}, "num_layers and hidden_dim start at 1, not 0 and 40"),
        ({"positions": "learned", "max_length": None}, "learned positions need max_length"),
        ({"num_heads": 5}, "num_heads must divide embed_dim, and 5 does not divide 24"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Encoder(small(**settings))


@pytest.mark.parametrize("positions", ["none", *PLACES])
def test_a_sequence_longer_than_the_context_is_refused(positions):
    model = Encoder(small(positions=positions))
    assert model(numbers(1, 16, EMBED)).shape == (1, 16, EMBED)
    with pytest.raises(ValueError, match="positions 0 to 16 are not within a context of 16: shorten the sequence"):
        model(numbers(1, 17, EMBED))
    with pytest.raises(ValueError, match="positions 15 to 16 are not within"):
        model(numbers(1, 2, EMBED), positions=torch.tensor([[15, 16]]))
    with pytest.raises(ValueError, match="positions -1 to 0 are not within"):
        model(numbers(1, 2, EMBED), positions=torch.tensor([[-1, 0]]))
    cache = [Kept() for _ in model.blocks]
    model(numbers(1, 15, EMBED), causal=True, cache=cache)
    with pytest.raises(ValueError, match="positions 15 to 16 are not within"):
        model(numbers(1, 2, EMBED), causal=True, cache=cache)
    unlimited = Encoder(small(positions="sinusoidal", max_length=None))
    assert unlimited(numbers(1, 40, EMBED)).isfinite().all()


@pytest.mark.parametrize("wrong", [-1, 10])
def test_an_id_outside_the_vocabulary_is_refused(wrong):
    model, ids = both(), torch.tensor([[4, wrong]])
    with pytest.raises(ValueError, match="ids must lie between 0 and 9, these span .* the vocabulary has 10 tokens"):
        model.encode(ids)


def test_encoders_and_decoders_refuse_masks_that_do_not_fit():
    layer = transformer.Attention(EMBED, HEADS)
    forward, x = inspect.unwrap(transformer.Attention.forward), numbers(2, 7, EMBED)
    with pytest.raises(ValueError, match=r"a mask must have shape \(2, 4, 7, 7\)"):
        forward(layer, x, mask=torch.ones(2, 7, dtype=torch.bool))
