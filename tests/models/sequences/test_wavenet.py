"""WaveNet: causality, receptive field, probabilities, equal samples with and without the cache."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gensrc.data.speech import mu_law
from gensrc.models.sequences.causal_conv import CausalConv1d, FastWaveNetCache
from gensrc.models.sequences.wavenet import SILENCE, WaveNet

NETWORKS = {
    "softmax": {"dilations": (1, 2, 4)},
    "wide": {"dilations": (1, 3), "kernel_size": 3},
    "repeated": {"dilations": (1, 2, 1, 2)},
    "mixture": {"dilations": (1, 2, 4), "num_components": 3},
    "classes": {"dilations": (1, 2, 4), "num_classes": 3},
    "both": {"dilations": (4, 1), "kernel_size": 4, "num_components": 2, "num_classes": 2},
}
FIELDS = {"softmax": 8, "wide": 9, "repeated": 7, "mixture": 8, "classes": 8, "both": 16}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(name: str = "softmax") -> WaveNet:
    """A small one whose weights are large, so that what it says depends on what it has read."""
    torch.manual_seed(0)
    model = WaveNet(channels=4, skip_channels=6, **NETWORKS[name])
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2)
    return model


def codes(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, generator=generator(seed))


def labels_for(model: WaveNet, n: int) -> Tensor | None:
    return torch.arange(n) % model.num_classes if model.num_classes else None


# --- the convolution ---


@pytest.mark.parametrize(("width", "dilation"), [(2, 1), (2, 8), (3, 4), (4, 5)])
def test_causal_convolution_equals_torchs_of_a_left_padded_input(width: int, dilation: int) -> None:
    torch.manual_seed(0)
    ours, theirs = CausalConv1d(3, 5, width, dilation=dilation), nn.Conv1d(3, 5, width, dilation=dilation)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 30, generator=generator())
    zeros = torch.zeros(2, 3, (width - 1) * dilation)
    torch.testing.assert_close(ours(x), theirs(torch.cat([zeros, x], 2)))
    assert ours(x).shape == (2, 5, 30)


def test_causal_convolution_is_the_sum_over_its_taps() -> None:
    torch.manual_seed(0)
    conv, x = CausalConv1d(2, 3, 2, dilation=4), torch.randn(1, 2, 12, generator=generator())
    earlier = F.pad(x, (4, 0))[:, :, :12]
    expected = conv.weight[:, :, 1] @ x + conv.weight[:, :, 0] @ earlier + conv.bias[:, None]
    torch.testing.assert_close(conv(x), expected)


# --- the network ---


def test_wavenet_equals_the_papers_formulas() -> None:
    """tanh times sigmoid, residual and skip connections, written out with torch's functions on the same weights."""
    model, said = network("classes"), codes(2, 20)
    stack, labels = model.stack, torch.tensor([2, 0])
    x = F.embedding(said, model.embed.weight).mT
    shifts = stack.shifts.weight[labels].view(2, 3, 8)
    first, _, second, _, third = model.head
    skips = []
    for layer, dilation in enumerate((1, 2, 4)):
        conv, skip = stack.convs[layer], first.weight[:, 4 * layer : 4 * layer + 4, None]
        both = F.conv1d(F.pad(x, (dilation, 0)), conv.weight, conv.bias, dilation=dilation) + shifts[:, layer, :, None]
        gated = torch.tanh(both[:, :4]) * torch.sigmoid(both[:, 4:])
        skips.append(F.conv1d(gated, skip))
        if layer < 2:
            x = x + F.conv1d(gated, stack.residuals[layer].weight)
    total = torch.stack(skips).sum(0) + first.bias[:, None]
    hidden = F.conv1d(total.relu(), second.weight[:, :, None], second.bias)
    expected = F.conv1d(hidden.relu(), third.weight[:, :, None], third.bias)
    torch.testing.assert_close(model.network(said, labels), expected.mT)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_show_causality_and_the_receptive_field(name: str) -> None:
    """Exactly 0 from the present and the future and from beyond the field; not 0 at its earliest and latest code."""
    model, time = network(name), 25
    field = model.receptive_field
    assert field == FIELDS[name]
    seen: list[Tensor] = []
    model.embed.register_forward_hook(lambda module, given, result: seen.append(result))
    outputs = model(codes(1, 30), labels_for(model, 1))
    (gradient,) = torch.autograd.grad(outputs[0, time].square().sum(), seen[0])
    # Before the codes there is one receptive field of silence; the last code is read by nobody.
    size = gradient[0].abs().sum(1)
    now = field + time
    assert len(size) == field + 29
    assert (size[now:] == 0).all()
    assert (size[: now - field] == 0).all()
    assert size[now - 1] > 0
    assert size[now - field] > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_changing_a_code_changes_later_outputs_within_the_receptive_field(name: str) -> None:
    model, said = network(name), codes(1, 40)
    other = said.clone()
    other[0, 10] = (other[0, 10] + 100) % 256
    labels = labels_for(model, 1)
    with torch.no_grad():
        moved = (model(said, labels) - model(other, labels)).abs().sum(2)[0]
    field = model.receptive_field
    assert (moved[:11] == 0).all()
    assert (moved[11 + field :] == 0).all()
    assert moved[11] > 0
    assert moved[10 + field] > 0


