"""Sampling filters against the transformers library, samples against their exact distribution, the sampler."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
import transformers
from torch import Tensor

from gensrc import decoding
from gensrc.decoding import generate, sampler
from tests.decoding.test_incremental import gpt, tokens

# --- filters ---


def logits_with_ties() -> Tensor:
    """Random ones, rounded ones with many ties, all alike, one far ahead, and some at minus infinity."""
    generator = torch.Generator().manual_seed(0)
    random = 3 * torch.randn(200, 30, generator=generator)
    tied = torch.randint(-2, 3, (200, 30), generator=generator).float()
    ahead = torch.zeros(1, 30)
    ahead[0, 7] = 100.0
    blocked = random[:20].masked_fill(random[:20] < 0, -math.inf)
    return torch.cat([random, tied, torch.zeros(1, 30), ahead, blocked])


CASES = {  # theirs by name, since looking it up imports it, and it is large
    **{f"temperature {t}": (decoding.with_temperature, "TemperatureLogitsWarper", t) for t in (0.01, 0.7, 1.0, 5.0)},
    **{f"top-k {k}": (decoding.keep_top_k, "TopKLogitsWarper", k) for k in (1, 2, 10, 30, 99)},
    **{f"top-p {p}": (decoding.keep_top_p, "TopPLogitsWarper", p) for p in (1e-6, 0.1, 0.5, 0.9, 0.999, 1.0)},
    **{f"min-p {p}": (decoding.keep_min_p, "MinPLogitsWarper", p) for p in (0.0, 0.01, 0.3, math.exp(-1), 1.0)},
}


@pytest.mark.parametrize("case", CASES)
def test_filters_equal_the_librarys(case: str) -> None:
    ours, theirs, value = CASES[case]
    warper = getattr(transformers, theirs)(value)
    logits = logits_with_ties()
    assert torch.equal(ours(logits, value), warper(None, logits.clone()))


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.3, 10.0])
def test_repetition_penalty_equals_the_librarys(penalty: float) -> None:
    logits = logits_with_ties()
    ids = torch.randint(30, (len(logits), 12), generator=torch.Generator().manual_seed(1))
    theirs = transformers.RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone())
    assert torch.equal(decoding.penalise_repetition(logits, ids, penalty), theirs)


def test_filters_keep_the_right_number_of_tokens() -> None:
    p = torch.tensor([[0.4, 0.3, 0.2, 0.1]])
    kept = {
        "k": decoding.keep_top_k(p.log(), 3),
        "p": decoding.keep_top_p(p.log(), 0.65),
        "all of p": decoding.keep_top_p(p.log(), 1.0),
        "min": decoding.keep_min_p(p.log(), 0.6),
    }
    assert {name: row.isfinite().sum().item() for name, row in kept.items()} == {
        "k": 3,
        "p": 2,
        "all of p": 4,
        "min": 2,
    }
    assert torch.allclose(kept["p"].softmax(-1), torch.tensor([[4 / 7, 3 / 7, 0, 0]]))


# What a setting must be, the call that gets it wrong, and what the message says.
WRONG = {
    "temperature 0": (partial(decoding.with_temperature, temperature=0.0), "the limit towards 0, choose with greedy"),
    "temperature negative": (partial(decoding.with_temperature, temperature=-1.0), "must be positive and finite"),
    "temperature infinite": (partial(decoding.with_temperature, temperature=math.inf), "positive and finite, not inf"),
    "top_k 0": (partial(decoding.keep_top_k, top_k=0), "top_k must be at least 1, not 0"),
    "top_p 0": (partial(decoding.keep_top_p, top_p=0.0), r"top_p must lie in \(0, 1\], not 0.0"),
    "top_p negative": (partial(decoding.keep_top_p, top_p=-0.1), r"top_p must lie in \(0, 1\]"),
    "top_p above 1": (partial(decoding.keep_top_p, top_p=1.1), r"top_p must lie in \(0, 1\], not 1.1"),
    "top_p not a number": (partial(decoding.keep_top_p, top_p=math.nan), r"top_p must lie in \(0, 1\], not nan"),
    "min_p negative": (partial(decoding.keep_min_p, min_p=-0.1), r"min_p must lie in \[0, 1\], not -0.1"),
    "min_p above 1": (partial(decoding.keep_min_p, min_p=1.01), r"min_p must lie in \[0, 1\], not 1.01"),
    "penalty 0": (
        partial(decoding.penalise_repetition, ids=torch.zeros(1, 1).long(), repetition_penalty=0.0),
        "repetition_penalty must be positive, not 0.0",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_settings_out_of_range_are_refused(case: str) -> None:
    call, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(1, 5))
    name = next(key for key in call.keywords if key != "ids")
    with pytest.raises(ValueError, match=message):
        generate(gpt(), tokens(1, 3), max_new_tokens=2, choose=sampler(**{name: call.keywords[name]}))


# --- drawing ---

SHOWN = 2 * torch.randn(1, 12, generator=torch.Generator().manual_seed(3))


def exact(temperature: float = 1.0, top_k: int = 12, top_p: float = 1.0, min_p: float = 0.0) -> Tensor:
    """The law of the next token, written out in double precision without the module."""
    p = (SHOWN[0].double() / temperature).softmax(-1)
    p = torch.where(p >= p.sort(descending=True).values[top_k - 1], p, 0)
    p /= p.sum()
    falling, order = p.sort(descending=True)
    needed = falling.cumsum(0) - falling < top_p
    p = torch.zeros_like(p).scatter(0, order, falling * needed)
    p /= p.sum()
    p = torch.where(p >= min_p * p.max(), p, 0)
    return p / p.sum()


def p_value(drawn: Tensor, law: Tensor) -> float:
    """Pearson's test: how often a sample of this law is as far from it as what was drawn."""
    possible = law > 0
    counts = drawn.bincount(minlength=len(law)).double()
    if counts[~possible].any():
        return 0.0
    wanted = len(drawn) * law[possible]
    statistic = ((counts[possible] - wanted) ** 2 / wanted).sum().item()
    half = torch.tensor([int(possible.sum()) - 1, statistic], dtype=torch.float64) / 2
    return torch.special.gammaincc(*half).item()


