"""Exact resume: a training that was cut off ends in the same bits as one that was not."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from gensrc import training


class Net(nn.Module):
    """A small network with dropout and batch normalisation, whose loss draws noise."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Dropout(0.2), nn.Linear(width, 4))

    def loss(self, x):
        return (self.body(x + 0.1 * torch.randn(x.shape)) - x).square().mean()


def net(width: int = 8) -> Net:
    torch.manual_seed(0)
    return Net(width)


def data():
    return torch.rand(64, 4, generator=torch.Generator().manual_seed(5))


def batches(**options):
    return training.Batches(data(), batch_size=10, **({"seed": 3} | options))


def fit(steps, *, model=None, source=None, **options):
    model = net() if model is None else model
    torch.manual_seed(1)
    source = batches() if source is None else source
    options = {"log_every": 5, "save_seconds": 0, "schedule": lambda s: 1 / (1 + s)} | options
    history = training.fit(model, source, steps=steps, **options)
    return history, model.state_dict()


def assert_same(one, other):
    assert [name for name, value in one.items() if not torch.equal(value, other[name])] == []


@pytest.mark.parametrize("stop", [20, 35])
@pytest.mark.parametrize("kind", ["Adam", "AdamW", "SGD", "RMSprop"])
def test_a_resumed_training_ends_in_the_same_bits(tmp_path, stop, kind):
    def run(steps, **options):
        model = net()
        momentum = {"momentum": 0.9} if kind == "SGD" else {}
        return fit(
            steps, model=model, optimizer=getattr(torch.optim, kind)(model.parameters(), lr=0.01, **momentum), **options
        )

    history, whole = run(60)
    run(stop, checkpoint=tmp_path / "half.safetensors")
    random.seed(7)  # whatever happened in between does not matter
    np.random.seed(8)
    resumed_history, resumed = run(60, checkpoint=tmp_path / "half.safetensors")
    assert_same(resumed, whole)
    assert resumed_history == history


def test_kernels_that_lie_in_memory_with_channels_last_resume_in_the_same_bits(tmp_path):
    class Convolutions(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 3))

        def loss(self, x):
            return self.body(x.to(memory_format=torch.channels_last)).square().mean()

    pictures = torch.rand(20, 3, 6, 6, generator=torch.Generator().manual_seed(6))

    def run(steps, **options):
        torch.manual_seed(0)
        model = Convolutions().to(memory_format=torch.channels_last)
        return fit(steps, model=model, source=training.Batches(pictures, batch_size=4), **options)[1]

    whole = run(20)
    run(10, checkpoint=tmp_path / "half.safetensors")
    assert_same(run(20, checkpoint=tmp_path / "half.safetensors"), whole)


def test_an_interrupted_run_resumes_from_its_last_checkpoint(tmp_path):
    def interrupt(step, _):
        if step == 45:
            raise KeyboardInterrupt

    path = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(60, checkpoint=path, callbacks=(interrupt,))
    assert_same(fit(60, checkpoint=path)[1], fit(60)[1])


def test_the_generators_of_python_and_numpy_resume_too(tmp_path):
    def source():
        return batches(transform=lambda x: x * (random.random() + np.random.rand()))

    def seeded(steps, **options):
        random.seed(0)
        np.random.seed(0)
        return fit(steps, source=source(), **options)[1]

    whole = seeded(20)
    seeded(10, checkpoint=tmp_path / "half.safetensors")
    assert_same(seeded(20, checkpoint=tmp_path / "half.safetensors"), whole)


def test_the_state_of_callbacks_resumes_too(tmp_path):
    def shots():
        return training.Snapshots(lambda model: model.body[0].weight.detach().clone(), [10, 30])

    path, whole, first, second = tmp_path / "run.safetensors", shots(), shots(), shots()
    fit(40, callbacks=(whole,))
    fit(20, callbacks=(first,), checkpoint=path)
    fit(40, callbacks=(second, lambda step, model: None), checkpoint=path)
    assert_same(second.taken, whole.taken)
    assert list(second.taken) == [10, 30]


def test_options_given_now_hold_and_not_those_of_the_checkpoint(tmp_path):
    path = tmp_path / "run.safetensors"

    def run(rate, steps, **options):
        model = net()
        groups = [{"params": list(model.body[:1].parameters()), "weight_decay": rate}, {"params": []}]
        groups[1]["params"] = list(model.body[1:].parameters())
        optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.5, rate), weight_decay=0.0)
        fit(steps, model=model, optimizer=optimizer, checkpoint=path, **options)
        return model, optimizer

    run(0.1, 5)
    seen = []
    _, optimizer = run(0.01, 10, schedule=None, callbacks=(lambda step, _: seen.append(step),))
    assert seen == [10], "it has gone on"
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.01]
    assert [group["betas"] for group in optimizer.param_groups] == [(0.5, 0.01)] * 2
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0]


def test_a_rate_of_zero_given_on_resuming_leaves_the_weights_as_they_were(tmp_path):
    path = tmp_path / "run.safetensors"

    def run(rate, steps):
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        fit(steps, model=model, optimizer=optimizer, checkpoint=path, schedule=None)
        return model.state_dict()

    before = run(0.01, 20)
    after = run(0.0, 30)
    assert_same({name: before[name] for name, _ in net().named_parameters()}, after)


def test_a_checkpoint_is_written_when_its_time_has_come_and_at_the_end(tmp_path):
    path, there = tmp_path / "run.safetensors", []
    fit(15, checkpoint=path, save_seconds=1000, callbacks=(lambda step, _: there.append(path.exists()),))
    assert there == [False, False, False]
    assert path.exists()


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    fit(5, checkpoint=path)
    with pytest.raises(training.TrainingError, match="belongs to another model or optimiser"):
        fit(10, model=net(width=9), checkpoint=path)
    model = net()
    with pytest.raises(training.TrainingError, match="belongs to another model or optimiser"):
        fit(10, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), checkpoint=path)
    with pytest.raises(training.TrainingError, match="made with seed=3, this run has 1"):
        fit(10, source=batches(seed=1), checkpoint=path)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    fit(5, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(training.TrainingError, match="is no training checkpoint .* delete it to start again"):
        fit(5, checkpoint=path)


def test_trainings_within_keep_progress_are_numbered_and_what_is_done_is_not_done_again(tmp_path):
    def two(stop_at=None):
        calls = []

        def look(step, _):
            calls.append(step)
            if len(calls) == stop_at:
                raise KeyboardInterrupt

        with training.keep_progress(tmp_path / "kept"):
            first = fit(10, callbacks=(look,))
            second = fit(20, callbacks=(look,))
        return [*first[1].values(), *second[1].values()], calls

    whole = [*fit(10)[1].values(), *fit(20)[1].values()]
    with pytest.raises(KeyboardInterrupt):
        two(stop_at=5)
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["1.safetensors", "2.safetensors"]
    weights, calls = two()
    assert calls == [15, 20]
    assert all(torch.equal(a, b) for a, b in zip(weights, whole, strict=True))
    assert fit(5)[0].step == [5], "outside nothing is kept"


def test_batches_that_cannot_be_saved_are_trained_on_without_progress(tmp_path):
    with training.keep_progress(tmp_path / "kept"):
        training.fit(net(), ((data()[:10],) for _ in range(5)), steps=5)
    assert not (tmp_path / "kept").exists()
    with pytest.raises(AttributeError, match="state_dict"):
        training.fit(net(), ((data()[:10],) for _ in range(5)), steps=5, checkpoint=tmp_path / "a.safetensors")
