"""What lies beside an exported file: labels, preprocessing as numbers, a card, and a script that runs it."""

import contextlib
import glob
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from allmlp.data import ImageSpec
from allmlp.errors import InputError
from allmlp.export.script import Script
from allmlp.runs import write_json, write_text
from allmlp.runs.files import TEMPORARY

FILES = {"onnx": "model.onnx", "openvino": "model.xml", "pt2": "model.pt2", "safetensors": "model.safetensors"}


@contextlib.contextmanager
def new_folder_at_once(path: Path) -> Iterator[Path]:
    """A folder beside `path` to write into, which takes its name at the end; if the block raises it is removed.

    What an export of the same name left there when it was killed is removed as well.

    Raises:
        InputError: `path` exists or cannot be made.
    """
    import shutil

    if path.exists():
        raise InputError(f"Wanted a new folder for the export; {path} exists. Name another: out=...")
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{TEMPORARY}"):
        if not _is_running(left.name.split(".")[-2]):
            shutil.rmtree(left, ignore_errors=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"Wanted to make the folder {path}; the system refused: {error.strerror}.") from error
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"Wanted to write {path}; the system refused: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_running(number: str) -> bool:
    """Whether there is a process of this number; where the system offers no harmless way to ask, yes."""
    if os.name == "nt" or not number.isdecimal():
        return True
    with contextlib.suppress(PermissionError):  # of another user's
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            return False
    return True


def size_of(folder: Path) -> int:
    """Bytes of all model files in a folder."""
    return sum(path.stat().st_size for path in folder.glob("model.*"))


def preprocessing(spec: ImageSpec, task: str) -> dict[str, Any]:
    """How a picture becomes the model's input, as numbers: what preprocessing.json says."""
    found = {
        "mode": {1: "L", 3: "RGB"}.get(spec.channels),
        "size": list(spec.size),
        "mean": list(spec.mean),
        "std": list(spec.std),
        "fill": [round(255 * value) for value in spec.mean],
    }
    if task != "classify":
        return {**found, "resize": "fit inside size, at the top left", "interpolation": "bilinear"}
    resize = [math.floor(side / spec.crop_pct) for side in spec.size]
    return {**found, "resize": resize, "interpolation": spec.interpolation, "crop_mode": spec.crop_mode}


def write_folder(
    folder: Path, facts: Mapping[str, Any], spec: ImageSpec, labels: Sequence[str], run: Mapping[str, Any]
) -> None:
    """Write labels.txt, preprocessing.json, export.json, README.md and run.py.

    Args:
        facts: what export.json says.
        run: of the trained model: name, task, metrics, data and time of training; what the card tells.
    """
    write_text(folder / "labels.txt", "".join(f"{' '.join(label.split())}\n" for label in labels))
    write_json(folder / "preprocessing.json", preprocessing(spec, facts["task"]))
    write_json(folder / "export.json", facts)
    if facts["to"] != "safetensors" and spec.channels in (1, 3):
        script = Script(
            facts["to"],
            facts["task"],
            spec.crop_mode,
            spec.height == spec.width,
            facts["raw"],
            None if facts["batch"] == "dynamic" else facts["batch"],
            facts["resize"],
        )
        write_text(folder / "run.py", script.text())
    write_text(folder / "README.md", card(facts, spec, labels, run))


def card(facts: Mapping[str, Any], spec: ImageSpec, labels: Sequence[str], run: Mapping[str, Any]) -> str:
    """The model card."""
    shown = ", ".join(labels[:20]) + (f" and {len(labels) - 20} more" if len(labels) > 20 else "")
    lines = [
        f"# {run['name']}, {facts['to']} {facts['precision']}",
        "",
        f"Task: {facts['task']}. {len(labels)} classes: {shown}.",
        "",
        "| | |",
        "|---|---|",
        f"| file | `{FILES[facts['to']]}`, {facts['bytes']:,} bytes in all |",
        *(f"| input `{name}` | {text} |" for name, text in facts["inputs"].items()),
        *(f"| output `{name}` | {text} |" for name, text in facts["outputs"].items()),
        f"| trained on | {run['data']} |",
        *(f"| {name}, {text} |" for name, text in _judged(facts, run).items()),
        f"| compared with PyTorch | {facts['compared']} |",
        f"| made by | allmlp {facts['versions']['allmlp']}, {facts['time']} |",
        "",
        "Preprocessing: " + _prepared(spec, facts),
        "",
        _usage(facts, spec),
        "",
    ]
    return "\n".join(lines)


def _judged(facts: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, str]:
    """Rows of measured quality."""
    rows = {name: f"of the trained model on held-out images | {100 * v:.2f} %" for name, v in run["metrics"].items()}
    if facts.get("accuracy"):
        found = facts["accuracy"]
        text = f"{100 * found['before']:.2f} % in float32, {100 * found['after']:.2f} % in int8"
        rows[f"{found['metric']} on {found['images']} images"] = f"before and after quantisation | {text}"
    return rows


def _prepared(spec: ImageSpec, facts: Mapping[str, Any]) -> str:
    height, width = spec.size
    if facts["resize"]:
        return f"none; the graph takes pictures of any size, and resizes them to {height} x {width} as evaluation does."
    if facts["task"] == "classify":
        resized = f"resized ({spec.interpolation}) and cropped ({spec.crop_mode}) to {height} x {width}"
    else:
        resized = f"fitted (bilinear) into {height} x {width}, at the top left"
    if facts["raw"]:
        return f"pictures are {resized}; the graph normalises the pixels."
    return f"pictures are {resized}, divided by 255, less {list(spec.mean)}, divided by {list(spec.std)}."


def _usage(facts: Mapping[str, Any], spec: ImageSpec) -> str:
    if facts["to"] == "safetensors":
        return "A run folder of the folded model: `allmlp predict THIS_FOLDER PICTURES`."
    if spec.channels not in (1, 3):
        return "Pictures of other than 1 or 3 channels have to be prepared by the program that runs the file."
    masks = " Masks are grids over the boxes: stretch each over its box and cut at 0.5." * ("masks" in facts["outputs"])
    return "`python run.py PICTURE ...` runs it without allmlp; numbers are in `preprocessing.json`." + masks
