"""The figures of an evaluation, from its files."""

import json
from pathlib import Path

import numpy as np

from allmlp.figures.confusion import draw_calibration, draw_confusion
from allmlp.figures.style import save_figure


def draw_evaluation(folder: Path) -> list[Path]:
    """Draw confusion_matrix.png and calibration.png beside the predictions.npz and confusion.json of a folder."""
    confusion = json.loads((folder / "confusion.json").read_text(encoding="utf-8"))
    with np.load(folder / "predictions.npz") as file:
        calibration = draw_calibration(file["labels"], file["probabilities"])
    matrix = draw_confusion(np.array(confusion["matrix"]), confusion["labels"])
    return [
        save_figure(matrix, folder / "confusion_matrix.png"),
        save_figure(calibration, folder / "calibration.png"),
    ]