def test_receptive_field_of_the_papers_dilations_is_1024() -> None:
    assert WaveNet(channels=1).receptive_field == 1024
    assert WaveNet(channels=1, dilations=[1, 2, 4, 8] * 3).receptive_field == 1 + 3 * 15


def test_recordings_are_padded_with_silence() -> None:
    model, said = network(), codes(1, 12)
    assert int(mu_law(torch.tensor(0.0))) == SILENCE
    after = torch.cat([torch.full((1, 50), SILENCE), said], 1)
    with torch.no_grad():
        torch.testing.assert_close(model(said), model(after)[:, 50:])


@pytest.mark.parametrize("name", NETWORKS)
def test_every_weight_has_a_gradient(name: str) -> None:
    model = network(name)
    labels = labels_for(model, 2)
    pieces = codes(2, 40)
    model.loss(pieces, labels).backward()
    for key, weight in model.named_parameters():
        assert weight.grad is not None, key
        assert weight.grad.abs().sum() > 0, key


# --- probabilities ---


@pytest.mark.parametrize("name", NETWORKS)
def test_probabilities_of_all_codes_sum_to_one_after_any_past(name: str) -> None:
    model, past = network(name), codes(1, 9).expand(256, -1)
    every = torch.cat([past, torch.arange(256)[:, None]], 1)
    labels = None if not model.num_classes else torch.zeros(256, dtype=torch.int64)
    with torch.no_grad():
        total = model.log_prob(every, labels)[:, -1].double().exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("length", [1, 12])
@pytest.mark.parametrize("name", ["softmax", "mixture"])
def test_probs_are_those_of_log_prob_for_every_next_code(name: str, length: int) -> None:
    model, past = network(name), codes(length)
    every = torch.cat([past.expand(256, -1), torch.arange(256)[:, None]], 1)
    with torch.no_grad():
        torch.testing.assert_close(model.probs(past), model.log_prob(every)[:, -1].exp())


def test_probs_refuse_wrong_codes_and_conditional_models() -> None:
    with pytest.raises(ValueError, match="codes must lie between 0 and 255"):
        network().probs(torch.tensor([3, 256]))
    with pytest.raises(ValueError, match="needs labels from 0 to 2"):
        network("classes").probs(torch.tensor([3]))


@pytest.mark.parametrize("name", ["softmax", "mixture"])
def test_probabilities_of_all_pairs_sum_to_one(name: str) -> None:
    every = torch.cartesian_prod(torch.arange(256), torch.arange(256))
    model = network(name)
    with torch.no_grad():
        total = sum(model.log_prob(some).sum(1).double().exp().sum().item() for some in every.split(8192))
    assert total == pytest.approx(1, abs=1e-4)


