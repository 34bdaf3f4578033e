"""Write a trained model for another runtime: `allmlp export RUN to=onnx`, `precision=int8 calibrate=digits`."""

import datetime
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allmlp.errors import InputError
from allmlp.verbs._console import make_console, say

if TYPE_CHECKING:
    from rich.console import RenderableType
    from torch import Tensor

    from allmlp.data import ImageSpec
    from allmlp.runs import SavedModel

FORMATS = ("onnx", "openvino", "pt2", "safetensors")
PRECISIONS = {"onnx": ("fp32", "fp16", "int8"), "openvino": ("fp32", "fp16", "int8")}
_PLAIN = ("fp32", "fp16")
_COMPARED = 16  # pictures


@dataclass(frozen=True)
class Exported:
    """What an export gives back. folder: where its files are. facts: what export.json there says."""

    folder: Path
    facts: dict[str, Any]


def export(
    run: str | Path,
    *,
    to: str = "onnx",
    precision: str = "fp32",
    calibrate: str | Path | None = None,
    samples: int = 256,
    max_drop: float = 0.005,
    batch: str | int = "dynamic",
    img_size: int | tuple[int, int] | None = None,
    raw: bool = False,
    out: str | Path | None = None,
    progress: str = "auto",
) -> Exported:
    """Write a run's folded model for another runtime, run it there on real pictures, and compare it with PyTorch.

    Args:
        run: a run folder.
        to: onnx, openvino, pt2 (an AOTInductor package for this kind of processor; needs a C++ compiler), or
            safetensors (a run folder of the folded model).
        precision: fp32; fp16, which keeps the weights in half precision; int8, for onnx and openvino.
        calibrate: for int8, real pictures to measure ranges on: a folder or glob of images, or a data set as training
            takes it.
        samples: how many of them at most.
        max_drop: for int8, how much accuracy on the held-out images may be lost, as a fraction.
        batch: "dynamic" for any number of images at a time, or that number.
        img_size: height and width of the input, or one number for both; default the model's own, of detectors and
            segmenters that take any size the short side at which they were judged.
        raw: the file takes pixels, uint8 (batch, height, width, channels), and gives probabilities, label maps or
            objects; otherwise it takes normalised images and gives logits or objects.
        out: the new folder; default RUN-TO, with the precision behind it if it is not fp32.
        progress: "none" keeps silent.

    Returns:
        The folder, and the facts: inputs, outputs, bytes, differences, accuracy.

    Raises:
        InputError: no trained model there; a wrong key or one that does not fit the others; a size that the model
            cannot take; `out` exists; or results that differ from PyTorch's by more than the tolerance, or too great a
            loss by int8. Nothing is left behind then.
    """
    count = _check(to, precision, calibrate, samples, batch, raw)
    from allmlp.export.folder import new_folder_at_once
    from allmlp.runs import load_model, open_run

    path = open_run(run).path
    ending = "" if precision == "fp32" else f"-{precision}"
    folder = Path(out) if out is not None else path.with_name(f"{path.resolve().name}-{to}{ending}")
    with new_folder_at_once(folder) as place:
        job = _Job.open(load_model(run), to, precision, count, img_size, raw, place)
        facts = job.write(calibrate, samples, max_drop)
    pictures, source = facts["compared_on"]
    say(make_console(progress), f"compared with PyTorch on {pictures} pictures ({source}): {facts['compared']}")
    return Exported(folder, facts)


