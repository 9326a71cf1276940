"""Checks of arguments that models share: sizes, pixels, tokens, labels, logits."""

import torch
from torch import Tensor


def check_sizes(*, least: int = 1, **sizes: int) -> None:
    """Raises ValueError for a size below `least`, named by its keyword."""
    for name, size in sizes.items():
        if size < least:
            raise ValueError(f"{name} must be at least {least}, not {size}")


def check_range(x: Tensor, who: str, advice: str) -> None:
    """Raises ValueError for pixels outside [0, 1].

    The message begins with `who`, the model that needs them, and ends with `advice`.
    """
    low, high = (float(end) for end in x.detach().aminmax())
    if not (low >= 0 and high <= 1):  # NaN fails this too
        raise ValueError(
            f"{who} wants pixels in [0, 1], these span [{low:.3g}, {high:.3g}]: "
            f"{advice}"
        )


def check_levels(x: Tensor, levels: int) -> None:
    """Raises ValueError for values that are not k / (levels - 1) with a whole k."""
    check_range(x, f"a model of {levels} levels", "divide stored bytes by 255")
    steps = x * (levels - 1)
    if (steps - steps.round()).abs().max() > 1e-3:
        raise ValueError(
            f"a pixel lies between two of the {levels} levels: binarise or round the "
            "pictures first, or pass them as they are stored"
        )


def check_ids(ids: Tensor, count: int, what: str, advice: str) -> None:
    """Raises ValueError for ids outside 0 to count - 1; `what` is their name."""
    if ids.numel() == 0:
        return
    low, high = (int(end) for end in ids.aminmax())
    if low < 0 or high >= count:
        raise ValueError(
            f"{what} must lie between 0 and {count - 1}, these span {low} to {high}: "
            f"{advice}"
        )


def check_given(labels: Tensor | None, num_classes: int) -> None:
    """Raises ValueError for labels that are missing, or given without classes."""
    if num_classes == 0 and labels is not None:
        raise ValueError("this model knows no classes: leave the labels out")
    if num_classes > 0 and labels is None:
        raise ValueError(f"this model needs labels from 0 to {num_classes - 1}")


def check_labels(labels: Tensor | None, count: int, num_classes: int) -> None:
    """As `check_given`; also for a number of labels other than `count`, and for labels
    outside 0 to num_classes - 1."""
    check_given(labels, num_classes)
    if labels is None:
        return
    if len(labels) != count:
        raise ValueError(f"there are {len(labels)} labels for {count} examples")
    check_ids(labels, num_classes, "labels", "count the classes from 0 on")


def check_temperature(temperature: float) -> None:
    """Raises ValueError unless it is positive and finite."""
    if not 0 < temperature < torch.inf:
        raise ValueError(f"temperature must be positive and finite, not {temperature}")


def check_logits(logits: Tensor) -> None:
    """Raises ValueError for a row whose softmax is none, naming the first such row:
    it holds NaN or infinity, or -inf alone."""
    top = logits.detach().amax(-1).flatten()  # NaN if there is one
    if bool(top.isfinite().all()):
        return
    row = int((~top.isfinite()).nonzero()[0])
    if top[row] == -torch.inf:
        raise ValueError(
            f"row {row} of the logits is -inf throughout, so no token is left: let the "
            "filters keep at least one"
        )
    raise ValueError(
        f"row {row} of the logits holds {float(top[row])}: look for values that are "
        "not finite in the weights, the input or a filter of your own"
    )


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """logits / temperature; a row that overflows so is shifted first, to a maximum of
    0, which its softmax does not see."""
    divided = logits / temperature
    over = (divided.isinf() & logits.isfinite()).any(-1, keepdim=True)
    shifted = (logits - logits.amax(-1, keepdim=True)) / temperature
    return torch.where(over, shifted, divided)