def test_a_mixtures_probabilities_are_differences_of_its_distribution_function() -> None:
    model, said = network("mixture"), codes(1, 15)
    with torch.no_grad():
        logits, loc, log_scale = model(said)[0].T.double().reshape(3, 3, 15)
        level = said[0].double() / 255
        upper = torch.where(said[0] == 255, math.inf, level + 0.5 / 255)
        lower = torch.where(said[0] == 0, -math.inf, level - 0.5 / 255)
        scale = log_scale.clamp(min=-7 - math.log(2)).exp()
        gain = torch.sigmoid((upper - loc) / scale) - torch.sigmoid((lower - loc) / scale)
        expected = (logits.softmax(0) * gain).sum(0)
        torch.testing.assert_close(model.log_prob(said)[0].double().exp(), expected, atol=1e-7, rtol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_loss_is_the_mean_over_codes_whose_past_is_known(name: str) -> None:
    model, pieces = network(name), codes(3, 30)
    labels, field = labels_for(model, 3), model.receptive_field
    with torch.no_grad():
        expected = -model.log_prob(pieces, labels)[:, field:].mean()
        torch.testing.assert_close(model.loss(pieces, labels), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_small_step_gains_what_the_slope_of_the_loss_says(name, gains_what_its_slope_says):
    model = network(name)
    said = codes(3, 3 * model.receptive_field)
    labels = labels_for(model, 3)
    batch = (said,) if labels is None else (said, labels)
    gains_what_its_slope_says(model.parameters(), lambda: model.loss(*batch))


# --- classes ---


@pytest.mark.parametrize("name", ["classes", "both"])
def test_a_class_changes_every_output_of_its_recording_only(name: str) -> None:
    model, said = network(name), codes(1, 20).expand(2, -1)
    with torch.no_grad():
        same, other = model(said, torch.tensor([0, 0])), model(said, torch.tensor([0, 1]))
    torch.testing.assert_close(same[0], same[1])
    torch.testing.assert_close(same[0], other[0])
    assert ((same[1] - other[1]).abs().sum(1) > 0).all()


def test_a_sample_follows_its_class() -> None:
    model = network("classes")
    with torch.no_grad():
        model.stack.shifts.weight.mul_(10)
    drawn = [model.sample(1, length=30, labels=torch.tensor([k]), generator=generator()) for k in (0, 1)]
    assert not torch.equal(drawn[0], drawn[1])


# --- generation ---


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_with_a_cache_equal_those_of_the_whole(name: str) -> None:
    model, said = network(name), codes(3, 60)
    labels, start = labels_for(model, 3), model.receptive_field - 1
    with torch.no_grad():
        whole = model.network(said, labels)
        rings = FastWaveNetCache(model.stack, model.embed(said[:, :start]).mT, labels)
        steps = [rings.step(model.embed(column)) for column in said[:, start:].unbind(1)]
        stepped = model.head(torch.stack(steps, 1))
    assert (stepped - whole[:, start:]).abs().max() <= 1e-5
    assert stepped.std() > 0.1, "outputs that never change would prove nothing"


@pytest.mark.parametrize("prompted", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_cached_and_naive_draw_the_same_codes(name: str, prompted: bool) -> None:
    model = network(name)
    prompt, labels = codes(11) if prompted else None, labels_for(model, 2)
    kept, anew = (
        model.sample(2, length=70, prompt=prompt, labels=labels, use_cache=use, generator=generator(3))
        for use in (True, False)
    )
    assert torch.equal(kept, anew)
    assert kept.shape == (2, 70)
    assert len(kept.unique()) > 10


@pytest.mark.parametrize("name", ["softmax", "mixture"])
def test_codes_are_drawn_with_the_probabilities_of_log_prob(name: str) -> None:
    model, n = network(name), 20_000
    drawn = model.sample(n, length=1, prompt=codes(12), generator=generator())[:, 0]
    every = torch.cat([codes(12).expand(256, -1), torch.arange(256)[:, None]], 1)
    with torch.no_grad():
        probability = model.log_prob(every)[:, -1].exp()
    found = torch.bincount(drawn, minlength=256) / n
    assert ((found - probability).abs() < 5 * (probability / n).sqrt() + 1e-3).all()


@pytest.mark.parametrize("name", ["softmax", "mixture"])
def test_samples_at_a_low_temperature_are_the_likeliest_codes(name: str) -> None:
    model = network(name)
    drawn = model.sample(8, length=1, temperature=1e-4, generator=generator())
    # A scale of half a level is the least that a mixture has.
    assert (drawn - drawn[0]).abs().max() <= (5 if model.num_components else 0)


def test_a_cached_step_costs_the_same_at_any_length() -> None:
    """Its store does not grow, and no tensor that it makes has the length of the past."""
    stack = network().stack
    with torch.no_grad():
        rings = FastWaveNetCache(stack, torch.randn(1, 4, 500, generator=generator()))
        before = rings.rings.data_ptr(), rings.rings.shape
        for x in torch.randn(50, 1, 4, generator=generator(1)):
            assert rings.step(x).shape == (1, 12)
    assert (rings.rings.data_ptr(), rings.rings.shape) == before
    assert len(rings.rings) == 1 + 2 + 4


def test_model_can_be_trained_after_sampling() -> None:
    model = network()
    drawn = model.sample(2, length=20, generator=generator())
    model.loss(drawn.clone()).backward()
    assert model.embed.weight.grad is not None


# --- bad input ---


@pytest.mark.parametrize("wrong", [-1, 256])
def test_codes_outside_the_levels_are_refused(wrong: int) -> None:
    model, said = network(), codes(2, 20)
    said[1, 3] = wrong
    for call in (model, model.log_prob, model.loss):
        with pytest.raises(ValueError, match="between 0 and 255, these span .*: turn waves into codes by mu_law"):
            call(said)
    with pytest.raises(ValueError, match=f"codes must lie between 0 and 255, these span .*{wrong}"):
        model.sample(2, length=1, prompt=said[1])


def test_another_number_of_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="2 channels, the convolution 3: build it with in_channels=2"):
        CausalConv1d(3, 5, 2, dilation=1)(torch.zeros(1, 2, 9))


@pytest.mark.parametrize("dilation", [0, -2])
def test_dilations_below_one_are_refused(dilation: int) -> None:
    with pytest.raises(ValueError, match=f"a dilation must be at least 1, not {dilation}"):
        WaveNet(dilations=(1, dilation))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"kernel_size": 1}, "kernel_size must be at least 2, not 1"),
        ({"dilations": ()}, "dilations must name a layer at least"),
        ({"channels": 0}, "channels must be at least 1, not 0"),
        ({"skip_channels": 0}, "skip_channels must be at least 1, not 0"),
        ({"num_components": -1}, "num_components must be at least 0, not -1"),
        ({"num_classes": -1}, "num_classes must be at least 0, not -1"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WaveNet(**sizes)


def test_pieces_without_a_code_to_predict_are_refused() -> None:
    model = network()
    assert model.loss(codes(1, 9)).isfinite()
    with pytest.raises(
        ValueError, match="pieces of 8 codes are too short: 8, the receptive field, are given, so take 9"
    ):
        model.loss(codes(1, 8))
    with pytest.raises(ValueError, match="there are no codes"):
        model(codes(1, 0))


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        ("softmax", [0, 1], "knows no classes: leave the labels out"),
        ("classes", None, "needs labels from 0 to 2"),
        ("classes", [0, 3], "labels must lie between 0 and 2, these span 0 to 3"),
        ("classes", [-1, 0], "labels must lie between 0 and 2, these span -1 to 0"),
    ],
)
def test_labels_that_do_not_fit_are_refused(name: str, labels: list[int] | None, message: str) -> None:
    model, given = network(name), None if labels is None else torch.tensor(labels)
    with pytest.raises(ValueError, match=message):
        model(codes(2, 10), given)
    with pytest.raises(ValueError, match=message):
        model.sample(2, length=3, labels=given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "length must be at least 1, not 0"),
        ({"length": 5, "temperature": 0.0}, "temperature must be positive and finite, not 0.0"),
        ({"length": 5, "temperature": math.nan}, "temperature must be positive and finite, not nan"),
    ],
)
def test_wrong_lengths_and_temperatures_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network().sample(1, **options)


@pytest.mark.parametrize("name", NETWORKS)
def test_predictions_depend_on_the_receptive_field_only(name: str) -> None:
    """`sample` without a cache computes no more than that."""
    model, said = network(name), codes(2, 40)
    labels = labels_for(model, 2)
    with torch.no_grad():
        windowed = model.network(said[:, -model.receptive_field :], labels)[:, -1]
        torch.testing.assert_close(windowed, model.network(said, labels)[:, -1])


def test_caches_of_too_few_inputs_are_refused() -> None:
    stack = network().stack
    with pytest.raises(ValueError, match="needs 7 inputs before the next, and 6 were read: put silence before them"):
        FastWaveNetCache(stack, torch.zeros(1, 4, 6))
