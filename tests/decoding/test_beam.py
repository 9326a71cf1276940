"""Beam search against all texts there are, against greedy decoding, and against the transformers library."""

import itertools

import pytest
import torch
from torch import nn

from gensrc.data.vocabulary import BOS, EOS, PAD
from gensrc.decoding import beam_search, generate, log_prob
from tests.decoding.test_generate import library
from tests.decoding.test_incremental import gpt, tokens, translator


def brute_force(model: nn.Module, length: int, stop: int, alpha: float) -> tuple[list[int], float]:
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
        scores += (each / ((5 + size) / 6) ** alpha).tolist()
    best = max(range(len(found)), key=scores.__getitem__)
    return found[best], scores[best]


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0, -1.0])
@pytest.mark.parametrize("stop", [EOS, 99])
def test_beam_search_with_enough_beams_finds_the_best_of_all_texts(alpha: float, stop: int) -> None:
    lengths = set()
    for seed in range(6):
        torch.manual_seed(seed)
        model = gpt(vocab_size=5, max_length=8, num_layers=1)
        with torch.no_grad():
            model.embed.weight.copy_(torch.randn(5, 32, generator=torch.Generator().manual_seed(seed)) / (1 + seed))
        best, _ = brute_force(model, 4, stop, alpha)
        found = beam_search(
            model,
            torch.tensor([[BOS]]),
            max_new_tokens=4,
            num_beams=5**4,
            alpha=alpha,
            stop_tokens=[stop],
        )
        assert found[0, 1:].tolist()[: len(best)] == best
        assert (found[0, 1 + len(best) :] == PAD).all()
        lengths.add(len(best))
    if stop == EOS and alpha < 2:
        assert len(lengths) > 1, "texts of one length would not test the penalty"


def test_beam_search_with_one_beam_is_greedy() -> None:
    model, prompt = gpt(), tokens(3, 5)
    assert torch.equal(
        beam_search(model, prompt, max_new_tokens=30, num_beams=1), generate(model, prompt, max_new_tokens=30)
    )


def test_fewer_than_one_beam_are_refused() -> None:
    with pytest.raises(ValueError, match="num_beams must be at least 1, not 0: 1 is greedy"):
        beam_search(gpt(), tokens(1, 5), max_new_tokens=3, num_beams=0)


def test_encoder_decoder_beams_are_at_least_as_likely_as_greedy_texts() -> None:
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


@pytest.mark.parametrize("num_beams", [2, 5])
def test_beam_search_by_likelihood_equals_the_librarys(num_beams: int) -> None:
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
