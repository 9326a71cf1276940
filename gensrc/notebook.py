"""What a chapter calls: start, report, claim, trained, recorded, source, figure, sounds.

A chapter prints three kinds of line and nothing else (book/how-to-read.md): exact ones by `print`, measured ones by
`report`, which carries its own tolerance, and statements of fact by `claim`, which raises where the fact fails.
`gensrc.report_lines` says what a line looks like, for whoever prints one and for whoever reads it back.
"""

import base64
import hashlib
import inspect
import io
import json
import numbers
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from gensrc import alt_text, checkpoints, report_lines, training

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROFILES = ("quick", "full")
MAX_SECONDS = 20  # of the sounds in one cell
T = TypeVar("T")
Model = TypeVar("Model", bound=torch.nn.Module)


class ClaimError(AssertionError):
    """A claim of a chapter that does not hold."""


@dataclass(frozen=True)
class Run:
    """The settings of one execution of a chapter."""

    chapter: str
    profile: str
    seed: int
    device: torch.device

    def __post_init__(self) -> None:
        begun.append(self)

    @property
    def full(self) -> bool:
        return self.profile == "full"

    def pick(self, *, quick: T, full: T) -> T:
        """The value that belongs to this run's profile, for budgets: `steps=run.pick(quick=400, full=40_000)`."""
        return full if self.full else quick

    def generator(self, offset: int = 0) -> torch.Generator:
        """A separate CPU generator, so that one experiment's draws do not change another's.

        Noise is drawn on the CPU and moved: a GPU's generator gives other numbers for the same seed.
        """
        return torch.Generator().manual_seed(self.seed + offset)


begun: list[Run] = []
"""All that were made so far. The last one's profile decides between the two tolerances of a report."""


def start(chapter: str, *, profile: str = "quick", seed: int = 0) -> Run:
    """Begin a chapter: check the profile, seed every generator, choose the device, set the figures' style.

    Raises ValueError for an unknown profile or a seed that is no whole number from 0 to 2**32 - 1.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, not {profile!r}")
    whole = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)  # numpy's as well
    if not whole or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be a whole number from 0 to 2**32 - 1, not {seed!r}")
    from gensrc import plots

    training.seed_everything(seed)
    plots.style()
    return Run(chapter, profile, int(seed), training.device())


def report(
    label: str,
    value: float,
    unit: str = "",
    *,
    rel: float | None = None,
    abs: float | None = None,
    retrained: float | None = None,
) -> None:
    """Print a measured number with the tolerance within which other machines must reproduce it.

    `rel` is a fraction of the value (0.05 prints "±5 %"), `abs` is in the value's own unit; give exactly one. The
    number is printed with two digits more than the tolerance resolves, so that rounding never decides a comparison.

    `retrained` replaces it in the full profile: results of a shipped checkpoint are the same everywhere, but a full run
    trains the weights again, and training differs between machines.

    Raises ValueError for a value that is not finite, for no or two tolerances, for one that is not positive, and for a
    `retrained` that is not the wider one.
    """
    line = report_lines.report_line(label, float(value), unit, rel=rel, abs=abs)
    width = rel if rel is not None else abs
    if retrained is not None and width is not None:
        if not retrained > width:
            raise ValueError(f"{label}: retrained={retrained} must be wider than {width}, as of shipped weights")
        if begun and begun[-1].full:
            bound = {"abs": retrained} if rel is None else {"rel": retrained}
            line = report_lines.report_line(label, float(value), unit, **bound)
    _say(line)


def claim(sentence: str, condition: Any) -> None:
    """Print `sentence` with a tick if `condition` holds, else raise ClaimError: no chapter prints a false sentence.

    `condition` is a bool or a one-element tensor or array of bools. Anything else raises TypeError, because a
    number or a list that happens to be "truthy" would tick every sentence.
    """
    if hasattr(condition, "item"):
        condition = condition.item()
    if not isinstance(condition, bool):
        raise TypeError(f"claim needs True or False, not {type(condition).__name__}: {sentence}")
    if not condition:
        raise ClaimError(f"not so: {sentence}")
    _say(report_lines.claim_line(sentence))


def _say(line: str) -> None:
    """Print `line`, with ? for what the encoding of the output lacks: notebooks have UTF-8, a terminal may not."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf8"
    print(line.encode(encoding, "replace").decode(encoding))


