"""Contestants: every form of a subject on every backend, ready to run and checked against each other."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from allmlp.backends import open_file, open_network
from allmlp.export import write_onnx, write_pt2
from allmlp.speed.memory import Job
from allmlp.speed.subject import Form, Subject
from allmlp.speed.training import training_call, training_outputs, training_step

TOLERANCE = 1e-4
"""How far outputs may lie apart: the largest difference in standard deviations of the reference's logits; of training
also the relative difference of the gradients' norms. Float32 arithmetic in another order makes about 1e-6 to 1e-5,
bfloat16 1e-2, the two forms of GELU 1e-3."""


@dataclass
class Contestant:
    """A form on a backend.

    call: runs it once; None if it could not be prepared. difference: see `TOLERANCE`. problem: why it has no time.
    job: what measures its memory.
    """

    form: Form
    backend: str
    call: Callable[[], Any] | None = None
    difference: float | None = None
    problem: str = ""
    job: Job | None = None

    @property
    def name(self) -> str:
        """Form and backend."""
        return f"{self.form.name} {self.backend}"

    @property
    def counts(self) -> bool:
        """Whether it runs and agrees."""
        return self.call is not None and not self.problem


def prepare(
    subject: Subject,
    backends: Sequence[str],
    batch: int,
    train: bool,
    folder: Path,
    threads: int,
    tell: Callable[[str], object] = lambda _: None,
) -> list[Contestant]:
    """Every form of the subject on every backend, for batches of this size.

    Whatever one of them raises is its problem and does not end the others.

    Args:
        folder: for exported files; they must stay while the contestants are used.
        tell: called with the name of what is prepared next.
    """
    torch._dynamo.reset()  # it compiles a class only so often before it gives up
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, *subject.input_size, generator=generator)
    run = _run_training if train else _run_inference
    truth = run(subject.network, images)
    prepared = []
    for place, form in enumerate(subject.forms):
        files = _Files(form, images, folder / f"form-{place}")
        wanted = truth if form.same else run(form.network, images)
        for backend in backends:
            contestant = Contestant(form, backend)
            tell(contestant.name)
            try:
                with _quiet():
                    (_prepare_training if train else _prepare_inference)(contestant, files, wanted, threads)
            except Exception as error:
                first_line = str(error).strip().partition("\n")[0]
                contestant.problem = f"{type(error).__name__}: {first_line[:200]}"
            if contestant.difference is not None and not contestant.difference <= TOLERANCE:
                contestant.problem = f"wrong: outputs differ by {contestant.difference:.1e} standard deviations"
            prepared.append(contestant)
    return prepared


class _Files:
    """A form's files, each written when it is first asked for; the batch is fixed in them."""

    def __init__(self, form: Form, images: torch.Tensor, folder: Path) -> None:
        self.form, self.images, self.folder = form, images, folder
        folder.mkdir()

    def of(self, backend: str) -> Path:
        """The file that this backend runs: the module itself, a package, or ONNX for both that read it."""
        if backend in ("eager", "compile"):
            path = self.folder / "model.pt"
            if not path.exists():
                torch.save(self.form.network, path)
            return path
        write, name = (write_pt2, "model.pt2") if backend == "pt2" else (write_onnx, "model.onnx")
        path = self.folder / name
        if not path.exists():
            write(self.form.network, self.images, path, dynamic_batch=False)
        return path


Outputs = tuple[torch.Tensor, float]  # logits and the gradient's norm, 0 in inference


@torch.no_grad()
def _run_inference(network: nn.Module, images: torch.Tensor) -> Outputs:
    return network(images), 0.0


def _run_training(network: nn.Module, images: torch.Tensor) -> Outputs:
    return training_outputs(network, network, images)


def _distance(mine: Outputs, wanted: Outputs) -> float:
    (logits, norm), (truth, size) = mine, wanted
    apart = ((logits - truth).abs().max() / truth.std()).item()
    return torch.tensor([apart, abs(norm - size) / size if size else 0.0]).max().item()  # NaN if either is


def _prepare_inference(contestant: Contestant, files: _Files, wanted: Outputs, threads: int) -> None:
    form, images, backend = files.form, files.images, contestant.backend
    layout = None if form.name == "ours" else False  # users of the authors' code and of timm leave it as it is
    path = files.of(backend)
    runner = (
        open_file(path, backend, threads)
        if path.suffix != ".pt"
        else open_network(form.network, backend, threads, channels_last=layout)
    )
    array = images.numpy()
    contestant.job = Job(str(path), backend, tuple(images.shape), threads, channels_last=layout)
    contestant.difference = _distance((torch.from_numpy(runner(array)[0]), 0.0), wanted)
    contestant.call = lambda: runner(array)


def _prepare_training(contestant: Contestant, files: _Files, wanted: Outputs, threads: int) -> None:
    form, images, backend = files.form, files.images, contestant.backend
    contestant.job = Job(str(files.of(backend)), backend, tuple(images.shape), threads, train=True)
    call = training_call(form.network, backend)
    contestant.difference = _distance(training_outputs(form.network, call, images), wanted)
    contestant.call = training_step(form.network, call, images)


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters and compilers warn of what no reader of a benchmark can change."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
