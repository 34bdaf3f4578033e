"""Confusion matrix and calibration of a classifier."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from allmlp.figures.style import COLOURS, FAINT, house_style, new_figure, short

_NUMBERS_UP_TO = 20  # classes; beyond that the cells are too small to hold a number
_NAMES_UP_TO = 60


def draw_confusion(matrix: np.ndarray, names: Sequence[str]) -> Figure:
    """Rows are true classes, columns predictions; the colour is the share of the row, the number the count.

    Args:
        matrix: counts (K, K).
        names: K class names.
    """
    matrix = np.asarray(matrix)
    count = len(matrix)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = min(max(3.6, 0.42 * count + 1.6), 11)
    with house_style():
        figure = new_figure(side + 0.6, side)
        axes = figure.subplots()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        figure.colorbar(image, ax=axes, shrink=0.75, label="share of the true class")
        if count <= _NUMBERS_UP_TO:
            for row, column in zip(*np.nonzero(matrix)):
                dark = shares[row, column] > 0.5
                axes.text(
                    column,
                    row,
                    _brief(int(matrix[row, column])),
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if dark else "black",
                )
        axes.grid(False)
        if count <= _NAMES_UP_TO:
            labels = [short(name) for name in names]
            axes.set_xticks(range(count), labels, rotation=90 if max(map(len, labels)) > 2 else 0)
            axes.set_yticks(range(count), labels)
        axes.set(xlabel="predicted", ylabel="true", title="Confusion matrix")
        return figure


def _brief(number: int) -> str:
    """A count in at most four signs, as a cell holds them.

    >>> [_brief(number) for number in (9999, 12345, 999999, 1843200)]
    ['9999', '12k', '999k', '1.8M']
    """
    for unit, sign in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= max(unit, 10**4):
            return f"{number // (unit // 10) / 10:.1f}{sign}" if number < 10 * unit else f"{number // unit}{sign}"
    return str(number)


def draw_calibration(labels: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> Figure:
    """How often a prediction of each confidence is right, and how many predictions have it.

    Args:
        labels: (N,). probabilities: (N, K).
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    used = counts > 0
    mean_confidence = np.bincount(place, confidence, bins)[used] / counts[used]
    accuracy = np.bincount(place, right, bins)[used] / counts[used]
    with house_style():
        figure = new_figure(4.4, 3.6)
        top, bottom = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
        top.plot([0, 1], [0, 1], color=FAINT, zorder=1)
        top.plot(mean_confidence, accuracy, marker="o", markersize=4, color=COLOURS[0])
        top.set(ylabel="share right", title="Calibration", ylim=(0, 1.03))
        centres = (np.arange(bins) + 0.5) / bins
        bottom.bar(centres, counts, width=0.9 / bins, color=COLOURS[0])
        bottom.set(xlabel="confidence", ylabel="images", xlim=(0, 1), yscale="log")
        return figure
