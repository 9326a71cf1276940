"""All pixel models: probabilities that sum to 1, causality, cached sampling, bad input; blind spots."""

import itertools
import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from gensrc.models.pixels.base import PixelModel
from gensrc.models.pixels.gated_pixelcnn import GatedPixelCNN
from gensrc.models.pixels.pixel_rnn import PixelRNN
from gensrc.models.pixels.pixel_transformer import PixelTransformer
from gensrc.models.pixels.pixelcnn import MaskedConv2d, PixelCNN, mask, receptive_field

SMALL = {
    "PixelCNN": partial(PixelCNN, width=12, num_layers=3, first_kernel=5),
    "gated": partial(GatedPixelCNN, width=12, num_layers=3, first_kernel=5),
    "gated, with places": partial(GatedPixelCNN, width=12, num_layers=3, first_kernel=5, position_embedding=True),
    "transformer": partial(PixelTransformer, embed_dim=16, num_heads=2, num_layers=2),
    "row": partial(PixelRNN, layer="row", width=12, first_kernel=5),
    "diagonal": partial(PixelRNN, layer="diagonal", width=12, first_kernel=5),
}
KINDS = list(SMALL)
FAMILIES = [
    {"likelihood": "bernoulli"},
    {"likelihood": "categorical", "levels": 8},
    {"likelihood": "logistic_mixture", "num_components": 3},
]


# An LSTM adds its states in another order when it keeps them, and the scale of a mixture makes such rounding visible:
# `test_cached_steps_equal_the_forward_pass` in test_pixel_rnn.py is their test.
EXACT = [
    (kind, about)
    for kind, about in itertools.product(KINDS, FAMILIES)
    if about["likelihood"] != "logistic_mixture" or kind not in ("row", "diagonal")
]


def small(kind: str, **about) -> PixelModel:
    """A network with weights that are far from those it starts with, so that nothing is nearly uniform."""
    torch.manual_seed(0)
    model = SMALL[kind](**{"size": (6, 5), **about}).eval()
    with torch.no_grad():
        for weight in model.parameters():
            nn.init.normal_(weight, std=0.3)
    return model


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(model: PixelModel, n: int = 4) -> Tensor:
    shape = (n, model.channels, *model.size)
    top = model.family.levels - 1
    return torch.randint(0, top + 1, shape, generator=generator(5)) / top


def binary_3x3() -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=9))).view(512, 1, 3, 3)


# --- Probabilities --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_probabilities_of_all_binary_pictures_sum_to_one(kind):
    model = small(kind, size=(3, 3))
    with torch.no_grad():
        total = model.log_prob(binary_3x3()).double().sum((1, 2)).exp().sum()
    assert total == pytest.approx(1, abs=1e-4)


