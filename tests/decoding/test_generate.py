"""Decoding: filters against the transformers library, draws against their law, beams against all texts there are."""

import itertools
import math
from functools import partial

import pytest
import torch
import transformers
from torch import Tensor, nn

from gensrc import decoding
from gensrc.data.vocabulary import BOS, EOS, PAD
from gensrc.decoding import beam_search, generate, left_pad, log_prob, sampler, stream
from gensrc.models.transformers.gpt import GPT, to_gpt2
from tests.decoding.test_incremental import gpt, tokens, translator

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
def test_a_filter_leaves_what_the_librarys_leaves(case: str) -> None:
    ours, theirs, value = CASES[case]
    warper = getattr(transformers, theirs)(value)
    logits = logits_with_ties()
    assert torch.equal(ours(logits, value), warper(None, logits.clone()))


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.3, 10.0])
def test_so_does_the_repetition_penalty(penalty: float) -> None:
    logits = logits_with_ties()
    ids = torch.randint(30, (len(logits), 12), generator=torch.Generator().manual_seed(1))
    theirs = transformers.RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone())
    assert torch.equal(decoding.penalise_repetition(logits, ids, penalty), theirs)


def test_the_filters_keep_what_their_names_say() -> None:
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
def test_a_setting_out_of_range_is_refused(case: str) -> None:
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
def test_what_is_drawn_follows_the_exact_law(settings: dict[str, float]) -> None:
    choose = sampler(**settings, generator=torch.Generator().manual_seed(0))
    drawn = choose(SHOWN.expand(40_000, -1), torch.zeros(40_000, 1).long())
    assert p_value(drawn, exact(**settings)) > 1e-3
    # The test has teeth: draws of a slightly different law fail it.
    off = {"temperature": 1.1 * settings.get("temperature", 1.0)}
    other = sampler(**(settings | off), generator=torch.Generator().manual_seed(0))
    assert p_value(other(SHOWN.expand(40_000, -1), torch.zeros(40_000, 1).long()), exact(**settings)) < 1e-3


def test_what_has_no_probability_is_never_drawn_not_even_at_the_ends() -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]])

    class Ends:
        """Heights at both ends of what `torch.rand` can give."""

        def __call__(self, *shape: int, **_: object) -> Tensor:
            return torch.tensor([[0.0], [1 - 2**-53]], dtype=torch.float64)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", Ends())
        assert decoding.draw(logits.expand(2, -1)).tolist() == [1, 3]


def test_a_seed_gives_a_text_again_and_another_seed_another() -> None:
    model, prompt = gpt(), tokens(3, 5)

    def text(seed: int) -> Tensor:
        choose = sampler(generator=torch.Generator().manual_seed(seed))
        return generate(model, prompt, max_new_tokens=30, choose=choose)

    assert torch.equal(text(0), text(0))
    assert not torch.equal(text(0), text(1))


def test_as_temperature_falls_sampling_becomes_greedy() -> None:
    model, prompt = gpt(), tokens(3, 5)
    cold = sampler(temperature=1e-4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        generate(model, prompt, max_new_tokens=30, choose=cold), generate(model, prompt, max_new_tokens=30)
    )


def test_a_readers_own_filter_comes_last_and_sees_the_text_so_far() -> None:
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


# --- one token after another ---


def test_prompts_padded_on_the_left_go_on_as_each_does_alone() -> None:
    model, rows = gpt(), [tokens(length, seed=length) for length in (11, 5, 1)]
    together = generate(model, left_pad(rows), max_new_tokens=60)
    found = beam_search(model, left_pad(rows), max_new_tokens=12, num_beams=3)
    for number, row in enumerate(rows):
        alone = generate(model, row[None], max_new_tokens=60)
        assert torch.equal(together[number, 11 - len(row) :], alone[0])
        alone = beam_search(model, row[None], max_new_tokens=12, num_beams=3)
        assert torch.equal(found[number, 11 - len(row) :], alone[0])


def test_left_pad_refuses_what_is_empty() -> None:
    for prompts in ([], [tokens(3), tokens(0)]):
        with pytest.raises(ValueError, match="a prompt is empty: begin with a token at least, such as BOS"):
            left_pad(prompts)


def test_a_row_ends_at_its_stop_token_and_the_others_go_on() -> None:
    model, prompt = gpt(), tokens(4, 5)
    whole = generate(model, prompt, max_new_tokens=40)
    stops = [whole[0, 9].item(), whole[1, 20].item()]
    cut = generate(model, prompt, max_new_tokens=40, stop_tokens=stops)
    ends = []
    for long, short in zip(whole[:, 5:], cut[:, 5:], strict=True):
        hits = torch.isin(long, torch.tensor(stops)).nonzero()
        end = hits[0].item() + 1 if len(hits) else 40
        ends.append(end)
        assert torch.equal(short[:end], long[:end])
        assert (short[end:] == PAD).all()
    assert len(set(ends)) > 1
    assert cut.shape[1] == 5 + max(ends), "and nothing is computed when all have ended"


