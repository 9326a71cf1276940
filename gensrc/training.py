"""One short training loop for every model that has `loss(batch)`, its arithmetic, and exact resume.

The chapter on the variational autoencoder writes such a loop out once; every later chapter calls `fit`. Two players of
an adversarial game are trained by `fit_pair`.
"""

import json
import math
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from tqdm.auto import tqdm

from gensrc.checkpoints import write_safetensors
from gensrc.models.gan import adversarial


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the step and says what to do."""


# --- where and in which arithmetic ------------------------------------------------------------------------------


def device() -> torch.device:
    """The fastest device at hand: a CUDA GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch on every device."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@dataclass(frozen=True)
class Precision:
    """The arithmetic of a forward pass: bfloat16 under autocast, or plain float32."""

    device_type: str
    bfloat16: bool

    def autocast(self) -> AbstractContextManager[Any]:
        if not self.bfloat16:
            return nullcontext()
        return torch.autocast(self.device_type, dtype=torch.bfloat16)

    def __str__(self) -> str:
        return "bfloat16" if self.bfloat16 else "float32"


def precision(device: torch.device) -> Precision:
    """The fastest sound arithmetic of `device`: bfloat16 where the hardware multiplies it, else float32.

    Weights, their gradients and the optimiser stay in float32 either way. The environment variable GENSRC_PRECISION
    (float32 or bfloat16) decides instead, for comparing the two. Raises ValueError for any other value of it.
    """
    forced = os.environ.get("GENSRC_PRECISION")
    if forced not in (None, "", "float32", "bfloat16"):
        raise ValueError(f"GENSRC_PRECISION must be float32 or bfloat16, not {forced!r}")
    if forced:
        return Precision(device.type, forced == "bfloat16")
    if device.type == "cuda":
        return Precision("cuda", torch.cuda.is_bf16_supported())
    return Precision("cpu", _cpu_multiplies_bfloat16())


def _cpu_multiplies_bfloat16() -> bool:
    # torch has no public question for this before 2.8; the private ones exist since 2.4.
    asks = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(ask() for ask in asks if ask is not None)


# --- data in shuffled batches -----------------------------------------------------------------------------------


class Batches:
    """Endless shuffled minibatches of `data`, an exact function of the seed, that can be saved and resumed.

    Every example is seen once before any is seen again; a last, smaller batch of an epoch is left out, as its mean
    would weigh its examples more. Iterating a second time goes on; it does not start again.

    data: Tensor of shape (n, ...); each batch has shape (batch_size, ...).
    transform: applied to each batch, for example `data.binarize`; it may draw from torch's global generator. A tuple
        of pictures and labels, which `fit_pair` accepts, comes from a transform of their indices.
    Raises ValueError if there are fewer examples than one batch holds.
    """

    def __init__(
        self,
        data: Tensor,
        batch_size: int,
        *,
        seed: int = 0,
        transform: Callable[[Tensor], Any] | None = None,
    ) -> None:
        if not 1 <= batch_size <= len(data):
            raise ValueError(f"batch_size must lie between 1 and the {len(data)} examples, not {batch_size}")
        self.data, self.batch_size, self.seed, self.transform = data, batch_size, seed, transform
        self.epoch, self.position = 0, 0
        self._order: Tensor | None = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self.position + self.batch_size > len(self.data):
            self.epoch, self.position, self._order = self.epoch + 1, 0, None
        if self._order is None:
            # randperm gives the same order on every machine; each epoch has a generator of its own.
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            self._order = torch.randperm(len(self.data), generator=generator)
        chosen = self._order[self.position : self.position + self.batch_size]
        self.position += self.batch_size
        batch = self.data[chosen]
        return batch if self.transform is None else self.transform(batch)

    def state_dict(self) -> dict[str, int]:
        return {
            "epoch": self.epoch,
            "position": self.position,
            "seed": self.seed,
            "batch_size": self.batch_size,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        for name in ("seed", "batch_size"):
            if state[name] != getattr(self, name):
                raise TrainingError(
                    f"the checkpoint was made with {name}={state[name]}, this run has {getattr(self, name)}: "
                    "use the same, or another checkpoint file"
                )
        self.epoch, self.position, self._order = state["epoch"], state["position"], None


class BatchSource(Protocol):
    """What `fit` draws from. `Batches` is one; any iterator with these two methods can be resumed."""

    def __next__(self) -> Any: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


# --- the loop ---------------------------------------------------------------------------------------------------


@dataclass
class History:
    """What was seen in training: `loss[i]` is the mean loss of the steps up to `step[i]` since the entry before."""

    step: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)


