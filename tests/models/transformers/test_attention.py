"""Attention: equal to torch's on copied weights, masks, finite outputs of fully masked queries."""

import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gensrc.models.transformers import attention
from gensrc.models.transformers.attention import AdditiveScores, MultiHeadAttention, causal_mask, padding_mask

EMBED, HEADS = 24, 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed))


def pair(*, bias: bool = True) -> tuple[MultiHeadAttention, nn.MultiheadAttention]:
    """Ours and torch's, with the same weights, none of them zero."""
    torch.manual_seed(0)
    ours = MultiHeadAttention(EMBED, HEADS, bias=bias)
    theirs = nn.MultiheadAttention(EMBED, HEADS, bias=bias, batch_first=True)
    with torch.no_grad():
        for weight in ours.parameters():
            weight.copy_(torch.randn_like(weight) / 5)
        theirs.in_proj_weight.copy_(ours.in_proj.weight)
        theirs.out_proj.weight.copy_(ours.out_proj.weight)
        if bias:
            theirs.in_proj_bias.copy_(ours.in_proj.bias)
            theirs.out_proj.bias.copy_(ours.out_proj.bias)
    return ours, theirs


def cases() -> dict[str, tuple[list[torch.Tensor], dict, dict]]:
    """Inputs, our masks, torch's masks (True where attention is forbidden)."""
    x, other, values = numbers(3, 7, EMBED), numbers(3, 5, EMBED, seed=1), numbers(3, 5, EMBED, seed=2)
    lengths, few = torch.tensor([7, 4, 1]), torch.tensor([5, 2, 1])
    padding, forbidden = padding_mask(lengths, 7), ~padding_mask(lengths, 7)[:, 0, 0]
    future = torch.ones(7, 7, dtype=torch.bool).triu(1)
    return {
        "self": ([x], {}, {}),
        "padding": ([x], {"mask": padding}, {"key_padding_mask": forbidden}),
        "causal": ([x], {"causal": True}, {"attn_mask": future}),
        "causal mask": ([x], {"mask": causal_mask(7)}, {"attn_mask": future}),
        "both": (
            [x],
            {"mask": padding, "causal": True},
            {"key_padding_mask": forbidden, "attn_mask": future},
        ),
        "cross": ([x, other], {}, {}),
        "cross with values": ([x, other, values], {}, {}),
        "cross and padding": (
            [x, other],
            {"mask": padding_mask(few, 5)},
            {"key_padding_mask": ~padding_mask(few, 5)[:, 0, 0]},
        ),
    }


def outputs_and_gradients(module, inputs, call):
    inputs = [each.clone().requires_grad_() for each in inputs]
    output = call(*inputs)
    wanted = [*inputs, *module.parameters()]
    (output * numbers(*output.shape, seed=9)).sum().backward()
    gradients = [each.grad for each in wanted]
    for each in wanted:
        each.grad = None
    return [output.detach(), *gradients]


@pytest.mark.parametrize("written_out", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("case", cases())
def test_multi_head_attention_equals_torch_in_outputs_and_gradients(case, bias, written_out):
    ours, theirs = pair(bias=bias)
    inputs, our_masks, their_masks = cases()[case]

    def we(query, *others):
        if written_out:
            return ours.with_weights(query, *others, **our_masks)[0]
        return ours(query, *others, **our_masks)

    def they(query, key=None, value=None):
        key = query if key is None else key
        return theirs(query, key, key if value is None else value, need_weights=False, **their_masks)[0]

    found, expected = (outputs_and_gradients(*each) for each in ((ours, inputs, we), (theirs, inputs, they)))
    assert len(found) == len(expected) == 1 + len(inputs) + (4 if bias else 2)
    for mine, torchs in zip(found, expected, strict=True):
        assert (mine - torchs).abs().max() <= 1e-5


def test_weights_equal_those_of_torch_head_by_head():
    ours, theirs = pair()
    inputs, our_masks, their_masks = cases()["both"]
    _, weights = ours.with_weights(*inputs, **our_masks)
    _, expected = theirs(*inputs * 3, average_attn_weights=False, **their_masks)
    assert (weights - expected).abs().max() <= 1e-6


def test_written_out_equals_fused_and_torch_with_a_mask_of_each_head():
    q, k = numbers(2, 3, 6, 8), numbers(2, 3, 9, 8, seed=1)
    v = numbers(2, 3, 9, 5, seed=2)
    mask = torch.rand(2, 3, 6, 9, generator=generator(3)) < 0.5
    mask[..., 0] = True
    output, weights = attention.scaled_dot_product_attention(q, k, v, mask=mask)
    torch.testing.assert_close(output, attention.fused_attention(q, k, v, mask=mask), atol=1e-6, rtol=0)
    torch.testing.assert_close(output, F.scaled_dot_product_attention(q, k, v, attn_mask=mask), atol=1e-6, rtol=0)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 6))
    assert not weights[~mask].any()


