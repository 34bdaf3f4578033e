"""The first layer's filters as small colour images. Source: MLP-Mixer, arXiv 2105.01601, Figure 7."""

import numpy as np
from matplotlib.figure import Figure

from allmlp.figures.style import house_style, new_figure


def draw_stem(weight: np.ndarray, most: int = 64, columns: int = 16) -> Figure:
    """Filters (k, channels, h, w): in colour for 3 channels, else their mean over channels.

    Args:
        most: how many filters to draw, the strongest first.
        columns: filters a row.
    """
    strength = np.sqrt(np.square(weight).sum((1, 2, 3)))
    chosen = weight[np.argsort(-strength)[:most]]
    if chosen.shape[1] != 3:
        chosen = chosen.mean(1, keepdims=True).repeat(3, 1)
    count, _, height, width = chosen.shape
    rows = -(-count // columns)
    sheet = np.ones((rows * (height + 1) - 1, columns * (width + 1) - 1, 3))
    for index, one in enumerate(chosen):
        top, left = (index // columns) * (height + 1), (index % columns) * (width + 1)
        scaled = 0.5 + 0.5 * one / max(float(np.abs(one).max()), 1e-12)
        sheet[top : top + height, left : left + width] = scaled.transpose(1, 2, 0)
    with house_style():
        figure = new_figure(0.6 * columns, 0.6 * rows)
        axes = figure.subplots()
        axes.imshow(sheet)
        axes.axis("off")
        return figure
