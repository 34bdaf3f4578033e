"""The parts of a detection run's report, and the figures of an evaluation: curves, classes, truth beside prediction."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from allmlp.data.dense_dataset import DenseDataset
from allmlp.data.rle import decode_segmentation
from allmlp.figures.colours import draw_objects
from allmlp.figures.dense import (
    dense_summary,
    draw_class_bars,
    draw_pairs,
    files,
    own_split,
    pick_images,
)
from allmlp.figures.page import Page
from allmlp.figures.style import COLOURS, house_style, new_figure, save_figure
from allmlp.runs import RunFolder
from allmlp.runs.dense_data import open_objects

_SURE = 0.5  # least score of what is drawn
_CELL = 256  # pixels of an image on a sheet
_KINDS = {"box": "boxes", "mask": "masks"}


def draw_precision_recall(curves: Mapping[str, Any], title: str) -> Figure:
    """Precision against recall at three overlaps, over the classes at IoU 0.50 in grey.

    Args:
        curves: one kind's part of curves.json.
    """
    with house_style():
        figure = new_figure(4.6, 3.6)
        axes = figure.subplots()
        for values in curves["classes"].values():
            axes.plot(curves["recall"], values, color="#CCCCCC", linewidth=0.7)
        for place, (key, name) in enumerate((("iou50", "0.50"), ("iou75", "0.75"), ("iou90", "0.90"))):
            if None in curves[key]:  # there was no object to find
                continue
            axes.plot(
                curves["recall"], curves[key], label=f"IoU {name}: {np.mean(curves[key]):.2f}", color=COLOURS[place]
            )
        axes.set(title=title, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        axes.legend(loc="lower left")
        return figure


def figures_of(folder: Path, split: DenseDataset | None, classes: Sequence[str]) -> dict[str, tuple[Figure, str]]:
    """Every figure of an evaluation with its caption, from the files in its folder; images only if `split` is there."""
    curves = json.loads((folder / "curves.json").read_text(encoding="utf-8"))
    metrics = _per_class(folder)
    found: dict[str, tuple[Figure, str]] = {}
    for kind, curve in curves.items():
        found[f"precision_recall_{kind}"] = (
            draw_precision_recall(curve, f"Precision and recall of {_KINDS[kind]}"),
            "Mean over the classes at three overlaps; each class at an overlap of 0.50 in grey. The legend gives the "
            "mean precision.",
        )
    if metrics:
        columns = [key for key in ("box_ap50", "box_ap", "mask_ap50", "mask_ap") if key in metrics[0]]
        found["classes"] = (draw_class_bars(metrics, columns), "Average precision of each class, the hardest first.")
    if split is not None:
        by_image = _by_image(folder)
        images = json.loads((folder / "images.json").read_text(encoding="utf-8"))
        for name, title, chosen in pick_images(images):
            pairs = [_pair(split, item, by_image, classes) for item in chosen]
            found[name] = (
                draw_pairs(pairs, f"{title}: truth above, prediction below"),
                f"Objects of score {_SURE:.0%} and more. The number is the image's F1 at an overlap of 0.50.",
            )
    return found


def draw_evaluation(folder: Path, split: DenseDataset | None, classes: Sequence[str]) -> list[Path]:
    """Draw every figure of an evaluation as PNG files into its folder."""
    return [
        save_figure(figure, folder / f"{name}.png") for name, (figure, _) in figures_of(folder, split, classes).items()
    ]


def _per_class(folder: Path) -> list[dict[str, Any]]:
    for path in (folder / "metrics.json", folder.parent / "metrics.json"):
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8")).get("per_class") or []
    return []


def _by_image(folder: Path) -> dict[int, list[dict[str, Any]]]:
    """The detections of each image id."""
    found: dict[int, list[dict[str, Any]]] = {}
    for result in json.loads((folder / "detections.json").read_text(encoding="utf-8")):
        if result["score"] >= _SURE:
            found.setdefault(result["image_id"], []).append(result)
    return found


def _pair(
    split: DenseDataset, item: Mapping[str, Any], by_image: Mapping[int, list[dict[str, Any]]], classes: Sequence[str]
) -> tuple[Image.Image, Image.Image, str]:
    """(truth, prediction, words) of one image."""
    image, target = split[item["index"]]
    height, width = image.shape[-2:]
    factor = max(1, _CELL // min(height, width))  # small images are enlarged, so that names fit beside their boxes

    def large(array: np.ndarray) -> np.ndarray:
        return array.repeat(factor, 0).repeat(factor, 1)

    picture = image.numpy().transpose(1, 2, 0)
    picture = large(picture[..., 0] if picture.shape[2] == 1 else picture)
    masks = [large(mask) for mask in target["masks"].numpy()] if "masks" in target else None
    truth = draw_objects(picture, (factor * target["boxes"]).tolist(), target["labels"].tolist(), classes, masks=masks)
    source: Any = split.source
    label_of = {category: label for label, category in enumerate(source.file.category_ids)}
    found = sorted(by_image.get(target["image_id"], []), key=lambda result: -result["score"])
    boxes = [np.array([x, y, x + w, y + h]) * factor for x, y, w, h in (result["bbox"] for result in found)]
    drawn = [large(decode_segmentation(r["segmentation"], height, width)) for r in found if "segmentation" in r]
    labels = [label_of[result["category_id"]] for result in found]
    scores = [result["score"] for result in found]
    predicted = draw_objects(picture, boxes, labels, classes, scores, drawn or None)
    return truth, predicted, f"{item['quality']:.2f}"


# ---- the report


def summary(page: Page, run: RunFolder, facts: dict[str, Any]) -> None:
    """What was trained on what, and the numbers that matter."""
    metrics = facts["metrics"]
    parts = [f"box AP {metrics['box_ap']:.1%}" if "box_ap" in metrics else "no object to score"]
    parts += [f"mask AP {metrics['mask_ap']:.1%}"] if "mask_ap" in metrics else []
    names = ("box_ap", "box_ap50", "box_ap75", "mask_ap", "mask_ap50")
    cards = {name.replace("_ap", " AP"): f"{metrics[name]:.1%}" for name in names if name in metrics}
    dense_summary(page, facts, " and ".join(parts), cards, "box_ap", "Box AP")


def errors(page: Page, run: RunFolder, facts: dict[str, Any]) -> None:
    """Curves, classes, and images beside their truth."""
    masks = "mask" in facts["config"]["architecture"]
    split = own_split(facts, lambda group, channels: open_objects(group, masks, channels))
    if split is None:
        page.text("The images are no longer where they were, so none are shown.", "note")
    page.heading("Where it is right and where it errs")
    for name, (figure, caption) in figures_of(run.evaluation, split, facts["config"]["label_names"]).items():
        page.figure(name, figure, caption)


SECTIONS = (summary, errors, files)