def test_fewer_queries_than_keys_are_at_the_last_positions():
    q, k, v = numbers(1, 2, 6, 8), numbers(1, 2, 6, 8, seed=1), numbers(1, 2, 6, 8, seed=2)
    whole = attention.fused_attention(q, k, v, causal=True)
    last = attention.fused_attention(q[:, :, 4:], k, v, causal=True)
    torch.testing.assert_close(last, whole[:, :, 4:])


@pytest.mark.parametrize("written_out", [False, True])
def test_causal_attention_has_a_gradient_of_exactly_zero_from_every_later_position(written_out):
    ours, _ = pair()
    x = numbers(1, 6, EMBED).requires_grad_()
    for t in range(6):
        output = ours.with_weights(x, causal=True)[0] if written_out else ours(x, causal=True)
        (gradient,) = torch.autograd.grad(output[0, t].sum(), x)
        reached = gradient[0].abs().sum(-1)
        assert (reached[: t + 1] > 0).all()
        assert (reached[t + 1 :] == 0).all()


def test_attention_without_positions_commutes_with_a_permutation():
    ours, _ = pair()
    x, order = numbers(2, 7, EMBED), torch.randperm(7, generator=generator(4))
    torch.testing.assert_close(ours(x[:, order]), ours(x)[:, order], atol=1e-5, rtol=0)
    # As a set of keys the sequence has no order at all.
    torch.testing.assert_close(ours(x, x[:, order]), ours(x), atol=1e-5, rtol=0)
    assert (ours(x[:, order], causal=True) - ours(x, causal=True)[:, order]).abs().max() > 0.1


@pytest.mark.parametrize("written_out", [False, True])
def test_fully_masked_queries_give_zero_and_finite_gradients(written_out):
    ours, _ = pair()
    x = numbers(2, 4, EMBED).requires_grad_()
    mask = padding_mask(torch.tensor([4, 0]), 4)
    output, weights = ours.with_weights(x, mask=mask)
    assert not weights[1].any()
    if not written_out:
        output = ours(x, mask=mask)
    torch.testing.assert_close(output[1], ours.out_proj.bias.expand(4, EMBED))
    output.sum().backward()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(weight.grad).all() for weight in ours.parameters())
    assert not x.grad[1].any()


def test_additive_scores_are_the_perceptron_of_every_pair():
    torch.manual_seed(0)
    scores = AdditiveScores(query_dim=3, key_dim=5, hidden_dim=4)
    q, k = numbers(2, 6, 3), numbers(2, 7, 5, seed=1)
    found = scores(q, k)
    for b, i, j in [(0, 0, 0), (1, 5, 6), (0, 2, 4)]:
        hidden = scores.from_query.weight @ q[b, i] + scores.from_query.bias + scores.from_key.weight @ k[b, j]
        torch.testing.assert_close(found[b, i, j], scores.to_score.weight[0] @ hidden.tanh())


