"""Muon with Adam: torch's updates on flattened kernels, what belongs to whom, and training that goes on to the bit."""

import pytest
import torch
from torch import nn

from gensrc import training
from gensrc.muon import MuonWithAdam


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3)
        self.hidden = nn.Linear(6, 8)
        self.out = nn.Linear(8, 1)  # one row: Adam's

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        return (self.out(self.hidden(self.conv(x).mean((2, 3))).tanh()) - x.mean((1, 2, 3))[:, None]).square().mean()


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def data() -> torch.Tensor:
    return torch.randn(32, 2, 5, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_each_step_is_muon_on_rows_and_adam_on_the_rest(layout):
    ours, theirs = net().to(memory_format=layout), net()
    kernels = [theirs.conv.weight, theirs.hidden.weight]
    rest = [theirs.conv.bias, theirs.hidden.bias, theirs.out.weight, theirs.out.bias]
    flat = [nn.Parameter(kernel.detach().flatten(1).clone()) for kernel in kernels]
    muon = torch.optim.Muon(flat, lr=0.02, weight_decay=0.3, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.Adam(rest, lr=0.003)
    optimizer = MuonWithAdam(ours, lr=0.02, weight_decay=0.3, adam_lr=0.003)
    for _ in range(4):
        for model in (ours, theirs):
            model.zero_grad()
            model.loss(data()).backward()
        optimizer.step()
        for matrix, kernel in zip(flat, kernels, strict=True):
            matrix.grad = kernel.grad.flatten(1)
        muon.step()
        adam.step()
        with torch.no_grad():
            for matrix, kernel in zip(flat, kernels, strict=True):
                kernel.copy_(matrix.view_as(kernel))
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_the_first_step_turns_every_direction_alike():
    model = net()
    before = model.hidden.weight.detach().clone()
    optimizer = MuonWithAdam(model, lr=0.1, weight_decay=0.0)
    model.loss(data()).backward()
    gradient = torch.linalg.svdvals(model.hidden.weight.grad)
    optimizer.step()
    step = torch.linalg.svdvals(before - model.hidden.weight.detach()) / (0.1 * 0.2 * 8**0.5)
    assert gradient[0] > 10 * gradient[-1]
    assert step.max() < 1.3
    assert step[:3].min() > 0.5


def test_a_schedule_reaches_both():
    model = net()
    optimizer = MuonWithAdam(model)
    before = [weight.detach().clone() for weight in model.parameters()]
    batches = training.Batches(data(), 8, seed=0)
    training.fit(model, batches, steps=3, optimizer=optimizer, schedule=lambda step: 0.0)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.0]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_resumed_training_ends_in_the_same_bits(tmp_path, layout):
    def fit(model: Net, steps: int, **how) -> list[torch.Tensor]:
        model.to(memory_format=layout)
        optimizer = MuonWithAdam(model)
        training.fit(model, training.Batches(data(), 8, seed=0), steps=steps, optimizer=optimizer, log_every=1, **how)
        return [weight.detach() for weight in model.parameters()]

    whole = fit(net(), 12)
    kept = {"checkpoint": tmp_path / "half.safetensors", "save_every": 1}
    fit(net(), 5, **kept)
    resumed = fit(net(), 12, **kept)
    assert all(torch.equal(one, two) for one, two in zip(whole, resumed, strict=True))


def test_no_gradient_is_left_behind():
    model = net()
    optimizer = MuonWithAdam(model)
    model.loss(data()).backward()
    optimizer.zero_grad(set_to_none=False)
    assert all((weight.grad == 0).all() for weight in model.parameters())
    optimizer.zero_grad()
    assert all(weight.grad is None for weight in model.parameters())


def test_a_model_without_matrices_is_refused():
    with pytest.raises(ValueError, match="LayerNorm has no matrix for Muon: use torch.optim.Adam"):
        MuonWithAdam(nn.LayerNorm(3))


def test_an_old_torch_is_told(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(RuntimeError, match=r"Muon came with torch 2\.9, this is .*: pip install --upgrade torch"):
        MuonWithAdam(net())
