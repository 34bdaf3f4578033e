"""On what a run was made: machine, threads, versions, command."""

import datetime
import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

from allmlp._version import __version__
from allmlp.errors import InputError

# What may change a result or a speed.
PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pillow",
    "lightning",
    "torchmetrics",
    "scikit-learn",
    "matplotlib",
    "onnxruntime",
    "openvino",
)


def describe_environment() -> dict[str, Any]:
    """What environment.json says."""
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "versions": versions(),
        "machine": {
            "system": platform.platform(),
            "processor": processor(),
            "cores": available_cores(),
            "memory_gib": memory_gib(),
            "gpus": gpus,
            "threads": torch.get_num_threads(),
        },
    }


def versions() -> dict[str, str]:
    """Python's, ours, and those of the packages that are installed."""
    found = {"python": platform.python_version(), "allmlp": __version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_gib() -> float | None:
    """Memory of the machine in GiB, or None where it cannot be asked."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def best_device(device: str = "auto") -> str:
    """A torch device for "auto" and for Lightning's names.

    Raises:
        InputError: it is not there.
    """
    import torch

    gpu, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    there = {"cpu": True, "cuda": gpu, "gpu": gpu, "mps": mps}
    if device == "auto":
        return "cuda" if gpu else "mps" if mps else "cpu"
    if not there.get(device, False):
        known = [name for name, present in there.items() if present]
        raise InputError(f"device: wanted one that is there (auto, {', '.join(known)}); got {device!r}.")
    return "cuda" if device == "gpu" else device