def trained(
    run: Run,
    name: str,
    kind: Callable[..., Model],
    *,
    config: dict[str, Any],
    about: str,
    train: Callable[[Model], Any],
    bits: int = 8,
) -> Model:
    """The trained model of checkpoint `name`, built as kind(**config) and in evaluation mode.

    In the full profile it is trained first and saved; either way it is then loaded from the file, so that both
    profiles show the very same weights, rounded as they are shipped: to rows of 8 bits, or to half precision with
    bits=16 where 8 would move a figure too far. `about` says in a sentence how it was trained. Only seed 0 is
    shipped: a full run with another seed shows what it has trained and overwrites nothing.

    A full run that is cut off goes on where it was when it is started again, to the same bits: what `train` does by
    `training.fit`, `fit_gan` and `fit_tbptt` is saved every minute. Progress that was made by other code is not used.

    Raises CheckpointError as `checkpoints.load_weights` does.
    """
    if run.full:
        torch.manual_seed(run.seed)
        model = kind(**config).to(run.device)
        with _kept_progress(run, name, [kind.__name__, config, about]):
            train(model)
            if run.seed != 0:
                return model.cpu().eval()
            checkpoints.save_weights(name, model, config=config, about=about, bits=bits)
    return checkpoints.load_weights(name, kind(**config), config=config)


@contextmanager
def _kept_progress(run: Run, name: str, what: list[Any]) -> Iterator[None]:
    """What is trained while this is open goes on after a kill; its progress is removed once the result is saved."""
    progress = _progress_folder(run, name, what)
    with training.keep_progress(progress):
        yield
    shutil.rmtree(progress, ignore_errors=True)


def _progress_folder(run: Run, name: str, what: list[Any]) -> Path:
    """Where the progress of a training is kept; what an older version of the code has left there is removed."""
    package = Path(__file__).resolve().parent
    files = [path for path in sorted(package.rglob("*.py")) if not path.is_relative_to(package / "book")]
    code = [path.read_bytes() for path in files]
    told = json.dumps([run.chapter, run.seed, what, _program()], default=str).encode()
    digest = hashlib.sha256(b"".join([told, *code])).hexdigest()[:16]
    repository = checkpoints.SHIPPED.parents[1]
    base = repository / "_build" if (repository / "pyproject.toml").exists() else Path("gensrc-output")
    of_seed = base / "training" / f"{name}-seed-{run.seed}"
    for stale in of_seed.glob("*"):
        if stale.name != digest:
            shutil.rmtree(stale, ignore_errors=True)
    return of_seed / digest


def _program() -> str:
    """The code that runs: the notebook's cells up to this one, or the script."""
    interactive = sys.modules.get("IPython")
    shell = interactive.get_ipython() if interactive else None
    if shell is not None:
        return "\n".join(shell.user_ns.get("In", []))
    script = getattr(sys.modules["__main__"], "__file__", None)
    return Path(script).read_text(encoding="utf8") if script else ""


def recorded(
    run: Run, name: str, make: Callable[[], dict[str, torch.Tensor]], *, about: str
) -> dict[str, torch.Tensor]:
    """What a training has shown and its weights do not tell: pictures on the way, curves, a table over seeds.

    In the full profile `make` returns the tensors and they are saved as recording `name`; either way they are then
    loaded from the file. Pictures are best kept as uint8. `about` says in a sentence what they are. A full run with
    another seed than 0 shows what it has made and overwrites nothing. One that is cut off goes on as in `trained`.

    Raises CheckpointError as `checkpoints.load_recording` does.
    """
    if run.full:
        with _kept_progress(run, name, [about]):
            made = make()
            if run.seed != 0:
                return made
            checkpoints.save_recording(name, made, about=about)
    return checkpoints.load_recording(name)


