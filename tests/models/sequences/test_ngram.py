"""N-grams: frequencies without a discount, Kneser and Ney's formula with one, and always a sum of 1."""

import itertools
import math

import pytest
import torch

from gensrc.models.sequences.ngram import NGram


def text(length: int = 60, vocab: int = 3, rows: int = 2) -> torch.Tensor:
    """Few enough tokens for some contexts to be missing."""
    return torch.randint(vocab, (rows, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("discount", [0.0, 0.75])
def test_probabilities_of_all_texts_sum_to_one(order: int, discount: float) -> None:
    model = NGram(text(), order=order, vocab_size=3, discount=discount)
    every = torch.tensor(list(itertools.product(range(3), repeat=4)))
    assert model.log_prob(every).sum(1).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_probabilities_without_a_discount_are_frequencies() -> None:
    model = NGram(torch.tensor([[0, 1, 0, 1, 0, 2, 0]]), order=2, vocab_size=3, discount=0.0)
    assert model.probs(torch.tensor([1, 0])).tolist() == pytest.approx([0, 2 / 3, 1 / 3])
    assert model.probs(torch.tensor([0, 1])).tolist() == pytest.approx([1, 0, 0])
    assert model.probs(torch.empty(0, dtype=torch.int64)).tolist() == [1, 0, 0]  # how the text began


def test_the_formula_of_kneser_and_ney_by_hand() -> None:
    # Pairs: (start 0), 01, 11, 10, 01. After 0: 1 twice. After 1: 0 once, 1 once.
    model = NGram(torch.tensor([[0, 1, 1, 0, 1]]), order=2, vocab_size=3, discount=0.5)
    # Different tokens (or the start) before: 0 has two, 1 has two, 2 none; half of each is discounted.
    base = [(2 - 0.5) / 4 + 0.5 * 2 / 4 / 3] * 2 + [0.5 * 2 / 4 / 3]
    after_zero = [0.5 * 1 / 2 * p for p in base]
    after_zero[1] += (2 - 0.5) / 2
    assert model.probs(torch.tensor([0])).tolist() == pytest.approx(after_zero)
    after_one = [0.5 * 2 / 2 * p for p in base]
    after_one[0] += (1 - 0.5) / 2
    after_one[1] += (1 - 0.5) / 2
    assert model.probs(torch.tensor([1])).tolist() == pytest.approx(after_one)
    assert model.probs(torch.tensor([2])).tolist() == pytest.approx(base)  # never seen: as if it were not there


def test_a_discount_makes_every_probability_positive() -> None:
    model = NGram(torch.zeros(1, 9, dtype=torch.int64), order=3, vocab_size=4)
    assert model.log_prob(torch.tensor([[3, 2, 1, 0]])).isfinite().all()


def test_higher_orders_fit_the_training_text_better() -> None:
    cycle = torch.tensor([[0, 0, 1] * 50])  # what follows 0 depends on what was before
    cost = [-NGram(cycle, order=order, vocab_size=2).log_prob(cycle).mean().item() for order in (1, 2, 3)]
    assert cost[0] > 0.6 > cost[1] > 0.4 > 0.1 > cost[2]


def test_samples_follow_the_probabilities() -> None:
    model = NGram(text(), order=2, vocab_size=3)
    drawn = model.sample(4_000, generator=torch.Generator().manual_seed(0))
    after_one = torch.bincount(drawn[1:][drawn[:-1] == 1], minlength=3).double()
    assert (after_one / after_one.sum() - model.probs(torch.tensor([0, 1]))).abs().max() < 0.05


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        ([[0, 1]], {"order": 3}, r"texts of 2 tokens are shorter than the order 3: give longer ones, or a lower order"),
        ([[0, 1]], {"order": 0}, r"order must be at least 1"),
        ([[0, 1]], {"order": 1, "discount": 1.0}, r"discount from 0 to below 1, not 1 and 1.0"),
        ([[0, 3]], {"order": 1}, r"tokens must lie between 0 and 2, these span 0 to 3"),
    ],
)
def test_bad_input_is_refused(tokens: list[list[int]], options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NGram(torch.tensor(tokens), vocab_size=3, **options)


def test_contexts_too_many_to_be_numbered_are_refused() -> None:
    with pytest.raises(ValueError, match="order 12 is too high for 77 tokens"):
        NGram(torch.zeros(1, 20, dtype=torch.int64), order=12, vocab_size=77)


def test_log_prob_refuses_unknown_tokens() -> None:
    with pytest.raises(ValueError, match="tokens must lie between 0 and 2"):
        NGram(text(), order=2, vocab_size=3).log_prob(torch.tensor([[5]]))


def test_unigrams_are_coin_tosses() -> None:
    model = NGram(torch.tensor([[0, 1] * 500]), order=1, vocab_size=2)
    assert -model.log_prob(torch.tensor([[0, 1, 1]])).mean().item() == pytest.approx(math.log(2), rel=1e-3)
