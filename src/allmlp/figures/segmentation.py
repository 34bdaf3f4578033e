"""The parts of a segmentation report, and the figures of an evaluation: classes, confusion, truth beside prediction."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from allmlp.data.dense_dataset import DenseDataset
from allmlp.data.label_map import IGNORE_LABEL
from allmlp.figures.colours import class_colour, draw_labels
from allmlp.figures.confusion import draw_confusion
from allmlp.figures.dense import dense_summary, draw_class_bars, draw_pairs, files, own_split, pick_images
from allmlp.figures.page import Page
from allmlp.figures.style import save_figure
from allmlp.runs import RunFolder
from allmlp.runs.dense_data import open_label_maps

_MOST_CLASSES = 40  # in the confusion matrix

LabelOf = Callable[[int], np.ndarray]
"""The predicted label map (h, w) of an image by its number."""


def figures_of(folder: Path, split: DenseDataset | None) -> dict[str, tuple[Figure, str]]:
    """Every figure of an evaluation with its caption, from the files in its folder; images only if `split` is there."""
    confusion = json.loads((folder / "confusion.json").read_text(encoding="utf-8"))
    found: dict[str, tuple[Figure, str]] = {}
    rows = _per_class(folder)
    if rows:
        found["classes"] = (
            draw_class_bars(rows, ["iou", "accuracy"]),
            "Intersection over union and recall of each class, the hardest first.",
        )
    if len(confusion["labels"]) <= _MOST_CLASSES:
        figure = draw_confusion(np.array(confusion["matrix"]), confusion["labels"])
        found["confusion_matrix"] = (figure, "Counts of labelled pixels.")
    if split is not None:
        images = json.loads((folder / "images.json").read_text(encoding="utf-8"))
        for name, title, chosen in pick_images(images):
            found[name] = (
                _draw_sheet(split, folder, chosen, confusion["labels"], f"{title}: truth above, prediction below"),
                "The number is the image's own mean IoU.",
            )
    return found


def draw_evaluation(folder: Path, split: DenseDataset | None) -> list[Path]:
    """Draw every figure of an evaluation as PNG files into its folder."""
    return [save_figure(figure, folder / f"{name}.png") for name, (figure, _) in figures_of(folder, split).items()]


def _per_class(folder: Path) -> list[dict[str, Any]]:
    for path in (folder / "metrics.json", folder.parent / "metrics.json"):
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8")).get("per_class") or []
    return []


def _draw_sheet(
    split: DenseDataset, folder: Path, chosen: Sequence[Mapping[str, Any]], names: Sequence[str], title: str
) -> Figure:
    """Truth and prediction of some images over the grey picture, with the colours of the classes in them."""
    pairs, seen = [], set()
    for item in chosen:
        image, target = split[item["index"]]
        grey = image.numpy().mean(axis=0).astype(np.uint8)
        with Image.open(folder / "labels" / f"{item['index']:06d}.png") as stored:
            maps = target["mask"].numpy(), np.array(stored)
        truth, prediction = (draw_labels(grey, labels) for labels in maps)
        pairs.append((truth, prediction, "–" if item["quality"] is None else f"{item['quality']:.2f}"))
        seen |= {int(label) for labels in maps for label in np.unique(labels)}
    legend = {names[label]: class_colour(label) for label in sorted(seen - {IGNORE_LABEL})}
    return draw_pairs(pairs, title, legend)


# ---- the report


def summary(page: Page, run: RunFolder, facts: dict[str, Any]) -> None:
    """What was trained on what, and the numbers that matter."""
    metrics = facts["metrics"]
    names: Sequence[tuple[str, str]] = (
        ("miou", "mIoU"),
        ("mean_accuracy", "mean accuracy"),
        ("pixel_accuracy", "pixel accuracy"),
    )
    cards = {label: f"{metrics[name]:.1%}" for name, label in names}
    dense_summary(page, facts, f"mIoU {metrics['miou']:.1%}", cards, "miou", "mIoU")


def errors(page: Page, run: RunFolder, facts: dict[str, Any]) -> None:
    """Classes, confusion, and images beside their truth."""
    split = own_split(facts, open_label_maps)
    if split is None:
        page.text("The images are no longer where they were, so none are shown.", "note")
    page.heading("Where it is right and where it errs")
    for name, (figure, caption) in figures_of(run.evaluation, split).items():
        page.figure(name, figure, caption)


SECTIONS = (summary, errors, files)
