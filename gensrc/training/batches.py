"""Data in shuffled batches: a batch is a tuple of what belongs together, such as pictures and their labels."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gensrc.models.checks import check_finite
from gensrc.training.history import TrainingError

Transform = Callable[..., Any]


class BatchSource(Protocol):
    """What the loop draws from: an iterator of tuples. With these two methods a training can be resumed."""

    def __next__(self) -> tuple[Any, ...]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def tree_map(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """`tree` with `function` of each tensor in it; tuples, named tuples, lists and dicts may be nested."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {name: tree_map(function, value) for name, value in tree.items()}
    if isinstance(tree, tuple | list):
        values = [tree_map(function, value) for value in tree]
        return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)
    return tree


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with all its tensors on `device`. Raises TypeError for a batch that is no tuple."""
    if not isinstance(batch, tuple):
        raise TypeError(
            f"a batch must be a tuple, not {type(batch).__name__}: the loss is called as loss(*batch), so a single "
            "tensor comes as (tensor,)"
        )
    return tree_map(lambda tensor: tensor.to(device), batch)


class Batches:
    """Endless shuffled batches, an exact function of the seed, that can be saved and resumed.

        Batches(images, labels, batch_size=64, seed=0)

    gives tuples of 64 images and their labels. Every example is seen once before any is seen again; a last, smaller
    batch of an epoch is left out, as its mean would weigh its examples more. Iterating a second time goes on; it does
    not start again.

    tensors: one or several, each of shape (n, ...), whose examples belong together.
    transform: called as transform(*batch) for each batch, for example `data.binarize`; it returns a tensor or a tuple.
        It may draw from the global generators, which are saved with a training.
    Raises ValueError for no tensor, tensors of unequal length, fewer examples than one batch holds, and values that are
    not finite.
    """

    def __init__(self, *tensors: Tensor, batch_size: int, seed: int = 0, transform: Transform | None = None) -> None:
        self._begin(tensors, batch_size, seed)
        self.transform = transform
        # Once, where data enter: the loop does not read what is on a GPU.
        for number, column in enumerate(tensors):
            _check_column(column, f"tensors at place {number}")

    def _begin(self, columns: Sequence[Any], batch_size: int, seed: int) -> None:
        lengths = [len(column) for column in columns]
        if len(set(lengths)) != 1:
            raise ValueError(f"what belongs together must be equally many, not {lengths or 'nothing'}")
        if not 1 <= batch_size <= lengths[0]:
            raise ValueError(f"batch_size must lie between 1 and the {lengths[0]} examples, not {batch_size}")
        self.columns, self.length, self.batch_size, self.seed = columns, lengths[0], int(batch_size), int(seed)
        self.epoch, self.position = 0, 0
        self._order: Tensor | None = None

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return self

    def __next__(self) -> tuple[Any, ...]:
        if self.position + self.batch_size > self.length:
            self.epoch, self.position, self._order = self.epoch + 1, 0, None
        if self._order is None:
            # randperm gives the same order on every machine; each epoch has a generator of its own.
            self._order = self.order(torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch))
        chosen = self._order[self.position : self.position + self.batch_size]
        self.position += self.batch_size
        return self.gather(chosen)

    def order(self, generator: torch.Generator) -> Tensor:
        """The numbers of the examples in the order of an epoch."""
        return torch.randperm(self.length, generator=generator)

    def gather(self, chosen: Tensor) -> tuple[Any, ...]:
        batch = tuple(column[chosen] for column in self.columns)
        if self.transform is None:
            return batch
        changed = self.transform(*batch)
        return changed if isinstance(changed, tuple) else (changed,)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "position": self.position, "seed": self.seed, "batch_size": self.batch_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("seed", "batch_size"):
            if state[name] != getattr(self, name):
                raise TrainingError(
                    f"the checkpoint was made with {name}={state[name]}, this run has {getattr(self, name)}: "
                    "use the same, or another checkpoint file"
                )
        self.epoch, self.position, self._order = state["epoch"], state["position"], None


def _check_column(column: Any, what: str) -> None:
    """Raises ValueError for NaN or infinity among real or complex numbers, of torch or numpy."""
    if isinstance(column, np.ndarray) and column.dtype.kind in "fc":
        column = torch.as_tensor(column)
    if not isinstance(column, Tensor):
        return
    if column.is_complex():
        column = torch.view_as_real(column.resolve_conj())
    if column.is_floating_point():
        check_finite(column, what)


def pad(rows: Sequence[Tensor], value: int, *, length: int | None = None) -> Tensor:
    """Rows of different lengths as one tensor (n, time), filled up at their ends with `value`.

    length: the time of the result; that of the longest row if not given. What is filled in is known by its value, so
        it must be one that no row holds, such as `vocabulary.PAD`: then `tensor != value` is the mask of what is real.
    Raises ValueError for no row, or if one is longer than `length`, or holds `value`.
    """
    if len(rows) == 0:
        raise ValueError("there are no rows to fill up: give one at least")
    longest = max(len(row) for row in rows)
    if length is not None and longest > length:
        raise ValueError(f"a row has {longest} entries, more than length={length}")
    if bool((torch.cat(list(rows)) == value).any()):
        raise ValueError(f"a row holds {value}, which is to mean that nothing is there")
    padded = pad_sequence(list(rows), batch_first=True, padding_value=value)
    wanted = longest if length is None else length
    return torch.nn.functional.pad(padded, (0, wanted - longest), value=value)


class RaggedBatches(Batches):
    """The same of rows of different lengths, such as sentences and their translations.

        RaggedBatches(sources, targets, batch_size=64, padding=PAD)

    gives tuples of tensors (batch, time), each filled up with `padding` to the longest of its rows in the batch (see
    `pad`). Rows of similar length come together, so that little is filled up: the examples of an epoch are shuffled,
    then sorted by length within pools of `pool` batches, and the batches are shuffled again.

    rows: one sequence of tensors of shape (time,), or several whose rows belong together.
    Raises ValueError as `Batches` and `pad` do.
    """

    def __init__(self, *rows: Sequence[Tensor], batch_size: int, padding: int, seed: int = 0, pool: int = 20) -> None:
        self._begin(rows, batch_size, seed)
        self.transform, self.padding, self.pool = None, padding, int(pool)
        for number, column in enumerate(rows):
            for row in column:
                _check_column(row, f"rows at place {number}")
        self.lengths = torch.tensor([sum(len(row) for row in example) for example in zip(*rows, strict=True)])

    def order(self, generator: torch.Generator) -> Tensor:
        # As many as fill whole batches; who is left out is drawn anew in each epoch.
        shuffled = super().order(generator)[: self.length // self.batch_size * self.batch_size]
        pools = shuffled.split(self.pool * self.batch_size)
        batches = torch.cat([each[self.lengths[each].argsort(stable=True)] for each in pools])
        batches = batches.view(-1, self.batch_size)
        return batches[torch.randperm(len(batches), generator=generator)].flatten()

    def gather(self, chosen: Tensor) -> tuple[Any, ...]:
        return tuple(pad([column[i] for i in chosen.tolist()], self.padding) for column in self.columns)


class Stages:
    """Batches from several sources in turn: `Stages((short, 2_400), (long, 800))` draws 2,400 batches, then 800.

    After the last stage its source goes on. Raises ValueError for no stage.
    """

    def __init__(self, *stages: tuple[BatchSource, int]) -> None:
        if not stages:
            raise ValueError("at least one stage is needed: a source and a number of batches")
        self.stages, self.drawn = stages, 0

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return self

    def __next__(self) -> tuple[Any, ...]:
        left = self.drawn
        self.drawn += 1
        for source, count in self.stages[:-1]:
            if left < count:
                return next(source)
            left -= count
        return next(self.stages[-1][0])

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.drawn, "stages": [source.state_dict() for source, _ in self.stages]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.drawn = state["drawn"]
        for (source, _), saved in zip(self.stages, state["stages"], strict=True):
            source.load_state_dict(saved)
