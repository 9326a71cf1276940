"""Checks of what enters a model: shapes, types, values; one function for each kind.

A wrong shape often passes in silence, as torch broadcasts it, and a value that is not
finite spoils the weights long before it is seen. So every public function that data
enter looks at them first. Shapes and types cost nothing. Values are read by one
reduction; on an accelerator this waits for all that is queued, so the loop of training
reads those of its first batch only (`reading_values`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

SLACK = 1e-5
"""How far beyond [0, 1] a pixel may be, for what resizing and rounding leave."""

_reading = True


@contextmanager
def reading_values(wanted: bool) -> Iterator[None]:
    """Context manager: whether checks read the values of tensors on an accelerator.

    Those in the computer's own memory are always read.
    """
    global _reading
    before, _reading = _reading, wanted
    try:
        yield
    finally:
        _reading = before


def readable(x: Tensor) -> bool:
    """Whether a check may read these values now."""
    return x.numel() > 0 and (_reading or x.device.type == "cpu")


def check_sizes(*, least: int = 1, **sizes: int) -> None:
    """Raises ValueError for a size that is no whole number or below `least`, named by
    its keyword."""
    for name, size in sizes.items():
        if not hasattr(size, "__index__"):
            raise ValueError(f"{name} must be a whole number, not {size}")
        if size < least:
            raise ValueError(f"{name} must be at least {least}, not {size}")


def check_shape(x: Tensor, shape: tuple[int | None, ...], what: str) -> None:
    """Raises ValueError unless x, a batch of `what`, has this shape after its first
    axis, which is not empty; None is any size from 1 on."""
    check_some(x, what)
    given = tuple(x.shape[1:])
    if len(given) == len(shape) and all(
        size == (size or 1 if wish is None else wish)
        for size, wish in zip(given, shape, strict=True)
    ):
        return
    wanted = ", ".join("any" if wish is None else str(wish) for wish in shape)
    raise ValueError(
        f"the {what} have shape {tuple(x.shape)}, where (n, {wanted}) is wanted: add "
        "or remove axes (unsqueeze(1) adds that of one channel), resize or convert "
        "them, or build the model for theirs"
    )


def check_some(x: Tensor, what: str) -> None:
    """Raises ValueError for a batch of nothing, whose mean is NaN."""
    if x.ndim > 0 and len(x) == 0:
        raise ValueError(f"there are no {what}: give one at least")


def check_last(x: Tensor, shape: Sequence[int], what: str) -> None:
    """Raises ValueError unless the last axes of x have this shape."""
    if tuple(x.shape[-len(shape) :]) != tuple(shape):
        wanted = ", ".join(map(str, shape))
        raise ValueError(
            f"the {what} have shape {tuple(x.shape)}, which should end in ({wanted}): "
            "reshape or repeat them, for nothing is broadcast here"
        )


def check_same_shape(what: str, one: Tensor, other: Tensor) -> None:
    """Raises ValueError for two shapes that differ, though torch might broadcast
    them."""
    if one.shape != other.shape:
        raise ValueError(
            f"{what} must have the same shape, not {tuple(one.shape)} and "
            f"{tuple(other.shape)}: reshape one of them"
        )


def check_floating(x: Tensor, what: str) -> None:
    """Raises ValueError for whole or complex numbers where real ones are needed."""
    if not x.is_floating_point():
        raise ValueError(
            f"the {what} are {x.dtype}: turn them into floating-point numbers by "
            ".float(), and divide bytes by 255"
        )


def check_finite(
    x: Tensor, what: str, advice: str = "repair these examples or leave them out"
) -> None:
    """Raises ValueError for NaN or infinity; the message ends with `advice`."""
    check_floating(x, what)
    if not readable(x):
        return
    low, high = (float(end) for end in x.detach().aminmax())  # NaN if there is one
    if not (-torch.inf < low and high < torch.inf):
        raise ValueError(f"the {what} have values that are not finite: {advice}")


def check_range(x: Tensor, who: str, advice: str) -> None:
    """Raises ValueError for pixels outside [0, 1]; 1e-5 beyond it is taken as rounding.

    The message begins with `who`, the model that needs them, and ends with `advice`.
    """
    check_floating(x, "pixels")
    if not readable(x):
        return
    low, high = (float(end) for end in x.detach().aminmax())
    if not (low >= -SLACK and high <= 1 + SLACK):  # NaN fails this too
        raise ValueError(
            f"{who} wants pixels in [0, 1], these span [{low:.7g}, {high:.7g}]: "
            f"{advice}"
        )


def check_levels(x: Tensor, levels: int) -> None:
    """Raises ValueError for values that are not k / (levels - 1) with a whole k, and
    for types of too few bits to hold them."""
    check_range(x, f"a model of {levels} levels", "divide stored bytes by 255")
    if levels > 2 and x.element_size() < 4:
        raise ValueError(
            f"{x.dtype} cannot hold {levels} levels exactly: pass the pictures in "
            "float32, whatever the type of the weights"
        )
    if not readable(x):
        return
    steps = x * (levels - 1)
    if (steps - steps.round()).abs().max() > max(1e-3, 1.1 * SLACK * (levels - 1)):
        change = "binarise" if levels == 2 else "round"
        raise ValueError(
            f"a pixel lies between two of the {levels} levels: {change} the pictures "
            "first, or pass them as they are stored"
        )


def check_whole(ids: Tensor, what: str, advice: str) -> None:
    """Raises ValueError for other types than int64: smaller ones overflow in silence
    when ids are counted with, and torch refuses them as targets."""
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError(f"{what} must be whole numbers, not {ids.dtype}: {advice}")
    if ids.dtype != torch.int64:
        raise ValueError(f"{what} must be int64, not {ids.dtype}: convert by .long()")


def check_ids(ids: Tensor, count: int, what: str, advice: str) -> None:
    """Raises ValueError for ids outside 0 to count - 1, and for such as are no whole
    numbers; `what` is their name."""
    check_whole(ids, what, advice)
    if not readable(ids):
        return
    low, high = (int(end) for end in ids.aminmax())
    if low < 0 or high >= count:
        raise ValueError(
            f"{what} must lie between 0 and {count - 1}, these span {low} to {high}: "
            f"{advice}"
        )


def check_texts(ids: Tensor, count: int, what: str, advice: str) -> None:
    """As `check_ids`; also for another shape than (texts, time), and for no time."""
    if ids.ndim != 2:
        raise ValueError(
            f"{what} must have the shape (batch, time), not {tuple(ids.shape)}: put a "
            "single row into a batch by [None]"
        )
    check_some(ids, what)
    if ids.shape[1] == 0:
        raise ValueError(f"there are no {what}: a text needs at least one")
    check_ids(ids, count, what, advice)


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
    if labels.ndim != 1:
        raise ValueError(
            f"labels must be one number an example, not of shape {tuple(labels.shape)}:"
            " flatten them, or take the argmax of one-hot vectors"
        )
    if len(labels) != count:
        raise ValueError(
            f"there are {len(labels)} labels for {count} examples: give one for each"
        )
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
    """logits / temperature; a row whose largest overflows so is shifted first, to a
    maximum of 0, which its softmax does not see. The least temperature is the least
    normal number, as division by less would be by 0."""
    least = torch.finfo(torch.promote_types(logits.dtype, torch.float32)).tiny
    temperature = max(temperature, least)
    top = logits.amax(-1, keepdim=True)
    over = (top / temperature).isinf() & top.isfinite()
    return torch.where(over, logits - top, logits) / temperature


# --- types of numbers ---


def widened(x: Tensor) -> Tensor:
    """x in single precision if it has fewer bits, as autocast may give it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def as_weights(x: Tensor, network: nn.Module) -> Tensor:
    """x in the type and on the device of the network's weights; noise is drawn on the
    CPU in single precision, so that a seed gives the same for every type."""
    weight = next(network.parameters())
    return x.to(weight)
