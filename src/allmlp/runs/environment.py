"""On what a run was made: machine, threads, versions, command."""

import datetime
import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

from allmlp._version import __version__

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