def _check(
    to: str, precision: str, calibrate: str | Path | None, samples: int, batch: str | int, raw: bool
) -> int | None:
    """The batch size, None for any, after a look at what can be wrong before anything heavy is loaded."""
    if to not in FORMATS:
        raise InputError(f"to: wanted one of {', '.join(FORMATS)}; got {to!r}. For example: to=onnx")
    known = PRECISIONS.get(to, _PLAIN)
    if precision not in known:
        hint = " int8 is for to=onnx and to=openvino." if precision == "int8" else ""
        raise InputError(f"precision: wanted one of {', '.join(known)} for to={to}; got {precision!r}.{hint}")
    if precision == "int8" and calibrate is None:
        raise InputError(
            "calibrate: wanted real pictures to measure ranges on for precision=int8; got none. Type calibrate=DATA, a "
            "folder of images or the data set that the model was trained on."
        )
    if precision != "int8" and calibrate is not None:
        raise InputError(f"calibrate is for precision=int8; got precision={precision}. Leave it out.")
    if samples < 1:
        raise InputError(f"samples: wanted at least 1 picture; got {samples}.")
    if raw and to == "safetensors":
        raise InputError("raw is for files that hold a graph; got to=safetensors. Leave it out.")
    if batch == "dynamic":
        return None
    try:
        count = int(batch)
    except ValueError:
        count = 0
    if count < 1:
        raise InputError(f"batch: wanted dynamic, or a number of images of at least 1; got {batch!r}.")
    return count


