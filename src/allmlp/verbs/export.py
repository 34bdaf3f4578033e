"""Write a trained model for another runtime: `allmlp export RUN to=onnx`, `precision=int8 calibrate=digits`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allmlp.errors import InputError
from allmlp.verbs._console import make_console, say

if TYPE_CHECKING:
    from rich.console import RenderableType

FORMATS = ("onnx", "openvino", "pt2", "safetensors")
PRECISIONS = {"onnx": ("fp32", "fp16", "int8"), "openvino": ("fp32", "fp16", "int8")}
_PLAIN = ("fp32", "fp16")


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
    resize: bool = False,
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
        resize: `raw`, and pictures have any size: they are resized and cropped in the graph, label maps have their
            size, and boxes are in their pixels.
        out: the new folder; default RUN-TO, with the precision behind it if it is not fp32.
        progress: "none" keeps silent.

    Returns:
        The folder, and the facts: inputs, outputs, bytes, differences, accuracy.

    Raises:
        InputError: no trained model there; a wrong key or one that does not fit the others; a size that the model
            cannot take; `out` exists; or results that differ from PyTorch's by more than the tolerance, or too great a
            loss by int8. Nothing is left behind then.
    """
    takes = "pictures" if resize else "pixels" if raw else "images"
    count = _check(to, precision, calibrate, samples, batch, takes)
    from allmlp.export.folder import new_folder_at_once
    from allmlp.runs import load_model, open_run
    from allmlp.tasks.export_job import ExportJob

    path = open_run(run).path
    ending = "" if precision == "fp32" else f"-{precision}"
    folder = Path(out) if out is not None else path.with_name(f"{path.resolve().name}-{to}{ending}")
    with new_folder_at_once(folder) as place:
        job = ExportJob.open(load_model(run), to, precision, count, img_size, takes, place)
        facts = job.write(calibrate, samples, max_drop)
    pictures, source = facts["compared_on"]
    say(make_console(progress), f"compared with PyTorch on {pictures} pictures ({source}): {facts['compared']}")
    return Exported(folder, facts)


def _check(
    to: str, precision: str, calibrate: str | Path | None, samples: int, batch: str | int, takes: str
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
    if takes != "images" and to == "safetensors":
        key = "resize" if takes == "pictures" else "raw"
        raise InputError(f"{key} is for files that hold a graph; got to=safetensors. Leave it out.")
    if batch == "dynamic":
        return None
    try:
        count = int(batch)
    except ValueError:
        count = 0
    if count < 1:
        raise InputError(f"batch: wanted dynamic, or a number of images of at least 1; got {batch!r}.")
    return count


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
