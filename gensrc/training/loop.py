"""The loop that every training goes through, and its fronts for one model and for long texts."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from tqdm.auto import tqdm

from gensrc.models.checks import check_sizes, reading_values
from gensrc.training import resume
from gensrc.training.batches import to_device, tree_map
from gensrc.training.history import Callback, History, Losses, NamedHistory, TrainingError, check_weights, note
from gensrc.training.precision import FLOAT32, Precision
from gensrc.training.precision import precision as fastest
from gensrc.training.schedules import Schedule

Optimizers = torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None
"""One, or several that share the parameters out among them (`muon_with_adam`)."""


@dataclass(frozen=True)
class Options:
    """What `fit`, `fit_gan` and `fit_tbptt` do beside the updates: their further keyword arguments.

    schedule: step -> factor on the initial learning rates of all optimisers, which are put back at the end.
    before_step: called as before_step(step, model) before each update, with the number of steps done, to change the
        loss as the training goes on: `lambda step, model: setattr(model, "beta", min(1.0, step / 1000))`.
    log_every: so many steps make an entry of the history.
    callbacks: each is called as callback(step, model) when an entry has been made, and so after the last step.
    checkpoint: a .safetensors file. If it exists, training goes on from it, to the same bits as if it had never
        stopped, with the options given now. The batches must then be such as can be saved.
    save_seconds: the checkpoint is written with the first entry after so many seconds, and at the end.
    """

    schedule: Schedule | None = None
    before_step: Callback | None = None
    log_every: int = 50
    callbacks: Sequence[Callback] = ()
    checkpoint: Path | None = None
    save_seconds: float = 60.0


def planned(steps: int, options: dict[str, Any], clip: float | None = None) -> Options:
    """The options of a training. Raises ValueError for numbers with which none can run."""
    plan = Options(**options)
    check_sizes(least=0, steps=steps)
    check_sizes(log_every=plan.log_every)
    if clip is not None and not clip > 0:
        raise ValueError(f"clip is the largest norm of a gradient and must be positive, not {clip}: None for no clip")
    if not plan.save_seconds >= 0:
        raise ValueError(f"save_seconds must be at least 0, not {plan.save_seconds}")
    return plan


def fit(
    model: nn.Module,
    batches: Any,
    *,
    steps: int,
    optimizer: Optimizers = None,
    clip: float | None = None,
    precision: Precision | None = None,
    **options: Any,
) -> History:
    """Minimise `model.loss(*batch)` for `steps` steps and return the history of the loss.

    batches: an iterator of tuples, such as `Batches`; they are moved to the model's device.
    optimizer: Adam with learning rate 1e-3 if none is given.
    clip: largest Euclidean norm of the whole gradient.
    precision: the arithmetic of the forward pass; the fastest sound one of the device (`training.precision`) if none is
        given.
    options: schedule, before_step, log_every, callbacks, checkpoint, save_seconds (see `Options`).

    Raises TrainingError when the loss or a weight is no longer finite (naming the step; the last checkpoint is kept),
    or when the checkpoint belongs to another model, optimiser or order of the data; ValueError for numbers that are
    none of steps, or no norm.
    """
    plan = planned(steps, options, clip)
    where = next(model.parameters()).device
    autocast = (precision or fastest(where)).autocast
    optimizers = _as_list(optimizer, model)

    def update() -> Losses:
        batch = to_device(next(batches), where)
        with autocast():
            loss = model.loss(*batch)  # type: ignore[operator]
        descend(loss, model, optimizers, clip)
        return {"loss": loss.detach()}

    model.train()
    history = History()
    return run(update, resume.State(model, optimizers, batches, history), steps, plan)


def fit_tbptt(
    model: nn.Module,
    rows: Tensor,
    *,
    steps: int,
    window: int,
    optimizer: Optimizers = None,
    clip: float | None = 1.0,
    precision: Precision | None = None,
    **options: Any,
) -> History:
    """Truncated backpropagation through time: update after each window of long texts, whose state goes on to the next.

    rows: Tensor of tokens, of shape (rows, time). They are read side by side from beginning to end, then again with an
        empty state. A last window that is shorter than the others is read too.
    model: needs `window_loss(tokens, carry)`, which returns the loss of a window and what is carried on from it
        (`RecurrentLM`); the carry of the first window is None.
    precision: float32 if none is given, as the state of a recurrent network is a sum of many small steps.
    optimizer, options: as in `fit`. clip: too, but the gradient is clipped unless clip=None.

    Raises ValueError for no step or a window that does not fit, TrainingError as `fit` does.
    """
    check_sizes(steps=steps)
    plan = planned(steps, options, clip)
    where = next(model.parameters()).device
    autocast = (precision or FLOAT32).autocast
    optimizers = _as_list(optimizer, model)
    windows = Windows(rows.to(where), window, model)

    def update() -> Losses:
        with autocast():
            loss, carry = model.window_loss(*next(windows))  # type: ignore[operator]
        descend(loss, model, optimizers, clip)
        windows.carry = tree_map(Tensor.detach, carry)
        return {"loss": loss.detach()}

    model.train()
    history = History()
    return run(update, resume.State(model, optimizers, windows, history), steps, plan)


def fit_updates(
    update: Callable[..., Losses],
    model: nn.Module,
    batches: Any,
    *,
    steps: int,
    optimizers: Sequence[torch.optim.Optimizer],
    **options: Any,
) -> NamedHistory:
    """The loop around an update that is written by hand, for trainings that are neither `fit`'s nor `fit_gan`'s.

    update: called as update(step, *batch) with the number of steps done; it changes the weights by itself, and returns
        losses by name, scalars that are detached.
    model: all networks that the update changes, such as an nn.ModuleList; they stay in the mode in which they are.
    optimizers: all that the update uses. options: as in `fit`.

    Returns the means of the losses by their names. Raises TrainingError as `fit` does.
    """
    plan = planned(steps, options)
    where = next(model.parameters()).device
    state = resume.State(model, optimizers, batches, NamedHistory(step=[]))
    return run(lambda: update(state.done, *to_device(next(batches), where)), state, steps, plan)


def _as_list(optimizer: Optimizers, model: nn.Module) -> list[torch.optim.Optimizer]:
    if optimizer is None:
        return [torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)]
    return [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else list(optimizer)


def descend(loss: Tensor, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], clip: float | None) -> None:
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    for optimizer in optimizers:
        optimizer.step()


class Windows:
    """Windows of long texts, one after another, each with what was carried on from the one before.

    Raises ValueError unless `window` lies between 1 and the length of the texts.
    """

    def __init__(self, rows: Tensor, window: int, model: nn.Module) -> None:
        if not 1 <= window <= rows.shape[1]:
            raise ValueError(f"window must lie between 1 and the {rows.shape[1]} tokens of a text, not {window}")
        self.rows, self.window, self.model = rows, int(window), model
        self.start, self.carry = 0, None

    def __next__(self) -> tuple[Tensor, Any]:
        if self.start >= self.rows.shape[1]:
            self.start, self.carry = 0, None
        tokens = self.rows[:, self.start : self.start + self.window]
        self.start += self.window
        return tokens, self.carry

    def state_dict(self) -> dict[str, Any]:
        parts: list[Tensor] = []
        tree_map(parts.append, self.carry)
        return {"start": self.start, "window": self.window, "carry": parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["window"] != self.window:
            raise TrainingError(
                f"the checkpoint was made with window={state['window']}, this run has {self.window}: use the same, or "
                "another checkpoint file"
            )
        self.start, self.carry = state["start"], None
        if state["carry"]:
            # What a model carries on may be of any type: one token tells of which.
            with torch.no_grad():
                _, carry = copy.deepcopy(self.model).window_loss(self.rows[:, :1], None)  # type: ignore[operator]
            parts = iter(state["carry"])
            self.carry = tree_map(lambda like: next(parts).to(like.device), carry)


# --- the loop -----------------------------------------------------------------------------------------------------


def run(
    update: Callable[[], Losses],
    state: resume.State,
    steps: int,
    options: Options,
    *,
    shown: nn.Module | None = None,
) -> Any:
    """Call `update` until `steps` steps are done, and return the history.

    update: draws a batch, changes the weights and returns its losses, still on the device so that nothing waits.
    shown: what callbacks are given; state.model if it is another.
    """
    shown = state.model if shown is None else shown
    state.callbacks = options.callbacks
    try:
        saver = _Saver(state, options)
        schedulers = _schedulers(state, options.schedule, steps)
        seen: list[Losses] = []
        begun = state.done
        with tqdm(total=steps, initial=min(state.done, steps), desc=type(shown).__name__, leave=False) as bar:
            while state.done < steps:
                if options.before_step is not None:
                    options.before_step(state.done, shown)
                # Reading a batch waits for the GPU, so the checks read the first one there.
                with reading_values(state.done == begun):
                    seen.append(update())
                state.done += 1
                bar.update()
                if state.done % options.log_every == 0 or state.done == steps:
                    note(state.history, state.done, seen)
                    seen = []
                    bar.set_postfix(_last(state.history), refresh=False)
                    for callback in options.callbacks:
                        callback(state.done, shown)
                    saver.save(last=state.done == steps)
                if state.done < steps:
                    for scheduler in schedulers:
                        scheduler.step()
    finally:
        state.model.eval()
        if options.schedule is not None:
            for optimizer in state.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group.get("initial_lr", group["lr"])
    return state.history


class _Saver:
    """Takes a training up from its checkpoint if there is one, and writes that from time to time."""

    def __init__(self, state: resume.State, options: Options) -> None:
        self.state, self.seconds, self.path = state, options.save_seconds, options.checkpoint
        kept = resume.next_kept()
        if self.path is None and state.can_be_saved:
            self.path = kept
        if self.path is not None and self.path.exists():
            state.load(self.path)
        self.saved = time.monotonic()

    def save(self, *, last: bool) -> None:
        due = last or time.monotonic() - self.saved >= self.seconds
        if not last and (self.path is None or not due):
            return
        check_weights(self.state.model, self.state.optimizers, self.state.done)
        if self.path is not None:
            self.state.save(self.path)
            self.saved = time.monotonic()


def _schedulers(state: resume.State, schedule: Schedule | None, steps: int) -> list[LambdaLR]:
    if schedule is None or state.done >= steps:
        return []
    for optimizer in state.optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return [LambdaLR(optimizer, schedule, last_epoch=state.done - 1) for optimizer in state.optimizers]


def _last(history: Any) -> dict[str, str]:
    """The newest entry, as the progress bar shows it."""
    return {name: f"{values[-1]:.4g}" for name, values in vars(history).items() if name != "step"}
