"""Truncated backpropagation through time: the state goes on, the gradient does not, and a cut run resumes."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import nn

from gensrc import training


class Carry(NamedTuple):
    last: torch.Tensor
    state: torch.Tensor


class Speller(nn.Module):
    """p(token | tokens before) of three tokens, by a plain recurrent network."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cell, self.out = nn.Embedding(4, 4), nn.RNN(4, 5, batch_first=True), nn.Linear(5, 3)

    def window_loss(self, tokens, carry):
        if carry is None:
            carry = Carry(tokens.new_full((len(tokens),), 3), torch.zeros(1, len(tokens), 5))
        assert not carry.state.requires_grad, "no gradient flows from one window to the one before"
        before = torch.cat([carry.last[:, None], tokens[:, :-1]], 1)
        hidden, state = self.cell(self.embed(before), carry.state)
        loss = nn.functional.cross_entropy(self.out(hidden).flatten(0, 1), tokens.flatten())
        return loss, Carry(tokens[:, -1], state)


def speller():
    torch.manual_seed(0)
    return Speller()


def long_texts():
    return torch.randint(3, (4, 10), generator=torch.Generator().manual_seed(1))


def test_it_is_the_loop_written_by_hand():
    """The state goes on, the gradient is cut and clipped, a short window counts, a second pass begins afresh."""
    ours, theirs, texts = speller(), speller(), long_texts()
    history = training.fit_tbptt(
        ours,
        texts,
        steps=5,
        window=4,
        optimizer=torch.optim.SGD(ours.parameters(), lr=0.5),
        schedule=lambda step: 1 / (step + 1),
        clip=0.2,
        log_every=5,
    )
    losses = []
    for step, (start, stop) in enumerate([(0, 4), (4, 8), (8, 10), (0, 4), (4, 8)]):
        carry = None if start == 0 else Carry(*(part.detach() for part in carry))
        loss, carry = theirs.window_loss(texts[:, start:stop], carry)
        weights = list(theirs.parameters())
        gradients = torch.autograd.grad(loss, weights)
        factor = min(1.0, 0.2 / torch.cat([each.flatten() for each in gradients]).norm().item())
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight -= 0.5 / (step + 1) * factor * gradient
        losses.append(loss.item())
    assert history.step == [5]
    assert history.loss[0] == pytest.approx(sum(losses) / 5, rel=1e-5)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert not ours.training


@pytest.mark.parametrize("stop", [3, 4, 6])
def test_an_interrupted_reading_resumes_to_the_same_bits(tmp_path, stop):
    def read(steps, **options):
        model = speller()
        history = training.fit_tbptt(model, long_texts(), steps=steps, window=4, log_every=1, save_seconds=0, **options)
        return history, model.state_dict()

    history, whole = read(9)
    read(stop, checkpoint=tmp_path / "half.safetensors")
    resumed, weights = read(9, checkpoint=tmp_path / "half.safetensors")
    assert resumed == history
    assert all(torch.equal(value, whole[name]) for name, value in weights.items())


def test_a_checkpoint_of_other_windows_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    training.fit_tbptt(speller(), long_texts(), steps=2, window=4, checkpoint=path)
    with pytest.raises(training.TrainingError, match="made with window=4, this run has 5"):
        training.fit_tbptt(speller(), long_texts(), steps=4, window=5, checkpoint=path)


def test_windows_and_steps_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="steps must be at least 1, not 0"):
        training.fit_tbptt(speller(), long_texts(), steps=0, window=4)
    with pytest.raises(ValueError, match="window must lie between 1 and the 10 tokens of a text, not 11"):
        training.fit_tbptt(speller(), long_texts(), steps=1, window=11)


def test_a_loss_that_is_not_finite_names_the_step():
    model = speller()
    with torch.no_grad():
        model.out.bias.fill_(math.nan)
    with pytest.raises(training.TrainingError, match="the loss is nan at step 1"):
        training.fit_tbptt(model, long_texts(), steps=4, window=4, log_every=2)