SETTINGS = [
    {},
    {"temperature": 0.6},
    {"temperature": 1.8},
    {"top_k": 4},
    {"top_p": 0.8},
    {"min_p": 0.1},
    {"temperature": 1.5, "top_k": 9, "top_p": 0.9, "min_p": 0.05},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_samples_follow_the_filtered_distribution(settings: dict[str, float]) -> None:
    choose = sampler(**settings, generator=torch.Generator().manual_seed(0))
    drawn = choose(SHOWN.expand(40_000, -1), torch.zeros(40_000, 1).long())
    assert p_value(drawn, exact(**settings)) > 1e-3
    # The test has teeth: draws of a slightly different law fail it.
    off = {"temperature": 1.1 * settings.get("temperature", 1.0)}
    other = sampler(**(settings | off), generator=torch.Generator().manual_seed(0))
    assert p_value(other(SHOWN.expand(40_000, -1), torch.zeros(40_000, 1).long()), exact(**settings)) < 1e-3


def test_tokens_of_probability_zero_are_never_drawn() -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]])

    class Ends:
        """Heights at both ends of what `torch.rand` can give."""

        def __call__(self, *shape: int, **_: object) -> Tensor:
            return torch.tensor([[0.0], [1 - 2**-53]], dtype=torch.float64)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", Ends())
        assert decoding.draw(logits.expand(2, -1)).tolist() == [1, 3]


LEFT_NO_CHOICE = {
    "NaN": (math.nan, "row 1 of the logits holds nan"),
    "infinity": (math.inf, "row 1 of the logits holds inf"),
    "nothing left": (-math.inf, "row 1 of the logits is -inf throughout, so no token is left"),
}


@pytest.mark.parametrize("case", LEFT_NO_CHOICE)
@pytest.mark.parametrize("choose", [decoding.draw, lambda logits: decoding.greedy(logits, tokens(2, 3))])
def test_logits_that_leave_no_choice_are_named_by_their_row(choose: Callable[[Tensor], Tensor], case: str) -> None:
    wrong, message = LEFT_NO_CHOICE[case]
    logits = torch.zeros(2, 77)
    logits[1, 5 if wrong > 0 or math.isnan(wrong) else slice(None)] = wrong
    with pytest.raises(ValueError, match=message):
        choose(logits)
    assert 0 <= int(choose(logits[:1].expand(2, -1))[1]) < 77


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_logits_that_overflow_when_divided_are_drawn_from_all_the_same(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    logits = torch.tensor([[0.0, largest, largest, -largest], [3.0, 2.0, -1.0, 2.0]], dtype=dtype)
    warm = decoding.with_temperature(logits, 0.5)
    torch.testing.assert_close(warm[0].softmax(-1), torch.tensor([0, 0.5, 0.5, 0], dtype=dtype))
    assert torch.equal(warm[1], logits[1] / 0.5), "and the other rows stay as they are"
    hidden = torch.tensor([[-largest, 1.0, 2.0], [-largest] * 3], dtype=dtype)
    colder = decoding.with_temperature(hidden, 0.5)
    assert colder.tolist() == [[-math.inf, 2, 4], [0, 0, 0]], "nor is a token that was hidden any matter"
    drawn = sampler(temperature=0.5, generator=torch.Generator().manual_seed(0))(logits.repeat(50, 1), tokens(100, 1))
    assert set(drawn[::2].tolist()) == {1, 2}


def test_the_same_seed_gives_the_same_text_and_another_seed_another() -> None:
    model, prompt = gpt(), tokens(3, 5)

    def text(seed: int) -> Tensor:
        choose = sampler(generator=torch.Generator().manual_seed(seed))
        return generate(model, prompt, max_new_tokens=30, choose=choose)

    assert torch.equal(text(0), text(0))
    assert not torch.equal(text(0), text(1))


def test_sampling_at_a_low_temperature_is_greedy() -> None:
    model, prompt = gpt(), tokens(3, 5)
    cold = sampler(temperature=1e-4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        generate(model, prompt, max_new_tokens=30, choose=cold), generate(model, prompt, max_new_tokens=30)
    )


def test_own_filters_come_last_and_get_all_ids_so_far() -> None:
    model, prompt, seen = gpt(), tokens(2, 5), []

    def only_new(logits: Tensor, ids: Tensor) -> Tensor:
        seen.append(ids.shape[1])
        return logits.scatter(1, ids, -math.inf)

    choose = sampler(filters=[only_new], generator=torch.Generator().manual_seed(0))
    written = generate(model, prompt, max_new_tokens=12, choose=choose)
    assert seen == list(range(5, 17))
    for row in written:
        assert len(set(row[5:].tolist())) == 12
        assert not set(row[5:].tolist()) & set(row[:5].tolist())