def cosine(steps: int) -> Callable[[int], float]:
    """A schedule that falls from 1 to 0 along half a cosine (Loshchilov and Hutter, SGDR, ICLR 2017, without restart).

    Raises ValueError for fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    return lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))


def warmup_cosine(steps: int, *, warmup: int, floor: float = 0.0) -> Callable[[int], float]:
    """A schedule that rises evenly to 1 over `warmup` steps, then falls to `floor` along half a cosine, as for GPT
    (Radford et al., 2018; GPT-3 has a floor of 0.1).

    Raises ValueError unless 0 <= warmup < steps and 0 <= floor <= 1.
    """
    if not (0 <= warmup < steps and 0 <= floor <= 1):
        raise ValueError(f"need 0 <= warmup < steps and 0 <= floor <= 1, not {warmup}, {steps} and {floor}")
    fall = cosine(steps - warmup)

    def factor(step: int) -> float:
        return (step + 1) / warmup if step < warmup else floor + (1 - floor) * fall(step - warmup)

    return factor


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The parameters as two groups for AdamW: matrices and embeddings, which decay, and biases and norms, which do not.

    What has two axes or more decays, "all non bias or gain weights" of GPT (Radford et al., 2018). An embedding that is
    the output matrix as well is one of them.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return [
        {"params": [weight for weight in weights if weight.ndim >= 2], "weight_decay": weight_decay},
        {"params": [weight for weight in weights if weight.ndim < 2], "weight_decay": 0.0},
    ]


Callback = Callable[[int, nn.Module], None]


def fit(
    model: nn.Module,
    batches: BatchSource,
    *,
    steps: int,
    optimizer: torch.optim.Optimizer | None = None,
    schedule: Callable[[int], float] | None = None,
    clip: float | None = None,
    log_every: int = 50,
    callbacks: tuple[Callback, ...] = (),
    checkpoint: Path | None = None,
    save_every: int = 1000,
    description: str = "training",
) -> History:
    """Minimise `model.loss(batch)` for `steps` steps and return the history of the loss.

    optimizer: Adam with learning rate 1e-3 if none is given.
    schedule: step -> factor on the optimiser's initial learning rate.
    clip: largest Euclidean norm of the whole gradient.
    callbacks: each is called as callback(step, model) after every `log_every` steps and after the last.
    checkpoint: a .safetensors file. If it exists, training goes on from it, to the same bits as if it had never
        stopped; it is written every `save_every` steps and at the end.

    Raises TrainingError when the loss is no longer finite (naming the step; the last checkpoint is kept), or when the
    checkpoint belongs to another model, optimiser or order of the data.
    """
    where = next(model.parameters()).device
    arithmetic = precision(where)
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    base_rates = [group["lr"] for group in optimizer.param_groups]
    history, done = History(), 0
    if checkpoint is not None and checkpoint.exists():
        done = _resume(checkpoint, model, (optimizer,), batches, history)

    model.train()
    pending, since = torch.zeros((), device=where), 0
    with tqdm(total=steps, initial=min(done, steps), desc=description, leave=False) as bar:
        try:
            while done < steps:
                if schedule is not None:
                    for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
                        group["lr"] = rate * schedule(done)
                pending += _step(model, next(batches).to(where), optimizer, arithmetic, clip)
                done, since = done + 1, since + 1
                if done % log_every == 0 or done == steps:
                    _note(history, done, float(pending) / since)
                    pending, since = torch.zeros((), device=where), 0
                    bar.set_postfix(loss=f"{history.loss[-1]:.4g}", refresh=False)
                    for callback in callbacks:
                        callback(done, model)
                bar.update()
                # Only after a look at the loss: a checkpoint must never hold a model that has gone to NaN. It falls
                # on the steps that `log_every` divides, so that the running mean of the loss need not be saved.
                if checkpoint is not None and since == 0 and (done % save_every < log_every or done == steps):
                    _save(checkpoint, model, (optimizer,), batches, history, done)
        finally:
            model.eval()
    return history


def _step(
    model: nn.Module,
    batch: Tensor,
    optimizer: torch.optim.Optimizer,
    arithmetic: Precision,
    clip: float | None,
) -> Tensor:
    """One update; returns the loss as a detached scalar, still on the device so that nothing waits for it."""
    with arithmetic.autocast():
        loss = model.loss(batch)  # type: ignore[operator]
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    return loss.detach()


def _note(history: History, step: int, loss: float) -> None:
    if not np.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss} somewhere in the last steps up to step {step}: lower the learning rate or clip the "
            "gradient; the checkpoint, if there is one, holds the last good step"
        )
    history.step.append(step)
    history.loss.append(loss)


def fit_truncated(
    model: nn.Module,
    rows: Tensor,
    *,
    steps: int,
    window: int,
    optimizer: torch.optim.Optimizer | None = None,
    schedule: Callable[[int], float] | None = None,
    clip: float | None = 1.0,
    log_every: int = 50,
    description: str = "training",
) -> History:
    """Truncated backpropagation through time: update after each window of long texts, whose state goes on to the next.

    rows: Tensor of tokens, of shape (rows, time). They are read side by side from beginning to end, then again with an
        empty state. A last window that is shorter than the others is read too.
    model: needs `truncated(rows, window=...)`, which yields a loss a window (`models.recurrent`); it is trained in
        float32, as the state of a recurrent network is a sum of many small steps.
    optimizer, schedule, clip: as in `fit`, but the gradient is clipped unless clip=None.

    Raises ValueError for no step or a window that does not fit, TrainingError when the loss is no longer finite.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    rows = rows.to(next(model.parameters()).device)
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    base_rates = [group["lr"] for group in optimizer.param_groups]
    history, done, pending, since = History(), 0, torch.zeros((), device=rows.device), 0
    model.train()
    with tqdm(total=steps, desc=description, leave=False) as bar:
        try:
            while done < steps:
                for loss in model.truncated(rows, window=window):  # type: ignore[operator]
                    if schedule is not None:
                        for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
                            group["lr"] = rate * schedule(done)
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    if clip is not None:
                        nn.utils.clip_grad_norm_(model.parameters(), clip)
                    optimizer.step()
                    pending, done, since = pending + loss.detach(), done + 1, since + 1
                    if done % log_every == 0 or done == steps:
                        _note(history, done, float(pending) / since)
                        pending, since = torch.zeros((), device=rows.device), 0
                        bar.set_postfix(loss=f"{history.loss[-1]:.4g}", refresh=False)
                    bar.update()
                    if done == steps:
                        break
        finally:
            model.eval()
    return history


