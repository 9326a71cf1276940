"""Classes and spans: the formulas, the best span of all, and clear about bad input."""

import pytest
import torch
import torch.nn.functional as F

from gensrc.data.vocabulary import PAD
from gensrc.models.transformers.bert_heads import BertClassifier, BertSpanReader
from tests.models.transformers.test_bert import LENGTH, ROWS, SMALL, STILL, ready


def test_classifier_logits_come_from_the_mean_of_the_tokens():
    model = ready(BertClassifier(num_classes=3, **STILL))
    tokens = model.bert(ROWS)
    places = [[1, 2, 3, 5, 6, 7, 8], [1, 2, 3], [1, 3, 4, 5, 6, 7, 8, 9, 10]]
    mean = torch.stack([tokens[row, at].mean(0) for row, at in enumerate(places)])
    wanted = model.to_logits(model.pooler(mean).tanh())
    torch.testing.assert_close(model(ROWS), wanted)
    labels = torch.tensor([0, 2, 1])
    torch.testing.assert_close(model.loss(ROWS, labels), F.cross_entropy(wanted, labels))


PAIRS = ROWS[[0, 2]]


def test_spans_outside_the_second_text_have_no_probability():
    model = ready(BertSpanReader(**STILL))
    first, last = model(PAIRS)
    inside = torch.zeros(2, LENGTH, dtype=torch.bool)
    inside[0, 5:9] = inside[1, 3:11] = True
    assert torch.equal(first.isfinite(), inside)
    assert torch.equal(last.isfinite(), inside)
    torch.testing.assert_close(first.softmax(1).sum(1), torch.ones(2))


def test_the_answer_is_the_best_span_that_ends_after_it_starts():
    model = ready(BertSpanReader(**STILL))
    first, last = model(PAIRS)
    for longest in (1, 3, 20):
        for b, (begin, end) in enumerate(model.answer(PAIRS, longest=longest).tolist()):
            spans = [(i, j) for i in range(LENGTH) for j in range(i, min(i + longest, LENGTH))]
            best = max(spans, key=lambda span, b=b: (first[b, span[0]] + last[b, span[1]]).item())
            assert (begin, end) == best


def test_the_span_loss_is_the_mean_of_both_ends():
    model = ready(BertSpanReader(**STILL))
    first, last = model(PAIRS)
    wanted = torch.tensor([[6, 7], [3, 3]])
    expected = (F.cross_entropy(first, wanted[:, 0]) + F.cross_entropy(last, wanted[:, 1])) / 2
    torch.testing.assert_close(model.loss(PAIRS, wanted), expected)


# --- bad input ---


@pytest.mark.parametrize(
    "model", [BertClassifier(num_classes=3, **SMALL), BertSpanReader(**SMALL)], ids=["class", "span"]
)
def test_rows_of_padding_are_refused(model):
    with pytest.raises(ValueError, match=r"rows \[1\] are nothing but padding"):
        model(torch.stack([ROWS[0], torch.full((LENGTH,), PAD)]))


@pytest.mark.parametrize("wrong", [-1, 3])
def test_labels_out_of_range_are_refused(wrong):
    labels = torch.tensor([0, wrong, 1])
    with pytest.raises(ValueError, match="labels must lie between 0 and 2"):
        BertClassifier(num_classes=3, **SMALL).loss(ROWS, labels)


def test_rows_without_a_second_text_are_refused():
    with pytest.raises(ValueError, match="each row needs a second text"):
        BertSpanReader(**SMALL)(ROWS)


@pytest.mark.parametrize("wrong", [[-1, 6], [6, LENGTH], [2, 6], [6, 11]])
def test_spans_outside_the_second_text_are_refused(wrong):
    spans = torch.tensor([wrong, [3, 3]])
    with pytest.raises(ValueError, match="spans must lie within the second text"):
        BertSpanReader(**SMALL).loss(PAIRS, spans)
