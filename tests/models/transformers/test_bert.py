"""BERT: equal to the transformers library's on copied weights, masked as the paper says, and clear about bad input."""

import pytest
import torch
import torch.nn.functional as F
import transformers

from gensrc.data.vocabulary import BOS, EOS, PAD, SPECIALS
from gensrc.models.transformers import bert
from gensrc.models.transformers.bert import Bert, LeftToRight, MaskedLM

VOCAB, LENGTH, LAYERS = 50, 12, 2
SMALL = {"vocab_size": VOCAB, "max_length": LENGTH, "embed_dim": 24, "num_heads": 4, "num_layers": LAYERS}
STILL = {**SMALL, "dropout": 0.0}
ROWS = torch.tensor(
    [
        bert.row([5, 6, 7], [8, 9, 10, 11], max_length=LENGTH),
        bert.row([30, VOCAB, 31], max_length=LENGTH),
        bert.row([12], [13, 49, 14, 15, 16, 17, 18, 19], max_length=LENGTH),
    ]
)


def ready(module):
    """The module with weights of which none is zero or one."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn(weight.shape, generator=draw) / 4 + (0.8 if weight.ndim == 1 else 0))
    return module.eval()


# --- rows and masks ---


def test_rows_hold_one_text_or_two_and_are_padded_or_cut():
    assert bert.row([5, 6], max_length=6) == [BOS, 5, 6, EOS, PAD, PAD]
    assert bert.row([5, 6], [7], max_length=7) == [BOS, 5, 6, EOS, 7, EOS, PAD]
    assert bert.row([5, 6], [7, 8, 9, 10], max_length=7) == [BOS, 5, 6, EOS, 7, 8, EOS]
    assert bert.row([5, 6], [], max_length=5) == [BOS, 5, 6, EOS, EOS]


@pytest.mark.parametrize(("first", "second"), [([5, 6, 7], None), ([5, 6], [7])])
def test_row_refuses_a_first_text_that_is_too_long(first, second):
    with pytest.raises(ValueError, match="leaves no room in 4"):
        bert.row(first, second, max_length=4)


def test_segments_change_after_the_first_eos():
    assert bert.segments(ROWS)[0].tolist() == [0] * 5 + [1] * 7
    assert bert.segments(ROWS)[2].tolist() == [0] * 3 + [1] * 9


def many(n=400):
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(len(SPECIALS), VOCAB, (n, 30), generator=draw)
    ids[:, 0], ids[:, 20], ids[:, 21:] = BOS, EOS, PAD
    return ids


def test_chosen_tokens_become_mask_random_token_or_stay_in_the_published_shares():
    ids = many()
    gaps = bert.mask_tokens(ids, mask_id=VOCAB, share=0.15, generator=torch.Generator().manual_seed(2))
    assert not gaps.chosen[ids < len(SPECIALS)].any()
    assert torch.equal(gaps.inputs[~gaps.chosen], ids[~gaps.chosen])
    number = int(gaps.chosen.sum())
    deviation = (0.15 * 0.85 / (400 * 19)) ** 0.5
    assert abs(number / (400 * 19) - 0.15) < 4 * deviation
    hidden = gaps.inputs[gaps.chosen]
    masked = (hidden == VOCAB).float().mean()
    # A random token is now and then the right one.
    kept = (hidden == ids[gaps.chosen]).float().mean()
    assert abs(masked - 0.8) < 0.05
    assert abs(kept - 0.1 - 0.1 / (VOCAB - len(SPECIALS))) < 0.04
    assert int(hidden.min()) >= len(SPECIALS)


def test_the_same_seed_gives_the_same_mask_and_another_seed_another():
    first, again, other = (
        bert.mask_tokens(many(), mask_id=VOCAB, generator=torch.Generator().manual_seed(s)).inputs for s in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5])
def test_a_share_outside_0_and_1_is_refused(share):
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\)"):
        bert.mask_tokens(ROWS, mask_id=VOCAB, share=share)


# --- the transformers library's BERT on copied weights ---


def theirs_with(ours: Bert, kind, prefix: str = "", **options):
    config = transformers.BertConfig(
        vocab_size=VOCAB + 1,
        hidden_size=24,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=LENGTH,
        layer_norm_eps=1e-5,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=PAD,
        **options,
    )
    theirs = kind(config, add_pooling_layer=False) if kind is transformers.BertModel else kind(config)
    theirs.load_state_dict({prefix + name: weight for name, weight in renamed(ours).items()}, strict=False)
    return theirs.eval()


def renamed(ours: Bert) -> dict[str, torch.Tensor]:
    """The weights of our encoder by the names of theirs."""
    weights = {
        "embeddings.word_embeddings.weight": ours.tokens.weight,
        "embeddings.position_embeddings.weight": ours.position_embedding.weight,
        "embeddings.token_type_embeddings.weight": ours.segments.weight,
        "embeddings.LayerNorm.weight": ours.norm.weight,
        "embeddings.LayerNorm.bias": ours.norm.bias,
    }
    for number, block in enumerate(ours.encoder.blocks):
        for kind in ("weight", "bias"):
            parts = getattr(block.self_attn.in_proj, kind).chunk(3)
            layers = dict(zip(("query", "key", "value"), parts, strict=True))
            layers = {f"attention.self.{name}": part for name, part in layers.items()} | {
                "attention.output.dense": getattr(block.self_attn.out_proj, kind),
                "attention.output.LayerNorm": getattr(block.norm1, kind),
                "intermediate.dense": getattr(block.feed_forward.linear1, kind),
                "output.dense": getattr(block.feed_forward.linear2, kind),
                "output.LayerNorm": getattr(block.norm2, kind),
            }
            weights |= {f"encoder.layer.{number}.{name}.{kind}": value for name, value in layers.items()}
    return {name: weight.detach() for name, weight in weights.items()}


def their_inputs():
    return {"input_ids": ROWS, "attention_mask": ROWS != PAD, "token_type_ids": bert.segments(ROWS)}


def test_the_encoder_equals_the_librarys_in_outputs_and_gradients():
    ours = ready(Bert(**STILL))
    theirs = theirs_with(ours, transformers.BertModel)
    real = ROWS != PAD  # what stands at padding is of no meaning
    mine, other = ours(ROWS)[real], theirs(**their_inputs()).last_hidden_state[real]
    assert (mine - other).abs().max() <= 1e-5
    weights = torch.randn(mine.shape, generator=torch.Generator().manual_seed(3))
    (mine * weights).mean().backward()
    (other * weights).mean().backward()
    gradients = {name: weight.grad for name, weight in theirs.named_parameters()}
    ours_by_name = renamed_gradients(ours)
    assert gradients.keys() == ours_by_name.keys()
    for name, gradient in ours_by_name.items():
        assert (gradient - gradients[name]).abs().max() <= 1e-5, name


def renamed_gradients(ours: Bert) -> dict[str, torch.Tensor]:
    twin = Bert(**STILL)
    with torch.no_grad():
        for weight, source in zip(twin.parameters(), ours.parameters(), strict=True):
            weight.copy_(torch.zeros_like(source) if source.grad is None else source.grad)
    return renamed(twin)


def test_the_masked_model_equals_the_librarys():
    ours = ready(MaskedLM(**STILL))
    theirs = theirs_with(ours.bert, transformers.BertForMaskedLM, "bert.")
    head = theirs.cls.predictions
    with torch.no_grad():
        for name, weight in (("dense.weight", ours.dense.weight), ("dense.bias", ours.dense.bias)):
            head.transform.get_parameter(name).copy_(weight)
        head.transform.LayerNorm.weight.copy_(ours.norm.weight)
        head.transform.LayerNorm.bias.copy_(ours.norm.bias)
        head.bias.copy_(ours.bias)
        real = ROWS != PAD
        mine, other = ours(ROWS), theirs(**their_inputs()).logits
    assert head.decoder.weight is theirs.bert.embeddings.word_embeddings.weight
    assert (mine - other)[real].abs().max() <= 1e-5


@pytest.mark.parametrize(("width", "wanted"), [(768, 0.02), (192, 0.04)])
def test_weights_start_as_published_and_larger_in_a_narrower_model(width, wanted):
    model = Bert(vocab_size=100, max_length=4, embed_dim=width, num_heads=4, num_layers=1)
    for weight in (model.tokens.weight, model.encoder.blocks[0].self_attn.in_proj.weight):
        assert weight.abs().max() <= 2 * wanted + 1e-6
        # A normal distribution cut off at two deviations has 0.88 of its deviation.
        assert abs(weight.std() / wanted - 0.88) < 0.01
    assert not model.encoder.blocks[0].self_attn.in_proj.bias.any()


# --- who sees whom ---


def test_bert_depends_on_both_sides_and_a_causal_one_on_the_left_only():
    for causal, wanted in ((False, set(range(9))), (True, set(range(5)))):
        model = ready(Bert(**STILL, causal=causal))
        rows = torch.tensor([bert.row([5, 6, 7], [8, 9, 10], max_length=9)])
        seen = set()
        for place in range(9):
            x = torch.zeros(1, 9, 24, requires_grad=True)
            hook = model.norm.register_forward_hook(lambda *given, x=x: given[2] + x)
            (gradient,) = torch.autograd.grad(model(rows)[0, 4].pow(2).sum(), x)
            hook.remove()
            if gradient[0, place].any():
                seen.add(place)
            elif place not in wanted:
                assert gradient[0, place].abs().max() == 0
        assert seen == wanted


def test_padding_changes_no_output():
    model = ready(Bert(**STILL))
    short = torch.tensor([bert.row([5, 6, 7], [8], max_length=8)])
    longer = torch.tensor([bert.row([5, 6, 7], [8], max_length=12)])
    torch.testing.assert_close(model(longer)[:, :7], model(short)[:, :7])


def test_rows_of_padding_are_finite_and_change_no_loss():
    model = ready(MaskedLM(**STILL))
    rows = torch.cat([ROWS, torch.full((1, LENGTH), PAD)])
    assert model(rows).isfinite().all()
    same = [model.loss(r, generator=torch.Generator().manual_seed(0)) for r in (rows[3:],)]
    assert same[0] == 0
    same[0].backward()
    assert not any(weight.grad is not None and weight.grad.any() for weight in model.parameters())


# --- losses ---


def test_the_masked_loss_is_the_cross_entropy_at_the_chosen_positions():
    model, ids = ready(MaskedLM(**STILL)), ROWS[[0, 2]]
    loss = model.loss(ids, generator=torch.Generator().manual_seed(4))
    gaps = bert.mask_tokens(ids, mask_id=VOCAB, generator=torch.Generator().manual_seed(4))
    assert gaps.chosen.any()
    log_p = model(gaps.inputs).log_softmax(-1)
    wanted = -torch.stack([log_p[b, t, ids[b, t]] for b, t in gaps.chosen.nonzero().tolist()]).mean()
    torch.testing.assert_close(loss, wanted)


def test_the_left_to_right_loss_is_the_log_probability_of_the_rows():
    model = ready(LeftToRight(**STILL))
    log_p, ids = model(ROWS).log_softmax(-1), ROWS
    each = [log_p[b, t - 1, ids[b, t]] for b in range(3) for t in range(1, LENGTH) if ids[b, t] != PAD]
    torch.testing.assert_close(model.loss(ids), -torch.stack(each).mean())


def test_the_left_to_right_loss_can_take_a_share_of_the_tokens():
    whole, some = (ready(LeftToRight(**STILL, share=share)) for share in (1.0, 0.4))
    ids = ROWS[:, 1:]
    luck = torch.rand(ids.shape, generator=torch.Generator().manual_seed(5))
    chosen = (luck < 0.4) & (ids != PAD)
    losses = F.cross_entropy(whole(ROWS)[:, :-1].transpose(1, 2), ids, reduction="none")
    found = some.loss(ROWS, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(found, losses[chosen].mean())


def test_a_small_step_gains_what_the_slope_of_the_loss_says(gains_what_its_slope_says):
    torch.manual_seed(0)
    config = {"vocab_size": 12, "max_length": 8, "embed_dim": 32, "num_heads": 2, "num_layers": 1, "dropout": 0.0}
    model = MaskedLM(**config)
    rows = torch.randint(4, 12, (16, 8), generator=torch.Generator().manual_seed(0))
    rows[:, 0], rows[:, -1] = BOS, EOS
    gains_what_its_slope_says(model.parameters(), lambda: model.loss(rows, generator=torch.Generator().manual_seed(1)))


def test_a_prediction_looks_at_both_sides():
    torch.manual_seed(0)
    config = {"vocab_size": 12, "max_length": 8, "embed_dim": 32, "num_heads": 2, "num_layers": 1, "dropout": 0.0}
    model = MaskedLM(**config).eval()
    gap = torch.tensor([[BOS, 5, 6, 12, 7, 8, 9, EOS]])
    for place in (1, 6):
        changed = gap.clone()
        changed[0, place] = 11
        assert not torch.allclose(model(gap)[0, 3], model(changed)[0, 3])


# --- bad input ---


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="num_heads must divide embed_dim"):
        Bert(**{**SMALL, "num_heads": 5})


def test_rows_longer_than_the_context_are_refused():
    with pytest.raises(ValueError, match="rows of 13 tokens do not fit into a context of 12"):
        Bert(**SMALL)(torch.full((1, 13), 5))


@pytest.mark.parametrize("wrong", [-1, VOCAB + 1])
def test_ids_outside_the_vocabulary_are_refused(wrong):
    with pytest.raises(ValueError, match="ids must lie between 0 and 50"):
        Bert(**SMALL)(torch.tensor([[BOS, wrong, EOS]]))