# --- the loop for two players -----------------------------------------------------------------------------------


@dataclass
class PairHistory:
    """What was seen of an adversarial game; entry i is a mean over the steps up to `step[i]` since the entry before."""

    step: list[int] = field(default_factory=list)
    discriminator_loss: list[float] = field(default_factory=list)
    generator_loss: list[float] = field(default_factory=list)
    real: list[float] = field(default_factory=list)
    """D(x), the sigmoid of the logit of real examples; for a critic or a hinge loss a score squeezed into (0, 1)."""
    fake: list[float] = field(default_factory=list)
    """D(G(z)), the same of generated examples."""


def fit_pair(
    generator: nn.Module,
    discriminator: nn.Module,
    batches: BatchSource,
    *,
    steps: int,
    optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer] | None = None,
    game: adversarial.Game = adversarial.NONSATURATING,
    penalty: Callable[..., Tensor] | None = None,
    penalty_every: int = 1,
    augment: Callable[[Tensor], Tensor] | None = None,
    critic_steps: int = 1,
    average: nn.Module | None = None,
    decay: float = 0.999,
    schedule: Callable[[int], float] | None = None,
    log_every: int = 50,
    callbacks: tuple[Callback, ...] = (),
    checkpoint: Path | None = None,
    save_every: int = 1000,
    description: str = "training",
) -> PairHistory:
    """Play `steps` rounds of an adversarial game, each `critic_steps` updates of D and one of G.

    generator: needs a method `noise(n)`, the discriminator one logit an example (`models.gan` has both).
    batches: examples, or (examples, labels), which both players are then given; fakes get the labels of the batch.
    optimizers: of D and of G; Adam with learning rate 2e-4 and betas (0.5, 0.999), as in DCGAN, if not given.
    penalty: as `adversarial.r1_penalty`, added to D's loss every `penalty_every` rounds, times that number.
    augment: applied to all that D sees.
    average: a copy of the generator that follows it as a moving average, with `decay` after a short warm-up.
    callbacks: each is called as callback(step, average or generator) after every `log_every` rounds and the last; the
        average is in evaluation mode.
    schedule, checkpoint, save_every: as in `fit`.

    Raises TrainingError when a player's loss is no longer finite, naming player and step (the last checkpoint is
    kept), or when the checkpoint belongs to other networks, optimisers or another order of the data.
    """
    where = next(generator.parameters()).device
    arithmetic = precision(where)
    optimizers = optimizers or (_dcgan_adam(discriminator), _dcgan_adam(generator))
    base_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    history, done = PairHistory(), 0
    players = nn.ModuleDict({"generator": generator, "discriminator": discriminator})
    if average is not None:
        average.load_state_dict(generator.state_dict())
        players["average"] = average.eval()
    # As the batches are: convolutions are faster so in either precision (benchmarks/gan_step.py).
    players.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if checkpoint is not None and checkpoint.exists():
        done = _resume(checkpoint, players, optimizers, batches, history)

    options: dict[str, Any] = {"game": game, "augment": augment, "autocast": arithmetic.autocast}
    generator.train()
    discriminator.train()
    seen: list[tuple[float, ...]] = []
    with tqdm(total=steps, initial=min(done, steps), desc=description, leave=False) as bar:
        try:
            while done < steps:
                if schedule is not None:
                    for optimizer, rates in zip(optimizers, base_rates, strict=True):
                        for group, rate in zip(optimizer.param_groups, rates, strict=True):
                            group["lr"] = rate * schedule(done)
                extra = _lazy(penalty, penalty_every) if done % penalty_every == 0 else None
                for _ in range(critic_steps):
                    real, labels = _examples(next(batches), where)
                    z = generator.noise(len(real))  # type: ignore[operator]
                    verdict = adversarial.update_discriminator(
                        generator, discriminator, optimizers[0], real, z, labels, penalty=extra, **options
                    )
                z = generator.noise(len(real))  # type: ignore[operator]
                loss = adversarial.update_generator(generator, discriminator, optimizers[1], z, labels, **options)
                done += 1
                if average is not None:
                    adversarial.update_ema(average, generator, min(decay, (1 + done) / (10 + done)))
                seen.append(_checked(done, verdict, loss))
                if done % log_every == 0 or done == steps:
                    _note_pair(history, done, seen)
                    seen = []
                    bar.set_postfix(d_real=f"{history.real[-1]:.2f}", d_fake=f"{history.fake[-1]:.2f}", refresh=False)
                    for callback in callbacks:
                        callback(done, generator if average is None else average)
                bar.update()
                if checkpoint is not None and not seen and (done % save_every < log_every or done == steps):
                    _save(checkpoint, players, optimizers, batches, history, done)
        finally:
            players.eval()
    return history


