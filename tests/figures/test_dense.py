"""Pages of detection and segmentation runs, and the drawing on pictures."""

import json
import re

import numpy as np
import pytest
from PIL import Image

import dense_runs
from allmlp.figures.colours import class_colour, draw_labels, draw_legend, draw_objects, palette, under
from allmlp.figures.dense import draw_class_bars, pick_images
from allmlp.figures.detection import draw_precision_recall
from allmlp.figures.report import write_report


@pytest.mark.parametrize(
    ("task", "figures"),
    [
        (
            "detect",
            {"classes", "images", "best_images", "worst_images", "precision_recall_box", "precision_recall_mask"},
        ),
        ("segment", {"classes", "images", "best_images", "worst_images", "confusion_matrix"}),
    ],
)
def test_a_run_draws_its_page(task, figures, tmp_path, monkeypatch):
    monkeypatch.setenv("ALLMLP_CACHE", str(tmp_path / "cache"))
    run = dense_runs.train(tmp_path / "run", task).run
    assert {path.stem for path in (run / "figures").iterdir()} == {*figures, "learning_curves"}
    page = (run / "report.html").read_text()
    assert page.count("<img") == len(figures) + 1
    metrics = json.loads((run / "metrics.json").read_text())
    assert f"{metrics['peak_memory_mb']:,} MB" in page
    assert re.search(r"<h1>as_mlp_nano on digit_scenes</h1>", page)
    monkeypatch.setenv("ALLMLP_CACHE", str(tmp_path / "other"))
    recipe = (run / "recipe.yaml").read_text().replace("name: digit_scenes", "name: /nowhere")
    (run / "recipe.yaml").write_text(recipe)
    assert "no longer where they were" in write_report(run).read_text()


def test_objects_are_drawn_where_they_are():
    picture = np.zeros((60, 80, 3), dtype=np.uint8)
    mask = np.zeros((60, 80), dtype=bool)
    mask[30:50, 20:40] = True
    drawn = np.asarray(draw_objects(picture, [(20, 30, 40, 50)], [3], list("abcd"), [0.5], [mask]))
    assert drawn.shape == picture.shape
    assert tuple(drawn[30, 25]) == class_colour(3)
    assert np.abs(drawn[40, 30].astype(int) - 0.45 * np.array(class_colour(3))).max() <= 1
    assert not drawn[55:, :].any()
    assert not picture.any()
    grey = draw_objects(Image.new("L", (8, 8)), np.zeros((0, 4)), [], [])
    assert grey.mode == "RGB"


def test_label_maps_leave_ignored_pixels_alone():
    labels = np.full((4, 4), 255, dtype=np.uint8)
    labels[0] = 2
    drawn = np.asarray(draw_labels(np.full((4, 4), 100, dtype=np.uint8), labels))
    assert (drawn[1:] == 100).all()
    assert (drawn[0] != 100).any()


def test_colours_differ_and_stay():
    colours = [class_colour(label) for label in range(40)]
    assert len(set(colours)) == 40
    assert palette(3)[:9] == [part for label in range(3) for part in class_colour(label)]
    assert palette(3)[-3:] == [255, 255, 255]
    assert len(palette(255)) == 768


def test_legends_wrap_to_the_width():
    names = {label: f"class {label}" for label in range(12)}
    narrow, wide = draw_legend(names, 160), draw_legend(names, 2000)
    assert (narrow.width, wide.width) == (160, 2000)
    assert narrow.height > 2 * wide.height
    assert under(Image.new("RGB", (100, 50)), narrow).size == (160, 50 + narrow.height)


def test_sheets_hold_the_best_and_the_worst():
    images = [{"index": n, "quality": n / 10 if n != 4 else None} for n in range(20)]
    sheets = {name: [item["index"] for item in chosen] for name, _, chosen in pick_images(images)}
    assert sheets["best_images"] == [19, 18, 17, 16, 15, 14, 13, 12]
    assert sheets["worst_images"] == [0, 1, 2, 3, 5, 6, 7, 8]
    assert len(sheets["images"]) == 8


def test_curves_and_bars_take_what_cannot_be_measured():
    curve = {"recall": [0, 0.5, 1], "iou50": [1, 0.5, 0], "iou75": [None] * 3, "iou90": [0, 0, 0], "classes": {}}
    assert len(draw_precision_recall(curve, "x").axes[0].lines) == 2
    rows = [{"name": "a", "box_ap": 0.5}, {"name": "b", "box_ap": None}]
    bars = draw_class_bars(rows, ["box_ap"])
    assert [label.get_text() for label in bars.axes[0].get_yticklabels()] == ["a"]
