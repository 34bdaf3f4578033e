"""Learning curves from the rows of metrics.csv."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from allmlp.figures.style import house_style, new_figure

Rows = Sequence[Mapping[str, str]]


def column(rows: Rows, name: str) -> tuple[list[float], list[float]]:
    """(epochs, values) of one column, where it holds a number."""
    points = [(float(row["epoch"]), float(row[name])) for row in rows if row.get(name) not in (None, "")]
    return [x for x, _ in points], [y for _, y in points]


def draw_curves(rows: Rows, score: str, score_label: str) -> Figure:
    """Loss, score and learning rate against epochs.

    Args:
        rows: metrics.csv, a mapping a row.
        score: the column to draw beside the loss, without its `train_` or `val_` prefix, such as "top1".
        score_label: what it is called.
    """
    with house_style():
        figure = new_figure(9.6, 2.9)
        loss, quality, rate = figure.subplots(1, 3, width_ratios=(3, 3, 2))
        for part, label in (("train", "training"), ("val", "held out")):
            epochs, values = column(rows, f"{part}_loss")
            if values:
                loss.plot(epochs, values, label=label, marker="." if len(values) < 3 else "")
            epochs, values = column(rows, f"{part}_{score}")
            if values:
                quality.plot(epochs, values, label=label, marker="." if len(values) < 3 else "")
        for axes, title in ((loss, "Loss"), (quality, score_label)):
            axes.set(title=title, xlabel="epoch")
            if axes.lines:
                axes.legend()
        _logarithmic_if_wide(loss)
        epochs, values = column(rows, "lr")
        rate.plot(epochs, values, color="#666666")
        rate.set(title="Learning rate", xlabel="epoch")
        rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
        return figure


def _logarithmic_if_wide(axes: Axes) -> None:
    """A logarithmic axis with plain numbers where the values span more than a factor of 4."""
    drawn = [float(value) for line in axes.lines for value in np.asarray(line.get_ydata(), dtype=float)]
    values = [value for value in drawn if 0 < value < math.inf]
    if values and max(values) > 4 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
