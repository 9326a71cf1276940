"""Augmentations change every picture independently, and are differentiable."""

import pytest
import torch

from gensrc.models.gan import augmentation


def pictures(n: int = 200, c: int = 3, side: int = 16) -> torch.Tensor:
    return torch.rand(n, c, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_translation_shifts_by_whole_pixels_and_fills_with_zeros():
    torch.manual_seed(0)
    x = pictures()
    seen = set()
    for before, after in zip(x, augmentation.translation(x), strict=True):
        padded = torch.nn.functional.pad(before, (2, 2, 2, 2))
        shifts = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(padded[:, 2 - down : 18 - down, 2 - right : 18 - right], after)
        ]
        assert len(shifts) == 1
        seen |= set(shifts)
    assert len(seen) == 25


def test_cutout_puts_one_square_of_zeros_into_each_picture():
    torch.manual_seed(0)
    x = pictures() + 2  # nothing is zero before
    holes = augmentation.cutout(x) == 0
    assert torch.equal(holes[:, 0], holes[:, 2])
    rows, columns = holes[:, 0].any(2), holes[:, 0].any(1)
    assert torch.equal(holes[:, 0], rows[:, :, None] & columns[:, None, :])
    assert rows.sum(1).max() == 8
    assert rows.sum(1).min() == 4  # it reaches over the edge by half of itself at most
    assert len(set(rows.float().argmax(1).tolist())) > 5


def test_colour_changes_brightness_saturation_and_contrast_within_its_limits():
    torch.manual_seed(0)
    x = pictures()
    changed = augmentation.colour(x)
    shift = changed.mean((1, 2, 3)) - x.mean((1, 2, 3))
    assert shift.abs().max() <= 0.5
    assert shift.std() > 0.2
    # what is left of a picture without its mean and its colour is scaled by the contrast
    grey, grey_before = (p.mean(1) - p.mean((1, 2, 3))[:, None, None] for p in (changed, x))
    contrast = (grey / grey_before).flatten(1).median(1).values
    assert contrast.min() >= 0.499
    assert contrast.max() <= 1.501
    torch.testing.assert_close(grey, contrast[:, None, None] * grey_before, atol=1e-4, rtol=1e-4)


def test_gradients_of_every_change_are_those_of_a_linear_map():
    x = pictures(4).double().requires_grad_()

    def changed(x):
        torch.manual_seed(1)
        return augmentation.augment(x)

    assert torch.autograd.gradcheck(lambda x: changed(x)[:, :, ::7, ::7], x[:1, :, :, :].detach().requires_grad_())


def test_an_empty_list_changes_nothing_and_unknown_changes_are_refused():
    x = pictures(2)
    assert torch.equal(augmentation.augment(x, ()), x)
    with pytest.raises(ValueError, match="changes can be colour, translation, cutout; 'flip' is none of them"):
        augmentation.augment(x, ("flip",))
