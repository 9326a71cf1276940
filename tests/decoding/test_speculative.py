"""Speculative decoding: its distribution enumerated, acceptance, greedy texts, cache, bad input."""

import itertools
import math
from functools import cache

import pytest
import torch
from torch import Tensor

from gensrc import decoding
from gensrc.data.vocabulary import BOS
from gensrc.decoding import generate
from gensrc.decoding.drafts import Draft, ModelDraft, NGramDraft, PromptLookup
from gensrc.decoding.speculative import (
    after,
    expected_tokens,
    likeliest,
    overlap,
    probabilities,
    ratios,
    speculate,
    verify,
)
from gensrc.models.sequences.ngram import NGram
from tests.decoding.test_incremental import gpt, tokens, translator

FEW = 3  # tokens of the small vocabulary
PROMPT = torch.tensor([[1, 2, 1]])


def small(seed: int = 0) -> torch.nn.Module:
    model = gpt(context=12, vocab_size=FEW, embed_dim=8, num_heads=2, num_layers=1)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        model.embed.weight.copy_(torch.randn(FEW, 8, generator=generator))
    return model


def ngram(vocab: int = FEW, order: int = 3) -> NGramDraft:
    text = torch.randint(vocab, (1, 400), generator=torch.Generator().manual_seed(3))
    return NGramDraft(NGram(text, order=order, vocab_size=vocab))


DRAFTS = {
    "n-grams": ngram,
    "look-up": lambda: PromptLookup(FEW),
    "model": lambda: ModelDraft(small(seed=5)),
    "the model itself": lambda: ModelDraft(small()),
}
FILTERS = {
    "none": [],
    "temperature": [lambda x, _: decoding.with_temperature(x, 0.6)],
    "top-k": [lambda x, _: decoding.keep_top_k(x, 2)],
    "top-p": [lambda x, _: decoding.with_temperature(x, 2.0), lambda x, _: decoding.keep_top_p(x, 0.8)],
    "penalty": [lambda x, ids: decoding.penalise_repetition(x, ids[:, -2:], 1.7)],
    "greedy": [likeliest],
}


# --- the distribution ---


def of_texts(draft: Draft, filters, *, gamma: int, length: int) -> dict[tuple[int, ...], float]:
    """Every text that the algorithm can write, by all branches of proposing, accepting and drawing anew, with the
    functions that it calls itself."""
    model = small()
    draft.begin(PROMPT, length)

    @cache
    def following(text: tuple[int, ...], count: int) -> Tensor:
        with torch.no_grad():
            ids = torch.tensor([text])
            return probabilities(model(ids)[0, -count:], ids, filters)

    @cache
    def proposed_next(text: tuple[int, ...]) -> Tensor | None:
        logits = draft.logits(torch.tensor([text]))
        return None if logits is None else probabilities(logits, torch.tensor([text]), filters)

    def proposals(text: tuple[int, ...], most: int):
        """Each sequence that may be proposed, with its distributions."""
        q = proposed_next(text) if most else None
        if q is None:
            yield (), torch.zeros(0, FEW, dtype=torch.float64)
            return
        for token in q[0].nonzero()[:, 0].tolist():
            for more, others in proposals((*text, token), most - 1):
                yield (token, *more), torch.cat([q, others])

    @cache
    def written(text: tuple[int, ...], left: int) -> dict[tuple[int, ...], float]:
        if left == 0:
            return {(): 1.0}
        found: dict[tuple[int, ...], float] = {}
        for proposed, q in proposals(text, min(gamma, left - 1)):
            p = following(text + proposed, len(q) + 1)
            chosen = torch.tensor(proposed, dtype=torch.int64)
            passes = ratios(p, q, chosen).tolist()
            drawn = math.prod(q[at, token].item() for at, token in enumerate(proposed))
            for accepted in range(len(q) + 1):
                stops = 1 - passes[accepted] if accepted < len(q) else 1.0
                branch = drawn * math.prod(passes[:accepted]) * stops
                for token, chance in enumerate(after(p, q, accepted).tolist()):
                    start = (*proposed[:accepted], token)
                    for end, share in written(text + start, left - len(start)).items():
                        found[start + end] = found.get(start + end, 0.0) + branch * chance * share
        return found

    return written(tuple(PROMPT[0].tolist()), length)


