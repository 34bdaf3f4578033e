"""One export: a saved network at its size, folded, written for a runtime, and compared there on real pictures."""

import datetime
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allmlp.backends import open_file, open_network
from allmlp.backends.forms import RawForm, form_of
from allmlp.backends.pictures import PictureForm
from allmlp.backends.stand_in import StandIn
from allmlp.data import ImageSpec
from allmlp.errors import InputError
from allmlp.export import write_onnx, write_openvino, write_pt2
from allmlp.export.folder import FILES, size_of, write_folder
from allmlp.export.int8 import WAYS, quantise_onnx, quantise_openvino
from allmlp.export.network import at_size, folded
from allmlp.export.parity import TOLERANCES, compare, merged
from allmlp.runs import SavedModel, load_model, save_weights, write_json
from allmlp.runs.environment import processor, versions
from allmlp.tasks.accuracy import own_judge
from allmlp.tasks.samples import other_pictures, own_pictures, prepare

_COMPARED = 16  # pictures
_TOGETHER = {"images": _COMPARED, "pixels": _COMPARED, "pictures": 2}  # in a batch; whole photos fill the memory


@dataclass(frozen=True)
class ExportJob:
    """One export into a folder that exists.

    form: what is exported. takes: normalised "images"; "pixels" of its size, bytes; "pictures" of any size, bytes.
    inputs: real pictures, from `source`, as it takes them: a tuple for each size that pictures have. batch: None for
    any number.
    """

    saved: SavedModel
    to: str
    precision: str
    batch: int | None
    takes: str
    file: Path
    spec: ImageSpec
    form: Any
    inputs: list[tuple[Tensor, ...]]
    source: str

    @classmethod
    def open(
        cls, saved: SavedModel, to: str, precision: str, batch: int | None, img_size: Any, takes: str, folder: Path
    ) -> "ExportJob":
        """Bring the network to its size, fold it, and run it once on real pictures.

        Raises:
            InputError: it cannot take this size, or pixels.
        """
        spec = at_size(saved, img_size)
        if takes != "images" and spec.channels not in (1, 3):
            raise InputError(f"raw wants grey or RGB pictures; this model's have {spec.channels} channels.")
        form: Any = form_of(folded(saved.network), saved.task)
        if takes == "pixels":
            form = RawForm(form, saved.task, spec.mean, spec.std)
        elif takes == "pictures":
            form = PictureForm(form, saved.task, spec, _antialias(saved))
        pictures, source = own_pictures(saved, "val", max(_COMPARED, batch or 0))
        inputs = _arrays(saved, spec, pictures, takes)
        try:
            with torch.inference_mode():
                form(*(part[:1] for part in inputs[0]))
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"img_size: this model cannot take {spec.height} x {spec.width}: {error}") from error
        return cls(saved, to, precision, batch, takes, folder / FILES[to], spec, form.eval(), inputs, source)

    def write(self, calibrate: str | Path | None, samples: int, max_drop: float) -> dict[str, Any]:
        """Write everything into the folder; what export.json says."""
        folder = self.file.parent
        facts: dict[str, Any] = {
            "to": self.to,
            "precision": self.precision,
            "task": self.saved.task,
            "model": self.saved.name,
            "raw": self.takes != "images",
            "resize": self.takes == "pictures",
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
        write = {"onnx": write_onnx, "openvino": write_openvino, "pt2": write_pt2}[self.to]
        example = tuple(next(_batches(part, self.batch or 2)) for part in self.inputs[0])
        write(self.form, example, path, self.batch is None, half=self.precision == "fp16")

    def write_int8(self, calibrate: str, samples: int, max_drop: float) -> dict[str, Any]:
        """The quantised form, judged on held-out images before and after.

        Raises:
            InputError: it loses more than `max_drop`, or there are too few pictures.
        """
        pictures = other_pictures(self.saved, calibrate, samples)
        judge = own_judge(self.saved, self.spec)
        before = 0.0 if judge is None else judge.measure(self.form.network)
        accuracy: dict[str, Any] | None = None
        with tempfile.TemporaryDirectory() as scratch:
            # What takes pixels gives no logits to judge by; the same graph without its first and last steps does.
            judged = self
            if self.takes != "images":
                inputs = _arrays(self.saved, self.spec, pictures, "images")
                file = Path(scratch) / self.file.name
                judged = replace(self, takes="images", form=self.form.form, file=file, inputs=inputs)
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
        inputs = _arrays(self.saved, self.spec, pictures, self.takes)
        whole = scratch / self.takes / self.file.name
        if not whole.is_file():
            whole.parent.mkdir()
            self.write_graph(whole)
        batches = [
            tuple(part.numpy() for part in batch)
            for parts in inputs
            for batch in zip(*(_batches(part, self.batch or 1) for part in parts))
        ]
        spared = PictureForm.products if self.takes == "pictures" else 0
        (quantise_onnx if self.to == "onnx" else quantise_openvino)(whole, self.file, batches, way, spared)
        return size_of(whole.parent)

    def stand_in(self) -> Any:
        """The file in its runtime, in the place of the network."""
        shape = (self.spec.channels, *self.spec.size)
        found = StandIn(self.form.network, open_file(self.file), shape, self.saved.task, self.batch)
        found.canvas = self.spec.size
        return found

    def write_weights(self) -> None:
        """A run folder of the folded model, its weights in single or half precision."""
        network, config = self.form.network, dict(self.saved.config)
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
        if self.to == "safetensors":
            runner = open_network(form_of(load_model(self.file.parent).network, self.saved.task))
        else:
            runner = open_file(self.file)
        reference = open_network(self.form)
        tolerances = "fp16" if self.precision == "int8" else self.precision
        found = []
        for parts in self.inputs:
            size = self.batch or min(len(parts[0]), _TOGETHER[self.takes])
            for batch in zip(*(_batches(part, size) for part in parts)):
                arrays = [part.numpy() for part in batch]
                wanted = reference(*arrays)
                found.append(compare(self.form.output_names, wanted, runner(*arrays), tolerances))
        parity, pictures = merged(found), sum(len(parts[0]) for parts in self.inputs)
        if parity.wrong and self.precision != "int8":
            allowed = ", ".join(f"{name} {TOLERANCES[self.precision][name]:g}" for name in parity.differences)
            raise InputError(
                f"Wanted the results of {self.to} to agree with PyTorch's ({allowed}); they differ by {parity} on "
                f"{pictures} pictures. The file is not kept. Take precision=fp32 or another format, and report it."
            )
        return {
            "inputs": {name: self._kind(part) for name, part in zip(self.form.input_names, arrays)},
            "outputs": {name: self._kind(part) for name, part in zip(self.form.output_names, wanted)},
            "differences": parity.differences,
            "unmatched": parity.unmatched,
            "compared": str(parity),
            "compared_on": [pictures, self.source],
        }

    def _kind(self, array: Any) -> str:
        """Type and shape of an input or output; axes of any length by their names."""
        shape = [self.batch or "batch", *array.shape[1:]]
        if self.takes == "pictures" and array.ndim > 2 and array.dtype == np.uint8:
            shape[1:3] = "height", "width"
        return f"{array.dtype} ({', '.join(map(str, shape))})"


def _antialias(saved: SavedModel) -> bool:
    return saved.config["allmlp"].get("view", {}).get("antialias", True)


def _arrays(saved: SavedModel, spec: ImageSpec, pictures: Any, takes: str) -> list[tuple[Tensor, ...]]:
    """Pictures as an export takes them, those of one size together."""
    if takes == "pictures":
        groups: dict[Any, list[Tensor]] = {}
        for picture in pictures:
            pixels = torch.from_numpy(np.array(picture)).reshape(picture.height, picture.width, -1)
            groups.setdefault(pixels.shape, []).append(pixels)
        # The largest first: exporting takes a picture of more than one row and column as its example.
        ordered = sorted(groups.values(), key=lambda group: min(group[0].shape[:2]), reverse=True)
        return [(torch.stack(group),) for group in ordered]
    found = prepare(pictures, spec, saved.task, _antialias(saved))
    first = found.images if takes == "images" else found.pixels
    return [(first, found.sizes) if saved.task == "detect" else (first,)]


def _batches(part: Tensor, size: int) -> Iterator[Tensor]:
    """Batches of one size; the last one is filled up from the beginning."""
    for start in range(0, len(part), size):
        yield part[torch.arange(start, start + size) % len(part)]


def _about(saved: SavedModel) -> dict[str, Any]:
    """What the card tells of the trained model."""
    run = saved.folder
    data = run.read_recipe().data.name if run.recipe.is_file() else "not trained here"
    metrics = json.loads(run.metrics.read_text(encoding="utf-8")) if run.metrics.is_file() else {}
    known = ("top1", "top5", "box_ap", "mask_ap", "miou")
    return {"name": saved.name, "data": data, "metrics": {key: metrics[key] for key in known if key in metrics}}
