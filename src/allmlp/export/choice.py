"""The backend that a run predicts with: exported once, compared with PyTorch, timed, and remembered in the run folder.

Shapes: b images, c channels, h x w pixels.
"""

import importlib.util
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allmlp.backends import BACKENDS, Runner, open_file, open_network
from allmlp.backends.forms import Form, form_of
from allmlp.backends.stand_in import StandIn
from allmlp.errors import InputError
from allmlp.export import write_onnx, write_openvino, write_pt2
from allmlp.export.network import folded
from allmlp.export.parity import compare
from allmlp.runs import SavedModel, write_json
from allmlp.runs.environment import processor, versions

_FILES = {
    "onnxruntime": ("model.onnx", write_onnx),
    "openvino": ("model.xml", write_openvino),
    "pt2": ("model.pt2", write_pt2),
}
_QUICK = ("onnxruntime", "openvino")  # what "auto" tries beside eager; the others compile for half a minute
_RUNS = 5


def with_backend(saved: SavedModel, backend: str, images: Tensor) -> tuple[SavedModel, str]:
    """A saved model that predicts with a backend, and what there is to say of it.

    Args:
        backend: one of `BACKENDS`, or "auto": the fastest on this machine of eager, ONNX Runtime and OpenVINO, as far
            as they are installed and agree with PyTorch. The choice, and the exported files, stay in RUN/backends.
        images: some real images (b, c, h, w) as the network sees them; others than of this shape go to the network.

    Raises:
        InputError: an unknown backend, or results that differ from PyTorch's.
    """
    if backend not in (*BACKENDS, "auto"):
        raise InputError(f"backend: wanted auto or one of {', '.join(BACKENDS)}; got {backend!r}.")
    if backend == "eager":
        return saved, "eager"
    place = saved.folder.path / "backends" / "x".join(map(str, images.shape[1:]))
    place.mkdir(parents=True, exist_ok=True)
    form = form_of(saved.network.eval(), saved.task)
    arrays = [images.contiguous().numpy()]
    if len(form.input_names) > 1:
        arrays.append(np.array([images.shape[2:]] * len(images), dtype=np.float32))
    known = _Known(place, _fingerprint(saved))
    if backend != "auto":
        runner = known.open(backend, saved)
        difference = _difference(form, runner, arrays)
        if difference is not None:
            raise InputError(
                f"backend={backend}: its results differ from PyTorch's by {difference}. Take backend=eager."
            )
        return _standing_in(saved, runner, images), backend
    timed = known.times(len(images))
    if timed is None:
        timed = {}
        for name in ("eager", *(name for name in _QUICK if importlib.util.find_spec(name) is not None)):
            runner = open_network(form) if name == "eager" else known.open(name, saved)
            if _difference(form, runner, arrays) is None:
                timed[name] = _milliseconds(runner, arrays)
        known.remember(len(images), timed)
    best = min(timed, key=lambda name: timed[name])
    told = ", ".join(f"{name} {value:.2f} ms" for name, value in sorted(timed.items(), key=lambda item: item[1]))
    note = f"backend {best}, the fastest that agrees ({told} an image)"
    return (saved if best == "eager" else _standing_in(saved, known.open(best, saved), images)), note


class _Known:
    """What is remembered for one image shape: exported files, and times by batch size; void once anything changed."""

    def __init__(self, place: Path, fingerprint: dict[str, Any]) -> None:
        self.place, self.fingerprint = place, fingerprint
        self.record = place / "choice.json"
        try:
            self.found = json.loads(self.record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.found = {}
        if self.found.get("fingerprint") != fingerprint:
            for path in place.glob("model.*"):
                path.unlink()
            self.found = {"fingerprint": fingerprint, "milliseconds": {}}
            write_json(self.record, self.found)

    def times(self, batch: int) -> dict[str, float] | None:
        """Milliseconds an image by backend, if they were measured."""
        return self.found["milliseconds"].get(str(batch))

    def remember(self, batch: int, timed: dict[str, float]) -> None:
        """Write the times down."""
        self.found["milliseconds"][str(batch)] = timed
        write_json(self.record, self.found)

    def open(self, backend: str, saved: SavedModel) -> Runner:
        """The runner of a backend, exported unless its file is there."""
        form = form_of(folded(saved.network), saved.task)
        if backend not in _FILES:
            return open_network(form, backend)
        name, write = _FILES[backend]
        path = self.place / name
        if not path.is_file():
            channels, height, width = map(int, self.place.name.split("x"))
            example: Any = torch.zeros(2, channels, height, width)
            if len(form.input_names) > 1:
                example = (example, torch.tensor([[height, width]] * 2, dtype=torch.float32))
            made = write(form, example, self.place / f".making.{name}")
            for part in sorted(self.place.glob(".making.*"), key=lambda part: part.suffix == made.suffix):
                part.replace(self.place / part.name.removeprefix(".making."))
        return open_file(path)


def _fingerprint(saved: SavedModel) -> dict[str, Any]:
    """What a choice hangs on: the weights, the versions, the machine."""
    weights = saved.folder.weights.stat()
    return {
        "weights": [weights.st_size, weights.st_mtime_ns],
        "versions": versions(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
    }


def _difference(form: Form, runner: Runner, arrays: list[np.ndarray]) -> str | None:
    """What is wrong with a runner's results, None if nothing is."""
    parity = compare(form.output_names, open_network(form)(*arrays), runner(*arrays), "fp32")
    return str(parity) if parity.wrong else None


def _milliseconds(runner: Runner, arrays: list[np.ndarray]) -> float:
    """The least time of an image in a few runs of the batch."""
    times = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        runner(*arrays)
        times.append(time.perf_counter() - start)
    return 1000 * min(times) / len(arrays[0])


def _standing_in(saved: SavedModel, runner: Runner, images: Tensor) -> SavedModel:
    channels, height, width = images.shape[1:]
    return replace(saved, network=StandIn(saved.network, runner, (channels, height, width), saved.task))
