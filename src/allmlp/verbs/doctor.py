"""Look at this machine, say what is missing and what is slow and why: `allmlp doctor`."""

import importlib.util
import os
import platform
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

_EXTRAS = {
    "train": ("lightning", "torchmetrics", "matplotlib", "tensorboard", "pandas", "pyarrow", "faster_coco_eval"),
    "export": ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf"),
    "demo": ("fastapi", "uvicorn", "multipart"),
}
_GEMM_SIDE = 1024
_GEMM_SECONDS = 0.5


@dataclass(frozen=True)
class Diagnosis:
    """What was found: facts in groups, and advice, a sentence each."""

    facts: dict[str, dict[str, Any]]
    advice: list[str] = field(default_factory=list)


def doctor() -> Diagnosis:
    """Look at versions, threads, devices and installed extras, and time the matrix product that everything rests on."""
    import torch

    from allmlp.runs.environment import available_cores, memory_gib, processor, versions

    cores, threads = available_cores(), torch.get_num_threads()
    extras = {name: _missing(modules) for name, modules in _EXTRAS.items()}
    rate = _gemm_gflops()
    facts: dict[str, dict[str, Any]] = {
        "versions": versions(),
        "machine": {
            "processor": processor(),
            "cores": cores,
            "memory": f"{memory_gib()} GiB",
            "system": platform.platform(),
        },
        "torch": {
            "threads": threads,
            "float32 matrix product": f"{rate:.0f} GFLOP/s with {threads} thread{'s' * (threads > 1)}",
            "vector units": torch.backends.cpu.get_cpu_capability(),
            "CUDA": ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())) or "none",
            "MPS": "yes" if torch.backends.mps.is_available() else "no",
        },
        "extras": {name: f"missing {', '.join(gone)}" if gone else "installed" for name, gone in extras.items()},
    }
    return Diagnosis(facts, _advice(cores, threads, extras))


def _missing(modules: tuple[str, ...]) -> list[str]:
    return [name for name in modules if importlib.util.find_spec(name) is None]


def _gemm_gflops() -> float:
    import torch

    a, b = torch.randn(2, _GEMM_SIDE, _GEMM_SIDE)
    torch.mm(a, b)
    best, end = float("inf"), time.perf_counter() + _GEMM_SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * _GEMM_SIDE**3 / best / 1e9


def _advice(cores: int, threads: int, extras: dict[str, list[str]]) -> list[str]:
    import torch

    advice: list[str] = []
    if threads < cores:
        causes = [f"{key}={os.environ[key]}" for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if key in os.environ]
        because = f" because of {causes[0]}; unset it for speed" if causes else ""
        advice.append(f"torch uses {threads} of {cores} cores{because}.")
    if threads > cores:
        advice.append(f"torch uses {threads} threads on {cores} cores, which is slow: export OMP_NUM_THREADS={cores}")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > cores:
        advice.append(f"the machine is busy (load {load:.1f} on {cores} cores): times are not to be trusted.")
    if not torch.backends.mkldnn.is_available():
        advice.append("this torch has no oneDNN: convolutions are slow; install a build that has it.")
    if torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "NO AVX"):
        advice.append("this processor has no AVX2: matrix products take several times as long as elsewhere.")
    for name, gone in extras.items():
        if gone:
            advice.append(f"the extra {name} is not complete: pip install 'allmlp[{name}]'")
    return advice


def show(result: Diagnosis) -> "RenderableType":
    """What the command line prints."""
    from rich.console import Group
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    for title, facts in result.facts.items():
        table.add_row(f"[bold]{title}[/bold]", "")
        for key, value in facts.items():
            table.add_row(f"  {key}", str(value))
    lines = [f"- {sentence}" for sentence in result.advice] or ["- nothing to mend"]
    return Group(table, "", "advice", *lines)