def test_scaled_dot_scores_divide_by_the_root_of_the_width():
    q, k = numbers(2, 6, 16), numbers(2, 7, 16, seed=1)
    torch.testing.assert_close(attention.dot_scores(q, k)[1, 2, 3], q[1, 2] @ k[1, 3])
    torch.testing.assert_close(attention.scaled_dot_scores(q, k), attention.dot_scores(q, k) / 4)


def test_cosine_scores_ignore_norms_and_divide_by_the_temperature():
    q, k = numbers(2, 6, 8), numbers(2, 7, 8, seed=1)
    expected = F.cosine_similarity(q.unsqueeze(2), k.unsqueeze(1), dim=-1)
    torch.testing.assert_close(attention.cosine_scores(q, k), expected)
    torch.testing.assert_close(attention.cosine_scores(50 * q, k, temperature=0.1), 10 * expected)
    assert not attention.cosine_scores(0 * q, k).any()
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="temperature must be positive"):
            attention.cosine_scores(q, k, temperature=temperature)


def test_padding_and_causal_masks_have_the_right_entries():
    assert padding_mask(torch.tensor([2, 0, 3]), 3)[:, 0, 0].tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 1]]
    assert causal_mask(2)[0, 0].tolist() == [[1, 0], [1, 1]]
    assert causal_mask(2, key_time=3)[0, 0].tolist() == [[1, 1, 0], [1, 1, 1]]
    both = padding_mask(torch.tensor([1]), 2) & causal_mask(2)
    assert both[0, 0].tolist() == [[1, 0], [1, 0]]
    with pytest.raises(ValueError, match=r"lengths must lie between 0 and 3: \[4\]"):
        padding_mask(torch.tensor([4]), 3)
    with pytest.raises(ValueError, match="3 queries need at least as many keys, not 2"):
        causal_mask(3, key_time=2)


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    ours, x = MultiHeadAttention(EMBED, HEADS, dropout=0.5), numbers(2, 7, EMBED)
    assert not torch.equal(ours(x), ours(x))
    ours.eval()
    assert torch.equal(ours(x), ours(x))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_heads": 5}, "num_heads must divide embed_dim, and 5 does not divide 24"),
        ({"num_heads": 0}, "num_heads must divide embed_dim"),
        ({"num_heads": 4, "dropout": 1.0}, r"dropout must lie in \[0, 1\), not 1.0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(EMBED, **settings)
    with pytest.raises(ValueError, match="widths must be at least 1"):
        AdditiveScores(query_dim=0, key_dim=1, hidden_dim=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([7, EMBED],), r"query must have shape \(batch, time, 24\), not \(7, 24\)"),
        (([2, 7, 8],), r"query must have shape \(batch, time, 24\), not \(2, 7, 8\)"),
        (([2, 7, EMBED], [3, 7, EMBED]), "query and key must be of one batch, not 2 and 3 examples"),
        (([2, 7, EMBED], [2, 5, EMBED], [2, 4, EMBED]), "each key needs one value, not 5 keys and 4 values"),
        (([2, 7, EMBED], None, [2, 4, EMBED]), "values need keys"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(arguments, message):
    ours, _ = pair()
    # Past the shape check of the tests themselves, which a reader does not have.
    forward = inspect.unwrap(MultiHeadAttention.forward)
    ours.project = inspect.unwrap(MultiHeadAttention.project).__get__(ours)
    with pytest.raises(ValueError, match=message):
        forward(ours, *[None if shape is None else numbers(*shape) for shape in arguments])


def test_masks_that_do_not_fit_are_refused():
    ours, _ = pair()
    forward, x = inspect.unwrap(MultiHeadAttention.forward), numbers(2, 7, EMBED)
    with pytest.raises(ValueError, match=r"a mask must have shape \(2, 4, 7, 7\), .* not \(2, 7\)"):
        forward(ours, x, mask=torch.ones(2, 7, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"not \(2, 1, 7, 6\)"):
        forward(ours, x, mask=torch.ones(2, 1, 7, 6, dtype=torch.bool))
    with pytest.raises(TypeError, match="a mask must be boolean"):
        forward(ours, x, mask=torch.zeros(1, 1, 7, 7))
