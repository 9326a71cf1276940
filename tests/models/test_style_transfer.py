"""Style transfer: Gram matrices against their definition, gradients, descent, and the bound on the content."""

import itertools
import math

import pytest
import torch

from gensrc.data.patterns import waves
from gensrc.models import style_transfer
from gensrc.models.style_transfer import RandomFeatures, Target, gram, relative_error, transfer


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(**options: int) -> RandomFeatures:
    return RandomFeatures(**{"filters": 6, "levels": 2, "colours": 4, **options})


def content() -> torch.Tensor:
    """A soft disc on a ground that grows brighter: something to keep."""
    down, right = torch.meshgrid(torch.linspace(-1, 1, 24), torch.linspace(-1, 1, 32), indexing="ij")
    disc = torch.sigmoid(8 * (0.6 - torch.hypot(down, right)))
    return torch.stack([0.2 + 0.6 * disc, 0.5 + 0.3 * right, 0.6 - 0.4 * disc])[None].clamp(0, 1)


def target(**options: int) -> Target:
    return Target(small(), content(), waves(28, 20, radius=6.0), content_level=1, **options)


# --- Gram matrices ---


def test_gram_is_the_mean_of_products_over_positions():
    maps = torch.randn(2, 3, 4, 5, generator=generator())
    found = gram(maps)
    for n, i, j in itertools.product(range(2), range(3), range(3)):
        products = [maps[n, i, y, x] * maps[n, j, y, x] for y in range(4) for x in range(5)]
        assert found[n, i, j].item() == pytest.approx(float(sum(products)) / 20, abs=1e-6)


def test_gram_is_invariant_to_shifts_and_content_is_not():
    maps = torch.randn(1, 7, 6, 8, generator=generator())
    order = torch.randperm(48, generator=generator(1))
    shuffled = maps.flatten(2)[:, :, order].view_as(maps)
    torch.testing.assert_close(gram(shuffled), gram(maps))
    assert relative_error([shuffled], [maps]) > 1


def test_gram_does_not_depend_on_the_size_of_the_picture():
    maps = torch.randn(1, 5, 6, 8, generator=generator())
    torch.testing.assert_close(gram(maps.repeat(1, 1, 3, 2)), gram(maps))


def test_gram_is_symmetric_and_has_no_negative_eigenvalue():
    found = gram(torch.randn(1, 9, 3, 2, generator=generator()))
    torch.testing.assert_close(found, found.mT)
    assert torch.linalg.eigvalsh(found).min() > -1e-6


def test_relative_error_of_k_times_the_target_is_k_minus_one_squared():
    wanted = [torch.randn(3, 4, generator=generator()), torch.randn(5, generator=generator(1))]
    assert relative_error(wanted, wanted) == 0
    assert relative_error([0 * w for w in wanted], wanted).item() == pytest.approx(1)
    assert relative_error([3 * w for w in wanted], wanted).item() == pytest.approx(4, rel=1e-5)


# --- Features ---


def test_features_are_those_of_the_seed_and_need_no_training():
    picture = content()
    again = zip(small()(picture), small()(picture), small(seed=1)(picture), strict=True)
    for first, second, other in again:
        assert torch.equal(first, second)
        assert not torch.allclose(first, other)
    assert not list(small().parameters())


def test_shape_filters_give_zero_for_a_flat_colour_and_colour_filters_do_not():
    colour, *shapes = small()(torch.tensor([0.9, 0.1, 0.4]).view(1, 3, 1, 1).expand(1, 3, 24, 24))
    assert colour.max() > 0.1
    assert max(maps.abs().max() for maps in shapes) < 1e-5


def test_each_level_is_half_as_large_and_no_response_is_negative():
    maps = small(levels=3)(content())
    assert [tuple(each.shape) for each in maps] == [(1, 4, 24, 32), (1, 6, 24, 32), (1, 6, 12, 16), (1, 6, 6, 8)]
    assert min(each.min() for each in maps) >= 0


def test_pictures_below_the_smallest_size_are_refused():
    features = small(levels=3)
    side = features.smallest
    features(torch.rand(1, 3, side, side, generator=generator()))
    with pytest.raises(ValueError, match=rf"too small for these features: they need {side}"):
        features(torch.rand(1, 3, side - 1, side + 9, generator=generator()))


# --- Losses and their gradient ---


def test_losses_are_zero_at_the_target():
    assert target().losses(content()).content == 0
    same = Target(small(), content(), content(), content_level=1)
    assert same.losses(content()).style == 0


def test_a_blank_picture_has_a_content_error_of_one():
    blank = torch.full((1, 3, 24, 32), 0.3)
    assert target().losses(blank).content.item() == pytest.approx(1, abs=1e-4)


