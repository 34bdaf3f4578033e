"""Sheets of images with what the model said of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from allmlp.figures.style import COLOURS, house_style, new_figure, short


@dataclass(frozen=True)
class Sample:
    """One image, its true class, the predicted one, and the prediction's probability."""

    image: Image.Image | np.ndarray
    label: str
    prediction: str
    confidence: float


def as_picture(image: Image.Image | np.ndarray) -> np.ndarray:
    """Something `imshow` takes: (H, W) or (H, W, 3). Of more than four bands, the first three."""
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[2] not in (3, 4):
        array = array[..., 0] if array.shape[2] < 3 else array[..., :3]
    if array.dtype != np.uint8 and array.size:
        low, high = float(array.min()), float(array.max())
        array = (array - low) / (high - low or 1.0)
    return array


def draw_samples(samples: Sequence[Sample], title: str, columns: int = 8) -> Figure:
    """Images in a grid; under each the prediction, and the truth where it differs."""
    rows = -(-len(samples) // columns)
    with house_style():
        figure = new_figure(1.2 * columns, 1.5 * rows + 0.35)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
        grid = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).reshape(-1)
        for axes in grid:
            axes.axis("off")
        for axes, sample in zip(grid, samples):
            axes.imshow(as_picture(sample.image), cmap="gray")
            right = sample.label == sample.prediction
            text = f"{short(sample.prediction, 14)} {sample.confidence:.0%}"
            if not right:
                text += f"\n(is {short(sample.label, 12)})"
            axes.set_title(text, fontsize=7, loc="center", color=COLOURS[2] if right else COLOURS[1])
        return figure
