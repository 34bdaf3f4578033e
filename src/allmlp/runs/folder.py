"""The run folder: which file is where, and how one comes to be."""

import atexit
import contextlib
import csv
import difflib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allmlp.errors import InputError
from allmlp.recipes import Recipe, dump_recipe, load_recipe
from allmlp.runs.files import write_text

# Set by torchrun, Slurm and Lightning's own launcher in each of several training processes.
_RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK")


@dataclass(frozen=True)
class RunFolder:
    """Names of what a run folder holds; see docs/run_folder.md."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def recipe(self) -> Path:
        """The recipe as used, every key written out."""
        return self.path / "recipe.yaml"

    @property
    def config(self) -> Path:
        """What the network is: its constructor arguments, classes, image size; timm's hub layout."""
        return self.path / "config.json"

    @property
    def weights(self) -> Path:
        """The weights that count; timm's hub layout."""
        return self.path / "model.safetensors"

    @property
    def history(self) -> Path:
        """A row an epoch."""
        return self.path / "metrics.csv"

    @property
    def metrics(self) -> Path:
        """The final numbers; written last."""
        return self.path / "metrics.json"

    @property
    def environment(self) -> Path:
        """Machine, versions, command."""
        return self.path / "environment.json"

    @property
    def data(self) -> Path:
        """Counts, classes, what could not be read, fingerprint."""
        return self.path / "data.json"

    @property
    def load_report(self) -> Path:
        """What became of every tensor of `init`."""
        return self.path / "init.json"

    @property
    def checkpoints(self) -> Path:
        """Training states and kept weights."""
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """The training state to go on from."""
        return self.checkpoints / "last.ckpt"

    @property
    def best(self) -> Path:
        """The weights of the best epoch so far."""
        return self.checkpoints / "best.safetensors"

    @property
    def evaluation(self) -> Path:
        """Predictions on the evaluation split, confusion counts."""
        return self.path / "evaluation"

    @property
    def figures(self) -> Path:
        """Drawings as PNG files."""
        return self.path / "figures"

    @property
    def logs(self) -> Path:
        """TensorBoard and other loggers."""
        return self.path / "logs"

    @property
    def report(self) -> Path:
        """The page that shows everything."""
        return self.path / "report.html"

    @property
    def finished(self) -> bool:
        """Whether training and evaluation are over."""
        return self.metrics.is_file()

    def read_recipe(self) -> Recipe:
        """The recipe as used."""
        return load_recipe(self.recipe)

    def write_history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write metrics.csv; its columns are all that any row has."""
        columns = list(dict.fromkeys(key for row in rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.history, text.getvalue())


def create_run(recipe: Recipe, out: str | Path | None = None) -> RunFolder:
    """Make a new run folder with its recipe in it.

    Args:
        out: the folder to make; None takes `runs/TASK/MODEL-DATA`, with a number behind it if that exists.

    Raises:
        InputError: `out` exists or cannot be made.
    """
    path = new_folder(out, Path("runs") / recipe.task / _default_name(recipe))
    run = RunFolder(path)
    write_text(run.recipe, dump_recipe(recipe, f"Trained by: allmlp train {run.recipe}\nEvery key, defaults included."))
    return run


def new_folder(out: str | Path | None, default: Path) -> Path:
    """Make the folder `out`; without it the default, with a number behind it if that exists.

    Raises:
        InputError: `out` exists, or the folder cannot be made.
    """
    if out is None:
        return _numbered(default)
    path = Path(out).expanduser()
    try:
        path.mkdir(parents=True)
    except FileExistsError as error:
        raise InputError(
            f"Wanted a new folder; {path} exists. To go on with what is in it: resume={path}. To start anew, name "
            "another folder: out=..."
        ) from error
    except OSError as error:
        raise InputError(f"Wanted to make the folder {path}; the system refused: {error.strerror}.") from error
    return path


def _default_name(recipe: Recipe) -> str:
    data = Path(recipe.data.name)
    words = f"{recipe.model.name}-{data.stem or data.name or 'data'}"
    return re.sub(r"[^\w.-]+", "-", words).strip("-.") or "run"


def _numbered(path: Path) -> Path:
    number = 1
    while True:
        chosen = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            chosen.mkdir(parents=True)
        except FileExistsError:
            number += 1
        except OSError as error:
            raise InputError(
                f"Wanted to make the folder {chosen}; the system refused: {error.strerror}. Name another: out=..."
            ) from error
        else:
            return chosen


def open_run(path: str | Path) -> RunFolder:
    """An existing run folder; a file in it also names it.

    Raises:
        InputError: there is none.
    """
    folder = Path(path).expanduser()
    if folder.is_file():
        folder = folder.parent
    run = RunFolder(folder)
    if run.recipe.is_file() or run.config.is_file():
        return run
    if folder.is_dir():
        raise InputError(f"Wanted a run folder (with recipe.yaml or config.json); {folder} is a folder without either.")
    known = _known_runs(folder)
    near = difflib.get_close_matches(str(folder), known, n=2, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else " `allmlp train` makes one."
    raise InputError(f"Wanted a run folder; there is none at {folder}.{hint}")


def _known_runs(folder: Path) -> list[str]:
    places = {folder.parent, Path("runs"), *Path("runs").glob("*")}
    return [str(path.parent) for place in places for path in place.glob("*/recipe.yaml")]


def discard_if_unused(run: RunFolder) -> None:
    """Remove a new run folder in which nothing was trained, so that the same command can be typed again, mended."""
    if not any(path.exists() for path in (run.last, run.weights, run.history, run.metrics)):
        with contextlib.suppress(OSError):
            shutil.rmtree(run.path)


def is_writer() -> bool:
    """Whether this process writes the run folder: the only one, or the first of several."""
    return all(os.environ.get(rank, "0") in ("", "0") for rank in _RANKS)


def scratch_run(recipe: Recipe) -> RunFolder:
    """A run folder in a temporary place, for a training process that does not write; it goes with the process."""
    folder = RunFolder(Path(tempfile.mkdtemp(prefix="allmlp-")))
    atexit.register(shutil.rmtree, folder.path, ignore_errors=True)
    write_text(folder.recipe, dump_recipe(recipe))
    return folder
