"""The checks that all models share: what passes, what is refused, and what the message says."""

import math

import pytest
import torch

from gensrc import training
from gensrc.models.checks import (
    check_finite,
    check_ids,
    check_labels,
    check_levels,
    check_range,
    check_sizes,
    check_temperature,
    reading_values,
)


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


# --- on an accelerator ---


class Far(torch.Tensor):
    """A tensor that says it is on a GPU, and fails if its values are read."""

    device = torch.device("cuda")  # type: ignore[assignment]

    def aminmax(self, **_):
        raise AssertionError("the values were read")


@pytest.mark.parametrize(
    "check",
    [
        lambda x: check_range(x, "a decoder", "rescale them"),
        lambda x: check_levels(x, 2),
        lambda x: check_finite(x, "pictures"),
        lambda x: check_ids(x.long().as_subclass(Far), 5, "tokens", "encode again"),
    ],
)
def test_values_on_an_accelerator_are_read_unless_that_would_hold_up_a_training(check):
    x = torch.zeros(2, 3).as_subclass(Far)
    with pytest.raises(AssertionError, match="the values were read"):
        check(x)
    with reading_values(False):
        check(x)
        with reading_values(True), pytest.raises(AssertionError, match="the values were read"):
            check(x)
        check(x)
        with pytest.raises(ValueError, match="these span"):  # but what is in memory is read
            check_range(torch.full((2,), 255.0), "a decoder", "rescale them")


def test_a_training_reads_the_values_of_its_first_batch_alone():
    from gensrc.models import checks

    class Model(torch.nn.Linear):
        def loss(self, x):
            read.append(checks._reading)
            return self(x).mean()

    read = []
    training.fit(Model(2, 1), training.Batches(torch.rand(8, 2), batch_size=2), steps=3)
    assert read == [True, False, False]
    assert checks._reading


def test_too_few_bits_for_256_levels_are_named():
    check_levels(torch.ones(2, dtype=torch.float16), 2)
    with pytest.raises(ValueError, match="torch.float16 cannot hold 256 levels exactly: pass the pictures in float32"):
        check_levels(torch.ones(2, dtype=torch.float16), 256)


def test_rounding_beyond_the_range_passes_and_more_does_not():
    check_range(torch.tensor([-1e-6, 1 + 1e-6]), "a decoder", "rescale them")
    with pytest.raises(ValueError, match="these span"):
        check_range(torch.tensor([0.0, 1.001]), "a decoder", "rescale them")