def test_without_masks_a_network_that_copies_is_no_probability():
    """Every pixel told by itself is certain, so each of the 512 pictures has probability 1."""
    open_eyed, x = nn.Conv2d(1, 1, 3, padding=1), binary_3x3()
    with torch.no_grad():
        open_eyed.weight.zero_()
        open_eyed.weight[0, 0, 1, 1] = 40
        open_eyed.bias.fill_(-20)
        nats = nn.functional.binary_cross_entropy_with_logits(open_eyed(x), x, reduction="none")
    assert (-nats.double().sum((1, 2, 3))).exp().sum().item() == pytest.approx(512, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_probabilities_of_all_pixels_in_colour_sum_to_one(kind):
    for about in (
        {"likelihood": "bernoulli", "size": (1, 2)},
        {"likelihood": "categorical", "levels": 3, "size": (1, 2)},
    ):
        model = small(kind, channels=3, **about)
        top = model.family.levels
        x = torch.tensor(list(itertools.product(range(top), repeat=6))).view(-1, 3, 1, 2) / (top - 1)
        with torch.no_grad():
            total = model.log_prob(x).double().sum((1, 2)).exp().sum()
        assert total == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("about", FAMILIES)
def test_the_loss_is_minus_the_log_probability_of_a_picture(kind, about):
    model = small(kind, channels=3, **about)
    x = pictures(model)
    assert model.log_prob(x).shape == (4, 6, 5)
    torch.testing.assert_close(model.loss(x), -model.log_prob(x).sum() / 4)


def test_uniform_predictions_cost_the_logarithm_of_the_levels():
    for levels in (2, 8, 256):
        model = small("gated", likelihood="categorical", levels=levels)
        nn.init.zeros_(model.out.weight)
        nn.init.zeros_(model.out.bias)
        assert model.loss(pictures(model)).item() == pytest.approx(30 * math.log(levels), rel=1e-5)


# --- Who sees whom --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("about", FAMILIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_parameters_of_a_pixel_have_no_gradient_from_it_or_later_ones(kind, about, channels):
    model = small(kind, channels=channels, **about)
    x = pictures(model, 2).requires_grad_()
    colours = model.family.colours
    places = torch.arange(30).view(1, 1, 6, 5) * colours  # of a pixel's first colour in the order of drawing
    order = places + torch.arange(channels).view(1, -1, 1, 1) * (colours > 1)
    params = model(x).unflatten(1, (colours, -1))
    for colour, (row, column) in itertools.product(range(colours), ((0, 0), (2, 3), (5, 4))):
        (slope,) = torch.autograd.grad(params[:, colour, :, row, column].sum(), x, retain_graph=True)
        own = (row * 5 + column) * colours + colour
        later = (order >= own).expand_as(slope)
        assert (slope[later] == 0).all()
        if own > 0:
            before = (order == own - 1).expand_as(slope)
            assert (slope[before] != 0).any()  # its predecessor is seen, so it is not blind altogether


def visible(layers: int, kernel: int, size: int) -> int:
    """How many predecessors the central pixel sees through masked layers of one kernel: the closed form.

    With layers l and reach r: of the row d above, columns from -l r to r min(l, d), as only steps upwards may go right.
    """
    reach, middle = kernel // 2, size // 2
    seen = min(layers * reach, middle)
    for up in range(1, min(layers * reach, middle) + 1):
        # A step upwards brings at most r to the right, and up rows give room for min(l, up) of them.
        seen += min(layers * reach, middle) + 1 + min(reach * min(layers, up), middle)
    return seen


@pytest.mark.parametrize(("layers", "count"), [(2, 11), (5, 50), (12, 175)])
def test_closed_form_of_the_blind_spot_gives_the_audits_counts(layers, count):
    assert visible(layers, 3, 21) == count


@pytest.mark.parametrize(("layers", "kernel"), [(1, 3), (2, 3), (5, 3), (12, 3), (2, 5), (4, 5)])
def test_receptive_field_of_a_plain_stack_is_the_closed_form(layers, kernel):
    torch.manual_seed(0)
    model = PixelCNN(width=32, num_layers=layers, first_kernel=kernel, kernel_size=kernel)
    field = receptive_field(model, (1, 21, 21), 10, 10)
    assert int((field > 0).sum()) == visible(layers, kernel, 21)


def test_the_gated_network_has_no_blind_spot():
    torch.manual_seed(0)
    model = GatedPixelCNN(width=8, num_layers=12, first_kernel=3)
    field = receptive_field(model, (1, 21, 21), 10, 10)
    assert int((field > 0).sum()) == 220


def test_mask_a_hides_the_same_colour_and_mask_b_later_ones_only():
    centre = {kind: mask(kind, (3, 3), 3, 6, colours=3)[:, :, 1, 1].int() for kind in "AB"}
    later = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 1, 0]]).repeat_interleave(2, 0)
    assert torch.equal(centre["A"], later.int())
    assert torch.equal(centre["B"], (later + torch.eye(3, dtype=int).repeat_interleave(2, 0)).int())
    whole = mask("A", (3, 5), 1, 1)[0, 0].int()
    assert whole.tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]]


def test_masked_convolution_equals_torchs_with_zeroed_weights():
    conv, x = MaskedConv2d("B", 2, 4, 3, colours=2), torch.randn(2, 2, 5, 5)
    expected = nn.functional.conv2d(x, conv.weight * mask("B", (3, 3), 2, 4, colours=2), conv.bias, padding=1)
    torch.testing.assert_close(conv(x), expected)


# --- Samples --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "about"), EXACT)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("classes", [0, 4])
def test_samples_with_a_cache_equal_those_without(kind, about, channels, classes):
    model = small(kind, channels=channels, num_classes=classes, **about)
    labels = torch.arange(4) if classes else None
    fast, slow = (model.sample(4, labels=labels, use_cache=cached, generator=generator(1)) for cached in (True, False))
    assert torch.equal(fast, slow)
    assert len(fast.flatten(1).unique(dim=0)) == 4


@pytest.mark.parametrize(("kind", "about"), EXACT)
def test_known_pixels_are_kept_and_the_others_drawn(kind, about):
    model = small(kind, channels=3, **about)
    known = torch.zeros(6, 5, dtype=torch.bool)
    known[:2], known[4, 1:3] = True, True
    x = pictures(model)
    fast, slow = (
        model.sample(4, given=x, known=known, use_cache=cached, generator=generator(1)) for cached in (True, False)
    )
    assert torch.equal(fast, slow)
    assert torch.equal(fast[..., known], x[..., known])
    assert not torch.equal(fast, x)


@pytest.mark.parametrize("kind", KINDS)
def test_frequencies_of_sampled_pictures_are_their_probabilities(kind):
    model = small(kind, size=(2, 2))
    drawn = model.sample(20_000, generator=generator(2)).flatten(1)
    x = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)))
    with torch.no_grad():
        chances = model.log_prob(x.view(-1, 1, 2, 2)).sum((1, 2)).exp()
    shares = (drawn[:, None] == x).all(2).float().mean(0)
    assert ((shares - chances).abs() < 4.5 * (chances / 20_000).sqrt()).all()


