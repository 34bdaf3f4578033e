"""The token-mixing weights as images: which places of the image each unit reads.

Source: MLP-Mixer, arXiv 2105.01601, Figure 5 (each hidden unit's incoming weights as an image, low frequencies first);
the order of units is ours: by the mean spatial frequency of the map.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from allmlp.figures.style import house_style, new_figure


def mean_frequency(maps: np.ndarray) -> np.ndarray:
    """The power-weighted mean spatial frequency, in cycles a token, of each zero-mean map of (k, h, w)."""
    power = np.abs(np.fft.fft2(maps - maps.mean((1, 2), keepdims=True))) ** 2
    rows, columns = np.fft.fftfreq(maps.shape[1]), np.fft.fftfreq(maps.shape[2])
    radius = np.hypot(rows[:, None], columns[None, :])
    return (power * radius).sum((1, 2)) / np.maximum(power.sum((1, 2)), 1e-12)


def mosaic(maps: np.ndarray, columns: int) -> np.ndarray:
    """Maps (k, h, w) side by side with a line of NaN between them, each scaled by its own largest magnitude."""
    count, height, width = maps.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), np.nan)
    for index, one in enumerate(maps):
        top, left = (index // columns) * (height + 1), (index % columns) * (width + 1)
        sheet[top : top + height, left : left + width] = one / max(float(np.abs(one).max()), 1e-12)
    return sheet


def draw_token_mixing(
    layers: Mapping[str, np.ndarray], units: int = 32, columns: int = 8, most_layers: int = 8
) -> Figure:
    """One sheet a layer; red reads positively, blue negatively, low spatial frequencies first.

    Args:
        layers: layer name -> maps (k, h, w).
        units: how many units of a layer to draw, evenly spaced in the order of their frequency.
        most_layers: of deeper networks, this many layers are drawn, evenly spaced.
    """
    names = list(layers)
    if len(names) > most_layers:
        names = [names[round(i * (len(names) - 1) / (most_layers - 1))] for i in range(most_layers)]
    wide = min(4, len(names))
    high = -(-len(names) // wide)
    with house_style():
        figure = new_figure(2.4 * wide, (2.4 * units / columns / columns + 0.3) * high)
        grid = np.atleast_1d(figure.subplots(high, wide, squeeze=False)).reshape(-1)
        for axes in grid:
            axes.axis("off")
        for axes, name in zip(grid, names):
            maps = np.asarray(layers[name], dtype=np.float64)
            order = np.argsort(mean_frequency(maps))
            chosen = order[np.unique(np.linspace(0, len(order) - 1, min(units, len(order))).round().astype(int))]
            axes.imshow(mosaic(maps[chosen], columns), cmap="RdBu_r", vmin=-1, vmax=1)
            axes.set_title(name, fontsize=8)
        return figure
