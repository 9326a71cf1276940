"""Execute chapters: each in a process of its own, in parallel, in place only after complete success."""

import concurrent.futures
import contextlib
import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import nbformat
from nbformat import NotebookNode

import gensrc
from gensrc import atomic, provenance
from gensrc.book import clean, repository
from gensrc.book.checks import staleness, stamp
from gensrc.book.repository import BookError
from gensrc.book.run import cost_line, environment, kernel_process, lock, records, storage
from gensrc.book.run.progress import Progress
from gensrc.book.run.worker import Worker

# Seconds that a chapter may take. A quick run is to need 90 s on one core; a slow machine gets its time.
TIME_LIMITS = {"quick": 900, "full": 12 * 3600}
LONGEST = 10**8  # seconds that --timeout may ask for; a timer of the system takes no more than some 10**9
GRACE = 60  # seconds that a worker past its limit gets to shut its kernel down
QUICK_MEMORY = 2 * 2**30  # bytes that a chapter may use in the quick profile


@dataclass(frozen=True)
class Plan:
    """How chapters are to be run."""

    root: Path
    profile: str
    seed: int
    jobs: int
    threads: int
    timeout: float  # seconds, for a chapter in all
    results: Path  # folder for the records of full runs

    @property
    def committed(self) -> bool:
        """Whether the run makes what is committed, and so replaces the notebook in place."""
        return {"profile": self.profile, "seed": self.seed} == repository.COMMITTED

    def targets(self, chapters: list[str]) -> list[Path]:
        """The folders that the outcome of `chapters` is written to, here or by the chapters themselves."""
        if self.committed:
            return [repository.notebook_path(self.root, chapter).parent for chapter in chapters]
        if self.profile != "full":
            return [self.folder]
        shelves = [self.root / "gensrc" / name for name in ("checkpoints", "recordings")] if self.seed == 0 else []
        return [self.folder, self.results, *shelves]

    @property
    def folder(self) -> Path:
        """Where the executed copies go when the notebooks stay as they are."""
        return self.root / "_build" / (f"{self.profile}-seed-{self.seed}" if self.seed else self.profile)