def _dcgan_adam(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=True)


def _lazy(penalty: Callable[..., Tensor] | None, times: int) -> Callable[..., Tensor] | None:
    """A penalty that counts for the rounds without it (lazy regularisation, Karras et al., StyleGAN2, CVPR 2020)."""
    if penalty is None or times == 1:
        return penalty
    return lambda *given: times * penalty(*given)


def _examples(batch: Any, where: torch.device) -> tuple[Tensor, Tensor | None]:
    examples, labels = batch if isinstance(batch, tuple) else (batch, None)
    examples = examples.to(where)
    if examples.dim() == 4:
        examples = examples.contiguous(memory_format=torch.channels_last)
    return examples, None if labels is None else labels.to(where)


def _checked(step: int, verdict: adversarial.Verdict, generator_loss: Tensor) -> tuple[float, ...]:
    """What the history keeps of a round. Raises TrainingError if a loss is not finite."""
    losses = {"discriminator": float(verdict.loss), "generator": float(generator_loss)}
    for player, loss in losses.items():
        if not math.isfinite(loss):
            raise TrainingError(
                f"the {player}'s loss is {loss} at step {step}: lower the learning rates or add a penalty; the "
                "checkpoint, if there is one, holds the last good step"
            )
    return (*losses.values(), float(verdict.real.sigmoid().mean()), float(verdict.fake.sigmoid().mean()))