def one_by_one(filters, length: int) -> dict[tuple[int, ...], float]:
    """The probability of every text by the chain rule, filters applied to each token."""
    model, found = small(), {}
    for text in itertools.product(range(FEW), repeat=length):
        ids = torch.cat([PROMPT, torch.tensor([text])], 1)
        with torch.no_grad():
            p = probabilities(model(ids[:, :-1])[0, -length:], ids[:, :-1], filters)
        found[text] = math.prod(p[at, token].item() for at, token in enumerate(text))
    return found


@pytest.mark.parametrize(
    ("draft", "filters", "gamma", "length"),
    [
        *((draft, "none", 2, 4) for draft in DRAFTS),
        *((draft, filters, 2, 3) for draft in ("n-grams", "look-up") for filters in FILTERS),
        ("n-grams", "none", 1, 3),
        ("model", "top-p", 3, 4),
    ],
)
def test_the_enumerated_distribution_of_texts_is_the_models(draft: str, filters: str, gamma: int, length: int) -> None:
    wanted = one_by_one(FILTERS[filters], length=length)
    assert sum(wanted.values()) == pytest.approx(1, abs=1e-12), "in double precision"
    found = of_texts(DRAFTS[draft](), FILTERS[filters], gamma=gamma, length=length)
    assert max(abs(found.get(text, 0.0) - p) for text, p in wanted.items()) <= 1e-6
    assert sum(found.values()) == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize(("draft", "rows"), [("n-grams", 300), ("model", 100)])
def test_sampled_texts_are_distributed_as_the_models(draft: str, rows: int) -> None:
    """The sampler itself, cache and all; chi-squared within four standard deviations."""
    model, proposer = small(), DRAFTS[draft]()
    settings = {"max_new_tokens": 3, "gamma": 2, "generator": torch.Generator().manual_seed(1)}
    texts = [tuple(speculate(model, proposer, PROMPT, **settings).ids[0, 3:].tolist()) for _ in range(rows)]
    wanted = {text: p for text, p in one_by_one([], 3).items() if p * rows > 3}
    statistic = sum((texts.count(text) - p * rows) ** 2 / (p * rows) for text, p in wanted.items())
    assert statistic <= len(wanted) + 4 * math.sqrt(2 * len(wanted))


def random_pair(seed: int, size: int = 5) -> tuple[Tensor, Tensor]:
    p, q = torch.rand(2, 1, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).pow(2)
    return p / p.sum(), q / q.sum()


@pytest.mark.parametrize("seed", range(5))
def test_a_token_is_accepted_with_probability_one_minus_the_total_variation_distance(seed: int) -> None:
    p, q = random_pair(seed)
    each = torch.cat([ratios(p, q, torch.tensor([token])) for token in range(5)])
    total_variation = (p - q).abs().sum() / 2
    assert torch.allclose((q[0] * each).sum(), 1 - total_variation)
    assert torch.allclose(overlap(p, q), 1 - total_variation)
    # What is accepted and what is drawn in its place is p together.
    rejected = 1 - (q[0] * each).sum()
    assert torch.allclose(q[0] * each + rejected * after(torch.cat([p, p]), q, 0), p[0])


def test_where_both_distributions_are_the_same_all_is_accepted() -> None:
    p, _ = random_pair(0)
    assert torch.equal(ratios(p, p, torch.tensor([2])), torch.ones(1, dtype=torch.float64))
    assert torch.equal(after(torch.cat([p, p]), p, 0), p[0]), "no NaN, should rounding reject one"


