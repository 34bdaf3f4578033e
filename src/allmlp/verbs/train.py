"""Train a model from a recipe: `allmlp train data=PATH`, `allmlp train RECIPE key=value`, `allmlp train resume=RUN`."""

import contextlib
import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allmlp.errors import InputError
from allmlp.recipes import Recipe, load_recipe
from allmlp.recipes.overrides import merge, to_tree, validate
from allmlp.runs import FolderLock, RunFolder, create_run, discard_if_unused, is_writer, open_run, scratch_run
from allmlp.verbs._console import make_console, say

if TYPE_CHECKING:
    from rich.console import Console

# What may change when a run is continued: it cannot change the result.
_FREE_ON_RESUME = ("data.workers", "device", "loggers", "checkpoint_minutes", "progress", "strategy")


@dataclass
class RunResult:
    """What a training call gives back.

    run: the run folder. metrics: what metrics.json says; empty if interrupted. interrupted: whether a signal stopped
    it, and then signum: which. history: the rows of metrics.csv.
    """

    run: Path
    metrics: dict[str, Any] = field(default_factory=dict)
    interrupted: bool = False
    signum: int | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


def train(
    recipe: str | Path | Recipe | None = None,
    *,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    **nested: Any,
) -> RunResult:
    """Train a model, evaluate it, and write everything about it into a run folder.

    Args:
        recipe: a recipe file, the name of a shipped recipe, or a `Recipe`; None takes the task's small-data default.
        out: the folder to write; default `runs/TASK/MODEL-DATA`. It must not exist.
        resume: a run folder to go on with, to the same bits as if it had never stopped. A finished one is left alone.
        nested: recipe keys: `epochs=5`, `data="digits"`, `optim={"lr": 1e-3}`, or dotted in a dictionary,
            `**{"optim.lr": 1e-3}`.

    Returns:
        The run folder and its numbers. SIGINT and SIGTERM do not raise: the state is saved and the result says so.

    Raises:
        InputError: a wrong key, value, file or data set; a loss that is not finite; a full disk.
    """
    if resume is not None:
        return _resume(recipe, out, resume, nested)
    if isinstance(recipe, Recipe):
        settings = validate(merge(recipe.model_dump(), to_tree(nested)))
    else:
        settings = load_recipe(recipe, nested)
    settings = _absolute(settings)
    run = create_run(settings, out) if is_writer() else scratch_run(settings)
    with _locked(run):
        try:
            return _train(run, settings)
        except InputError:
            discard_if_unused(run)
            raise


def _resume(recipe: Any, out: Any, resume: str | Path, nested: dict[str, Any]) -> RunResult:
    if recipe is not None or out is not None:
        raise InputError(
            "resume goes on with a run as it is, in its own folder; leave out the recipe and out. "
            "To start a new run from its weights, take init=RUN."
        )
    run = open_run(resume)
    if not run.recipe.is_file():
        raise InputError(f"Wanted a run with recipe.yaml to go on with; {run} has none. Start anew from it: init={run}")
    settings = run.read_recipe()
    changes = to_tree(nested)
    changed = validate(merge(settings.model_dump(), changes))
    fixed = [key for key in _flat(changes) if key not in _FREE_ON_RESUME]
    fixed = [key for key in fixed if _at(changed, key) != _at(settings, key)]
    if fixed:
        raise InputError(
            f"resume goes on with the recipe as it is; {', '.join(fixed)} would change the result. Leave it out, or "
            f"start a new run: allmlp train {run.recipe} init={run} ..."
        )
    with _locked(run):
        if run.finished:
            say(make_console(changed.progress), f"{run} is finished: nothing to do.")
            return RunResult(run.path, json.loads(run.metrics.read_text()), history=_history(run))
        return _train(run, changed)


def _train(run: RunFolder, recipe: Recipe) -> RunResult:
    """Everything after the folder is there and locked."""
    # Light on purpose: the folder, its recipe and the handlers for signals are there before torch is loaded.
    from allmlp.tasks.interruption import Interruption, StopNow

    console = make_console(recipe.progress)
    if is_writer():
        say(console, f"run {run}")
    with Interruption() as interruption:
        try:
            result = _train_and_evaluate(run, recipe, interruption, console)
        except StopNow:
            result = None
    if result is not None:
        return result
    name = signal.Signals(interruption.signum or signal.SIGINT).name
    if is_writer():
        saved = "its state is saved" if run.last.is_file() else "nothing was trained yet"
        say(console, f"Stopped by {name}; {saved}. Go on with: allmlp train resume={run}")
    return RunResult(run.path, interrupted=True, signum=interruption.signum, history=_history(run))


def _train_and_evaluate(run: RunFolder, recipe: Recipe, interruption: Any, console: "Console") -> RunResult | None:
    from allmlp.tasks import task_class
    from allmlp.tasks.session import Session

    session = Session(run, task_class(recipe.task)(recipe), interruption, console)
    session.prepare()
    if not session.train():
        return None
    if not is_writer():
        return RunResult(run.path)
    metrics = session.finish()
    return RunResult(run.path, metrics, history=_history(run))


@contextlib.contextmanager
def _locked(run: RunFolder) -> Iterator[None]:
    if not is_writer():
        yield
        return
    with FolderLock(run.path):
        yield


def _absolute(recipe: Recipe) -> Recipe:
    """Paths on this machine made absolute, so that a run can be continued from another folder."""
    changed = recipe.model_copy(deep=True)
    paths = [(changed.data, key) for key in ("name", "classes", "id_map")] + [(changed, "init")]
    paths += [(changed.data, f"{split}_{kind}") for split in ("train", "val") for kind in ("json", "images", "masks")]
    for owner, key in paths:
        value = getattr(owner, key)
        if isinstance(value, str) and Path(value).expanduser().exists():
            setattr(owner, key, str(Path(value).expanduser().resolve()))
    return changed


def _history(run: RunFolder) -> list[dict[str, Any]]:
    import csv

    if not run.history.is_file():
        return []
    with open(run.history, newline="") as file:
        return [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(file)]


def _number(text: str) -> Any:
    try:
        value = float(text)
    except ValueError:
        return text or None
    return int(value) if value.is_integer() and "." not in text and "e" not in text.lower() else value


def _flat(tree: dict[str, Any], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key, value in tree.items():
        keys += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [prefix + key]
    return keys


def _at(recipe: Recipe, key: str) -> Any:
    value: Any = recipe
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else getattr(value, part)
    return value


def show(result: RunResult) -> str | None:
    """What the command line prints."""
    if result.interrupted or not result.metrics:
        return None
    numbers = result.metrics
    named = [
        (key, numbers[key]) for key in ("top1", "top5", "box_ap", "mask_ap", "miou") if numbers.get(key) is not None
    ]
    judged = ", ".join(f"{key} {100 * value:.2f} %" for key, value in named)
    return f"{result.run}: {judged}"


def status(result: RunResult) -> int:
    """128 + the signal's number after an interruption."""
    return 128 + (result.signum or signal.SIGINT) if result.interrupted else 0