@pytest.mark.parametrize("about", FAMILIES[1:])
def test_frequencies_of_sampled_colours_are_their_probabilities(about):
    model = small("gated", channels=2, size=(1, 1), **about)
    drawn = model.sample(20_000, generator=generator(2))
    with torch.no_grad():
        told = model.log_prob(drawn).mean().item()
        # The mean log-probability of samples is minus the entropy, here added up over all levels.
        top = model.family.levels
        grid = torch.cartesian_prod(torch.arange(top), torch.arange(top)).view(-1, 2, 1, 1) / (top - 1)
        log_probs = model.log_prob(grid).flatten().double()
    assert log_probs.exp().sum() == pytest.approx(1, abs=1e-4)
    assert told == pytest.approx((log_probs.exp() * log_probs).sum().item(), abs=0.03)


def test_samples_at_a_low_temperature_are_all_the_same():
    model = small("gated", size=(3, 3))
    assert len(model.sample(20, temperature=1e-4).unique(dim=0)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_step_gains_what_the_slope_of_the_loss_given_a_class_says(kind, gains_what_its_slope_says):
    torch.manual_seed(0)
    model = SMALL[kind](size=(3, 3), num_classes=2)
    x = torch.rand(16, 1, 3, 3, generator=generator()).round()
    labels = torch.arange(2).repeat_interleave(8)
    gains_what_its_slope_says(model.parameters(), lambda: model.loss(x, labels))


# --- Bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [2, 4, 1])
@pytest.mark.parametrize("kind", [PixelCNN, GatedPixelCNN, PixelRNN])
@pytest.mark.parametrize("which", ["first_kernel", "kernel_size"])
def test_even_kernels_are_refused(kind, kernel, which):
    with pytest.raises(ValueError, match=f"a kernel must be odd and at least 3, not {kernel}"):
        kind(**{which: kernel})


@pytest.mark.parametrize("kind", KINDS)
def test_values_outside_the_levels_are_refused(kind):
    model = small(kind)
    with pytest.raises(ValueError, match=r"model of .* levels wants pixels in \[0, 1\], these span \[0, 255\].*divide"):
        model.loss(255 * pictures(model))
    with pytest.raises(ValueError, match="between two of the 2 levels: binarise"):
        model.loss(0.5 * pictures(model))


@pytest.mark.parametrize("kind", KINDS)
def test_another_number_of_channels_is_refused(kind):
    with pytest.raises(ValueError, match="the pictures have 3 channels, the model 1: build it with channels=3"):
        small(kind).loss(torch.zeros(2, 3, 6, 5))


def test_wrong_labels_are_refused():
    model, x = small("gated", num_classes=3), torch.zeros(2, 1, 6, 5)
    with pytest.raises(ValueError, match="needs labels from 0 to 2"):
        model.loss(x)
    with pytest.raises(ValueError, match="labels must lie between 0 and 2, these span 0 to 3"):
        model.loss(x, torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="knows no classes: leave the labels out"):
        small("gated").sample(1, labels=torch.tensor([0]))


@pytest.mark.parametrize("kind", ["transformer", "gated, with places"])
def test_position_embeddings_refuse_another_size(kind):
    with pytest.raises(ValueError, match=r"the model reads pictures of \(6, 5\), not \(5, 6\): build it with size"):
        small(kind).loss(torch.zeros(2, 1, 5, 6))


def test_position_embedding_changes_outputs_by_position_unless_it_is_zero():
    without, told = small("gated"), small("gated, with places")
    told.load_state_dict(without.state_dict(), strict=False)
    far = torch.zeros(1, 1, 6, 5)
    with torch.no_grad():
        told.position_embedding.zero_()
        x = pictures(told)
        assert torch.equal(told(x), without(x))
        told.position_embedding[:, :, 2, 3] = 1.0
        moved = (told(far) != without(far))[0, 0]
    assert moved[2, 3]
    assert not moved[:2].any()


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="likelihood must be one of bernoulli, categorical, .*, not 'gauss'"):
        PixelCNN(likelihood="gauss")
    with pytest.raises(ValueError, match="width must be a multiple of 6"):
        PixelCNN(width=8, channels=3)
    with pytest.raises(ValueError, match="a mask is of kind A or B, not 'C'"):
        mask("C", (3, 3), 1, 1)
    with pytest.raises(ValueError, match="temperature must be positive"):
        small("PixelCNN").sample(1, temperature=0.0)
    with pytest.raises(ValueError, match="given and known come together"):
        small("PixelCNN").sample(1, known=torch.ones(6, 5, dtype=torch.bool))
