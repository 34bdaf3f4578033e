"""Peak memory of a contestant: measured in a process of its own, over what that process holds before it begins.

What is counted is the resident memory of the process, so weights, activations, buffers and what the backend itself
loads. The C library gives freed blocks back to the system at once there: by default it keeps some, how many depends on
the order of all sizes asked for before, and that came to more than the contestants differ by. `python -m
allmlp.speed.memory FOLDER` imports what everything needs, then forks once a job.
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_CALLS = 2  # the second one shows what the first one leaves allocated
_MAPPED = 65536  # bytes from which on glibc maps a block of its own; other C libraries ignore it
_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes of what getrusage counts in


@dataclass(frozen=True)
class Job:
    """One contestant: an exported file, or a module as `torch.save` wrote it.

    backend: as `allmlp.backends` names it. shape: of the images. train: measure training steps.
    """

    path: str
    backend: str
    shape: tuple[int, ...]
    threads: int
    train: bool = False
    channels_last: bool | None = None


def peak_memory(jobs: Sequence[Job], folder: Path) -> list[float | None]:
    """MiB of each job, None where it could not be measured: one that failed, or a system that cannot fork."""
    if not hasattr(os, "fork"):
        return [None] * len(jobs)
    (folder / "jobs.json").write_text(json.dumps([asdict(job) for job in jobs]), encoding="utf-8")
    # One compiling thread: what is compiled already is only loaded, and a pool of processes would be forked for it.
    environment = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(_MAPPED)}
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", __name__, str(folder)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    places = [folder / f"memory-{place}" for place in range(len(jobs))]
    return [float(place.read_text()) if place.is_file() else None for place in places]


def _measure(job: Job) -> float:
    """Runs in the forked process: how much its resident memory grows at most, in MiB."""
    import resource

    import torch

    from allmlp.backends import open_file, open_network, set_threads
    from allmlp.speed.training import training_call, training_step

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    set_threads(job.threads)
    images = torch.zeros(job.shape)
    path = Path(job.path)
    if job.train:
        network = torch.load(path, weights_only=False)  # of our own making
        step = training_step(network, training_call(network, job.backend), images)
    else:
        if path.suffix == ".pt":
            network = torch.load(path, weights_only=False)
            runner = open_network(network, job.backend, job.threads, channels_last=job.channels_last)
        else:
            runner = open_file(path, job.backend, job.threads)
        array = images.numpy()

        def step() -> None:
            runner(array)

    for _ in range(_CALLS):
        step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * _UNIT / 2**20


def _serve(folder: Path) -> None:
    for name in ("allmlp.backends", "allmlp.peers", "allmlp.speed.training"):  # so that no fork counts their imports
        importlib.import_module(name)
    for place, fields in enumerate(json.loads((folder / "jobs.json").read_text(encoding="utf-8"))):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                found = _measure(Job(**fields))
                (folder / f"memory-{place}").write_text(repr(found))
                status = 0
            finally:
                os._exit(status)
        os.waitpid(child, 0)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