@pytest.mark.parametrize("gamma", [1, 2, 5])
def test_tokens_a_call_are_the_geometric_sum(gamma: int) -> None:
    """p and q the same at every place, so that the acceptance is a constant: enumerated over the branches."""
    p, q = random_pair(1, size=2)
    a = float(overlap(p, q))
    many, all_of_them = q.expand(gamma, -1), p.expand(gamma + 1, -1)
    tokens_a_call = 0.0
    for proposed in itertools.product(range(2), repeat=gamma):
        chosen = torch.tensor(proposed)
        passes = ratios(all_of_them, many, chosen).tolist()
        drawn = math.prod(q[0, token].item() for token in proposed)
        for accepted in range(gamma + 1):
            stops = 1 - passes[accepted] if accepted < gamma else 1.0
            tokens_a_call += drawn * math.prod(passes[:accepted]) * stops * (accepted + 1)
    assert tokens_a_call == pytest.approx((1 - a ** (gamma + 1)) / (1 - a), abs=1e-9)
    assert expected_tokens(a, gamma) == pytest.approx(tokens_a_call, abs=1e-9)
    assert (expected_tokens(1.0, gamma), expected_tokens(0.0, gamma)) == (gamma + 1, 1)


def test_verify_accepts_as_often_as_the_rule_says() -> None:
    p, q = random_pair(2)
    generator, chosen = torch.Generator().manual_seed(0), torch.tensor([1, 3])
    two, three = q.expand(2, -1), p.expand(3, -1)
    first, second = ratios(three, two, chosen).tolist()
    assert 0.2 < second < 0.9, "so that both outcomes are tested"
    counts = torch.tensor([verify(three, two, chosen, generator)[0] for _ in range(1500)]).bincount(minlength=3)
    wanted = [1 - first, first * (1 - second), first * second]
    assert (counts / 1500).tolist() == pytest.approx(wanted, abs=0.05)


# --- greedy, counts, cache ---


@pytest.mark.parametrize("draft", ["n-grams", "look-up", "model", "itself"])
def test_greedy_texts_are_those_of_greedy_decoding_token_by_token(draft: str) -> None:
    model = gpt()
    drafts = {
        "n-grams": ngram(20),
        "look-up": PromptLookup(20),
        "model": ModelDraft(gpt(num_layers=1)),
        "itself": ModelDraft(model),
    }
    for seed in range(2):
        prompt = tokens(1, 6, seed=seed)
        found = speculate(model, drafts[draft], prompt, max_new_tokens=40, gamma=4, filters=[likeliest])
        assert torch.equal(found.ids, generate(model, prompt, max_new_tokens=40))
    if draft == "itself":
        assert found.accepted == found.proposed == 32
        assert found.calls == 8, "four proposals and the bonus token a call"


def test_greedy_texts_of_an_encoder_decoder_are_the_same() -> None:
    model, source, prompt = translator(), tokens(1, 8), torch.tensor([[BOS]])
    plain = generate(model, prompt, max_new_tokens=20, source=source)
    for draft in (ngram(20), ModelDraft(model, source=source)):
        found = speculate(model, draft, prompt, max_new_tokens=20, filters=[likeliest], source=source)
        assert torch.equal(found.ids, plain)


@pytest.mark.parametrize("draft", DRAFTS)
def test_with_and_without_cache_the_texts_and_counts_are_the_same(draft: str) -> None:
    for seed in range(4):
        kept, anew = (
            speculate(
                small(),
                DRAFTS[draft](),
                PROMPT,
                max_new_tokens=9,
                gamma=3,
                generator=torch.Generator().manual_seed(seed),
                use_cache=use,
            )
            for use in (True, False)
        )
        assert torch.equal(kept.ids, anew.ids)
        assert (kept.calls, kept.proposed, kept.accepted) == (anew.calls, anew.proposed, anew.accepted)


