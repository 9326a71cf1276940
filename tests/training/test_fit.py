"""The loop of one model: it minimises, keeps to its schedule, and stops with a reason."""

import pytest
import torch
from torch import nn

from gensrc import training


class Line(nn.Module):
    """Least squares on one weight, whose minimum is known: the mean of the data."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def loss(self, batch):
        return (batch - self.weight).square().mean()


class Slope(nn.Module):
    """y = weight x, for batches of two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.beta = 0.0

    def loss(self, x, y):
        return (self.weight * x - y).square().mean() + self.beta * self.weight.square()


@pytest.fixture(autouse=True)
def _float32(monkeypatch):
    monkeypatch.setenv("GENSRC_PRECISION", "float32")


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr)


def test_fit_finds_the_minimum():
    data = torch.arange(10.0).view(10, 1)
    model = Line()
    history = training.fit(model, training.Batches(data, batch_size=10), steps=400, optimizer=sgd(model))
    assert model.weight.item() == pytest.approx(4.5, abs=1e-4)
    assert history.step == [50, 100, 150, 200, 250, 300, 350, 400]
    assert history.loss[-1] == pytest.approx(8.25, abs=1e-3)
    assert not model.training


def test_the_parts_of_a_batch_are_the_arguments_of_the_loss():
    x = torch.arange(1.0, 9.0)
    model = Slope()
    training.fit(model, training.Batches(x, 3 * x, batch_size=4), steps=300, optimizer=sgd(model, 0.01))
    assert model.weight.item() == pytest.approx(3.0, abs=1e-4)


def test_a_batch_that_is_no_tuple_is_refused():
    with pytest.raises(TypeError, match=r"a batch must be a tuple, not Tensor: .* comes as \(tensor,\)"):
        training.fit(Line(), iter([torch.zeros(2, 1)]), steps=1)


def test_the_history_holds_means_of_the_steps_since_the_entry_before():
    class Counts(Line):
        calls = 0

        def loss(self, batch):
            self.calls += 1
            return 0 * self.weight.sum() + self.calls

    history = training.fit(Counts(), training.Batches(torch.zeros(4, 1), batch_size=2), steps=5, log_every=2)
    assert history == training.History([2, 4, 5], [1.5, 3.5, 5.0])


def test_schedule_and_clip_bound_the_step():
    model = Line()
    training.fit(
        model,
        training.Batches(torch.full((4, 1), 1000.0), batch_size=4),
        steps=2,
        optimizer=sgd(model, 1.0),
        schedule=lambda step: 0.5 / (step + 1),
        clip=1.0,
    )
    assert model.weight.item() == pytest.approx(0.5 + 0.25)


def test_the_schedule_is_asked_for_each_step_and_for_no_step_beyond_the_last():
    asked = []
    model = Line()
    optimizer = sgd(model)
    training.fit(
        model,
        training.Batches(torch.zeros(4, 1), batch_size=2),
        steps=3,
        optimizer=optimizer,
        schedule=lambda step: asked.append(step) or 0.5,
    )
    assert asked == [0, 1, 2]
    assert optimizer.param_groups[0]["lr"] == 0.1, "the rate is put back"


def test_several_optimizers_share_out_the_parameters_and_follow_one_schedule():
    model = nn.ParameterDict({"a": torch.zeros(1), "b": torch.zeros(1)})
    model.loss = lambda x: ((model["a"] - x).square() + (model["b"] - x).square()).mean()
    optimizers = [torch.optim.SGD([model["a"]], lr=0.1), torch.optim.SGD([model["b"]], lr=0.2)]
    batches = training.Batches(torch.ones(2, 1), batch_size=2)
    training.fit(model, batches, steps=2, optimizer=optimizers, schedule=lambda step: 1.0 if step == 0 else 0.5)
    assert model["a"].item() == pytest.approx(1 - 0.8 * 0.9)
    assert model["b"].item() == pytest.approx(1 - 0.6 * 0.8)


def test_before_step_changes_the_loss_at_every_step():
    model, seen = Slope(), []

    def raise_beta(step, model):
        model.beta = step / 4
        seen.append((step, model.training))

    x = torch.ones(4)
    history = training.fit(
        model,
        training.Batches(x, x, batch_size=4),
        steps=4,
        optimizer=sgd(model, 0.0),
        before_step=raise_beta,
        log_every=100,
    )
    assert seen == [(step, True) for step in range(4)]
    assert model.beta == 0.75
    assert history.loss == [1.0], "the weight stays at 0, where beta costs nothing"


def test_an_annealed_loss_gives_the_updates_written_by_hand():
    model = Slope()
    x = torch.ones(4)

    def raise_beta(step, model):
        model.beta = 0.1 * step

    training.fit(
        model, training.Batches(x, x, batch_size=4), steps=5, optimizer=sgd(model, 0.1), before_step=raise_beta
    )
    weight = 0.0
    for step in range(5):
        weight -= 0.1 * (2 * (weight - 1) + 2 * 0.1 * step * weight)
    assert model.weight.item() == pytest.approx(weight, rel=1e-5)


