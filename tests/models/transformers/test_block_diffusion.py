"""Block diffusion: autoregressive with blocks of one, masked diffusion with one block, no leaks, cache, bad input."""

import itertools
from functools import partial

import pytest
import torch

from gensrc.models.transformers.block_diffusion import BlockDiffusion, block_causal_mask
from gensrc.models.transformers.diffusion import MaskedDiffusion, unmask
from tests.models.transformers.test_diffusion import MASK, VOCAB, small

TEXTS = torch.tensor([*itertools.product(range(VOCAB), repeat=4)])


def blocks_of(block: int, **changes) -> BlockDiffusion:
    return small(partial(BlockDiffusion, block=block), **changes)


@torch.no_grad()
def autoregressive(model: MaskedDiffusion, texts: torch.Tensor) -> torch.Tensor:
    """log p of each token given those before it, by the causal GPT with these weights, one call a token."""
    found = []
    for place in range(texts.shape[1]):
        asked = torch.cat([texts[:, :place], torch.full((len(texts), 1), MASK)], 1)
        log_p = model.gpt(asked)[:, -1, :VOCAB].double().log_softmax(-1)
        found.append(log_p.gather(1, texts[:, place, None])[:, 0])
    return torch.stack(found, 1)


@pytest.mark.parametrize("positions", ["learned", "rotary", "sinusoidal"])
def test_with_blocks_of_one_token_all_is_that_of_the_autoregressive_model(positions):
    model = blocks_of(1, positions=positions)
    each = autoregressive(model, TEXTS)
    wanted = each.sum(1)
    masks = torch.full_like(TEXTS, MASK)
    found = model.predict(masks, TEXTS).detach().log_softmax(-1).gather(2, TEXTS[..., None])[..., 0]
    assert (found - each).abs().max() <= 1e-5
    assert (model.exact_log_prob(TEXTS) - wanted).abs().max() <= 1e-5
    assert (model.exact_bound(TEXTS) + wanted).abs().max() <= 1e-5, "the bound is no bound but the value"
    assert (model.bound(TEXTS, samples=1) + wanted).abs().max() <= 1e-5, "and has no variance"
    assert abs(float(model.loss(TEXTS).detach()) + float(each.mean())) <= 1e-5


def test_with_one_block_all_is_that_of_masked_diffusion():
    block, whole = blocks_of(4), small()
    assert (block.exact_bound(TEXTS) - whole.exact_bound(TEXTS)).abs().max() <= 1e-5
    assert (block.exact_log_prob(TEXTS) - whole.exact_log_prob(TEXTS)).abs().max() <= 1e-5
    losses, drawn = [], []
    for model in (block, whole):
        losses.append(model.loss(TEXTS, generator=torch.Generator().manual_seed(0)))
        drawn.append(model.sample(50, length=4, steps=2, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(*losses)
    assert torch.equal(*drawn)


@pytest.mark.parametrize("block", [1, 2, 4])
def test_the_bound_is_never_below_the_exact_value_and_this_is_a_distribution(block):
    model = blocks_of(block)
    exact, bound = -model.exact_log_prob(TEXTS), model.exact_bound(TEXTS)
    assert (bound >= exact - 1e-9).all()
    assert float((bound - exact).max()) > 0.01 or block == 1
    assert float(exact.neg().exp().sum()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_all_blocks_at_once_have_the_logits_of_each_block_after_the_clean_ones(positions):
    model = blocks_of(2, positions=positions)
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(VOCAB, (5, 8), generator=generator)
    noisy = clean.masked_fill(torch.rand(5, 8, generator=generator) < 0.6, MASK)
    together = model.predict(noisy, clean)
    for start in range(0, 8, 2):
        alone = model(torch.cat([clean[:, :start], noisy[:, start : start + 2]], 1))[:, start:]
        torch.testing.assert_close(together[:, start : start + 2], alone, atol=1e-4, rtol=0)


def test_no_block_sees_its_own_clean_tokens_or_later_ones():
    model = blocks_of(2)
    noisy, clean = torch.full((1, 6), MASK), torch.tensor([[0, 1, 2, 0, 1, 2]])
    logits = model.predict(noisy, clean)
    for place in range(6):
        other = clean.clone()
        other[0, place] = (clean[0, place] + 1) % VOCAB
        changed = (model.predict(noisy, other) != logits).any(-1)[0]
        first_later = 2 * (place // 2) + 2
        assert not changed[:first_later].any()
        assert changed[first_later:].all()


def test_the_mask_has_whole_blocks():
    mask = block_causal_mask(6, 3)[0, 0].int().tolist()
    assert mask == [[1, 1, 1, 0, 0, 0]] * 3 + [[1] * 6] * 3
    assert torch.equal(block_causal_mask(5, 1)[0, 0], torch.ones(5, 5).tril().bool())


@pytest.mark.parametrize("order", ["random", "confidence"])
@pytest.mark.parametrize(("block", "steps"), [(1, 1), (2, 2), (4, 3), (8, 2)])
def test_with_the_cache_the_texts_are_those_without(block, steps, order):
    """Without it: each block filled in by the whole text's logits."""
    model = blocks_of(block)
    ids = torch.full((6, 8), MASK)
    ids[:, 0], ids[1, 3], ids[2, :4], ids[3] = 1, 2, 0, 1  # prompts of several kinds
    generators = [torch.Generator().manual_seed(4) for _ in range(2)]
    states = [*model.unmask(ids, steps=steps, order=order, generator=generators[0])]
    plain = ids
    for start in range(0, 8, block):
        before, part = plain[:, :start], plain[:, start : start + block]
        filled = unmask(
            lambda part, before=before: model(torch.cat([before, part], 1))[:, before.shape[1] :],
            part,
            mask_id=MASK,
            steps=steps,
            order=order,
            generator=generators[1],
        )
        *_, part = filled
        plain = torch.cat([before, part, plain[:, start + block :]], 1)
    assert torch.equal(states[0], ids)
    assert torch.equal(states[-1], plain)
    most = (ids == MASK).unflatten(1, (-1, block)).sum(2).amax(0)
    assert len(states) == 1 + int(most.clamp(max=steps).sum())
    for before, after in itertools.pairwise(states):
        assert (before == after)[before != MASK].all()


def test_a_gradient_reaches_every_weight():
    model = blocks_of(2)
    model.loss(TEXTS).backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.loss(torch.zeros(2, 5, dtype=torch.int64)), "blocks of 2 do not divide a text of 5 tokens"),
        (lambda m: m.bound(torch.zeros(2, 3, dtype=torch.int64), samples=1), "blocks of 2 do not divide a text of 3"),
        (lambda m: m.sample(2, length=3), "blocks of 2 do not divide a text of 3 tokens"),
        (lambda m: m.unmask(torch.tensor([[0, MASK, 1]]), steps=1), "blocks of 2 do not divide a text of 3 tokens"),
        (lambda m: m.loss(torch.tensor([[0, MASK]])), "between 0 and 2, these span 0 to 3"),
        (lambda m: m.unmask(torch.tensor([[0, 4]]), steps=1), "between 0 and 3, these span 0 to 4"),
        (lambda m: m(torch.tensor([[0, 4]])), "between 0 and 3, these span 0 to 4"),
        (lambda m: m.loss(torch.zeros(2, 10, dtype=torch.int64)), "not within a context of 8"),
        (lambda m: m.sample(2, length=10), "not within a context of 8"),
        (lambda m: blocks_of(0), "block must be at least 1, not 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(blocks_of(2))
