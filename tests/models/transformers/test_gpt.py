"""GPT: equal to the transformers library's GPT-2 on copied weights; causality, loss, bad input."""

import math

import pytest
import torch

from gensrc.data.vocabulary import PAD
from gensrc.decoding import IncrementalDecoder, generate
from gensrc.models.transformers.gpt import GPT, GPT_NEOX_SETTINGS, from_gpt2, to_gpt2, to_gpt_neox
from gensrc.models.transformers.transformer import attention_maps

VOCAB, CONTEXT = 11, 12
SMALL = {"vocab_size": VOCAB, "max_length": CONTEXT, "embed_dim": 24, "num_heads": 4, "num_layers": 3}


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def small(**changes) -> GPT:
    """A GPT with weights of which none is zero or one."""
    model = GPT(**{**SMALL, **changes})
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            weight.copy_(numbers(*weight.shape, seed=number) / 4 + (0.8 if weight.ndim == 1 else 0))
    return model.eval()


# --- the transformers library ---


def library(**changes):
    transformers = pytest.importorskip("transformers")
    sizes = {"n_embd": 24, "n_head": 4, "n_layer": 3, "vocab_size": VOCAB, "n_positions": CONTEXT}
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**sizes, **off, **changes})).eval()


def test_logits_and_gradients_equal_the_librarys_on_copied_weights():
    ours, theirs = small(), library()
    theirs.load_state_dict(to_gpt2(ours.state_dict()))
    ids = tokens(3, CONTEXT)
    mine, other = ours(ids), theirs(ids).logits
    assert (mine - other).abs().max() <= 1e-5
    weights = numbers(*mine.shape, seed=9)
    (mine * weights).sum().backward()
    (other * weights).sum().backward()
    gradients = to_gpt2({name: weight.grad for name, weight in ours.named_parameters()})
    for name, weight in theirs.named_parameters():
        # Relative to the largest: sums over all places and tokens reach tens.
        assert (weight.grad - gradients[name]).abs().max() <= 1e-5 * max(1, weight.grad.abs().max())


def test_the_loss_equals_the_librarys():
    ours, theirs = small(), library()
    theirs.load_state_dict(to_gpt2(ours.state_dict()))
    ids = tokens(3, CONTEXT)
    assert (ours.loss(ids) - theirs(ids, labels=ids).loss).abs() <= 1e-5


def test_left_padding_equals_the_librarys_where_tokens_are_real():
    ours, theirs = small(), library()
    theirs.load_state_dict(to_gpt2(ours.state_dict()))
    ids, real = tokens(2, 9), torch.ones(2, 9, dtype=torch.bool)
    real[1, :4] = False
    places = (real.long().cumsum(1) - 1).clamp(min=0)
    mine = ours(ids, mask=real[:, None, None], positions=places)
    other = theirs(ids, attention_mask=real.long(), position_ids=places).logits
    assert (mine - other)[real].abs().max() <= 1e-5
    alone = ours(ids[1:, 4:])
    torch.testing.assert_close(mine[1, 4:], alone[0], atol=1e-5, rtol=0)


def test_a_rotary_gpt_has_the_librarys_logits_with_the_weights_of_a_gpt_neox():
    transformers = pytest.importorskip("transformers")
    ours = small(positions="rotary")
    sizes = {"hidden_size": 24, "num_attention_heads": 4, "num_hidden_layers": 3, "intermediate_size": 96}
    about = {"vocab_size": VOCAB, "max_position_embeddings": CONTEXT, **GPT_NEOX_SETTINGS}
    theirs = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**sizes, **about)).eval()
    converted = to_gpt_neox(ours.state_dict(), num_heads=4)
    absent, unknown = theirs.load_state_dict(converted, strict=False)
    assert (len(absent), unknown) == (1, [])
    ids = tokens(3, CONTEXT)
    assert (ours(ids) - theirs(ids).logits).abs().max() <= 1e-5
    longer = theirs.generate(ids[:1, :4], max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert longer.tolist() == generate(ours, ids[:1, :4], max_new_tokens=8).tolist()


def test_weights_are_converted_for_the_model_whose_positions_they_have():
    with pytest.raises(ValueError, match="convert a rotary GPT by to_gpt_neox"):
        to_gpt2(small(positions="rotary").state_dict())
    with pytest.raises(ValueError, match="convert learned ones by to_gpt2"):
        to_gpt_neox(small().state_dict(), num_heads=4)


def test_to_gpt2_and_from_gpt2_are_inverse():
    state = small().state_dict()
    back = from_gpt2(to_gpt2(state))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], weight) for name, weight in state.items())


