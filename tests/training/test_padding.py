"""Padding changes no loss: rows may be filled up to any length."""

import pytest
import torch

from gensrc import training
from gensrc.data.vocabulary import BOS, EOS, PAD, SPECIALS
from gensrc.models.transformers.bert_heads import BertClassifier
from gensrc.models.transformers.transformer import Config, Transformer


def sentences(count: int, *, ends: bool) -> list[torch.Tensor]:
    """Rows of 3 to 12 tokens; with `ends`, between BOS and EOS as a target is."""
    chance = torch.Generator().manual_seed(count)
    lengths = torch.randint(3, 13, (count,), generator=chance).tolist()
    rows = [torch.randint(len(SPECIALS), 20, (length,), generator=chance) for length in lengths]
    return [torch.tensor([BOS, *row.tolist(), EOS]) for row in rows] if ends else rows


SOURCES, TARGETS = sentences(24, ends=False), sentences(24, ends=True)


def translator(positions: str) -> Transformer:
    torch.manual_seed(0)
    config = Config(16, 2, 2, 32, 0.0, positions=positions, max_length=64)
    return Transformer(config, source_vocab=20, target_vocab=20)


def gradients(model: torch.nn.Module, *batch: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    loss = model.loss(*batch)
    loss.backward()
    return [loss.detach(), *(w.grad for w in model.parameters() if w.grad is not None)]


def assert_close(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
def test_more_padding_changes_neither_loss_nor_gradient_of_a_transformer(positions):
    model = translator(positions)
    tight = gradients(model, training.pad(SOURCES, PAD), training.pad(TARGETS, PAD))
    wide = gradients(model, training.pad(SOURCES, PAD, length=40), training.pad(TARGETS, PAD, length=50))
    assert_close(wide, tight)


def test_more_padding_changes_neither_loss_nor_gradient_of_a_classifier():
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "max_length": 64, "embed_dim": 16, "num_heads": 2, "num_layers": 2}
    model = BertClassifier(num_classes=3, dropout=0.0, **sizes)
    labels = torch.arange(24) % 3
    tight = gradients(model, training.pad(SOURCES, PAD), labels)
    assert_close(gradients(model, training.pad(SOURCES, PAD, length=40), labels), tight)


def test_the_mean_loss_of_ragged_batches_is_that_of_single_sentences():
    """Weighted by real tokens, what batches of any padding say is what each sentence says alone."""
    model = translator("sinusoidal")
    batches = training.RaggedBatches(SOURCES, TARGETS, batch_size=6, padding=PAD, seed=0)
    with torch.no_grad():
        pairs = [next(batches) for _ in range(4)]
        drawn = [(model.loss(*pair), int((pair[1][:, 1:] != PAD).sum())) for pair in pairs]
        alone = [(model.loss(s[None], t[None]), len(t) - 1) for s, t in zip(SOURCES, TARGETS, strict=True)]
    together, apart = (sum(float(loss) * n for loss, n in each) / sum(n for _, n in each) for each in (drawn, alone))
    assert together == pytest.approx(apart, rel=1e-5)


def test_a_small_step_on_a_ragged_batch_gains_what_the_slope_of_the_loss_says(gains_what_its_slope_says):
    model = translator("sinusoidal")
    pair = next(training.RaggedBatches(SOURCES, TARGETS, batch_size=6, padding=PAD, seed=0))
    gains_what_its_slope_says(model.parameters(), lambda: model.loss(*pair))
