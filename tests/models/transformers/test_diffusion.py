"""Masked diffusion: the bound against enumerated orders and masks, sampling one by one, bad input."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from gensrc.models.transformers.diffusion import MaskedDiffusion, masked_places, unmask

VOCAB, LENGTH = 3, 3
MASK = VOCAB
SMALL = {"vocab_size": VOCAB, "max_length": 8, "embed_dim": 16, "num_heads": 2, "num_layers": 2}
TEXTS = torch.tensor([*itertools.product(range(VOCAB), repeat=LENGTH)])


def small(kind=MaskedDiffusion, seed: int = 0, **changes):
    """A network with large weights, so that its conditionals depend strongly on the rest, and do not fit together."""
    torch.manual_seed(seed)
    model = kind(**{**SMALL, **changes}).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(12)
    return model


class Conditionals(MaskedDiffusion):
    """The true conditionals of a joint distribution of three tokens, in place of a network."""

    def __init__(self, joint: Tensor) -> None:
        super().__init__(**SMALL)
        self.joint = joint

    def read(self, ids: Tensor, **_) -> Tensor:
        rows = []
        for row in ids.tolist():
            for place in range(LENGTH):
                kept = [
                    slice(None) if token == MASK or at == place else slice(token, token + 1)
                    for at, token in enumerate(row)
                ]
                others = [axis for axis in range(LENGTH) if axis != place]
                rows.append(self.joint[tuple(kept)].sum(others))
        return torch.stack(rows).view(len(ids), LENGTH, VOCAB).log()


def joint(seed: int = 0) -> Tensor:
    return torch.rand(VOCAB, VOCAB, VOCAB, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).softmax(
        0
    ) / (VOCAB * VOCAB)


def product() -> Tensor:
    parts = torch.tensor([[0.2, 0.3, 0.5], [0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], dtype=torch.float64)
    return torch.einsum("i,j,k->ijk", *parts)


@torch.no_grad()
def log_p(model: MaskedDiffusion, text: Tensor, known: tuple[int, ...], place: int) -> float:
    """log p(token at a place | those at the known places), from one call."""
    row = torch.full_like(text, MASK)
    row[list(known)] = text[list(known)]
    return float(model(row[None])[0, place].double().log_softmax(-1)[text[place]])


def by_orders(model: MaskedDiffusion, text: Tensor) -> tuple[float, float]:
    """-log of the mean over all orders of p(text | order), and the mean of its -log."""
    nats = [
        -sum(log_p(model, text, order[:at], place) for at, place in enumerate(order))
        for order in itertools.permutations(range(len(text)))
    ]
    return -math.log(sum(math.exp(-each) for each in nats) / len(nats)), sum(nats) / len(nats)


# --- the bound ---


def test_the_bound_is_the_mean_over_all_orders_and_never_below_the_exact_value():
    model = small()
    exact, bound = -model.exact_log_prob(TEXTS), model.exact_bound(TEXTS)
    for text, one, other in zip(TEXTS, exact.tolist(), bound.tolist(), strict=True):
        assert (one, other) == pytest.approx(by_orders(model, text), abs=1e-5)
    assert (bound >= exact - 1e-9).all()
    assert (bound - exact).max() > 0.05, "conditionals of a random network do not fit together"
    assert exact.neg().exp().sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("table", [product(), joint()])
def test_the_bound_is_tight_for_the_conditionals_of_one_distribution(table):
    model = Conditionals(table)
    wanted = -table.flatten().log()
    torch.testing.assert_close(model.exact_bound(TEXTS), wanted, atol=1e-9, rtol=0)
    torch.testing.assert_close(-model.exact_log_prob(TEXTS), wanted, atol=1e-9, rtol=0)


def test_the_bound_equals_the_integral_over_the_rate_with_the_weight_one_over_t():
    """Each token masked with probability t on its own: Gauss's rule is exact for polynomials in t."""
    model, text = small(), TEXTS[5]
    # On [-1, 1], four nodes are exact up to degree 7.
    nodes = torch.tensor([0.3399810435848563, 0.8611363115940526], dtype=torch.float64)
    nodes, weights = torch.cat([-nodes, nodes]), torch.tensor([0.6521451548625461, 0.3478548451374538] * 2).double()
    total = 0.0
    for t, share in zip((nodes + 1) / 2, weights / 2, strict=True):
        for masked in itertools.product([False, True], repeat=LENGTH):
            known = tuple(at for at in range(LENGTH) if not masked[at])
            nats = -sum(log_p(model, text, known, at) for at in range(LENGTH) if masked[at])
            total += float(share * t ** sum(masked) * (1 - t) ** len(known) / t) * nats
    assert total == pytest.approx(float(model.exact_bound(text[None])), abs=1e-5)


