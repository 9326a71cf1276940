"""Runs one notebook with papermill and tells the parent process how it goes.

`worker` starts one such process a chapter, so that memory and crashes stay apart. What it says to its parent are
lines of JSON through a socket of their own: stdout and stderr belong to libraries, here and in the kernel. The same
socket tells it when the parent is gone, and then it ends too, with its kernel.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROBE_ID = "gensrc-probe"
FACTS = "application/vnd.gensrc.facts+json"
# How the kernel computed, and each profile and seed that its cells have seen, of which there should be one.
SETTINGS = """
def _gensrc_settings():
    import os, sys
    torch, notebook, training = (sys.modules.get(name) for name in ("torch", "gensrc.notebook", "gensrc.training"))
    kind = getattr(notebook, "Run", ())
    runs = [*getattr(notebook, "begun", []), *(each for each in [*globals().values()] if isinstance(each, kind))]
    seen = [(globals().get("profile"), globals().get("seed")), *((run.profile, run.seed) for run in runs)]
    return {
        "settings": sorted({f"profile {profile!r} and seed {seed!r}" for profile, seed in seen}),
        "environment": dict(os.environ),
        "threads": torch.get_num_threads() if torch else 0,
        "instructions": torch.backends.cpu.get_cpu_capability() if torch else "",
        "precision": str(training.precision(training.device())) if hasattr(training, "precision") else "",
    }
"""
# Runs in the kernel after the last cell, in a namespace of its own. The kernel alone knows what it used. The facts go
# out as a display of a kind of their own, which nothing that a thread prints meanwhile can be taken for.
PROBE = f"""{SETTINGS}
def _gensrc_probe():
    import pathlib, platform, re, resource, sys
    from IPython.display import display
    torch = sys.modules.get("torch")
    on_gpu = torch is not None and torch.cuda.is_initialized()
    status = pathlib.Path("/proc/self/status")
    peak = re.search(r"VmHWM:\\s*(\\d+) kB", status.read_text()) if status.exists() else None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    facts = {{
        "prefix": sys.prefix,
        "python": platform.python_version(),
        "torch": torch.__version__ if torch else "",
        **_gensrc_settings(),
        "peak_mb": round(int(peak[1]) / 1024 if peak else most),
        "gpu": torch.cuda.get_device_name() if on_gpu else "",
        "gpu_peak_mb": round(torch.cuda.max_memory_allocated() / 2**20) if on_gpu else 0,
    }}
    display({{"{FACTS}": facts}}, raw=True)
_gensrc_probe()
"""
PATIENCE = 15  # seconds that the kernel gets to shut down when the parent is gone


def facts_in(outputs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What the probe has displayed, among whatever else came out beside it; None if it did not run."""
    shown = [output["data"][FACTS] for output in outputs if FACTS in output.get("data", {})]
    return shown[-1] if shown else None


class Kept:
    """Where papermill saves the notebook as it goes: in memory, and in a file for when this process is killed.

    That the file cannot be written, as on a full disk, ends nothing.
    """

    SCHEME = "gensrc-kept:"

    def __init__(self, text: str):
        self.text = text

    def read(self, path: str) -> str:
        return self.text

    def write(self, text: str, path: str) -> None:
        self.text = text
        file = Path(path.removeprefix(self.SCHEME))
        part = file.with_suffix(".part")
        with contextlib.suppress(OSError):
            part.write_text(text, encoding="utf8")
            part.replace(file)

    def pretty_path(self, path: str) -> str:
        return path


def run(
    tell: Callable[[dict[str, Any]], None],
    notebook: str,
    output: str,
    parameters: dict[str, Any],
    timeout: float,
    pythonpath: str,
) -> None:
    """Execute `notebook` in the working folder within `timeout` seconds in all, saving to `output` on the way.

    Tells {"cell": i} as it goes and at last either {"facts": {...}} or {"failed": {...}}, each of the two with the
    text of the executed "notebook".
    """
    import nbformat
    import papermill
    from papermill.iorw import papermill_io

    # Only now, so that this process keeps its own gensrc and the kernel gets the repository's.
    os.environ["PYTHONPATH"] = pythonpath
    nb = nbformat.read(notebook, as_version=4)
    nb.cells.append(nbformat.v4.new_code_cell(PROBE, id=PROBE_ID))
    kept = Kept(nbformat.writes(nb))
    papermill_io.register(Kept.SCHEME, kept)
    started = time.monotonic()
    at = 0

    def on_cell_start(cell: Any, cell_index: int) -> None:
        nonlocal at
        if cell.cell_type == "code" and cell.get("id") != PROBE_ID:
            at += 1
            tell({"cell": at})

    def failed(error: str, **more: str) -> None:
        tell({"failed": {"cell": at, "error": error, **more}, "notebook": kept.text if at else ""})

    try:
        done = papermill.execute_notebook(
            Kept.SCHEME + output,
            Kept.SCHEME + output,
            parameters=parameters,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            execution_timeout=int(timeout),
            timeout_func=lambda cell: max(1.0, started + timeout - time.monotonic()),
            on_cell_start=on_cell_start,
            store_widget_state=False,
        )
    except papermill.PapermillExecutionError as error:
        trace = papermill.exceptions.strip_color("\n".join(error.traceback))
        failed(f"{error.ename}: {error.evalue}", traceback=trace)
    except TimeoutError:
        failed(f"the time limit of {timeout:.0f} s was reached", traceback="")
    except Exception as error:  # the kernel died or never came up: without a traceback, its own last words are told
        failed(f"{type(error).__name__}: {error}")
    else:
        facts = facts_in(done.cells.pop().outputs)
        if facts is None:
            failed("it ended the kernel, so that the cells after it never ran", traceback="")
        else:
            facts["seconds"] = round(time.monotonic() - started, 1)
            tell({"facts": facts, "notebook": nbformat.writes(done)})


def main(channel: int, **notebook: Any) -> None:
    signal.signal(signal.SIGTERM, _end)  # so that papermill shuts the kernel down
    parent = socket.socket(fileno=channel)
    os.set_inheritable(channel, False)  # what the kernel starts may outlive this process, and must not hold it
    threading.Thread(target=_end_with, args=[parent], daemon=True).start()
    try:
        run(lambda event: parent.sendall(json.dumps(event).encode() + b"\n"), **notebook)
    finally:
        _kill_children()


def _end(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut the shutting down short
    sys.exit(143)


def _end_with(parent: socket.socket) -> None:
    """Wait until `parent` has closed its end or is gone, however it went, then end this process too."""
    with contextlib.suppress(OSError):
        parent.recv(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    _kill_children()
    os._exit(143)


def _kill_children() -> None:
    """End a kernel that is still there, as when this process was told to end while it was starting one."""
    import psutil  # which comes with every kernel

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
