"""The loop of two players: it alternates their updates, averages one, and stops with a reason."""

import copy
import functools

import pytest
import torch
from torch import nn

from gensrc import training
from gensrc.models.gan import adversarial


class Painter(nn.Module):
    """A generator of four numbers from two, given one of three labels or none."""

    def __init__(self) -> None:
        super().__init__()
        self.told, self.layer = nn.Embedding(3, 2), nn.Linear(2, 4)

    def noise(self, n):
        return torch.randn(n, 2)

    def forward(self, z, labels=None):
        return self.layer(z if labels is None else z + self.told(labels)).tanh()


class Critic(nn.Module):
    """A discriminator of four numbers, with a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.told, self.last = nn.Linear(4, 8), nn.Embedding(3, 8), nn.Linear(8, 1)

    def forward(self, x, labels=None):
        hidden = self.first(x) if labels is None else self.first(x) + self.told(labels)
        return self.last(hidden.relu())[:, 0]


def players():
    torch.manual_seed(0)
    return Painter(), Critic()


def data():
    return torch.rand(40, 4, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(autouse=True)
def _float32(monkeypatch):
    monkeypatch.setenv("GENSRC_PRECISION", "float32")


def play(steps, *, stop_at=0, freeze=(), **options):
    generator, discriminator = players()
    for name in freeze:
        discriminator.get_submodule(name).requires_grad_(False)
    ema = copy.deepcopy(generator)

    def stop(step, _):
        if step == stop_at:
            raise KeyboardInterrupt

    torch.manual_seed(3)
    history = training.fit_gan(
        generator,
        discriminator,
        training.Batches(data(), batch_size=8, seed=options.pop("seed", 0)),
        steps=steps,
        ema=ema,
        log_every=2,
        save_seconds=0,
        callbacks=(stop,),
        **options,
    )
    return history, nn.ModuleList([generator, discriminator, ema])


def by_hand(steps, critic_steps=1, penalty=None):
    """The same game, written out; with the verdict of each update of the discriminator."""
    generator, discriminator = players()
    optimizers = [
        torch.optim.Adam(player.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=True)
        for player in (discriminator, generator)
    ]
    ema = copy.deepcopy(generator)
    torch.manual_seed(3)
    batches, verdicts = training.Batches(data(), batch_size=8), []
    for step in range(1, steps + 1):
        for _ in range(critic_steps):
            (real,) = next(batches)
            z = generator.noise(8)
            both = generator, discriminator
            verdicts.append(adversarial.update_discriminator(*both, optimizers[0], real, z, penalty=penalty))
        adversarial.update_generator(generator, discriminator, optimizers[1], generator.noise(8))
        decay = min(0.999, (1 + step) / (10 + step))
        with torch.no_grad():
            for moving, now in zip(ema.parameters(), generator.parameters(), strict=True):
                moving.lerp_(now, 1 - decay)
    return nn.ModuleList([generator, discriminator, ema]), verdicts


def assert_same(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().values(), strict=True)
    assert [name for (name, a), b in pairs if not torch.equal(a, b)] == []


@pytest.mark.parametrize("critic_steps", [1, 2])
def test_fit_gan_is_the_two_visible_updates_and_a_moving_average_written_by_hand(critic_steps):
    history, ours = play(4, rules=training.GanRules(critic_steps=critic_steps))
    theirs, verdicts = by_hand(4, critic_steps)
    assert_same(ours, theirs)
    assert history.step == [2, 4]
    last = [verdict.real.sigmoid().mean().item() for verdict in verdicts[critic_steps - 1 :: critic_steps]]
    assert history.real == pytest.approx([sum(last[:2]) / 2, sum(last[2:]) / 2], rel=1e-5)


def test_the_average_warms_up_so_that_it_forgets_where_it_began():
    far = {}
    for decay in (0.0, 0.5, 0.999):
        _, (generator, _, ema) = play(3, ema_decay=decay, schedule=lambda step: 100.0)
        start = players()[0].layer.weight
        far[decay] = ((ema.layer.weight - start).norm() / (generator.layer.weight - start).norm()).item()
    assert far[0.0] == pytest.approx(1.0, abs=1e-4)
    # Of (1 + k) / (10 + k), the products for k = 1, 2, 3 leave 2/11 * 3/12 * 4/13 of the start, not 0.997 of it.
    assert far[0.999] > 0.7
    assert far[0.5] == far[0.999], "in the first steps the decay is that of the warm-up"


def test_a_penalty_that_comes_every_second_round_counts_twice():
    counts = []

    def penalty(discriminator, real, fake, labels=None):
        counts.append(len(real))
        return real.new_tensor(0.25, requires_grad=True)

    with_it, _ = play(4, rules=training.GanRules(penalty=penalty, penalty_every=2))
    assert len(counts) == 2
    without, _ = play(4)
    rise = [a - b for a, b in zip(with_it.discriminator_loss, without.discriminator_loss, strict=True)]
    assert rise == pytest.approx([0.25, 0.25])  # means over two rounds, of which one pays double


def test_a_penalty_in_every_round_is_that_of_the_update():
    penalty = functools.partial(adversarial.r1_penalty, weight=10.0)
    _, ours = play(4, rules=training.GanRules(penalty=penalty))
    assert_same(ours, by_hand(4, penalty=penalty)[0])


def test_all_that_the_discriminator_sees_is_augmented():
    _, black = play(3, rules=training.GanRules(augment=lambda x: 0 * x))
    start = players()[1]
    assert torch.equal(black[1].first.weight, start.first.weight), "what is always 0 teaches a weight nothing"
    assert not torch.equal(black[1].last.weight, start.last.weight)


def test_labels_of_a_batch_reach_both_players():
    generator, discriminator = players()
    labels, seen = torch.arange(40) % 3, []
    for network in (generator, discriminator):
        network.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    training.fit_gan(generator, discriminator, training.Batches(data(), labels, batch_size=8), steps=1)
    (again,) = next(training.Batches(labels, batch_size=8))
    assert len(seen) == 5  # G and D twice for D's update, G and D for G's
    assert all(torch.equal(given, again) for given in seen)


def test_layers_that_the_reader_froze_stay_frozen():
    _, trained = play(3, freeze=["first"])
    start = players()[1]
    assert torch.equal(trained[1].first.weight, start.first.weight)
    assert not torch.equal(trained[1].last.weight, start.last.weight)
    assert [weight.requires_grad for weight in trained[1].parameters()] == [False, False, True, True, True]


def test_one_schedule_reaches_both_optimizers():
    _, trained = play(3, schedule=lambda step: 0.0)
    assert_same(trained[:2], nn.ModuleList(players()))


def test_before_step_and_callbacks_are_given_the_average():
    generator, discriminator = players()
    ema, seen = copy.deepcopy(generator), []
    batches = training.Batches(data(), batch_size=8)

    def look(step, model):
        seen.append((step, model is ema, model.training))

    training.fit_gan(generator, discriminator, batches, steps=2, ema=ema, before_step=look, callbacks=(look,))
    assert seen == [(0, True, False), (1, True, False), (2, True, False)]
    training.fit_gan(generator, discriminator, batches, steps=1, callbacks=(lambda _, m: seen.append(m is generator),))
    assert seen[-1]


@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16"])
def test_an_interrupted_game_resumes_to_the_same_bits(tmp_path, monkeypatch, arithmetic):
    monkeypatch.setenv("GENSRC_PRECISION", arithmetic)
    history, whole = play(8, schedule=lambda step: 1 / (1 + step))
    with pytest.raises(KeyboardInterrupt):
        play(8, checkpoint=tmp_path / "pair.safetensors", stop_at=6, schedule=lambda step: 1 / (1 + step))
    resumed, weights = play(8, checkpoint=tmp_path / "pair.safetensors", schedule=lambda step: 1 / (1 + step))
    assert resumed == history
    assert_same(weights, whole)


def test_a_checkpoint_of_other_players_is_refused(tmp_path):
    path = tmp_path / "pair.safetensors"
    play(2, checkpoint=path)
    batches = training.Batches(data(), batch_size=8)
    with pytest.raises(training.TrainingError, match="belongs to another model or optimiser"):  # it has an average
        training.fit_gan(*players(), batches, steps=4, checkpoint=path)
    with pytest.raises(training.TrainingError, match="made with seed=0, this run has 1"):
        play(4, checkpoint=path, seed=1)


@pytest.mark.parametrize("player", ["discriminator", "generator"])
def test_a_loss_that_is_not_finite_stops_a_game_and_names_player_and_step(tmp_path, player):
    calls = []

    def breaks(loss):
        def broken(*logits):
            calls.append(1)
            return loss(*logits) * (float("nan") if len(calls) == 5 else 1)

        return broken

    game = adversarial.NONSATURATING
    game = game._replace(**{player: breaks(getattr(game, player))})
    path = tmp_path / "pair.safetensors"
    with pytest.raises(training.TrainingError, match=f"the {player}'s loss is nan at step 5: .* last good step"):
        play(8, checkpoint=path, rules=training.GanRules(game=game))
    assert_same(play(4, checkpoint=path)[1], play(4)[1])


@pytest.mark.parametrize("player", ["discriminator", "generator"])
def test_a_gradient_that_breaks_a_player_at_a_saved_step_reaches_no_checkpoint(tmp_path, player):
    calls = []

    def breaks(loss):
        def broken(*logits):
            calls.append(1)
            value = loss(*logits)
            if len(calls) == 4:
                value.register_hook(lambda gradient: gradient * float("nan"))
            return value

        return broken

    game = adversarial.NONSATURATING
    game = game._replace(**{player: breaks(getattr(game, player))})
    path = tmp_path / "pair.safetensors"
    # The generator learns from the discriminator of the same step, so its loss tells of that one's weights.
    told = {
        "generator": "after step 4, generator.* not finite",
        "discriminator": "the generator's loss is nan at step 4",
    }
    with pytest.raises(training.TrainingError, match=told[player]):
        play(8, checkpoint=path, rules=training.GanRules(game=game))
    assert_same(play(2, checkpoint=path)[1], play(2)[1])
