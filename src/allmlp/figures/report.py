"""`report.html` of a run folder: what was trained on what, how well, and where it errs. Drawn from the run's files."""

import csv
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from allmlp.errors import InputError
from allmlp.figures.page import Page
from allmlp.figures.style import save_figure
from allmlp.runs import RunFolder, open_run, write_text

Section = Callable[[Page, RunFolder, dict[str, Any]], None]

# The recipe's `task` -> the module whose SECTIONS are its page.
_PARTS = {
    "classify": "allmlp.figures.classification",
    "detect": "allmlp.figures.detection",
    "segment": "allmlp.figures.segmentation",
}


def write_report(path: str | Path) -> Path:
    """Draw a finished run's figures into `figures/` and its page into `report.html`.

    Returns:
        The page's path.

    Raises:
        InputError: no finished run there.
    """
    run = open_run(path)
    if not run.finished:
        raise InputError(f"Wanted a finished run; {run} has no metrics.json yet. Go on: allmlp train resume={run}")
    facts = {
        "recipe": yaml.safe_load(run.recipe.read_text()) if run.recipe.is_file() else {},
        "metrics": json.loads(run.metrics.read_text()),
        "environment": _read_json(run.environment),
        "data": _read_json(run.data),
        "config": _read_json(run.config),
        "rows": _read_rows(run.history),
    }
    page = Page(title=f"{facts['recipe'].get('model', {}).get('name', 'model')} on {_data_name(facts)}")
    for section in _sections(facts["recipe"].get("task", "classify")):
        section(page, run, facts)
    for name, figure in page.figures.items():
        save_figure(figure, run.figures / f"{name}.png")
    report = run.path / "report.html"
    write_text(report, page.html())
    return report


def _sections(task: str) -> tuple[Section, ...]:
    if task not in _PARTS:
        raise InputError(f"Wanted a task with a report ({', '.join(_PARTS)}); got {task!r}.")
    return importlib.import_module(_PARTS[task]).SECTIONS


def _data_name(facts: dict[str, Any]) -> str:
    name = str(facts["recipe"].get("data", {}).get("name", "data"))
    return Path(name).name or name


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