def test_callbacks_see_every_log_and_the_last_step():
    seen = []
    training.fit(
        Line(),
        training.Batches(torch.zeros(4, 1), batch_size=2),
        steps=25,
        log_every=10,
        callbacks=(lambda step, _: seen.append(step),),
    )
    assert seen == [10, 20, 25]


def test_snapshots_keep_what_they_take_at_their_steps_alone():
    shots = training.Snapshots(lambda model: model.weight.detach().clone(), [10, 25])
    model = Line()
    data = training.Batches(torch.ones(4, 1), batch_size=2)
    training.fit(model, data, steps=25, log_every=5, callbacks=(shots,))
    assert list(shots.taken) == [10, 25]
    assert 0 < shots.taken[10] < shots.taken[25] == model.weight


def test_an_unknown_option_is_refused():
    with pytest.raises(TypeError, match="log_evry"):
        training.fit(Line(), training.Batches(torch.zeros(4, 1), batch_size=2), steps=1, log_evry=10)


def test_precision_can_be_given():
    class Asks(Line):
        def loss(self, batch):
            self.dtype = torch.mm(batch, batch.mT).dtype
            return super().loss(batch)

    model = Asks()
    batches = training.Batches(torch.ones(4, 1), batch_size=2)
    training.fit(model, batches, steps=1, precision=training.Precision("cpu", bfloat16=True))
    assert model.dtype == torch.bfloat16
    training.fit(model, batches, steps=1)
    assert model.dtype == torch.float32


def test_a_loss_that_is_not_finite_stops_the_training_and_names_the_step(tmp_path):
    class Breaks(Line):
        calls = 0

        def loss(self, batch):
            self.calls += 1
            return super().loss(batch) * (float("nan") if self.calls == 26 else 1)

    path = tmp_path / "run.safetensors"
    ones = training.Batches(torch.ones(4, 1), batch_size=2)
    with pytest.raises(training.TrainingError, match="the loss is nan at step 26: .* the last good step"):
        training.fit(Breaks(), ones, steps=50, log_every=10, save_seconds=0, checkpoint=path)
    good = Line()
    history = training.fit(good, training.Batches(torch.ones(4, 1), batch_size=2), steps=20, checkpoint=path)
    assert history.step == [10, 20]
    assert good.weight.isfinite().all()


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_a_gradient_that_breaks_the_weights_at_a_saved_step_reaches_no_checkpoint(tmp_path, kind):
    class Breaks(Line):
        calls = 0

        def loss(self, batch):
            self.calls += 1
            loss = super().loss(batch)
            if self.calls == 20:
                loss.register_hook(lambda gradient: gradient * float("inf"))
            return loss

    path = tmp_path / "run.safetensors"
    model = Breaks()
    with pytest.raises(training.TrainingError, match="after step 20, weight holds values that are not finite"):
        training.fit(
            model,
            training.Batches(torch.ones(4, 1), batch_size=2),
            steps=50,
            optimizer=kind(model.parameters(), lr=0.1),
            log_every=10,
            save_seconds=0,
            checkpoint=path,
        )
    good = Line()
    optimizer = kind(good.parameters(), lr=0.1)
    batches = training.Batches(torch.ones(4, 1), batch_size=2)
    history = training.fit(good, batches, steps=10, optimizer=optimizer, checkpoint=path)
    assert history.step == [10], "the checkpoint is that of step 10"
    assert good.weight.isfinite().all()


def test_a_gradient_that_breaks_the_weights_in_the_last_step_is_told():
    class Breaks(Line):
        def loss(self, batch):
            loss = super().loss(batch)
            loss.register_hook(lambda gradient: gradient * float("nan"))
            return loss

    with pytest.raises(training.TrainingError, match="after step 1, weight"):
        training.fit(Breaks(), training.Batches(torch.ones(4, 1), batch_size=2), steps=1)


def test_updates_written_by_hand_go_through_the_same_loop(tmp_path):
    def run(steps, **options):
        torch.manual_seed(0)
        models = nn.ModuleList([Line(), Line()])
        optimizers = [sgd(models[0], 0.1), torch.optim.Adam(models[1].parameters(), lr=0.1)]

        def update(step, batch):
            losses = [model.loss(batch) for model in models]
            for optimizer, loss in zip(optimizers, losses, strict=True):
                optimizer.zero_grad()
                (loss * (1 + step)).backward()
                optimizer.step()
            return {"first": losses[0].detach(), "second": losses[1].detach()}

        batches = training.Batches(torch.arange(6.0).view(6, 1), batch_size=2)
        history = training.fit_updates(
            update, models, batches, steps=steps, optimizers=optimizers, log_every=1, **options
        )
        return history, [model.weight.item() for model in models]

    history, whole = run(6)
    run(3, checkpoint=tmp_path / "half.safetensors")
    resumed, weights = run(6, checkpoint=tmp_path / "half.safetensors")
    assert weights == whole
    assert vars(resumed) == vars(history)
    assert history.step == [1, 2, 3, 4, 5, 6]
    model, data = Line(), training.Batches(torch.arange(6.0).view(6, 1), batch_size=2)
    for step in range(6):
        (batch,) = next(data)
        with torch.no_grad():
            model.weight -= 0.1 * (1 + step) * 2 * (model.weight - batch).mean()
    assert whole[0] == pytest.approx(model.weight.item(), rel=1e-5)