def test_from_gpt2_converts_the_librarys_weights():
    theirs = library()
    state = theirs.state_dict() | {"transformer.h.0.attn.bias": torch.ones(1), "transformer.h.0.attn.masked_bias": 0}
    ours = GPT(**SMALL).eval()
    ours.load_state_dict(from_gpt2(state))
    ids = tokens(2, 7)
    assert (ours(ids) - theirs(ids).logits).abs().max() <= 1e-5


def test_from_gpt2_refuses_unknown_weights():
    with pytest.raises(ValueError, match=r"transformer.h.0.crossattention.c_attn.weight is no weight of a GPT"):
        from_gpt2({"transformer.h.0.crossattention.c_attn.weight": torch.ones(2, 2)})


def test_to_gpt2_refuses_rotary_positions():
    with pytest.raises(ValueError, match='GPT-2 has learned positions: build with positions="learned"'):
        to_gpt2(small(positions="rotary").state_dict())


# --- what may be seen ---


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_gradients_from_later_tokens_are_exactly_zero(positions):
    model, ids = small(positions=positions), tokens(2, CONTEXT)
    vectors = model.embed(ids).detach().requires_grad_()
    hidden = model.encoder(vectors, causal=True)
    for t in range(CONTEXT):
        (gradient,) = torch.autograd.grad((hidden[0, t] * numbers(24)).sum(), vectors, retain_graph=True)
        reached = gradient.abs().sum(-1)
        assert (reached[0, : t + 1] > 0).all()
        assert (reached[0, t + 1 :] == 0).all()
        assert (reached[1] == 0).all()  # nor from another text


def test_rotary_positions_depend_on_distances_alone_and_learned_ones_do_not():
    ids, places = tokens(2, 5), torch.arange(5)[None]
    turned, learned = small(positions="rotary"), small()
    assert (turned(ids) - turned(ids, positions=places + 7)).abs().max() <= 1e-5
    assert (turned(ids) - turned(ids, positions=2 * places)).abs().max() > 1e-3
    assert (learned(ids) - learned(ids, positions=places + 7)).abs().max() > 1e-3


def test_rotary_positions_with_a_cache_equal_those_without():
    model, ids = small(positions="rotary"), tokens(2, CONTEXT)
    reader = IncrementalDecoder(model, ids[:, :1], max_new_tokens=CONTEXT - 1)
    one_by_one = torch.cat([reader.read(some) for some in ids.split(1, dim=1)], dim=1)
    assert (one_by_one - model(ids)).abs().max() <= 1e-5


def test_changing_a_token_changes_no_earlier_logits():
    model, ids = small(), tokens(1, CONTEXT)
    for t in range(CONTEXT):
        other = ids.clone()
        other[0, t] = ids[0, t] % (VOCAB - 1) + 1
        before, after = (model(each)[0] for each in (ids, other))
        torch.testing.assert_close(before[:t], after[:t], atol=1e-6, rtol=0)
        assert (before[t:] - after[t:]).abs().amax(-1).min() > 1e-4


def test_probabilities_of_all_sequences_sum_to_one():
    model = small(vocab_size=3)
    # All 27 continuations of the token 1 by three tokens.
    texts = torch.cartesian_prod(torch.tensor([1]), *[torch.arange(3)] * 3)
    total = sum(model.log_prob(text).sum().exp() for text in texts)
    assert float(total) == pytest.approx(1, abs=1e-5)


def test_attention_maps_are_lower_triangles_whose_rows_sum_to_one():
    model = small()
    with attention_maps(model) as maps:
        model(tokens(2, 7))
    assert len(maps) == 3
    for weights in maps.values():
        assert not weights.triu(1).any()
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 7))


# --- loss and log_prob ---


def test_the_loss_is_the_mean_over_real_tokens():
    model, ids = small(), tokens(3, 8)
    ids[1, 5:], ids[2, 2:] = PAD, PAD
    terms = [model.log_prob(row[row != PAD]) for row in ids]
    torch.testing.assert_close(model.loss(ids), -torch.cat(terms).mean())


def test_a_row_of_padding_alone_changes_neither_loss_nor_gradient():
    model, ids = small(), tokens(2, 8)
    model.loss(ids).backward()
    alone = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    more = torch.cat([ids, torch.full((1, 8), PAD)])
    torch.testing.assert_close(model.loss(more), model.loss(ids))
    model.loss(more).backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, alone[name], atol=1e-6, rtol=1e-5)


def test_fully_masked_rows_have_finite_logits_and_gradients():
    model, ids = small(), tokens(2, 8)
    mask = torch.ones(2, 1, 1, 8, dtype=torch.bool)
    mask[1] = False
    logits = model(ids, mask=mask)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[:1], model(ids[:1]), atol=1e-5, rtol=0)
    logits.sum().backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize("length", [2, CONTEXT, CONTEXT + 1, CONTEXT + 2, 40, 41])
