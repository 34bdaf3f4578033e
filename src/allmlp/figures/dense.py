"""What the reports of detection and segmentation share: the summary, bars of classes, sheets of images."""

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from allmlp.data.dense_dataset import DenseDataset
from allmlp.figures.classification import count, duration, machine
from allmlp.figures.curves import draw_curves
from allmlp.figures.page import Page
from allmlp.figures.style import COLOURS, house_style, new_figure, short
from allmlp.recipes import Recipe
from allmlp.recipes.schema import DataGroup
from allmlp.runs import RunFolder
from allmlp.runs.dense_data import fingerprint

_BARS = 40  # classes drawn
_SHEET = 8  # images on a sheet


def dense_summary(
    page: Page, facts: dict[str, Any], lead: str, cards: Mapping[str, str], score: str, score_label: str
) -> None:
    """What was trained on what, and the numbers that matter.

    Args:
        lead: the result in a few words. cards: the numbers. score, score_label: the column of metrics.csv to draw.
    """
    recipe, metrics, data = facts["recipe"], facts["metrics"], facts["data"]
    model, optim = recipe["model"], recipe["optim"]
    page.text(f"{lead} on {metrics['images']} held-out images.", "lead")
    page.cards(
        {
            **cards,
            "parameters": count(metrics["parameters"]),
            "multiply-adds an image": count(metrics["macs"]),
            "latency, one image": f"{metrics['latency_ms']:.1f} ms",
            "training": duration(metrics["train_seconds"]),
            "most memory held": f"{metrics['peak_memory_mb']:,} MB",
        }
    )
    page.table(
        [
            ("Model", f"{facts['config'].get('architecture', '')} on {model['name']}, size {model['size']}"),
            (
                "Data",
                f"{recipe['data']['name']}: {len(data['classes'])} classes, {data['train']['images']} images to train "
                f"on, {data['val']['images']} held out",
            ),
            ("Training", f"{metrics['epochs']} epochs, {recipe['batch_size']} images a step, seed {recipe['seed']}"),
            (
                "Optimiser",
                f"{optim['opt']}, peak learning rate {optim['lr']:g}, weight decay {optim['weight_decay']:g}",
            ),
            ("Time", f"{duration(metrics['train_seconds'])} training, {duration(metrics['cpu_seconds'])} of CPU time"),
            ("Machine", machine(facts["environment"])),
        ]
    )
    if facts["rows"]:
        page.heading("Learning")
        page.figure("learning_curves", draw_curves(facts["rows"], score, score_label), "Held-out images every epoch.")


def files(page: Page, run: RunFolder, facts: dict[str, Any]) -> None:
    """How to go on from here, and what was left out."""
    page.heading("Use it")
    folder, task = shlex.quote(str(run)), facts["recipe"]["task"]
    page.commands(
        {
            f"allmlp predict {folder} FILES_OR_FOLDERS... out=DIR": "pictures with the result on them, and the numbers",
            f"allmlp evaluate {folder} data=OTHER": "on other labelled images",
            f"allmlp train task={task} init={folder} data=MORE": "start from these weights",
        }
    )
    report = facts["data"].get("report") or {}
    if report.get("counts"):
        page.heading("What was left out or changed")
        page.table(
            [(row["split"], row["kind"], row["reason"], str(row["count"])) for row in report["counts"]],
            ("part", "what", "why", "how many"),
            numbers_from=3,
        )


def own_split(facts: dict[str, Any], open_data: Callable[[DataGroup, int], Any]) -> DenseDataset | None:
    """The run's held-out images, or None if they cannot be found again."""
    recipe = Recipe.model_validate(facts["recipe"])
    try:
        data = open_data(recipe.data, recipe.model.in_chans or 3)
    except (ValueError, OSError):
        return None
    return data.val if fingerprint(data) == facts["data"].get("fingerprint") else None


def pick_images(images: Sequence[Mapping[str, Any]]) -> Iterable[tuple[str, str, list[Mapping[str, Any]]]]:
    """(name, title, images) of three sheets: drawn at random, the best and the worst by each image's quality."""
    judged = [image for image in images if image["quality"] is not None]
    ranked = sorted(judged, key=lambda image: -image["quality"])
    some = np.sort(np.random.default_rng(0).permutation(len(images))[:_SHEET])
    yield "images", "Held-out images, drawn at random", [images[place] for place in some]
    if judged:
        yield "best_images", "The best", ranked[:_SHEET]
        yield "worst_images", "The worst", ranked[::-1][:_SHEET]


def draw_pairs(
    pairs: Sequence[tuple[Image.Image, Image.Image, str]],
    title: str,
    legend: Mapping[str, tuple[int, int, int]] | None = None,
) -> Figure:
    """Truth above, prediction below, words under each pair; at the foot the RGB colour of each name."""
    with house_style():
        width = 1.5 * max(len(pairs), 4)
        columns = max(1, int(width / 1.1))
        rows = -(-len(legend or ()) // columns)
        figure = new_figure(width, 3.5 + 0.22 * rows)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
        grid = figure.subplots(2, len(pairs), squeeze=False)
        for column, (truth, prediction, words) in enumerate(pairs):
            for axes, picture in zip(grid[:, column], (truth, prediction)):
                axes.imshow(picture, interpolation="antialiased")
                axes.axis("off")
            grid[1, column].set_title(words, fontsize=8, loc="center")
        if legend:
            colours = ["#" + bytes(colour).hex() for colour in legend.values()]
            squares = [Patch(color=colour, label=short(name)) for name, colour in zip(legend, colours)]
            figure.legend(handles=squares, loc="outside lower center", ncols=min(columns, len(squares)), fontsize=8)
        return figure


def draw_class_bars(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Figure:
    """Horizontal bars of each class, the worst by the first column on top; what cannot be measured is left out.

    Args:
        rows: of metrics.json's `per_class`. columns: what to draw, in [0, 1].
    """
    measured = sorted((row for row in rows if row.get(columns[0]) is not None), key=lambda row: row[columns[0]])
    shown = measured[:_BARS]
    with house_style():
        figure = new_figure(6.4, 0.9 + 0.1 * (1 + len(columns)) * max(len(shown), 1))
        axes = figure.subplots()
        height = 0.8 / len(columns)
        for place, column in enumerate(columns):
            y = [index + place * height for index in range(len(shown))]
            values = [row[column] or 0.0 for row in shown]
            axes.barh(y, values, height, label=column.replace("_", " "), color=COLOURS[place])
        middle = 0.4 - height / 2
        axes.set_yticks([index + middle for index in range(len(shown))], [short(row["name"]) for row in shown])
        more = f" (the lowest {_BARS} of {len(measured)})" if len(measured) > _BARS else ""
        axes.set(xlim=(0, 1), title=f"Classes{more}")
        axes.invert_yaxis()
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(columns))
        return figure