def test_estimates_of_the_bound_agree_with_the_enumeration_within_their_error():
    model, text = small(), TEXTS[[5, 11]]
    generator = torch.Generator().manual_seed(0)
    exact = model.exact_bound(text)
    for estimate in (
        torch.stack([model.bound(text, samples=7, generator=generator) for _ in range(150)]).double(),
        torch.stack([model.loss(text[:1], generator=generator).detach() * LENGTH for _ in range(1000)])[:, None],
    ):
        error = estimate.std(0) / math.sqrt(len(estimate))
        assert (error > 0).all()
        assert ((estimate.mean(0) - exact[: estimate.shape[1]]).abs() <= 4 * error).all()


def test_a_network_that_guesses_has_a_loss_without_variance():
    """All tokens equally likely: each weight is divided by exactly as many terms."""
    model = small()
    with torch.no_grad():
        model.gpt.embed.weight.zero_()
    for seed in range(5):
        loss = model.loss(TEXTS, generator=torch.Generator().manual_seed(seed))
        assert float(loss.detach()) == pytest.approx(math.log(VOCAB), abs=1e-6)


def test_every_number_of_masked_places_and_every_place_is_as_likely():
    generator = torch.Generator().manual_seed(0)
    places = torch.cat([masked_places(7, 5, generator=generator) for _ in range(1500)])
    numbers = places.sum(1).bincount(minlength=6)
    assert numbers[0] == 0
    assert (numbers[1:] / len(places)).tolist() == pytest.approx([1 / 5] * 5, abs=0.015)
    for number in range(1, 6):
        rows = places[places.sum(1) == number]
        assert rows.float().mean(0).tolist() == pytest.approx([number / 5] * 5, abs=0.03)
    # Any run of rows has each number about equally often; in 35 independent ones it would vary by 2.4, in 200 by 5.7.
    numbers = masked_places(200, 5, generator=generator).sum(1)
    for run in (numbers, *numbers.unfold(0, 35, 7)):
        assert (run.bincount(minlength=6)[1:] - len(run) / 5).abs().max() <= 2


def test_unmasked_tokens_do_not_enter_the_loss_and_no_place_sees_its_own_masked_token():
    model = small()
    text, other = TEXTS[:1], TEXTS[-1:]
    row = torch.tensor([[0, MASK, 0]])
    assert torch.equal(model.predict(row, text), model.predict(row, other))
    masked = torch.tensor([[False, True, False]])
    first, second = (model._nats(torch.tensor([each]), masked) for each in ([0, 1, 0], [0, 2, 0]))
    assert torch.equal(first[0, ::2], second[0, ::2])


def test_the_network_is_that_of_a_gpt_but_sees_later_tokens():
    model = small()
    one = torch.tensor([[1], [MASK]])  # of a single token, the causal mask hides nothing
    torch.testing.assert_close(model(one), model.gpt(one)[..., :-1])
    rows = torch.tensor([[1, MASK, 0], [1, MASK, 2]])
    first, second = model(rows)
    assert (first[0] - second[0]).abs().max() > 1e-3


# --- sampling ---


def test_a_prompt_stays_and_what_it_leaves_is_drawn_given_all_of_it():
    model, generator = small(), torch.Generator().manual_seed(0)
    row = torch.tensor([[2, MASK, 1]]).expand(20_000, -1)
    *_, written = model.unmask(row, steps=1, generator=generator)
    assert (written[:, [0, 2]] == torch.tensor([2, 1])).all()
    wanted = model(row[:1])[0, 1].softmax(-1)
    found = written[:, 1].bincount(minlength=VOCAB) / len(written)
    assert found.tolist() == pytest.approx(wanted.tolist(), abs=0.015)


@torch.no_grad()
def chi_squared(rows: Tensor, p: Tensor) -> float:
    """Of the counts of all texts, in standard deviations from its mean."""
    digits = VOCAB ** torch.arange(LENGTH - 1, -1, -1)
    counts = (rows * digits).sum(1).bincount(minlength=len(p))
    expected = p * len(rows)
    kept = expected > 5
    degrees = int(kept.sum()) - 1
    return float((((counts - expected) ** 2 / expected)[kept].sum() - degrees) / math.sqrt(2 * degrees))


def test_as_many_steps_as_tokens_sample_from_the_distribution_that_is_computed():
    model = small()
    rows = model.sample(20_000, length=LENGTH, generator=torch.Generator().manual_seed(0))
    assert chi_squared(rows, model.exact_log_prob(TEXTS).exp()) < 4
    assert torch.equal(
        rows, model.sample(20_000, length=LENGTH, steps=LENGTH, generator=torch.Generator().manual_seed(0))
    )


