"""Predict on image files: `allmlp predict RUN FILES_OR_FOLDERS...`, with out=- for JSON lines, out=DIR for pictures."""

import json
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allmlp.errors import InputError
from allmlp.verbs._console import counting, make_console, say

if TYPE_CHECKING:
    from rich.console import RenderableType
_TRIED = 8  # images that a backend is compared and timed on
_COMMON = ("out", "device", "batch_size", "backend", "progress")


def predict(
    run: str | Path,
    *files: Any,
    out: str | Path | None = None,
    device: str = "auto",
    batch_size: int = 32,
    backend: str = "eager",
    progress: str = "auto",
    **options: Any,
) -> Any:
    """Predict on images.

    Args:
        run: a run folder.
        files: image files, folders (with all below) and globs; from Python also Pillow images and uint8 arrays.
        out: a folder for pictures with the prediction on them and predictions.jsonl; "-" (command line) prints JSON
            lines instead of a table.
        device: auto, cpu, cuda or mps. batch_size: images at a time. progress: "none" keeps silent.
        backend: what computes, on the CPU: eager, compile, onnxruntime, openvino, pt2, or auto, the fastest of the
            quickly made ones that agrees with PyTorch; the choice and the files stay in the run folder.
        options: for classification `top`, how many classes to name (default 5).

    Returns:
        For classification `Predictions`: iterable, each with `path` and `top`, (class, probability) pairs; `bad` lists
        the files that could not be read.

    Raises:
        InputError: no trained model there, no image there, or none that can be read.
    """
    from allmlp.recipes.overrides import unknown_key
    from allmlp.runs import best_device, load_model, write_text
    from allmlp.tasks import task_part
    from allmlp.verbs._words import convert

    if not files:
        raise InputError("Wanted image files, folders or globs after the run folder; got none.")
    saved = load_model(run)
    if backend != "eager":
        if device not in ("auto", "cpu"):
            raise InputError(f"backend={backend} runs on the CPU; got device={device}. Leave one of them out.")
        saved, note = _with_backend(saved, list(files), backend, batch_size)
        device = "cpu"
        say(make_console(progress), note)
    function = task_part(saved.task, "prediction").predict_files
    hints = typing.get_type_hints(function)
    known = [*_COMMON, *(name for name in hints if name not in (*_COMMON, "saved", "inputs", "begin", "return"))]
    for key, value in options.items():
        if key not in known:
            raise InputError(unknown_key(key, known))
        options[key] = convert(key, value, hints[key]) if isinstance(value, str) else value
    folder = None if out is None or str(out) == "-" else Path(out)
    console = make_console(progress)
    with counting(console, "predicting") as begin:
        found = function(saved, list(files), folder, best_device(device), batch_size, begin, **options)
    for image in found.bad:
        say(console, f"cannot be read: {image.path}: {image.reason}")
    if not len(found):
        raise InputError(f"Wanted images; none of the {len(found.bad)} files can be read.")
    if found.bad:
        say(console, f"{len(found.bad)} of {len(found) + len(found.bad)} files could not be read")
    if folder is not None:
        write_text(folder / "predictions.jsonl", _lines(found))
        say(console, f"pictures and predictions.jsonl in {folder}")
    return found


def _with_backend(saved: Any, inputs: list[Any], backend: str, batch_size: int) -> tuple[Any, str]:
    """The saved model with a backend, tried on the first of the images that it is to see."""
    from allmlp.export.choice import with_backend
    from allmlp.tasks.samples import first_seen

    return with_backend(saved, backend, first_seen(saved, inputs, min(batch_size, _TRIED)))


def command(
    run: str,
    *files: str,
    out: str | None = None,
    device: str = "auto",
    batch_size: int = 32,
    backend: str = "eager",
    progress: str = "auto",
    **options: Any,
) -> tuple[Any, bool]:
    """The command line's form of `predict`: also says whether JSON lines were asked for."""
    found = predict(
        run, *files, out=out, device=device, batch_size=batch_size, backend=backend, progress=progress, **options
    )
    return found, out == "-"


COMMAND = command


def show(result: tuple[Any, bool]) -> "RenderableType":
    """What the command line prints: a table, or JSON lines."""
    from rich.table import Table

    found, as_lines = result
    if as_lines:
        return _lines(found)
    if not hasattr(found[0], "top"):
        return found.table()
    table = Table("file", "prediction", box=None, pad_edge=False)
    table.add_column("probability", justify="right")
    table.add_column("next")
    for item in found:
        name, share = item.top[0]
        rest = ", ".join(f"{other} {p:.1%}" for other, p in item.top[1:])
        table.add_row(item.path, name, f"{share:.1%}", rest)
    return table


def _lines(found: Any) -> str:
    return "".join(json.dumps(item.to_dict(), ensure_ascii=False) + "\n" for item in found)
