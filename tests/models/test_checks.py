"""The checks that all models share: what passes, what is refused, and what the message says."""

import math

import pytest
import torch

from gensrc.models.checks import check_ids, check_labels, check_levels, check_range, check_sizes, check_temperature


def test_sizes_are_named_by_their_keyword():
    check_sizes(width=1, depth=3)
    check_sizes(least=0, num_classes=0)
    with pytest.raises(ValueError, match="depth must be at least 2, not 1"):
        check_sizes(least=2, width=2, depth=1)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan, math.inf])
def test_one_value_outside_the_range_is_refused(wrong):
    x = torch.rand(4, 1, 2, 2)
    check_range(x, "a decoder", "rescale them")
    x[2, 0, 1, 1] = wrong
    with pytest.raises(ValueError, match=r"a decoder wants pixels in \[0, 1\], these span .*: rescale them"):
        check_range(x, "a decoder", "rescale them")


@pytest.mark.parametrize("levels", [2, 8, 256])
def test_values_between_two_levels_are_refused(levels):
    x = torch.arange(levels) / (levels - 1)
    check_levels(x, levels)
    with pytest.raises(ValueError, match=f"between two of the {levels} levels"):
        check_levels(x[:-1] + 0.4 / (levels - 1), levels)


@pytest.mark.parametrize("wrong", [-1, 5])
def test_an_id_outside_the_count_is_refused(wrong):
    check_ids(torch.tensor([0, 4]), 5, "tokens", "encode again")
    check_ids(torch.tensor([], dtype=torch.long), 5, "tokens", "encode again")
    with pytest.raises(ValueError, match="tokens must lie between 0 and 4, these span .*: encode again"):
        check_ids(torch.tensor([0, wrong]), 5, "tokens", "encode again")


def test_labels_must_be_given_where_there_are_classes_one_an_example_and_of_a_class():
    check_labels(None, 2, 0)
    check_labels(torch.tensor([0, 2]), 2, 3)
    for labels, num_classes, message in (
        (torch.tensor([0, 1]), 0, "knows no classes"),
        (None, 3, "needs labels from 0 to 2"),
        (torch.tensor([0]), 3, "there are 1 labels for 2 examples"),
        (torch.tensor([0, 3]), 3, "labels must lie between 0 and 2, these span 0 to 3"),
    ):
        with pytest.raises(ValueError, match=message):
            check_labels(labels, 2, num_classes)


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_not_positive_and_finite_is_refused(wrong):
    check_temperature(0.5)
    with pytest.raises(ValueError, match="temperature must be positive and finite"):
        check_temperature(wrong)
