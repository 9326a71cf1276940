"""Execute chapters: each in a process of its own, in parallel, in place only after complete success."""

import concurrent.futures
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gensrc
from gensrc import atomic, provenance
from gensrc.book import clean, repository
from gensrc.book.checks import staleness, stamp
from gensrc.book.repository import BookError
from gensrc.book.run import cost_line, environment, kernel_process, records
from gensrc.book.run.progress import Progress

if TYPE_CHECKING:
    from nbformat import NotebookNode

# Seconds that a chapter may take. A quick run is to need 90 s on one core; a slow machine gets its time.
TIME_LIMITS = {"quick": 900, "full": 12 * 3600}
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
    if (jobs is not None and jobs < 1) or (timeout is not None and timeout <= 0):
        raise BookError("--jobs and --timeout must be greater than zero.")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = cores // jobs if jobs else (1 if profile == "quick" else cores)
    if jobs is None:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        jobs = max(1, min(cores, memory // QUICK_MEMORY)) if profile == "quick" else 1
    threads = int(os.environ.get("OMP_NUM_THREADS") or max(1, threads))
    if results is None:
        # A record with another seed is no reference to compare with.
        results = root / "_build" / f"results-seed-{seed}" if seed else repository.results_folder(root)
    return Plan(root, profile, seed, jobs, threads, timeout or TIME_LIMITS[profile], results)


def needed(plan: Plan) -> list[str]:
    """The chapters whose stored outputs (in the full profile: whose recorded runs) are out of date."""
    rows = staleness.of_book(plan.root)
    return [row.chapter for row in rows if (row.full != "current" if plan.profile == "full" else row.reasons)]


def execute(plan: Plan, chapters: list[str]) -> bool:
    """Run the chapters; True if all succeeded. A failure stops no other chapter.

    Raises BookError before anything has started if one of them cannot be run as asked.
    """
    progress = Progress(sys.stdout)
    runs = [Run(plan, chapter, progress) for chapter in chapters]
    for note in [*_other_versions(runs), *_left_out(plan)]:
        progress.say(f"note: {note}")
    pool = concurrent.futures.ThreadPoolExecutor(plan.jobs)
    try:
        return all(list(pool.map(Run.complete, runs)))
    except KeyboardInterrupt:
        progress.over = True  # that the stopped runs fail is no news
        raise
    finally:
        # Reached early by Ctrl-C: what waits never starts, what runs is stopped.
        pool.shutdown(wait=False, cancel_futures=True)
        for run in runs:
            run.stop()


class RunError(Exception):
    """Why a run was not accepted; may be several lines."""


class Run:
    """One chapter, from the stored notebook to its replacement."""

    def __init__(self, plan: Plan, chapter: str, progress: Progress):
        self.plan, self.chapter, self.progress = plan, chapter, progress
        self.path = repository.notebook_path(plan.root, chapter)
        self.before = repository.read_notebook(self.path)
        self.text = self.path.read_text(encoding="utf8")
        self.code = staleness.code_of(self.before)
        self.cells = len(repository.code_cells(self.before))
        self.process: subprocess.Popen[str] | None = None
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
        """Run, check, store; True on success. Says how it went."""
        self.progress.started(self.chapter, self.cells)
        with tempfile.TemporaryDirectory(prefix="gensrc-") as folder:
            output, trace = Path(folder) / "notebook.ipynb", Path(folder) / "trace"
            try:
                facts = self._work(output, trace)
                nb = repository.read_notebook(output)
                what = self._store(nb, provenance.recorded(trace), facts)
            except (RunError, BookError) as problem:
                self.progress.ended(self.chapter, f"✗ {self.chapter}: {problem}{self._keep(output)}")
                return False
        self.progress.ended(self.chapter, f"✓ {self.chapter}: {facts['seconds']:.0f} s, {facts['peak_mb']} MB, {what}")
        return True

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()

    def _work(self, output: Path, trace: Path) -> dict[str, Any]:
        """Have a worker execute the notebook; the facts that its kernel told."""
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", kernel_process.__name__, json.dumps(self._spec(output))],
            cwd=self.path.parent,  # where Jupyter and nbval run it too
            env=self._environment(trace),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf8",
            errors="replace",
            start_new_session=True,  # Ctrl-C is for this process, which then stops the others
        )
        # The worker keeps the limit itself; this is for one that hangs in spite of it.
        guard = threading.Timer(self.plan.timeout + GRACE, self.stop)
        guard.start()
        try:
            return self._listen(self.process)
        finally:
            guard.cancel()
            self.stop()

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
        return environment.for_run(os.environ, self.plan.committed, trace.parent) | {
            "GENSRC_TRACE": str(trace),
            "PYTHONPATH": os.pathsep.join(filter(None, here)),
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
        }

    def _listen(self, process: "subprocess.Popen[str]") -> dict[str, Any]:
        noise: list[str] = []
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith(kernel_process.MARK):
                noise = [*noise[-19:], line]
                continue
            event = json.loads(line.removeprefix(kernel_process.MARK))
            if "cell" in event:
                self.progress.at(self.chapter, event["cell"], self.cells)
            elif "failed" in event:
                raise RunError(_describe(event["failed"]))
            else:
                return event["facts"]
        code = process.wait()
        how = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
        raise RunError(f"the process that ran it {how}.\n{''.join(noise)}".rstrip())

    def _store(self, nb: "NotebookNode", files: list[str], facts: dict[str, Any]) -> str:
        """Put the executed notebook where it belongs; says what became of it."""
        if os.path.realpath(facts["prefix"]) != os.path.realpath(sys.prefix):
            raise RunError(
                f"Jupyter's kernel python3 runs another Python ({facts['prefix']}), whose versions are not "
                "the pinned ones: remove that kernel (jupyter kernelspec remove python3) or repair it."
            )
        self._check_settings(facts["settings"])
        clean.clean(nb)
        reports = records.reports(nb)
        for report in reports:
            if not report.value.is_finite():
                raise RunError(f"it reports {report.label} ≈ {report.printed}, which no later run can equal.")
        parts = self.parts(files)
        nb.metadata["gensrc"] = stamp.sealed(self._stamp(parts, files, facts), nb)
        if self.plan.committed:
            return self._replace(nb)
        copy = self.plan.folder / f"{self.chapter}.ipynb"
        atomic.write(copy, clean.dumps(nb))
        where = copy.relative_to(self.plan.root)
        if self.plan.profile == "full":
            record = records.record(nb, facts, commit=_commit(self.plan.root))
            atomic.write(self.plan.results / f"{self.chapter}.json", record)
        return f"copy in {where}"

    def _check_settings(self, seen: list[str]) -> None:
        """A run that saw another profile or seed than the planned ones, however it came by them, is not stored."""
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
            "environment": {} if self.plan.committed else environment.steering(os.environ),
            "seconds": facts["seconds"],
            "peak_mb": facts["peak_mb"],
            "verified": datetime.datetime.now(datetime.UTC).date().isoformat(),
        }

    def _replace(self, nb: "NotebookNode") -> str:
        """Write the notebook in place; with nothing new in it the old stamp stays, and so does the file."""
        if self.path.read_text(encoding="utf8") != self.text:
            raise RunError("its notebook was changed while it ran, so it stays as it is: execute it again.")
        before = clean.clean(self.before)
        old = before.metadata.get("gensrc", {})
        same = old.get("hash") == nb.metadata["gensrc"]["hash"] and before.cells == nb.cells
        same = same and not stamp.problems(before)
        if same:
            nb.metadata["gensrc"] = old
        cost_line.fill(nb, nb.metadata["gensrc"], cost_line.recorded(self.plan.root, self.chapter))
        text = clean.dumps(nb)
        if text != self.text:
            atomic.write(self.path, text)
        return "outputs unchanged" if same else "outputs stored"

    def _keep(self, output: Path) -> str:
        """Keep what a failed run has left; says where."""
        if not output.exists():
            return ""
        nb = repository.read_notebook(output)
        nb.cells = [cell for cell in nb.cells if cell.get("id") != kernel_process.PROBE_ID]
        path = self.plan.root / "_build" / "failed" / f"{self.chapter}.ipynb"
        atomic.write(path, clean.dumps(nb))
        return f"\n  The run is kept in {path.relative_to(self.plan.root)}."


def _describe(failed: dict[str, Any]) -> str:
    trace = [f"    {line}" for line in failed.get("traceback", "").splitlines()[-15:]]
    what = f"code cell {failed['cell']} failed" if failed["cell"] else "it could not be started"
    return "\n".join([f"{what}: {failed['error']}", *trace])


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
