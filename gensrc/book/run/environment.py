"""The environment that a run is given: what in it would change the numbers that a chapter prints.

What is committed is made with the defaults, on whatever machine: the names below are taken out of the environment of
such a run. Any other run keeps them, for comparing settings, and its record tells them.
"""

import os
from collections.abc import Mapping
from pathlib import Path

# Precision, instruction sets and libraries' ways to compute; of Python, whether it runs assertions, and what first.
FAMILIES = ("GENSRC_", "ATEN_", "ONEDNN_", "DNNL_", "MKL_", "OPENBLAS_", "OMP_", "KMP_", "TORCH", "PYTORCH_", "NPY_")
NAMES = (
    "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE",
    "PYTHONOPTIMIZE",
    "PYTHONSTARTUP",
    "PYTHONHASHSEED",
    "MPLBACKEND",
    "GLIBC_TUNABLES",
)
OF_LIBRARIES = ("MPLBACKEND", "TORCHINDUCTOR_")  # Jupyter and torch set these by themselves
# Where files lie; the threads, which the plan of a run decides; what libraries set themselves, and changes no number.
FREE = {"GENSRC_DATA", "GENSRC_TRACE", "TORCH_HOME", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"}
FREE |= {"KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "TORCHINDUCTOR_CACHE_DIR"}


def steering(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that may change what a chapter prints."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if (name.startswith(FAMILIES) or name in NAMES) and name not in FREE
    }


def told(kernel: Mapping[str, str]) -> dict[str, str]:
    """The same of what a kernel has seen at its end, where libraries have set some of their own."""
    return {name: value for name, value in steering(kernel).items() if not name.startswith(OF_LIBRARIES)}


def for_run(environment: Mapping[str, str], committed: bool, folder: Path) -> dict[str, str]:
    """What a run is to see of `environment`: nobody's own startup files and styles of figures either.

    folder: an empty one, for what IPython keeps.
    """
    dropped = steering(environment) if committed else {}
    kept = {name: value for name, value in environment.items() if name not in dropped}
    return kept | {"IPYTHONDIR": str(folder / "ipython"), "MATPLOTLIBRC": os.devnull}
