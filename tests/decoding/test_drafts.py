"""Drafts: the table's probabilities, prompt look-up, and reading texts that are shortened."""

import pytest
import torch

from gensrc.decoding.drafts import NGramDraft, PromptLookup, Reader
from gensrc.decoding.speculative import propose
from gensrc.models.sequences.ngram import NGram
from tests.decoding.test_incremental import gpt, tokens
from tests.decoding.test_speculative import ngram


def test_the_reader_gives_the_logits_of_texts_that_are_shortened_and_changed() -> None:
    model = gpt()
    reader = Reader(model, tokens(1, 5), max_new_tokens=30)
    for length, shared, count in ((9, 0, 1), (12, 9, 3), (11, 4, 2), (7, 7, 7), (7, 7, 1), (20, 6, 5)):
        text = torch.cat([tokens(1, shared), tokens(1, length - shared, seed=length)], 1)
        with torch.no_grad():
            wanted = model(text)[0, -count:]
        assert torch.allclose(reader.logits(text, count), wanted, atol=1e-5)


def test_the_n_gram_draft_has_the_tables_probabilities() -> None:
    draft = ngram(order=3)
    for text in ([1], [1, 2], [0, 1, 2], [2, 2, 1, 0, 1, 2], [1, 2]):
        wanted = draft.model.probs(torch.tensor(text))
        assert torch.allclose(draft.logits(torch.tensor([text]))[0].exp(), wanted)
    assert len(draft.known) == 2, "what is asked again is not computed again"
    text = torch.tensor([0, 1, 2, 2, 1, 0, 1, 2])
    ready = NGramDraft(draft.model, text)
    assert ready.known.keys() == {(0, 1), (1, 2), (2, 2), (2, 1), (1, 0)}
    for context, row in ready.known.items():
        assert torch.allclose(row[0].exp(), draft.model.probs(torch.tensor(context)))
    first = NGramDraft(NGram(torch.tensor([[0, 1, 1, 2]]), order=1, vocab_size=3, discount=0.0))
    assert first.logits(torch.tensor([[2, 2]]))[0].exp().tolist() == pytest.approx([0.25, 0.5, 0.25])


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ([5, 6, 7, 8, 5, 6, 7], 8),  # three tokens match
        ([5, 6, 1, 7, 6, 2, 5, 6], 1),  # two, rather than the later place of one
        ([6, 1, 6, 2, 6], 2),  # the latest place
        ([4, 4], 4),
        ([1, 2, 3], None),
        ([1], None),
    ],
)
def test_prompt_look_up_proposes_what_followed_the_same_tokens(text: list[int], token: int | None) -> None:
    logits = PromptLookup(9).logits(torch.tensor([text]))
    if token is None:
        assert logits is None
    else:
        assert logits is not None
        assert logits[0].softmax(-1).nonzero().tolist() == [[token]]


def test_prompt_look_up_goes_on_with_the_text_that_it_found() -> None:
    text = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3]])
    longer, q = propose(PromptLookup(9), text, 4)
    assert longer[0, 11:].tolist() == [4, 5, 6, 7]
    assert (q.max(1).values == 1).all()
    assert PromptLookup(9, shortest=2).logits(torch.tensor([[6, 1, 6]])) is None


def test_unfit_lengths_of_look_up_are_refused() -> None:
    with pytest.raises(ValueError, match="shortest must be at least 1, not 0"):
        PromptLookup(3, shortest=0)
    with pytest.raises(ValueError, match="longest must be at least 3, not 2"):
        PromptLookup(3, longest=2, shortest=3)
