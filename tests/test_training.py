"""The loop: it minimises, it resumes to the same bits, and it stops with a reason."""

import copy
import math

import pytest
import torch
from torch import nn

from gensrc import training
from gensrc.models.gan import adversarial, dcgan
from gensrc.models.sequences import recurrent
from gensrc.models.vae import vae


class Line(nn.Module):
    """Least squares on one weight, whose minimum is known: the mean of the data."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def loss(self, batch):
        return (batch - self.weight).square().mean()


def small_vae(seed: int = 0) -> vae.VAE:
    torch.manual_seed(seed)
    return vae.VAE(image_shape=(1, 4, 4), hidden_dim=16, latent_dim=3)


def pictures() -> torch.Tensor:
    return (torch.rand(64, 1, 4, 4, generator=torch.Generator().manual_seed(5)) < 0.3).float()


@pytest.fixture(autouse=True)
def _float32(monkeypatch):
    monkeypatch.setenv("GENSRC_PRECISION", "float32")


def test_fit_finds_the_minimum():
    data = torch.arange(10.0).view(10, 1)
    model = Line()
    history = training.fit(
        model, training.Batches(data, 10), steps=400, optimizer=torch.optim.SGD(model.parameters(), lr=0.1)
    )
    assert model.weight.item() == pytest.approx(4.5, abs=1e-4)
    assert history.step == [50, 100, 150, 200, 250, 300, 350, 400]
    assert history.loss[-1] == pytest.approx(8.25, abs=1e-3)


def test_schedule_and_clip_bound_the_step():
    data = torch.full((4, 1), 1000.0)
    model = Line()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    training.fit(
        model, training.Batches(data, 4), steps=2, optimizer=optimizer, schedule=lambda step: 0.5 / (step + 1), clip=1.0
    )
    assert model.weight.item() == pytest.approx(0.5 + 0.25)


def test_cosine_falls_from_one_to_zero():
    factors = [training.cosine(100)(step) for step in range(101)]
    assert factors[0] == 1
    assert factors[50] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0)
    assert factors == sorted(factors, reverse=True)
    with pytest.raises(ValueError, match="steps must be at least 1, not 0"):
        training.cosine(0)


def test_a_warmed_up_cosine_rises_evenly_and_falls_to_its_floor():
    schedule = training.warmup_cosine(110, warmup=10, floor=0.1)
    factors = [schedule(step) for step in range(111)]
    assert factors[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert factors[10] == 1
    assert factors[60] == pytest.approx(0.55)
    assert factors[110] == pytest.approx(0.1)
    assert [training.warmup_cosine(50, warmup=0)(step) for step in range(51)] == [
        training.cosine(50)(step) for step in range(51)
    ]
    for wrong in ({"warmup": 50}, {"warmup": -1}, {"warmup": 0, "floor": 1.5}):
        with pytest.raises(ValueError, match="need 0 <= warmup < steps and 0 <= floor <= 1"):
            training.warmup_cosine(50, **wrong)


def test_matrices_decay_and_biases_and_norms_do_not():
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 4), nn.LayerNorm(4))
    model[1].weight.requires_grad_(False)
    decayed, kept = training.decay_groups(model, 0.1)
    assert [group["weight_decay"] for group in (decayed, kept)] == [0.1, 0.0]
    assert [weight.shape for weight in decayed["params"]] == [(5, 3)]
    assert [weight.shape for weight in kept["params"]] == [(4,), (4,), (4,)]


def test_callbacks_see_every_log_and_the_last_step():
    seen = []
    model = Line()
    training.fit(
        model,
        training.Batches(torch.zeros(4, 1), 2),
        steps=25,
        log_every=10,
        callbacks=(lambda step, _: seen.append(step),),
    )
    assert seen == [10, 20, 25]


@pytest.mark.parametrize("stop", [20, 35])
def test_resumed_training_ends_in_the_same_bits(tmp_path, stop):
    def run(steps, checkpoint=None):
        model = small_vae()
        torch.manual_seed(1)
        batches = training.Batches(pictures(), 10, seed=3, transform=lambda batch: batch)
        history = training.fit(
            model,
            batches,
            steps=steps,
            log_every=5,
            save_every=10,
            schedule=lambda s: 1 / (1 + s),
            checkpoint=checkpoint,
        )
        return model, history

    whole, history = run(60)
    run(stop, tmp_path / "half.safetensors")
    torch.manual_seed(99)  # whatever happened in between does not matter
    resumed, resumed_history = run(60, tmp_path / "half.safetensors")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert resumed_history == history


def test_an_interrupted_run_resumes_from_its_last_checkpoint(tmp_path):
    def run(stop_at=None):
        def interrupt(step, _):
            if step == stop_at:
                raise KeyboardInterrupt

        model = small_vae()
        torch.manual_seed(1)
        training.fit(
            model,
            training.Batches(pictures(), 10, seed=3),
            steps=60,
            log_every=5,
            save_every=20,
            callbacks=(interrupt,),
            checkpoint=None if stop_at == 0 else tmp_path / "run.safetensors",
        )
        return model

    with pytest.raises(KeyboardInterrupt):
        run(stop_at=45)
    resumed, whole = run(), run(stop_at=0)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_checkpoint_of_another_model_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    training.fit(small_vae(), training.Batches(pictures(), 10), steps=5, checkpoint=path)
    other = vae.VAE(image_shape=(1, 4, 4), hidden_dim=17, latent_dim=3)
    with pytest.raises(training.TrainingError, match="belongs to another model or optimiser"):
        training.fit(other, training.Batches(pictures(), 10), steps=5, checkpoint=path)
    with pytest.raises(training.TrainingError, match="made with seed=0, this run has 1"):
        training.fit(small_vae(), training.Batches(pictures(), 10, seed=1), steps=5, checkpoint=path)


def test_damaged_checkpoint_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    training.fit(small_vae(), training.Batches(pictures(), 10), steps=5, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(training.TrainingError, match="is no training checkpoint .* delete it to start again"):
        training.fit(small_vae(), training.Batches(pictures(), 10), steps=5, checkpoint=path)


def test_nan_stops_with_the_step_and_keeps_the_last_good_checkpoint(tmp_path):
    class Breaks(Line):
        calls = 0

        def loss(self, batch):
            self.calls += 1
            return super().loss(batch) * (float("nan") if self.calls > 25 else 1)

    path = tmp_path / "run.safetensors"
    with pytest.raises(training.TrainingError, match="the loss is nan .* up to step 30"):
        training.fit(
            Breaks(), training.Batches(torch.ones(4, 1), 2), steps=50, log_every=10, save_every=10, checkpoint=path
        )
    good = Line()
    training.fit(good, training.Batches(torch.ones(4, 1), 2), steps=20, checkpoint=path)
    assert torch.isfinite(good.weight).all()


def speller() -> recurrent.RecurrentLM:
    torch.manual_seed(0)
    return recurrent.RecurrentLM(vocab_size=3, embed_dim=4, hidden_dim=5, cell="lstm")


def long_texts() -> torch.Tensor:
    return torch.randint(3, (4, 10), generator=torch.Generator().manual_seed(1))


def test_truncated_backpropagation_is_the_loop_written_by_hand():
    """The state goes on, the gradient is cut, a short window counts, and a second pass begins afresh."""
    ours, theirs = speller(), speller()
    texts = long_texts()
    history = training.fit_truncated(
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
        if start == 0:
            carry = None
        logits, carry = theirs(texts[:, start:stop], carry)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), texts[:, start:stop].flatten())
        weights = list(theirs.parameters())
        gradients = torch.autograd.grad(loss, weights)
        factor = min(1.0, 0.2 / torch.cat([each.flatten() for each in gradients]).norm().item())
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight -= 0.5 / (step + 1) * factor * gradient
        carry = recurrent.Carry(carry.last, tuple(part.detach() for part in carry.state))
        losses.append(loss.item())
    assert history.step == [5]
    assert history.loss[0] == pytest.approx(sum(losses) / 5, rel=1e-5)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert not ours.training


def test_truncated_backpropagation_tells_what_cannot_be():
    with pytest.raises(ValueError, match="steps must be at least 1, not 0"):
        training.fit_truncated(speller(), long_texts(), steps=0, window=4)
    with pytest.raises(ValueError, match="window must lie between 1 and the 10 tokens of a text, not 11"):
        training.fit_truncated(speller(), long_texts(), steps=1, window=11)
    model = speller()
    with torch.no_grad():
        model.to_logits.bias.fill_(math.nan)
    with pytest.raises(training.TrainingError, match="up to step 2: lower the learning rate or clip"):
        training.fit_truncated(model, long_texts(), steps=4, window=4, log_every=2)


def test_batches_cover_every_example_once_an_epoch_and_depend_on_the_seed_alone():
    data = torch.arange(12)
    batches = training.Batches(data, 4, seed=1)
    first, second = (torch.cat([next(batches) for _ in range(3)]) for _ in range(2))
    assert sorted(first.tolist()) == sorted(second.tolist()) == data.tolist()
    assert first.tolist() != second.tolist()
    torch.manual_seed(123)
    again = training.Batches(data, 4, seed=1)
    assert torch.equal(torch.cat([next(again) for _ in range(3)]), first)


def test_batches_refuse_a_batch_larger_than_the_data():
    with pytest.raises(ValueError, match="between 1 and the 3 examples, not 4"):
        training.Batches(torch.zeros(3), 4)


def test_precision_is_forced_by_the_environment_and_refuses_nonsense(monkeypatch):
    cpu = torch.device("cpu")
    assert str(training.precision(cpu)) == "float32"
    monkeypatch.setenv("GENSRC_PRECISION", "bfloat16")
    with training.precision(cpu).autocast():
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.bfloat16
    monkeypatch.setenv("GENSRC_PRECISION", "float8")
    with pytest.raises(ValueError, match="GENSRC_PRECISION must be float32 or bfloat16, not 'float8'"):
        training.precision(cpu)


# --- two players ------------------------------------------------------------------------------------------------


def small_pair(**options):
    torch.manual_seed(0)
    generator = dcgan.Generator(8, 1, latent_dim=4, width=4, **options)
    return generator, dcgan.Discriminator(8, 1, width=4, norm="none", **options), copy.deepcopy(generator)


def small_pictures():
    return torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def play(steps, *, checkpoint=None, seed=0, stop_at=0, **options):
    generator, discriminator, average = small_pair()

    def stop(step, _):
        if step == stop_at:
            raise KeyboardInterrupt

    torch.manual_seed(3)
    history = training.fit_pair(
        generator,
        discriminator,
        training.Batches(small_pictures(), 8, seed=seed),
        steps=steps,
        average=average,
        log_every=2,
        save_every=2,
        checkpoint=checkpoint,
        callbacks=(stop,) if stop_at else (),
        **options,
    )
    return history, [*generator.parameters(), *discriminator.parameters(), *average.state_dict().values()]


def test_fit_pair_alternates_the_two_visible_updates(monkeypatch):
    generator, discriminator, _ = small_pair()
    players = [training._dcgan_adam(discriminator), training._dcgan_adam(generator)]
    torch.manual_seed(3)
    batches = training.Batches(small_pictures(), 8)
    verdicts = []
    for _ in range(4):
        for _ in range(2):
            real = next(batches)
            verdicts.append(
                adversarial.update_discriminator(generator, discriminator, players[0], real, generator.noise(8))
            )
        adversarial.update_generator(generator, discriminator, players[1], generator.noise(8))
    monkeypatch.setenv("GENSRC_PRECISION", "float32")
    history, weights = play(4, critic_steps=2)
    for a, b in zip(weights, [*generator.parameters(), *discriminator.parameters()], strict=False):
        torch.testing.assert_close(a, b)
    assert history.step == [2, 4]
    expected = [verdicts[i].real.sigmoid().mean().item() for i in (1, 3, 5, 7)]  # of the last critic step of a round
    assert history.real == pytest.approx([sum(expected[:2]) / 2, sum(expected[2:]) / 2], rel=1e-5)


@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16"])
def test_an_interrupted_game_resumes_to_the_same_bits(tmp_path, monkeypatch, arithmetic):
    monkeypatch.setenv("GENSRC_PRECISION", arithmetic)
    history, whole = play(8)
    with pytest.raises(KeyboardInterrupt):
        play(8, checkpoint=tmp_path / "pair.safetensors", stop_at=6)
    resumed, weights = play(8, checkpoint=tmp_path / "pair.safetensors")
    assert resumed == history
    assert all(torch.equal(a, b) for a, b in zip(whole, weights, strict=True))


def test_a_checkpoint_of_other_players_is_refused(tmp_path):
    path = tmp_path / "pair.safetensors"
    play(2, checkpoint=path)
    generator, discriminator, _ = small_pair()
    with pytest.raises(training.TrainingError, match="belongs to another model or optimiser"):  # it has an average
        training.fit_pair(
            generator, discriminator, training.Batches(small_pictures(), 8), steps=4, checkpoint=path, log_every=2
        )
    with pytest.raises(training.TrainingError, match="made with seed=0, this run has 1"):
        play(4, checkpoint=path, seed=1)


@pytest.mark.parametrize("player", ["discriminator", "generator"])
def test_nan_stops_a_game_naming_player_and_step_and_keeps_the_last_good_checkpoint(tmp_path, player):
    calls = []

    def breaks(loss):
        def broken(*logits):
            calls.append(1)
            return loss(*logits) * (float("nan") if len(calls) == 5 else 1)

        return broken

    game = adversarial.NONSATURATING
    game = game._replace(**{player: breaks(getattr(game, player))})
    path = tmp_path / "pair.safetensors"
    with pytest.raises(training.TrainingError, match=f"the {player}'s loss is nan at step 5: lower .* last good step"):
        play(8, checkpoint=path, game=game)
    _, good = play(4)
    _, kept = play(4, checkpoint=path)
    assert all(torch.equal(a, b) for a, b in zip(good, kept, strict=True))


def test_a_lazy_penalty_counts_for_the_rounds_without_it():
    counts = []

    def penalty(discriminator, real, fake, labels=None):
        counts.append(len(real))
        return real.new_tensor(0.25, requires_grad=True)

    with_it, _ = play(4, penalty=penalty, penalty_every=2)
    assert len(counts) == 2
    without, _ = play(4)
    rise = [a - b for a, b in zip(with_it.discriminator_loss, without.discriminator_loss, strict=True)]
    assert rise == pytest.approx([0.25, 0.25])  # means over two rounds, of which one pays double


def test_labels_of_a_batch_reach_both_players():
    generator, discriminator, _ = small_pair(num_classes=3)
    pictures, labels = small_pictures(), torch.arange(40) % 3
    seen = []
    for network in (generator, discriminator):
        network.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    batches = training.Batches(torch.arange(40), 8, transform=lambda i: (pictures[i], labels[i]))
    training.fit_pair(generator, discriminator, batches, steps=1)
    again = next(training.Batches(labels, 8))
    assert len(seen) == 5  # G and D twice for D's update, G and D for G's
    assert all(torch.equal(given, again) for given in seen)


def test_the_schedule_reaches_both_optimisers_and_the_average_lags():
    history, weights = play(3, schedule=lambda step: 0.0)
    start = [*small_pair()[0].parameters(), *small_pair()[1].parameters()]
    assert all(torch.equal(a, b) for a, b in zip(weights, start, strict=False))
    assert all(map(math.isfinite, history.generator_loss))
