"""Runs one notebook with papermill and tells the parent process how it goes.

`execute` starts one such process a chapter, so that memory and crashes stay apart. What it says to its parent
are lines of JSON on stdout behind MARK; anything else there came from a library and is shown only if the
process dies.
"""

import json
import os
import signal
import sys
import time
from typing import Any

MARK = "\x1egensrc "
PROBE_ID = "gensrc-probe"
# How the kernel computed, and each profile and seed that its cells have seen, of which there should be one.
SETTINGS = """
def _gensrc_settings():
    import sys
    torch, notebook, training = (sys.modules.get(name) for name in ("torch", "gensrc.notebook", "gensrc.training"))
    kind = getattr(notebook, "Run", ())
    runs = [*getattr(notebook, "begun", []), *(each for each in [*globals().values()] if isinstance(each, kind))]
    seen = [(globals().get("profile"), globals().get("seed")), *((run.profile, run.seed) for run in runs)]
    return {
        "settings": sorted({f"profile {profile!r} and seed {seed!r}" for profile, seed in seen}),
        "threads": torch.get_num_threads() if torch else 0,
        "instructions": torch.backends.cpu.get_cpu_capability() if torch else "",
        "precision": str(training.precision(training.device())) if hasattr(training, "precision") else "",
    }
"""
# Runs in the kernel after the last cell, in a namespace of its own. The kernel alone knows what it used.
PROBE = (
    SETTINGS
    + """
def _gensrc_probe():
    import json, pathlib, platform, re, resource, sys
    torch = sys.modules.get("torch")
    on_gpu = torch is not None and torch.cuda.is_initialized()
    status = pathlib.Path("/proc/self/status")
    peak = re.search(r"VmHWM:\\s*(\\d+) kB", status.read_text()) if status.exists() else None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return json.dumps({
        "prefix": sys.prefix,
        "python": platform.python_version(),
        "torch": torch.__version__ if torch else "",
        **_gensrc_settings(),
        "peak_mb": round(int(peak[1]) / 1024 if peak else most),
        "gpu": torch.cuda.get_device_name() if on_gpu else "",
        "gpu_peak_mb": round(torch.cuda.max_memory_allocated() / 2**20) if on_gpu else 0,
    })
print(_gensrc_probe())
"""
)


def tell(**event: Any) -> None:
    # On a line of its own, also where a library has left one unfinished.
    print("\n" + MARK + json.dumps(event), flush=True)


def facts_in(outputs: list[dict[str, Any]]) -> dict[str, Any]:
    """What the probe has printed. A kernel that is busy with something else may have put a warning beside it."""
    printed = "".join(output["text"] for output in outputs if output.get("name") == "stdout")
    return json.loads(next(line for line in printed.splitlines() if line.startswith("{")))


def run(notebook: str, output: str, parameters: dict[str, Any], timeout: float, pythonpath: str) -> None:
    """Execute `notebook` in the working folder into `output`, within `timeout` seconds in all.

    Tells {"cell": i, "of": n} as it goes and at last either {"facts": {...}} or {"failed": {...}}.
    """
    import nbformat
    import papermill

    # Only now, so that this process keeps its own gensrc and the kernel gets the repository's.
    os.environ["PYTHONPATH"] = pythonpath
    nb = nbformat.read(notebook, as_version=4)
    nb.cells.append(nbformat.v4.new_code_cell(PROBE, id=PROBE_ID))
    nbformat.write(nb, output)
    started = time.monotonic()
    at: dict[str, Any] = {"cell": 0}

    def on_cell_start(cell: Any, cell_index: int) -> None:
        if cell.cell_type == "code" and cell.get("id") != PROBE_ID:
            at["cell"] += 1
            tell(cell=at["cell"])

    try:
        done = papermill.execute_notebook(
            output,
            output,
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
        tell(failed={"cell": at["cell"], "error": f"{error.ename}: {error.evalue}", "traceback": trace})
    except TimeoutError:
        tell(failed={"cell": at["cell"], "error": f"the time limit of {timeout:.0f} s was reached"})
    except Exception as error:  # the kernel died or never came up
        tell(failed={"cell": at["cell"], "error": f"{type(error).__name__}: {error}"})
    else:
        facts = facts_in(done.cells.pop().outputs)
        nbformat.write(done, output)
        tell(facts=facts | {"seconds": round(time.monotonic() - started, 1)})


if __name__ == "__main__":
    # So that a parent that gives up lets papermill shut the kernel down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    run(**json.loads(sys.argv[1]))