def test_counts_are_those_of_the_calls_and_tokens() -> None:
    model, read = small(), []
    model.register_forward_pre_hook(lambda _, given: read.append(given[0].shape[1]))
    found = speculate(model, ngram(), PROMPT, max_new_tokens=9, gamma=3, generator=torch.Generator().manual_seed(0))
    assert found.ids.shape == (1, 12)
    assert found.calls == len(read) < 9
    assert found.accepted + found.calls == 9, "each call writes one token more than it accepts"
    assert found.accepted <= found.tested <= found.proposed
    assert found.tested - found.accepted <= found.calls
    assert read[0] == 6
    assert max(read[1:]) <= 4, "what was read once is not read again"


def test_as_many_proposals_are_accepted_as_the_overlaps_say() -> None:
    model, draft, generator = small(), ngram(), torch.Generator().manual_seed(0)
    runs = [speculate(model, draft, PROMPT, max_new_tokens=9, gamma=2, generator=generator) for _ in range(40)]
    tested = sum(run.tested for run in runs)
    accepted, expected = sum(run.accepted for run in runs) / tested, sum(run.overlap for run in runs) / tested
    assert 0.2 < expected < 0.8
    assert abs(accepted - expected) <= 4 * math.sqrt(expected * (1 - expected) / tested)


def test_a_text_ends_with_its_first_stop_token() -> None:
    model, prompt = gpt(), tokens(1, 6)
    plain = generate(model, prompt, max_new_tokens=40)
    stop = int(plain[0, 14])
    end = 6 + plain[0, 6:].tolist().index(stop) + 1
    for draft in (ModelDraft(model), ngram(20)):
        found = speculate(model, draft, prompt, max_new_tokens=40, gamma=7, filters=[likeliest], stop_tokens=[stop])
        assert torch.equal(found.ids, plain[:, :end])


def test_a_text_may_fill_the_context_and_one_token_needs_no_proposal() -> None:
    model = small()
    assert speculate(model, ngram(), PROMPT, max_new_tokens=9, gamma=50).ids.shape == (1, 12)
    found = speculate(model, ModelDraft(small()), PROMPT, max_new_tokens=1, filters=[likeliest])
    assert (found.calls, found.proposed) == (1, 0)
    assert torch.equal(found.ids, generate(model, PROMPT, max_new_tokens=1))


# --- bad input ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draft": ngram(4)}, "the draft has 4 tokens and the model 3: both need the same vocabulary"),
        ({"draft": PromptLookup(2)}, "the draft has 2 tokens and the model 3"),
        ({"draft": ModelDraft(gpt())}, "the draft has 20 tokens and the model 3"),
        ({"prompt": PROMPT.expand(2, -1)}, "one text at a time, not 2"),
        ({"prompt": PROMPT[:, :0]}, "the prompt is empty"),
        ({"prompt": torch.tensor([[0, 1]])}, "one text needs no padding"),
        ({"gamma": 0}, "gamma must be at least 1, not 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, not 0"),
        ({"max_new_tokens": 10}, "13 together, more than the context of 12"),
        ({"prompt": torch.tensor([[1, 3]])}, "tokens must lie between 0 and 2, these span"),
    ],
)
def test_bad_input_is_named(change: dict, message: str) -> None:
    given = {"draft": ngram(), "prompt": PROMPT, "max_new_tokens": 4, "gamma": 2} | change
    with pytest.raises(ValueError, match=message):
        speculate(small(), given.pop("draft"), given.pop("prompt"), **given)


def test_other_bad_values_are_named() -> None:
    calls = {
        "training mode": lambda: speculate(small().train(), ngram(), PROMPT, max_new_tokens=2),
        "acceptance lies between 0 and 1": lambda: expected_tokens(1.1, 2),
        "gamma must be at least 0": lambda: expected_tokens(0.5, -1),
        "-inf throughout": lambda: speculate(
            small(), ngram(), PROMPT, max_new_tokens=3, filters=[lambda x, _: x * math.inf - math.inf]
        ),
    }
    for message, call in calls.items():
        with pytest.raises(ValueError, match=message):
            call()
