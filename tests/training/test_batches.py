"""Batches: what belongs together stays together, each example once an epoch, and rows of any length."""

from typing import NamedTuple

import pytest
import torch

from gensrc import training
from gensrc.training import batches as module


def epoch(batches, count):
    return [torch.cat(parts) for parts in zip(*(next(batches) for _ in range(count)), strict=True)]


def test_an_epoch_has_every_example_once_and_its_order_depends_on_the_seed_alone():
    data = torch.arange(12)
    batches = training.Batches(data, batch_size=4, seed=1)
    (first,), (second,) = (epoch(batches, 3) for _ in range(2))
    assert sorted(first.tolist()) == sorted(second.tolist()) == data.tolist()
    assert first.tolist() != second.tolist()
    torch.manual_seed(123)
    again = training.Batches(data, batch_size=4, seed=1)
    assert torch.equal(epoch(again, 3)[0], first)


def test_a_smaller_batch_at_the_end_of_an_epoch_is_left_out():
    batches = training.Batches(torch.arange(11), batch_size=4, seed=0)
    drawn = [next(batches)[0] for _ in range(6)]
    assert [len(batch) for batch in drawn] == [4] * 6
    assert batches.epoch == 2
    for pair in (drawn[:2], drawn[2:4], drawn[4:]):
        assert len(set(torch.cat(pair).tolist())) == 8


def test_examples_of_several_tensors_stay_together():
    labels = torch.arange(20)
    pictures = labels.view(20, 1) * torch.ones(20, 3)
    for x, y in (next(training.Batches(pictures, labels, batch_size=5, seed=s)) for s in range(4)):
        assert torch.equal(x, y.view(5, 1) * torch.ones(5, 3))


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x,)])
def test_a_transform_may_return_a_tensor_or_a_tuple(wrap):
    batches = training.Batches(torch.arange(4), torch.arange(4), batch_size=4, transform=lambda a, b: wrap(a + b))
    assert sorted(next(batches)[0].tolist()) == [0, 2, 4, 6]


def test_data_and_batch_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="between 1 and the 3 examples, not 4"):
        training.Batches(torch.zeros(3), batch_size=4)
    with pytest.raises(ValueError, match=r"must be equally many, not \[3, 4\]"):
        training.Batches(torch.zeros(3), torch.zeros(4), batch_size=2)
    with pytest.raises(ValueError, match="must be equally many, not nothing"):
        training.Batches(batch_size=2)


def test_a_batch_moves_to_a_device_with_all_that_is_nested_in_it():
    class Pair(NamedTuple):
        source: torch.Tensor
        rest: list

    batch = (Pair(torch.zeros(2), [torch.ones(1), {"mask": torch.ones(3)}, 7, None]),)
    (moved,) = module.to_device(batch, torch.device("meta"))
    assert isinstance(moved, Pair)
    assert moved.source.device.type == moved.rest[0].device.type == moved.rest[1]["mask"].device.type == "meta"
    assert moved.rest[2:] == [7, None]


def test_stages_come_in_turn_and_go_on_after_the_last():
    def source(value):
        return training.Batches(torch.full((4,), value), batch_size=2)

    stages = training.Stages((source(1), 2), (source(2), 1))
    assert [next(stages)[0][0].item() for _ in range(5)] == [1, 1, 2, 2, 2]
    saved = stages.state_dict()
    resumed = training.Stages((source(1), 2), (source(2), 1))
    resumed.load_state_dict(saved)
    assert resumed.stages[0][0].state_dict() == stages.stages[0][0].state_dict()
    assert next(resumed)[0][0] == 2


# --- rows of different lengths ---


def sentences(count=200, seed=0):
    """Rows of 1 to 30 numbers; the first two of each are its length and its number."""
    lengths = torch.randint(2, 31, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
    return [torch.tensor([length, 100 + number, *[1] * (length - 2)]) for number, length in enumerate(lengths)]


def test_padding_fills_the_ends_of_rows():
    rows = [torch.tensor([1, 2, 3]), torch.tensor([4])]
    assert training.pad(rows, 0).tolist() == [[1, 2, 3], [4, 0, 0]]
    assert training.pad(rows, 0, length=4).tolist() == [[1, 2, 3, 0], [4, 0, 0, 0]]
    with pytest.raises(ValueError, match="a row has 3 entries, more than length=2"):
        training.pad(rows, 0, length=2)
    with pytest.raises(ValueError, match="a row holds 3, which is to mean that nothing is there"):
        training.pad(rows, 3)


def test_ragged_batches_hold_whole_rows_that_belong_together_each_once_an_epoch():
    rows = sentences()
    backwards = [row.flip(0) for row in rows]
    batches = training.RaggedBatches(rows, backwards, batch_size=8, padding=0, seed=3)
    seen = []
    for _ in range(25):
        forth, back = next(batches)
        for one, other in zip(forth, back, strict=True):
            one, other = one[one != 0], other[other != 0]
            assert torch.equal(one, rows[int(one[1]) - 100])
            assert torch.equal(one, other.flip(0))
            seen.append(int(one[1]))
    assert sorted(seen) == [100 + number for number in range(200)]


def test_ragged_batches_of_similar_length_need_little_padding():
    rows = sentences()

    def filled(batches):
        drawn = [next(batches)[0] for _ in range(25)]
        return sum(int((batch == 0).sum()) for batch in drawn) / sum(batch.numel() for batch in drawn)

    assert filled(training.RaggedBatches(rows, batch_size=8, padding=0)) < 0.1
    assert filled(training.RaggedBatches(rows, batch_size=8, padding=0, pool=1)) > 0.3, "as they come"


def test_short_and_long_ragged_batches_come_in_random_order():
    batches = training.RaggedBatches(sentences(), batch_size=8, padding=0, seed=1, pool=25)
    widths = [next(batches)[0].shape[1] for _ in range(25)]
    assert widths not in (sorted(widths), sorted(widths, reverse=True))


def test_ragged_batches_resume():
    whole, first, second = (training.RaggedBatches(sentences(), batch_size=8, padding=0, seed=2) for _ in range(3))
    expected = [next(whole)[0] for _ in range(40)]
    for _ in range(30):
        next(first)
    second.load_state_dict(first.state_dict())
    assert all(torch.equal(next(second)[0], batch) for batch in expected[30:])
