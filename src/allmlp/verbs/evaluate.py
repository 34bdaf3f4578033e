"""Judge a trained model on labelled images: `allmlp evaluate RUN`, `allmlp evaluate RUN data=OTHER`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allmlp.errors import InputError
from allmlp.recipes.overrides import to_tree, validate
from allmlp.recipes.schema import DataGroup
from allmlp.verbs._console import counting, make_console, say

if TYPE_CHECKING:
    from rich.console import RenderableType

_CLASS_ROWS = 40


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation gives back. folder: where its files are. metrics: what metrics.json there says."""

    folder: Path
    metrics: dict[str, Any]


def evaluate(
    run: str | Path,
    *,
    out: str | Path | None = None,
    device: str = "auto",
    batch_size: int = 64,
    progress: str = "auto",
    **nested: Any,
) -> Evaluation:
    """Judge a trained model; its numbers, predictions and figures go into a folder.

    Args:
        run: a run folder.
        out: the folder to write; default `RUN/evaluation` for the run's own held-out images, and
            `RUN/evaluation-NAME` for other data. What an earlier evaluation left there is replaced.
        device: auto, cpu, cuda or mps. batch_size: images at a time. progress: "none" keeps silent.
        nested: `data=NAME_OR_PATH`, labelled images in any form that training takes; default the run's own held-out
            split. Other keys of the recipe's data group are `data.KEY`; of a segmenter also `inference.KEY`.

    Returns:
        The folder, and the numbers: for classification top1, top5, loss, ece (expected calibration error, 15 bins),
        all but the loss as fractions, and per_class.

    Raises:
        InputError: no trained model there, data that cannot be read, or classes that the model does not know.
    """
    from allmlp.runs import best_device, load_model
    from allmlp.tasks import task_part

    tree = to_tree(nested)
    changes, seeing = tree.pop("data", {}), tree.pop("inference", {})
    if tree:
        raise InputError(
            f"Unknown key {next(iter(tree))!r}. Known: data, data.KEY, inference.KEY, out, device, batch_size, "
            "progress."
        )
    saved = load_model(run)
    if seeing:
        _see_otherwise(saved.config["allmlp"], seeing)
    own = "name" not in changes
    settings: dict[str, Any] = {}
    if saved.folder.recipe.is_file():
        settings = saved.folder.read_recipe().data.model_dump() if own else {}
    elif own:
        raise InputError(f"{saved.folder} was not trained here; name labelled images: allmlp evaluate {run} data=...")
    data = _checked({**settings, **changes})
    folder = Path(out) if out is not None else saved.folder.evaluation if own else _beside(saved.folder.path, data.name)
    workers = None if data.workers == "auto" else data.workers
    console = make_console(progress)
    with counting(console, "evaluating") as begin:
        metrics = task_part(saved.task, "evaluation").evaluate_saved(
            saved, data, own, folder, best_device(device), batch_size, workers, begin
        )
    if metrics.get("skipped"):
        say(console, f"{metrics['skipped']} images could not be read and were left out; see {folder / 'data.json'}")
    say(console, f"details in {folder}")
    return Evaluation(folder, metrics)


def _see_otherwise(own: dict[str, Any], changes: dict[str, Any]) -> None:
    """Put other inference settings into a loaded model's description."""
    if "inference" not in own or own["task"] != "segment":
        raise InputError(f"inference is for segmenters; this model's task is {own['task']!r}. Leave it out.")
    own["inference"] = validate({"inference": {**own["inference"], **changes}}).inference.model_dump()


def _checked(settings: dict[str, Any]) -> DataGroup:
    return validate({"data": settings}).data


def _beside(run: Path, data: str) -> Path:
    import re

    words = re.sub(r"[^\w.-]+", "-", Path(data).stem or data).strip("-.")
    return run / f"evaluation-{words or 'data'}"


def show(result: Evaluation) -> "RenderableType":
    """What the command line prints: the numbers, then the classes, the hardest first."""
    from rich.console import Group
    from rich.table import Table

    metrics = result.metrics
    numbers = Table(box=None, show_header=False, pad_edge=False)
    for key, value in metrics.items():
        if isinstance(value, float):
            numbers.add_row(key, f"{value:.4f}" if key == "loss" else f"{100 * value:.2f} %")
        elif isinstance(value, int):
            numbers.add_row(key, f"{value:,}")
    rows = [row for row in metrics.get("per_class", []) if row["count"]]
    if not rows:
        return numbers
    columns = [key for key in rows[0] if key not in ("name", "count")]
    table = Table("class", box=None, pad_edge=False)
    counted = "pixels" if "miou" in metrics else "objects" if "box_ap" in columns else "images"
    for column in (counted, *columns):
        table.add_column(column, justify="right")
    rows.sort(key=lambda row: -1 if row[columns[-1]] is None else row[columns[-1]])
    for row in rows[:_CLASS_ROWS]:
        shares = ["–" if row[key] is None else f"{100 * row[key]:.1f} %" for key in columns]
        table.add_row(row["name"], str(row["count"]), *shares)
    more = f"... and {len(rows) - _CLASS_ROWS} more classes" if len(rows) > _CLASS_ROWS else ""
    return Group(numbers, "", table, *([more] if more else []))