def _note_pair(history: PairHistory, step: int, seen: list[tuple[float, ...]]) -> None:
    history.step.append(step)
    kept = (history.discriminator_loss, history.generator_loss, history.real, history.fake)
    for values, entries in zip(zip(*seen, strict=True), kept, strict=True):
        entries.append(sum(values) / len(values))


# --- exact resume -----------------------------------------------------------------------------------------------


def _save(
    path: Path,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    batches: BatchSource,
    history: History | PairHistory,
    done: int,
) -> None:
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        for index, moments in optimizer.state_dict()["state"].items():
            kept = {f"optimizer.{number}.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
            tensors |= kept
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    card = {
        "step": done,
        "groups": [optimizer.state_dict()["param_groups"] for optimizer in optimizers],
        "batches": batches.state_dict(),
        "history": vars(history),
    }
    write_safetensors(path, tensors, {"training": json.dumps(card)})


def _resume(
    path: Path,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    batches: BatchSource,
    history: History | PairHistory,
) -> int:
    """Put model, optimisers, data order, random state and history back; returns the number of steps done."""
    try:
        with safe_open(path, framework="pt") as file:
            card = json.loads((file.metadata() or {})["training"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise TrainingError(f"{path} is no training checkpoint ({error}): delete it to start again") from error
    try:
        model.load_state_dict(_part(tensors, "model."))
        for number, (optimizer, groups) in enumerate(zip(optimizers, card["groups"], strict=True)):
            moments: dict[int, dict[str, Tensor]] = {}
            for name, value in _part(tensors, f"optimizer.{number}.").items():
                index, key = name.split(".", 1)
                moments.setdefault(int(index), {})[key] = value
            optimizer.load_state_dict({"state": moments, "param_groups": groups})
            _lay_out_as_weights(optimizer)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path} belongs to another model or optimiser: {error}") from error
    batches.load_state_dict(card["batches"])
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    for name, values in card["history"].items():
        getattr(history, name)[:] = values
    return int(card["step"])


def _lay_out_as_weights(optimizer: torch.optim.Optimizer) -> None:
    """A fused optimiser goes through memory: its moments have to lie there in the order of the weights."""
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if value.shape == weight.shape:
                state[name] = torch.empty_like(weight).copy_(value)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