def test_one_step_draws_all_tokens_independently():
    model = small()
    rows = model.sample(20_000, length=LENGTH, steps=1, generator=torch.Generator().manual_seed(0))
    alone = model(torch.full((1, LENGTH), MASK))[0].detach().double().softmax(-1)
    together = torch.einsum("i,j,k->ijk", *alone).flatten()
    assert chi_squared(rows, together) < 4
    assert chi_squared(rows, model.exact_log_prob(TEXTS).exp()) > 10, "so the test tells one from the other"


def test_by_confidence_the_likeliest_drawn_token_comes_first():
    logits = torch.tensor([[20.0, 0.0, 0.0], [32.0, 0.0, 0.0], [26.0, 0.0, 0.0]]).expand(2, 3, 3)
    blank = torch.full((2, 3), MASK)
    settings = {"mask_id": MASK, "steps": 3, "order": "confidence"}
    rows = [each[0].tolist() for each in unmask(lambda ids: logits, blank, **settings)]
    assert rows == [[3, 3, 3], [3, 0, 3], [3, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("order", ["random", "confidence"])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 20])
def test_each_step_fills_in_equally_many_tokens_of_every_row(order, steps):
    model = small()
    ids = torch.full((3, 8), MASK)
    ids[1, 2:5] = 1  # five masked places
    ids[2] = 2  # none
    states = [*model.unmask(ids, steps=steps, order=order, generator=torch.Generator().manual_seed(1))]
    assert torch.equal(states[0], ids)
    assert len(states) == 1 + min(steps, 8)
    left = torch.stack([(each == MASK).sum(1) for each in states])
    for row, masked in enumerate([8, 5, 0]):
        filled = -left[:, row].diff()
        assert (left[0, row], left[-1, row]) == (masked, 0)
        assert filled.max() - filled.min() <= 1
    for before, after in itertools.pairwise(states):
        assert (before == after)[before != MASK].all(), "a written token stays"
    assert torch.equal(states[-1][2], ids[2])


def test_a_row_without_a_masked_token_is_returned_as_it_is():
    states = [*small().unmask(TEXTS, steps=4)]
    assert len(states) == 1
    assert torch.equal(states[0], TEXTS)


def test_a_lower_temperature_sharpens_the_drawn_distribution_as_the_formula_says():
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(30_000, 1, 3)
    blank = torch.full((30_000, 1), MASK)
    settings = {"mask_id": MASK, "steps": 1, "temperature": 0.5, "generator": torch.Generator().manual_seed(0)}
    *_, rows = unmask(lambda ids: logits, blank, **settings)
    wanted = torch.tensor([0.0, 2.0, 4.0]).softmax(-1)
    assert (rows.flatten().bincount() / len(rows)).tolist() == pytest.approx(wanted.tolist(), abs=0.01)


# --- bad input ---


def test_mask_in_a_text_is_refused_and_known_to_the_network():
    model, text = small(), torch.tensor([[0, MASK, 1]])
    assert model(text).shape == (1, 3, VOCAB)
    for call in (model.loss, model.exact_bound, model.exact_log_prob, lambda ids: model.bound(ids, samples=1)):
        with pytest.raises(ValueError, match="between 0 and 2, these span 0 to 3.*leave the masking to the model"):
            call(text)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.loss(torch.zeros(2, 0, dtype=torch.int64)), "a text needs at least one"),
        (lambda m: m.sample(2, length=0), "length must be at least 1, not 0"),
        (lambda m: m.sample(2, length=9), "not within a context of 8"),
        (lambda m: m.loss(torch.zeros(2, 9, dtype=torch.int64)), "not within a context of 8"),
        (lambda m: m.sample(2, length=3, steps=0), "steps must be at least 1, not 0"),
        (lambda m: m.sample(2, length=3, order="left"), "order must be one of random, confidence, not left"),
        (lambda m: m.sample(2, length=3, temperature=0.0), "temperature must be positive"),
        (lambda m: [*m.unmask(torch.tensor([[0, 4]]), steps=1)], "between 0 and 3, these span 0 to 4"),
        (lambda m: m.bound(TEXTS, samples=0), "samples must be at least 1, not 0"),
        (lambda m: m.exact_bound(torch.zeros(1, 13, dtype=torch.int64)), "enumerate those of 12 at most"),
        (lambda m: MaskedDiffusion(**{**SMALL, "vocab_size": 0}), "vocab_size must be at least 1, not 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(small())
