"""Muon with Adam: torch's updates on flattened kernels, what belongs to whom, and training that goes on to the bit."""

import copy
import pickle

import pytest
import torch
from torch import nn

from gensrc import training
from gensrc.training import muon


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3)
        self.point = nn.Conv2d(6, 6, 1)
        self.hidden = nn.Linear(6, 8)
        self.out = nn.Linear(8, 1)  # one row: Adam's

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        seen = self.point(self.conv(x).relu()).mean((2, 3))
        return (self.out(self.hidden(seen).tanh()) - x.mean((1, 2, 3))[:, None]).square().mean()


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def data() -> torch.Tensor:
    return torch.randn(32, 2, 5, 5, generator=torch.Generator().manual_seed(1))


has_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")


@has_muon
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_in_bfloat16_each_step_is_that_of_torch_on_flattened_kernels(monkeypatch, layout):
    monkeypatch.setenv("GENSRC_PRECISION", "bfloat16")
    ours, theirs = net().to(memory_format=layout), net()
    kernels = [theirs.conv.weight, theirs.point.weight, theirs.hidden.weight]
    known = {id(kernel) for kernel in kernels}
    rest = [weight for weight in theirs.parameters() if id(weight) not in known]
    flat = [nn.Parameter(kernel.detach().flatten(1).clone()) for kernel in kernels]
    of_torch = torch.optim.Muon(flat, lr=0.02, weight_decay=0.3, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.Adam(rest, lr=0.003)
    optimizers = training.muon_with_adam(ours, lr=0.02, weight_decay=0.3, adam_lr=0.003)
    for _ in range(4):
        for model in (ours, theirs):
            model.zero_grad()
            model.loss(data()).backward()
        for optimizer in optimizers:
            optimizer.step()
        for matrix, kernel in zip(flat, kernels, strict=True):
            matrix.grad = kernel.grad.flatten(1)
        of_torch.step()
        adam.step()
        with torch.no_grad():
            for matrix, kernel in zip(flat, kernels, strict=True):
                kernel.copy_(matrix.view_as(kernel))
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@has_muon
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_the_iteration_is_that_of_torch_in_bfloat16_to_the_bit_and_in_float32_within_its_rounding(monkeypatch, shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    weight = nn.Parameter(torch.zeros(shape))
    weight.grad = matrix
    torch.optim.Muon([weight], lr=1.0, weight_decay=0.0, momentum=0.0, nesterov=False).step()
    theirs = -weight.detach() / max(1, shape[0] / shape[1]) ** 0.5
    monkeypatch.setenv("GENSRC_PRECISION", "bfloat16")
    assert muon.orthogonalize(matrix).dtype == torch.bfloat16
    torch.testing.assert_close(muon.orthogonalize(matrix).float(), theirs, rtol=1e-6, atol=0)
    monkeypatch.setenv("GENSRC_PRECISION", "float32")
    assert muon.orthogonalize(matrix).dtype == torch.float32
    torch.testing.assert_close(muon.orthogonalize(matrix), theirs, rtol=0, atol=0.05)


def test_in_float32_the_iteration_is_its_polynomial_of_the_singular_values(monkeypatch):
    monkeypatch.setenv("GENSRC_PRECISION", "float32")
    matrix = torch.randn(6, 4, generator=torch.Generator().manual_seed(3)).double()
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.square().sum().sqrt()
    a, b, c = 3.4445, -4.7750, 2.0315
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    expected = (u * s @ vh).float()
    torch.testing.assert_close(muon.orthogonalize(matrix.float()), expected, rtol=1e-4, atol=1e-4)
    assert (s - 1).abs().max() < 0.35


@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16"])
def test_the_first_step_moves_every_direction_alike(monkeypatch, arithmetic):
    monkeypatch.setenv("GENSRC_PRECISION", arithmetic)
    u, _, vh = torch.linalg.svd(torch.randn(8, 6, generator=torch.Generator().manual_seed(4)), full_matrices=False)
    weight = nn.Parameter(torch.ones(8, 3, 2))
    weight.grad = (u * torch.tensor([20.0, 10.0, 5.0, 3.0, 2.0, 1.0]) @ vh).view(8, 3, 2)
    muon.Muon([weight], lr=0.1, weight_decay=0.0).step()
    step = torch.linalg.svdvals((1 - weight.detach()).flatten(1)) / (0.1 * 0.2 * 8**0.5)
    assert step.max() < 1.3
    assert step.min() > 0.6


def test_matrices_and_kernels_are_muons_and_all_others_adams():
    model = net()
    of_muon, of_adam = training.muon_with_adam(model)
    kernels = [model.conv.weight, model.point.weight, model.hidden.weight]
    assert [id(weight) for weight in of_muon.param_groups[0]["params"]] == [id(kernel) for kernel in kernels]
    owned = kernels + of_adam.param_groups[0]["params"]
    assert {id(weight) for weight in owned} == {id(weight) for weight in model.parameters()}
    assert len(owned) == len(list(model.parameters()))


def test_the_norm_of_no_gradient_is_divided_by():
    weight = nn.Parameter(torch.ones(3, 2))
    weight.grad = torch.zeros(3, 2)
    muon.Muon([weight], lr=0.1, weight_decay=0.0).step()
    assert torch.equal(weight, torch.ones(3, 2))


def test_one_schedule_reaches_both():
    model = net()
    before = [weight.detach().clone() for weight in model.parameters()]
    batches = training.Batches(data(), batch_size=8, seed=0)
    training.fit(model, batches, steps=3, optimizer=training.muon_with_adam(model), schedule=lambda step: 0.0)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_resumed_training_ends_in_the_same_bits(tmp_path, layout):
    def fit(steps: int, **how) -> list[torch.Tensor]:
        model = net().to(memory_format=layout)
        batches = training.Batches(data(), batch_size=8, seed=0)
        training.fit(model, batches, steps=steps, optimizer=training.muon_with_adam(model), log_every=1, **how)
        return [weight.detach() for weight in model.parameters()]

    whole = fit(12)
    kept = {"checkpoint": tmp_path / "half.safetensors"}
    fit(5, **kept)
    assert all(torch.equal(one, two) for one, two in zip(whole, fit(12, **kept), strict=True))


def test_muon_with_adam_has_the_interface_of_torchs_optimizers():
    model = net()
    optimizer = muon.Muon([model.conv.weight])
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append("hook"))
    optimizer.add_param_group({"params": [model.hidden.weight], "lr": 0.5})

    def closure():
        optimizer.zero_grad()
        loss = model.loss(data())
        loss.backward()
        return loss

    first, second = optimizer.step(closure), optimizer.step(closure)
    assert second < first
    assert calls == ["hook", "hook"]
    copied = copy.deepcopy(optimizer)
    kept = pickle.loads(pickle.dumps(optimizer.state_dict()))
    assert [group["lr"] for group in copied.param_groups] == [0.01, 0.5]
    assert torch.equal(kept["state"][0]["momentum_buffer"], optimizer.state[model.conv.weight]["momentum_buffer"])
    with pytest.raises(ValueError, match=r"for matrices and kernels, not for a weight of shape \(6,\)"):
        optimizer.add_param_group({"params": [model.conv.bias]})


def test_a_model_without_matrices_is_refused():
    with pytest.raises(ValueError, match="LayerNorm has no matrix for Muon: use torch.optim.Adam"):
        training.muon_with_adam(nn.LayerNorm(3))