def test_gradient_reaches_the_picture_and_nothing_else():
    wanted, picture = target(), content().clamp(0.1, 0.9).requires_grad_()
    losses = wanted.losses(picture)
    for loss in losses:
        (slope,) = torch.autograd.grad(loss, picture, retain_graph=True)
        assert slope.shape == picture.shape
    (losses.style + losses.content).backward()
    assert picture.grad is not None
    assert picture.grad.abs().max() > 0
    kept = [*wanted.grams, wanted.maps, *wanted.features.buffers()]
    assert not any(each.requires_grad for each in kept)


def test_gradient_of_the_style_loss_is_the_closed_form():
    """Gatys et al. (2016), equation 6, for our normalisation: 4 F^T (G - A) / (h w |A|^2) through the rectifier."""
    maps = torch.randn(1, 5, 4, 6, dtype=torch.float64, generator=generator()).requires_grad_()
    wanted = gram(torch.randn(1, 5, 4, 6, dtype=torch.float64, generator=generator(1)))
    relative_error([gram(maps)], [wanted]).backward()
    off = gram(maps.detach()) - wanted
    closed = 4 * (off @ maps.detach().flatten(2)) / 24 / wanted.square().sum()
    torch.testing.assert_close(maps.grad, closed.view_as(maps))


# --- The descent ---


def test_style_loss_falls_and_the_content_error_keeps_below_its_bound():
    result = transfer(target(), content(), style_weight=2.0, evaluations=40)
    assert result.style[-1] < result.style[0] / 4
    total = [2 * s + c for s, c in zip(result.style, result.content, strict=True)]
    assert total[-1] < total[0]
    assert result.content[-1] <= total[0] - 2 * result.style[-1]
    assert result.content[-1] < 1


def test_more_weight_on_style_gives_less_style_loss_and_more_content_error():
    low, high = (transfer(target(), content(), style_weight=w, evaluations=40) for w in (0.1, 30.0))
    assert high.style[-1] < low.style[-1] / 2
    assert high.content[-1] > 2 * low.content[-1]


def test_the_last_losses_are_those_of_the_returned_picture():
    wanted = target()
    result = transfer(wanted, content(), style_weight=1.0, evaluations=25)
    found = wanted.losses(result.picture)
    # The last evaluation may be a step of the line search that was not taken; it is near the one that was.
    assert found.style.item() == pytest.approx(result.style[-1], rel=0.1)
    assert result.picture.min() >= 0
    assert result.picture.max() <= 1


def test_transfer_does_not_change_the_start_and_is_deterministic():
    start = content()
    before = start.clone()
    first, second = (transfer(target(), start, style_weight=1.0, evaluations=5) for _ in range(2))
    assert torch.equal(start, before)
    assert torch.equal(first.picture, second.picture)


def test_noise_becomes_a_texture_without_content():
    noise = torch.rand(1, 3, 24, 32, generator=generator())
    result = transfer(target(), noise, style_weight=1.0, content_weight=0.0, evaluations=40)
    assert result.style[-1] < result.style[0] / 10


def test_style_and_content_may_be_of_different_sizes():
    assert target().losses(content()).style > 0  # 28x20 and 24x32


# --- Bad input ---


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (torch.rand(1, 1, 32, 32), "repeat the channel three times"),
        (torch.rand(3, 32, 32), "must have the shape"),
        (2 * torch.rand(1, 3, 32, 32) - 1, "rescale the pictures"),
        (torch.full((1, 3, 32, 32), math.nan), "rescale the pictures"),
        (torch.rand(1, 3, 4, 32), "too small"),
    ],
)
def test_unfit_pictures_are_refused(picture, words):
    with pytest.raises(ValueError, match=words):
        style_transfer.check(picture, small().smallest)


def test_a_start_of_another_size_is_refused():
    with pytest.raises(ValueError, match="the start is 24x30, the content 24x32"):
        transfer(target(), torch.rand(1, 3, 24, 30), style_weight=1.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"style_weight": -1.0}, "must not be negative"),
        ({"style_weight": 0.0, "content_weight": 0.0}, "nor both zero"),
        ({"style_weight": 1.0, "evaluations": 0}, "at least 1"),
    ],
)
def test_wrong_weights_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        transfer(target(), content(), **options)


@pytest.mark.parametrize("options", [{"filters": 0}, {"size": 4}, {"levels": 0}, {"colours": 0}])
def test_wrong_sizes_of_the_features_are_refused(options):
    with pytest.raises(ValueError, match="size odd"):
        small(**options)


def test_unknown_levels_and_flat_contents_are_refused():
    with pytest.raises(ValueError, match="between 0 and 1, not 2"):
        Target(small(), content(), content(), content_level=2)
    with pytest.raises(ValueError, match="nothing to keep"):
        Target(small(), torch.full((1, 3, 24, 24), 0.5), content(), content_level=1)