def plan(
    root: Path,
    *,
    profile: str = "quick",
    seed: int = 0,
    jobs: int | None = None,
    timeout: float | None = None,
    results: Path | None = None,
) -> Plan:
    """Fill in what was not asked for.

    A quick run gets one thread unless told otherwise, whatever else runs beside it: the number of threads
    changes the last digits, and the same chapter should give the same file. With `jobs` given, the jobs share
    the cores evenly.
    """
    if profile not in repository.PROFILES:
        raise BookError(f"there is no profile '{profile}'; the profiles are: {', '.join(repository.PROFILES)}.")
    if (jobs is not None and jobs < 1) or (timeout is not None and not timeout > 0):
        raise BookError("--jobs and --timeout must be greater than zero.")
    if timeout is not None and timeout > LONGEST:
        raise BookError(f"--timeout must be at most {LONGEST:,} seconds.")
    if not 0 <= seed < 2**32:
        raise BookError("--seed must be a whole number from 0 to 2**32 - 1.")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = cores // jobs if jobs else (1 if profile == "quick" else cores)
    if jobs is None:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        jobs = max(1, min(cores, memory // QUICK_MEMORY)) if profile == "quick" else 1
    threads = threads_asked() or max(1, threads)
    if results is None:
        # A record with another seed is no reference to compare with.
        results = root / "_build" / f"results-seed-{seed}" if seed else repository.results_folder(root)
    return Plan(root, profile, seed, jobs, threads, timeout or TIME_LIMITS[profile], results)


def threads_asked() -> int | None:
    """What OMP_NUM_THREADS asks for, if it is set; of a list such as 4,2 (one number a level) the first counts."""
    asked = os.environ.get("OMP_NUM_THREADS", "").strip()
    if not asked:
        return None
    first = asked.partition(",")[0].strip()
    if not re.fullmatch(r"0*[1-9][0-9]{0,3}", first):
        raise BookError(f"OMP_NUM_THREADS is '{asked}': set it to a whole number from 1 to 9999, or unset it.")
    return int(first)


def needed(plan: Plan) -> list[str]:
    """The chapters whose stored outputs (in the full profile: whose recorded runs) are out of date."""
    rows = staleness.of_book(plan.root)
    return [row.chapter for row in rows if (row.full != "current" if plan.profile == "full" else row.reasons)]


def execute(plan: Plan, chapters: list[str]) -> bool:
    """Run the chapters; True if all succeeded. A failure stops no other chapter.

    A chapter that another process is executing is left to that, and waited for. Raises BookError before anything has
    started if one cannot be run as asked, or what comes of it could not be stored; OSError at the end if not all could
    be said.
    """
    storage.check([plan.root / "_build", *plan.targets(chapters)])
    progress = Progress(sys.stdout)
    with contextlib.ExitStack() as locks:
        runs, left = [], []
        for chapter in chapters:
            try:
                held = locks.enter_context(lock.take(_lock_path(plan, chapter)))
            except lock.TakenError as other:
                progress.say(f"– {chapter}: it is being executed by another process ({other}), and is left to that.")
                left.append(chapter)
            else:
                runs.append(Run(plan, chapter, progress, held))
        for note in [*_other_versions(runs), *_left_out(plan)]:
            progress.say(f"note: {note}")
        succeeded = _side_by_side(runs, plan.jobs)
    succeeded &= _others_succeeded(plan, left, progress)
    if progress.lost:
        raise progress.lost
    return succeeded


def _lock_path(plan: Plan, chapter: str) -> Path:
    return plan.root / "_build" / "executing" / f"{plan.folder.name}-{chapter.replace('/', '-')}.lock"


def _others_succeeded(plan: Plan, left: list[str], progress: Progress) -> bool:
    """Wait for what other processes execute, so that whatever comes next finds it done; True if it is."""
    if not left:
        return True
    for chapter in left:
        lock.take(_lock_path(plan, chapter), wait=True).close()
    undone = {*left} & {*needed(plan)} if plan.committed else set()
    for chapter in sorted(undone):
        progress.say(f"✗ {chapter}: the other process has left it stale.")
    return not undone


def _side_by_side(runs: list["Run"], jobs: int) -> bool:
    pool = concurrent.futures.ThreadPoolExecutor(jobs)
    try:
        return all(list(pool.map(Run.complete, runs)))
    except BaseException:  # by Ctrl-C or another signal
        for run in runs:
            run.cancel()
        for run in runs:
            run.stop()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


class RunError(Exception):
    """Why a run was not accepted; may be several lines."""


class Run:
    """One chapter, from the stored notebook to its replacement."""

    def __init__(self, plan: Plan, chapter: str, progress: Progress, held: TextIO):
        self.plan, self.chapter, self.progress, self.lock = plan, chapter, progress, held
        self.path = repository.notebook_path(plan.root, chapter)
        self.before = repository.read_notebook(self.path)
        self.text = self.path.read_text(encoding="utf8")
        self.code = staleness.code_of(self.before)
        self.cells = len(repository.code_cells(self.before))
        self.worker: Worker | None = None
        self.cancelled = False
        self.starting = threading.Lock()
        self.made: dict[str, str] = {}  # ending of the name -> text, of what the run has made so far
        self.places: dict[str, Path] = {}  # ending -> where that is to be stored, once it is complete
        # Reads the modules now: one that is edited during the run leaves the chapter stale, as it should.
        self.prints = staleness.Fingerprints(plan.root)
        try:
            self.parts(files=[])
            problems = self.prints.settings(self.before)
        except BookError as error:
            raise BookError(f"{chapter}: {error}") from error
        if problems:
            raise BookError(f"{chapter}: {problems[0]}.")

    def parts(self, files: list[str]) -> staleness.Parts:
        return self.prints.parts(self.code, files, self.plan.profile, self.plan.seed)

    def complete(self) -> bool:
        """Run, check, store; True on success. Says how it went, and raises nothing: other chapters go on."""
        try:
            self.progress.started(self.chapter, self.cells)
            line, succeeded = f"✓ {self.chapter}: {self._complete()}", True
        except Exception as problem:
            line, succeeded = f"✗ {self.chapter}: {_reason(problem)}{self._keep()}", False
        finally:
            self.lock.close()
        if succeeded or not self.cancelled:  # that a run failed which was made to is no news
            self.progress.ended(self.chapter, line)
        return succeeded

    def cancel(self) -> None:
        """Let the run not start, or have its process end."""
        with self.starting:
            self.cancelled = True
            if self.worker is not None:
                self.worker.end()

    def stop(self) -> None:
        if self.worker is not None:
            self.worker.stop()

    def _complete(self) -> str:
        self._see_it_unchanged("before its turn")
        with tempfile.TemporaryDirectory(prefix="gensrc-", ignore_cleanup_errors=True) as folder:
            trace = Path(folder) / "trace"
            facts = self._work(Path(folder), trace)
            what = self._store(self._executed(), provenance.recorded(trace), facts)
        return f"{facts['seconds']:.0f} s, {facts['peak_mb']} MB, {what}"

    def _executed(self) -> NotebookNode:
        nb = _parsed(self.made[".ipynb"])
        nbformat.validate(nb)
        return nb

    def _work(self, folder: Path, trace: Path) -> dict[str, Any]:
        """Have a worker execute the notebook; the facts that its kernel told. The notebook is then in `made`."""
        output = folder / "notebook.ipynb"
        with self.starting:
            if self.cancelled:
                raise RunError("it was not started.")
            self.worker = Worker(
                self._spec(output),
                folder=self.path.parent,  # where Jupyter and nbval run it too
                environment=self._environment(trace),
            )
        # The worker keeps the limit itself; this is for one that hangs in spite of it.
        guard = threading.Timer(self.plan.timeout + GRACE, self.worker.stop)
        guard.start()
        try:
            return self._listen(self.worker, output)
        finally:
            guard.cancel()
            self.worker.close()

    def _spec(self, output: Path) -> dict[str, Any]:
        before = os.environ.get("PYTHONPATH", "")
        return {
            "notebook": str(self.path),
            "output": str(output),
            # Nothing is injected into a notebook that already says what is wanted.
            "parameters": {} if self.plan.committed else {"profile": self.plan.profile, "seed": self.plan.seed},
            "timeout": self.plan.timeout,
            "pythonpath": os.pathsep.join([str(self.plan.root), *([before] if before else [])]),
        }

    def _environment(self, trace: Path) -> dict[str, str]:
        here = [str(Path(gensrc.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        threads = str(self.plan.threads)
        # Warnings that are asked for of this process are not to be stored among a chapter's outputs, nor to end it.
        seen = environment.for_run(os.environ, self.plan.committed, trace.parent)
        asked = {name: value for name, value in seen.items() if name not in ("PYTHONDEVMODE", "PYTHONWARNINGS")}
        return asked | {
            "GENSRC_TRACE": str(trace),
            "PYTHONPATH": os.pathsep.join(filter(None, here)),
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
        }

    def _listen(self, worker: Worker, output: Path) -> dict[str, Any]:
        for event in worker.events():
            if "cell" in event:
                self.progress.at(self.chapter, event["cell"], self.cells)
                continue
            if event["notebook"]:
                self.made[".ipynb"] = event["notebook"]
            if "failed" in event:
                raise RunError(_describe(event["failed"], worker, self.plan.root))
            return event["facts"]
        if output.exists():
            self.made[".ipynb"] = output.read_text(encoding="utf8")
        raise RunError(f"the process that ran it {worker.how_it_ended()}.\n{worker.last_words()}".rstrip())

    def _store(self, nb: NotebookNode, files: list[str], facts: dict[str, Any]) -> str:
        """Put the executed notebook where it belongs; says what became of it."""
        if os.path.realpath(facts["prefix"]) != os.path.realpath(sys.prefix):
            raise RunError(
                f"Jupyter's kernel python3 runs another Python ({facts['prefix']}), whose versions are not "
                "the pinned ones: remove that kernel (jupyter kernelspec remove python3) or repair it."
            )
        self._check_settings(facts["settings"], environment.told(facts["environment"]))
        clean.clean(nb)
        reports = records.reports(nb)
        for report in reports:
            if not report.value.is_finite():
                raise RunError(f"it reports {report.label} ≈ {report.printed}, which no later run can equal.")
        parts = self.parts(files)
        nb.metadata["gensrc"] = stamp.sealed(self._stamp(parts, files, facts), nb)
        self.made[".ipynb"] = clean.dumps(nb)
        if self.plan.committed:
            return self._replace(nb)
        self.places[".ipynb"] = copy = self.plan.folder / f"{self.chapter}.ipynb"
        if self.plan.profile == "full":
            self.made[".json"] = records.record(nb, facts, commit=_commit(self.plan.root))
            self.places[".json"] = self.plan.results / f"{self.chapter}.json"
        for ending, place in self.places.items():
            atomic.write(place, self.made[ending])
        return f"copy in {copy.relative_to(self.plan.root)}"

    def _check_settings(self, seen: list[str], steering: dict[str, str]) -> None:
        """A run that saw other settings than the planned ones, however it came by them, is not stored."""
        for name in steering if self.plan.committed else ():
            raise RunError(f"its kernel saw {name}={steering[name]}, set by a kernelspec or by a cell: take that out.")
        planned = f"profile {self.plan.profile!r} and seed {self.plan.seed!r}"
        for other in (settings for settings in seen if settings != planned):
            raise RunError(f"it was to run with {planned}, but a cell changed that to {other}: take that out.")

    def _stamp(self, parts: staleness.Parts, files: list[str], facts: dict[str, Any]) -> dict[str, Any]:
        return {
            "chapter": self.chapter,
            "hash": staleness.digest(parts),
            "parts": parts,
            "files": files,
            "profile": self.plan.profile,
            "seed": self.plan.seed,
            "python": facts["python"],
            "torch": facts["torch"],
            "hardware": _hardware(facts, facts["threads"] or self.plan.threads),
            "instructions": facts["instructions"],
            "precision": facts["precision"],
            "environment": environment.told(facts["environment"]),
            "seconds": facts["seconds"],
            "peak_mb": facts["peak_mb"],
            "verified": datetime.datetime.now(datetime.UTC).date().isoformat(),
        }

    def _replace(self, nb: NotebookNode) -> str:
        """Write the notebook in place; with nothing new in it the old stamp stays, and so does the file."""
        self._see_it_unchanged("while it ran")
        before = clean.clean(self.before)
        old = before.metadata.get("gensrc", {})
        same = old.get("hash") == nb.metadata["gensrc"]["hash"] and before.cells == nb.cells
        same = same and not stamp.problems(before)
        if same:
            nb.metadata["gensrc"] = old
        cost_line.fill(nb, nb.metadata["gensrc"], cost_line.recorded(self.plan.root, self.chapter))
        self.made[".ipynb"] = clean.dumps(nb)
        self.places[".ipynb"] = self.path
        if self.made[".ipynb"] != self.text:
            atomic.write(self.path, self.made[".ipynb"])
        return "outputs unchanged" if same else "outputs stored"

    def _see_it_unchanged(self, when: str) -> None:
        if self.path.read_text(encoding="utf8") != self.text:
            raise RunError(f"its notebook was changed {when}, so it stays as it is: execute it again.")

    def _keep(self) -> str:
        """Keep what a failed run has made, in the first of some folders that can be written; says where."""
        if not self.made:
            return ""
        self.made[".ipynb"] = _without_probe(self.made[".ipynb"])
        for folder in _keeping(self.plan.root):
            try:
                for ending, text in self.made.items():
                    atomic.write(folder / f"{self.chapter}{ending}", text)
            except OSError:
                continue
            return "".join(self._kept(folder / f"{self.chapter}{ending}", ending) for ending in self.made)
        return "\n  The run is lost, as no folder for it could be written."

    def _kept(self, path: Path, ending: str) -> str:
        place = self.places.get(ending)
        cure = f": copy it to {self._shown(place)} instead of running it again" if place else ""
        return f"\n  {'The run' if ending == '.ipynb' else 'Its record'} is kept in {self._shown(path)}{cure}."

    def _shown(self, path: Path) -> Path:
        return path.relative_to(self.plan.root) if path.is_relative_to(self.plan.root) else path


def _keeping(root: Path) -> Iterator[Path]:
    """Folders for what could not be stored: where it is looked for first, then others that may be on other disks."""
    yield root / "_build" / "failed"
    for folder in (tempfile.gettempdir, Path.home):
        with contextlib.suppress(OSError, RuntimeError):
            yield Path(tempfile.mkdtemp(prefix="gensrc-failed-", dir=folder()))


def _parsed(text: str) -> NotebookNode:
    """The notebook in the newest minor format: older ones know no cell ids."""
    return nbformat.v4.upgrade(nbformat.v4.reads(text))


def _without_probe(text: str) -> str:
    nb = _parsed(text)
    nb.cells = [cell for cell in nb.cells if cell.get("id") != kernel_process.PROBE_ID]
    return clean.dumps(nb)


def _reason(problem: Exception) -> str:
    """Why a run failed, in a sentence or with a traceback below it."""
    if isinstance(problem, OSError):
        return storage.said(problem)
    if isinstance(problem, RunError | BookError):
        return str(problem)
    at = traceback.extract_tb(problem.__traceback__)[-1]
    return f"gensrc-book itself failed, at {Path(at.filename).name}:{at.lineno}: {type(problem).__name__}: {problem}"


def _describe(failed: dict[str, Any], worker: Worker, root: Path) -> str:
    what = f"code cell {failed['cell']} failed" if failed["cell"] else "it could not be started"
    lines = failed["traceback"].splitlines()[-15:] if "traceback" in failed else worker.last_words().splitlines()
    return "\n".join(
        [f"{what}: {failed['error']}", *(f"    {line}" for line in lines), *storage.full(failed["error"], [root])]
    )


def _hardware(facts: dict[str, Any], threads: int) -> str:
    """GPU if one was used, CPU model, cores and threads; no name of any machine."""
    try:
        with open("/proc/cpuinfo", encoding="utf8") as lines:
            model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    count = f"{threads} thread{'s' if threads > 1 else ''} of {os.cpu_count()} cores"
    return ", ".join(filter(None, [facts["gpu"], model, count]))


def _commit(root: Path) -> str:
    """The commit that the run was made from, -dirty if files differ from it; '' outside a git checkout."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _other_versions(runs: list[Run]) -> list[str]:
    """A stamp names the pinned versions; say where the installed ones are others."""
    pinned = {part: version for run in runs for part, version in run.parts([]).items() if part.startswith("pin ")}
    notes = []
    for part, version in sorted(pinned.items()):
        name = part.removeprefix("pin ")
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed = "no version"
        # A build label such as +cpu is no other version; a pin with a marker may hold several.
        if ";" not in version and installed.partition("+")[0] != version.partition("+")[0]:
            notes.append(f"{name} {installed} is installed, constraints.txt pins {version}.")
    return notes


def _left_out(plan: Plan) -> list[str]:
    """Say which variables of the environment a committed run does not get."""
    names = environment.steering(os.environ) if plan.committed else {}
    return [f"{name} is left out: stored outputs are made without it." for name in names]