def test_a_stream_gives_each_token_as_soon_as_it_is_chosen() -> None:
    model, prompt = gpt(), tokens(2, 5)
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    written = []
    for token in stream(model, prompt, max_new_tokens=6):
        written.append(token)
        assert len(calls) == len(written)
    assert torch.equal(torch.stack(written, 1), generate(model, prompt, max_new_tokens=6)[:, 5:])


# --- beams ---


def brute_force(model: nn.Module, length: int, stop: int, length_penalty: float) -> tuple[list[int], float]:
    """The best of all texts that end at `stop` or are `length` long."""
    letters = [letter for letter in range(model.vocab_size)]
    found = []
    for size in range(1, length + 1):
        for text in itertools.product(letters, repeat=size):
            if stop in text[:-1] or (size < length and text[-1] != stop):
                continue
            found.append(list(text))
    scores = []
    for size, group in itertools.groupby(found, key=len):
        rows = torch.tensor([[BOS, *text] for text in group])
        # Through the model's own log-probabilities of whole texts, not through the search.
        with torch.no_grad():
            each = model(rows[:, :-1]).log_softmax(-1).gather(2, rows[:, 1:, None]).sum((1, 2))
        scores += (each / ((5 + size) / 6) ** length_penalty).tolist()
    best = max(range(len(found)), key=scores.__getitem__)
    return found[best], scores[best]


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 2.0, -1.0])
@pytest.mark.parametrize("stop", [EOS, 99])
def test_with_beams_enough_the_search_is_exhaustive(length_penalty: float, stop: int) -> None:
    lengths = set()
    for seed in range(6):
        torch.manual_seed(seed)
        model = gpt(vocab_size=5, max_length=8, num_layers=1)
        with torch.no_grad():
            model.embed.weight.copy_(torch.randn(5, 32, generator=torch.Generator().manual_seed(seed)) / (1 + seed))
        best, _ = brute_force(model, 4, stop, length_penalty)
        found = beam_search(
            model,
            torch.tensor([[BOS]]),
            max_new_tokens=4,
            num_beams=5**4,
            length_penalty=length_penalty,
            stop_tokens=[stop],
        )
        assert found[0, 1:].tolist()[: len(best)] == best
        assert (found[0, 1 + len(best) :] == PAD).all()
        lengths.add(len(best))
    if stop == EOS and length_penalty < 2:
        assert len(lengths) > 1, "texts of one length would not test the penalty"


def test_one_beam_is_greedy() -> None:
    model, prompt = gpt(), tokens(3, 5)
    assert torch.equal(
        beam_search(model, prompt, max_new_tokens=30, num_beams=1), generate(model, prompt, max_new_tokens=30)
    )


def test_fewer_beams_than_one_are_refused() -> None:
    with pytest.raises(ValueError, match="num_beams must be at least 1, not 0: 1 is greedy"):
        beam_search(gpt(), tokens(1, 5), max_new_tokens=3, num_beams=0)


def test_beams_of_an_encoder_decoder_find_at_least_what_greedy_finds() -> None:
    model, source = translator(), tokens(4, 8)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(2)
    prompt = torch.full((4, 1), BOS)
    settings = {"max_new_tokens": 12, "stop_tokens": [EOS], "source": source}
    plain = generate(model, prompt, **settings)
    found = beam_search(model, prompt, num_beams=8, **settings)
    scores = [log_prob(model, ids, start=1, source=source) for ids in (plain, found)]
    assert (scores[1] >= scores[0] - 1e-4).all()
    assert (scores[1] > scores[0] + 1e-2).any()


# --- the transformers library, on the same weights ---


def library(model: GPT) -> nn.Module:
    heads, layers = model.encoder.config.num_heads, model.encoder.config.num_layers
    sizes = {"n_positions": model.max_length, "n_embd": model.embed.embedding_dim, "n_head": heads, "n_layer": layers}
    config = transformers.GPT2Config(
        vocab_size=model.vocab_size, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, **sizes
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    theirs.load_state_dict(to_gpt2(model.state_dict()))
    return theirs


def test_greedy_is_the_librarys_generate_padded_prompts_and_stop_tokens_included() -> None:
    model = gpt()
    prompt = left_pad([tokens(9), tokens(4, seed=1), tokens(1, seed=2)])
    ours = generate(model, prompt, max_new_tokens=50, stop_tokens=[EOS])
    theirs = library(model).generate(
        prompt, attention_mask=(prompt != PAD).long(), max_new_tokens=50, do_sample=False, eos_token_id=EOS
    )
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("num_beams", [2, 5])
def test_so_is_a_beam_search_by_likelihood(num_beams: int) -> None:
    model, prompt = gpt(), tokens(4, 6)
    ours = beam_search(model, prompt, max_new_tokens=20, num_beams=num_beams, stop_tokens=[EOS])
    theirs = library(model).generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=20,
        do_sample=False,
        num_beams=num_beams,
        length_penalty=0.0,
        eos_token_id=EOS,
    )
    for row, other in zip(ours, theirs, strict=True):
        ends = (row == EOS).nonzero()
        end = int(ends[0]) + 1 if len(ends) else 26
        assert torch.equal(row[:end], other[:end])
        assert not other[end:].any() or (other[end:] == EOS).all()
    assert not torch.equal(ours[:, :26], generate(model, prompt, max_new_tokens=20)[:, : ours.shape[1]])