@dataclass(frozen=True)
class _Job:
    """One export into a folder that exists.

    form: what is exported. inputs: real pictures as it takes them, from `source`. batch: None for any number.
    """

    saved: "SavedModel"
    to: str
    precision: str
    batch: int | None
    raw: bool
    file: Path
    spec: "ImageSpec"
    form: Any
    inputs: "tuple[Tensor, ...]"
    source: str

    @classmethod
    def open(
        cls, saved: "SavedModel", to: str, precision: str, batch: int | None, img_size: Any, raw: bool, folder: Path
    ) -> "_Job":
        """Bring the network to its size, fold it, and run it once on real pictures.

        Raises:
            InputError: it cannot take this size, or pixels.
        """
        import torch

        from allmlp.backends.forms import RawForm, form_of
        from allmlp.export.folder import FILES
        from allmlp.export.network import at_size, folded
        from allmlp.tasks.samples import own_pictures

        spec = at_size(saved, img_size)
        if raw and spec.channels not in (1, 3):
            raise InputError(f"raw wants grey or RGB pictures; this model's have {spec.channels} channels.")
        form: Any = form_of(folded(saved.network), saved.task)
        form = RawForm(form, saved.task, spec.mean, spec.std) if raw else form
        pictures, source = own_pictures(saved, "val", max(_COMPARED, batch or 0))
        pictures *= -(-(batch or 1) // len(pictures))  # as many as one batch takes
        inputs = _arrays(saved, spec, pictures, raw)
        try:
            with torch.inference_mode():
                form(*(part[:1] for part in inputs))
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"img_size: this model cannot take {spec.height} x {spec.width}: {error}") from error
        return cls(saved, to, precision, batch, raw, folder / FILES[to], spec, form.eval(), inputs, source)

    def write(self, calibrate: str | Path | None, samples: int, max_drop: float) -> dict[str, Any]:
        """Write everything into the folder; what export.json says."""
        from allmlp.export.folder import size_of, write_folder
        from allmlp.runs.environment import processor, versions

        folder = self.file.parent
        facts: dict[str, Any] = {
            "to": self.to,
            "precision": self.precision,
            "task": self.saved.task,
            "model": self.saved.name,
            "raw": self.raw,
            "batch": self.batch or "dynamic",
        }
        if self.to == "safetensors":
            self.write_weights()
        elif self.precision == "int8":
            facts |= self.write_int8(str(calibrate), samples, max_drop)
        else:
            self.write_graph(self.file)
        facts |= self.compare()
        facts |= {
            "bytes": size_of(folder),
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "processor": processor(),
            "versions": versions(),
        }
        write_folder(folder, facts, self.spec, self.saved.classes, _about(self.saved))
        return facts

    def write_graph(self, path: Path) -> None:
        """The form as a file of a runtime, its weights in single or half precision."""
        from allmlp.export import write_onnx, write_openvino, write_pt2

        write = {"onnx": write_onnx, "openvino": write_openvino, "pt2": write_pt2}[self.to]
        example = tuple(part[: self.batch or 2] for part in self.inputs)
        write(self.form, example, path, self.batch is None, half=self.precision == "fp16")

    def write_int8(self, calibrate: str, samples: int, max_drop: float) -> dict[str, Any]:
        """The quantised form, judged on held-out images before and after.

        Raises:
            InputError: it loses more than `max_drop`, or there are too few pictures.
        """
        import tempfile

        from allmlp.export.int8 import WAYS
        from allmlp.tasks.accuracy import own_judge
        from allmlp.tasks.samples import other_pictures

        pictures = other_pictures(self.saved, calibrate, samples)
        judge = own_judge(self.saved, self.spec)
        before = 0.0 if judge is None else judge.measure(_network_of(self.form))
        accuracy: dict[str, Any] | None = None
        with tempfile.TemporaryDirectory() as scratch:
            # What takes pixels gives no logits to judge by; the same graph without its first and last steps does.
            judged = self
            if self.raw:
                inputs = _arrays(self.saved, self.spec, pictures, raw=False)
                file = Path(scratch) / self.file.name
                judged = replace(self, raw=False, form=self.form.form, file=file, inputs=inputs)
            for way in WAYS if judge is not None else WAYS[:1]:
                size = judged.quantise(pictures, Path(scratch), way)
                if judge is None:
                    continue
                after = judge.measure(judged.stand_in())
                accuracy = {"metric": judge.metric, "images": judge.images, "before": before, "after": after}
                if before - after <= max_drop:
                    break
            if judged is not self:
                size = self.quantise(pictures, Path(scratch), way)
        if accuracy is not None and before - accuracy["after"] > max_drop:
            raise InputError(
                f"Wanted to lose at most {100 * max_drop:.2f} points of {accuracy['metric']} by int8; on "
                f"{accuracy['images']} held-out images it fell from {100 * before:.2f} to "
                f"{100 * accuracy['after']:.2f} %. Calibrate on more or other pictures (samples=..., calibrate=...), "
                "allow more (max_drop=...), or take precision=fp16."
            )
        return {"bytes_before": size, "calibrated_on": [len(pictures), calibrate], "accuracy": accuracy}

    def quantise(self, pictures: Any, scratch: Path, way: int) -> int:
        """Write the quantised form by one of the library's ways; bytes of the form in single precision."""
        from allmlp.export.folder import size_of
        from allmlp.export.int8 import quantise_onnx, quantise_openvino

        inputs = _arrays(self.saved, self.spec, pictures, self.raw)
        size = self.batch or 1
        starts = range(0, len(inputs[0]) - size + 1, size)
        if not starts:
            raise InputError(f"calibrate: wanted at least {size} pictures, one batch; got {len(inputs[0])}.")
        whole = scratch / ("raw" if self.raw else "plain") / self.file.name
        if not whole.is_file():
            whole.parent.mkdir()
            self.write_graph(whole)
        batches = [tuple(part[start : start + size].numpy() for part in inputs) for start in starts]
        (quantise_onnx if self.to == "onnx" else quantise_openvino)(whole, self.file, batches, way)
        return size_of(whole.parent)

    def stand_in(self) -> Any:
        """The file in its runtime, in the place of the network."""
        from allmlp.backends import open_file
        from allmlp.backends.stand_in import StandIn

        shape = (self.spec.channels, *self.spec.size)
        found = StandIn(_network_of(self.form), open_file(self.file), shape, self.saved.task, self.batch)
        found.canvas = self.spec.size
        return found

    def write_weights(self) -> None:
        """A run folder of the folded model, its weights in single or half precision."""
        import torch

        from allmlp.runs import save_weights, write_json

        network, config = _network_of(self.form), dict(self.saved.config)
        arguments = getattr(network, "arguments", {})
        if not arguments and "img_size" in config["model_args"]:
            arguments = {"img_size": self.spec.size}
        config["model_args"] = {**config["model_args"], **arguments}
        config["pretrained_cfg"] = {**config["pretrained_cfg"], **self.spec.to_dict()}
        write_json(self.file.with_name("config.json"), config)
        state = network.state_dict()
        if self.precision == "fp16":
            state = {key: part.to(torch.float16) if part.is_floating_point() else part for key, part in state.items()}
        save_weights(self.file, state)

    def compare(self) -> dict[str, Any]:
        """Run the file on the pictures and compare; what the inputs and outputs are.

        Raises:
            InputError: a difference above the tolerance.
        """
        import numpy as np

        from allmlp.backends import open_file, open_network
        from allmlp.backends.forms import form_of
        from allmlp.export.parity import TOLERANCES, compare
        from allmlp.runs import load_model

        if self.to == "safetensors":
            runner = open_network(form_of(load_model(self.file.parent).network, self.saved.task))
        else:
            runner = open_file(self.file)
        count = len(self.inputs[0])
        size = self.batch or count
        arrays = [part.numpy()[: count // size * size] for part in self.inputs]
        wanted = open_network(self.form)(*arrays)
        pieces = [runner(*(part[start : start + size] for part in arrays)) for start in range(0, len(arrays[0]), size)]
        got = [np.concatenate(parts) for parts in zip(*pieces)]
        parity = compare(self.form.output_names, wanted, got, "fp16" if self.precision == "int8" else self.precision)
        if parity.wrong and self.precision != "int8":
            allowed = ", ".join(f"{name} {TOLERANCES[self.precision][name]:g}" for name in parity.differences)
            raise InputError(
                f"Wanted the results of {self.to} to agree with PyTorch's ({allowed}); they differ by {parity} on "
                f"{parity.images} pictures. The file is not kept. Take precision=fp32 or another format, and report it."
            )
        return {
            "inputs": {name: _kind(part, self.batch) for name, part in zip(self.form.input_names, arrays)},
            "outputs": {name: _kind(part, self.batch) for name, part in zip(self.form.output_names, wanted)},
            "differences": parity.differences,
            "unmatched": parity.unmatched,
            "compared": str(parity),
            "compared_on": [parity.images, self.source],
        }


def _network_of(form: Any) -> Any:
    """The network inside a form."""
    return getattr(form, "form", form).network


def _arrays(saved: "SavedModel", spec: "ImageSpec", pictures: Any, raw: bool) -> "tuple[Tensor, ...]":
    """Pictures as an export takes them."""
    from allmlp.tasks.samples import prepare

    found = prepare(pictures, spec, saved.task, saved.config["allmlp"].get("view", {}).get("antialias", True))
    first = found.pixels if raw else found.images
    return (first, found.sizes) if saved.task == "detect" else (first,)


def _kind(array: Any, batch: int | None) -> str:
    """Type and shape of an input or output."""
    return f"{array.dtype} ({', '.join(map(str, (batch or 'batch', *array.shape[1:])))})"


def _about(saved: "SavedModel") -> dict[str, Any]:
    """What the card tells of the trained model."""
    import json

    run = saved.folder
    data = run.read_recipe().data.name if run.recipe.is_file() else "not trained here"
    metrics = json.loads(run.metrics.read_text(encoding="utf-8")) if run.metrics.is_file() else {}
    known = ("top1", "top5", "box_ap", "mask_ap", "miou")
    return {"name": saved.name, "data": data, "metrics": {key: metrics[key] for key in known if key in metrics}}


def show(result: Exported) -> "RenderableType":
    """What the command line prints."""
    from rich.console import Group
    from rich.table import Table

    facts = result.facts
    table = Table(box=None, show_header=False, pad_edge=False)
    for kind in ("inputs", "outputs"):
        for name, text in facts[kind].items():
            table.add_row(kind.removesuffix("s"), name, text)
    size = f"{facts['bytes'] / 1e6:.2f} MB"
    table.add_row("size", "", f"{facts['bytes_before'] / 1e6:.2f} MB, int8 {size}" if "bytes_before" in facts else size)
    if facts.get("accuracy"):
        found = facts["accuracy"]
        told = f"{100 * found['before']:.2f} %, int8 {100 * found['after']:.2f} % on {found['images']} images"
        table.add_row(found["metric"], "", told)
    table.add_row("largest difference", "", facts["compared"])
    return Group(table, str(result.folder))