def source(*objects: Callable[..., Any] | type) -> None:
    """Show the code of functions, methods or classes of gensrc where the text speaks of them."""
    from IPython.display import Markdown, display

    first = inspect.unwrap(objects[0])
    path = Path(inspect.getsourcefile(first) or "").resolve()
    package = Path(__file__).resolve().parent
    place = path.relative_to(package.parent).as_posix() if path.is_relative_to(package) else path.name
    listings = [textwrap.dedent(inspect.getsource(inspect.unwrap(each))).rstrip() for each in objects]
    display(Markdown(f"`{place}`\n\n```python\n" + "\n\n\n".join(listings) + "\n```"))


def figure(fig: "Figure", *, name: str, caption: str, alt: str, kind: str = "plot") -> None:
    """Show a figure with a caption and a text alternative, then close it.

    `kind` says how the figure behaves on a dark page: a "plot" (lines, bars, points on nothing) may be inverted, a
    "picture" (digits, photographs) may not. One figure a cell: the site numbers and links them by `name`.

    Raises ValueError for an unknown kind, an empty caption, or an alt text that says too little.
    """
    import matplotlib.pyplot as plt
    from IPython.display import display

    if kind not in ("plot", "picture"):
        raise ValueError(f"kind must be 'plot' or 'picture', not {kind!r}")
    if not caption.strip() or not alt_text.says_enough(alt):
        raise ValueError(
            f"figure {name!r} needs a caption, and an alt text that says what is seen ({alt_text.LEAST} characters)"
        )
    png = io.BytesIO()
    # No software stamp: the same picture is the same bytes with another version of matplotlib's writer.
    fig.savefig(png, format="png", metadata={"Software": None}, transparent=kind == "plot", bbox_inches="tight")
    plt.close(fig)
    display(
        {
            "image/png": base64.b64encode(png.getvalue()).decode(),
            "text/plain": f"[figure {name}] {caption} | {alt}",
        },
        metadata={
            "image/png": {"alt": alt},
            "gensrc": {"figure": {"name": name, "caption": caption, "alt": alt, "kind": kind}},
        },
        raw=True,
    )


def sounds(waves: dict[str, torch.Tensor], *, rate: int, name: str, caption: str) -> None:
    """Show a player for each wave, which lies in the page itself and starts when a reader presses it.

    waves: by their label, which a screen reader reads too; samples in [-1, 1], `rate` a second. Samples beyond are
        clipped. A second of 8,000 samples takes 22 kB of the page, so at most 20 seconds may be shown at once.

    Raises ValueError for no wave, an empty caption, a wave that is not one row of finite samples, and too much sound.
    """
    import html

    from IPython.display import display

    if not waves or not caption.strip():
        raise ValueError(f"sounds {name!r} need a wave at least, and a caption that says what to listen for")
    for said, samples in waves.items():
        if samples.dim() != 1 or not len(samples) or not bool(samples.isfinite().all()):
            raise ValueError(f"{said!r} must be one row of finite samples, not of shape {tuple(samples.shape)}")
    seconds = sum(map(len, waves.values())) / rate
    if seconds > MAX_SECONDS:
        raise ValueError(f"sounds {name!r} last {seconds:.1f} s; show {MAX_SECONDS} s at most, as the page holds them")
    players = "".join(
        f'<p>{html.escape(said)}<br><audio controls preload="none" aria-label="{html.escape(said)}" '
        f'src="data:audio/wav;base64,{base64.b64encode(_wav(samples, rate)).decode()}"></audio></p>'
        for said, samples in waves.items()
    )
    display(
        {
            "text/html": f"<figure>{players}<figcaption>{html.escape(caption)}</figcaption></figure>",
            "text/plain": f"[sounds {name}] {caption}",
        },
        raw=True,
    )


def _wav(samples: torch.Tensor, rate: int) -> bytes:
    """A WAV file of one channel with 16 bits a sample."""
    import wave

    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        whole = (samples.detach().cpu().clamp(-1, 1) * 32767).round()
        file.writeframes(whole.to(torch.int16).numpy().astype("<i2").tobytes())
    return content.getvalue()