@pytest.mark.parametrize("stride", [1, 5, CONTEXT, None])
def test_log_prob_predicts_every_token_once_with_enough_context(stride, length):
    model, text = small(), tokens(length)
    found = model.log_prob(text, stride=stride)
    assert found.shape == (length - 1,)
    step = stride or CONTEXT // 2
    for t in range(1, length):
        # One of the windows that begin early enough: some number of predecessors that is allowed gives this value.
        fewest = min(t, CONTEXT - step + 1)
        values = [
            model(text[None, t - k : t])[0, -1].log_softmax(-1)[text[t]] for k in range(fewest, min(t, CONTEXT) + 1)
        ]
        assert (torch.stack(values) - found[t - 1]).abs().min() < 1e-5


def test_stride_one_gives_every_token_the_whole_context():
    model, text = small(), tokens(30)
    found = model.log_prob(text, stride=1)
    for t in range(1, 30):
        alone = model(text[None, max(0, t - CONTEXT) : t])[0, -1].log_softmax(-1)[text[t]]
        torch.testing.assert_close(found[t - 1], alone, atol=1e-5, rtol=0)


# --- weights ---


def test_weights_start_as_published():
    torch.manual_seed(0)
    model = GPT(vocab_size=2000, max_length=500, embed_dim=128, num_layers=6)
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            adds = name.endswith(("out_proj.weight", "linear2.weight"))
            expected = 0.02 / math.sqrt(12) if adds else 0.02
            assert weight.std().item() == pytest.approx(expected, rel=0.03), name
        elif name.endswith("bias"):
            assert not weight.any()
        else:
            assert (weight == 1).all()


def test_the_output_matrix_is_the_embedding():
    model = small()
    hidden = model.encoder(model.embed(tokens(1, 5)), causal=True)
    torch.testing.assert_close(model(tokens(1, 5)), hidden @ model.embed.weight.T)
    d, layers = 24, 3
    block = 12 * d * d + 13 * d  # 3 d^2 + d^2 + 8 d^2; biases 3 d + d + 4 d + d; two norms
    assert sum(weight.numel() for weight in model.parameters()) == (VOCAB + CONTEXT) * d + layers * block + 2 * d


def test_dropout_acts_in_training_only_and_where_gpt2_has_it():
    model = small(dropout=0.5)
    ids = tokens(2, 6)
    assert torch.equal(model(ids), model(ids))
    model.train()
    assert not torch.equal(model(ids), model(ids))
    block = model.encoder.blocks[0]
    x = numbers(2, 6, 24)
    assert torch.equal(block.feed_forward(x), block.feed_forward(x))
    assert torch.equal(block.self_attn(x), block.self_attn(x))


def test_bfloat16_autocast_gives_nearly_the_same_loss():
    model, ids = small(), tokens(4, CONTEXT)
    exact = float(model.loss(ids).detach())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model.loss(ids)
    assert rounded.dtype == torch.float32
    assert float(rounded.detach()) == pytest.approx(exact, rel=0.05)


# --- bad input ---


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_heads": 5}, "num_heads must divide embed_dim, and 5 does not divide 24"),
        ({"vocab_size": 0}, "vocab_size must be at least 1, not 0"),
        ({"max_length": 0}, "max_length must be at least 1, not 0"),
        ({"num_layers": 0}, "num_layers and hidden_dim start at 1"),
        ({"dropout": 1.0}, "dropout"),
        ({"positions": "clock"}, "positions"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GPT(**{**SMALL, **settings})


def test_a_sequence_longer_than_the_context_is_refused():
    with pytest.raises(ValueError, match="positions 0 to 12 are not within a context of 12: shorten the sequence"):
        small()(tokens(1, CONTEXT + 1))


@pytest.mark.parametrize("wrong", [-1, VOCAB])
def test_a_token_outside_the_vocabulary_is_refused(wrong):
    with pytest.raises(ValueError, match="tokens must lie between 0 and 10, these span .*: encode the text with"):
        small()(torch.tensor([[3, wrong]]))


def test_no_tokens_and_nothing_to_predict_are_refused():
    with pytest.raises(ValueError, match="there are no tokens: a text needs at least one"):
        small()(torch.empty(2, 0, dtype=torch.int64))
    for batch in (torch.full((2, 6), PAD), tokens(2, 1)):
        with pytest.raises(ValueError, match=r"has no token to predict: each text needs two or more"):
            small().loss(batch)


@pytest.mark.parametrize(("length", "stride"), [(1, 4), (0, 4), (20, CONTEXT + 1), (20, 0)])
def test_log_prob_refuses_short_texts_and_wrong_strides(length, stride):
    with pytest.raises(ValueError, match="log_prob needs two tokens and a stride from 1 to 12, not"):
        small().log_prob(tokens(length), stride=stride)
