"""How fast networks run: bars against the ceiling of the machine, and lines over image sizes."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from allmlp.figures.style import COLOURS, INK, house_style, legend_below, new_figure
from allmlp.speed.results import Row, groups

_COLUMNS = 3


def draw_speed(rows: Sequence[Row]) -> Figure:
    """One panel for what was timed together: images a second of every contestant, and of the ceiling as a line."""
    parts = [[row for row in part if row.images_per_second] for part in groups(rows)]
    parts = [part for part in parts if part]
    columns = min(_COLUMNS, len(parts))
    lines = math.ceil(len(parts) / columns)
    forms = list(dict.fromkeys(row.form for row in rows))
    with house_style():
        tallest = max(map(len, parts))
        figure = new_figure(4.4 * columns, (0.9 + 0.24 * tallest) * lines)
        panels = figure.subplots(lines, columns, squeeze=False).flatten()
        for axes, part in zip(panels, parts):
            _bars(axes, part, forms)
        for axes in panels[len(parts) :]:
            axes.axis("off")
        return figure


def _bars(axes: Any, rows: Sequence[Row], forms: Sequence[str]) -> None:
    rates = [row.images_per_second or 0 for row in rows]
    ceiling = max((row.images_per_second or 0) / (row.share_of_ceiling or 1) for row in rows)
    places = range(len(rows))
    axes.barh(places, rates, color=[COLOURS[forms.index(row.form) % len(COLOURS)] for row in rows], height=0.75)
    for place, row, rate in zip(places, rows, rates):
        inside = rate > ceiling / 2
        axes.annotate(
            f" {row.share_of_ceiling:.0%} ",
            (rate, place),
            va="center",
            ha="right" if inside else "left",
            fontsize=7,
            color="white" if inside else INK,
        )
    axes.axvline(ceiling, color=INK, linestyle="--", linewidth=1)
    axes.set_yticks(list(places), [row.name for row in rows], fontsize=7)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    first = rows[0]
    axes.set_xlim(0, 1.05 * max([ceiling, *rates]))
    axes.set_xlabel("images/s; dashed: matrix-multiply ceiling", fontsize=7)
    axes.set_title(f"{first.model}, {first.mode}, batch {first.batch}, {first.height} px", fontsize=9)


def draw_resolution(rows: Sequence[Row]) -> Figure:
    """Milliseconds an image over its pixels, a line for the fastest form of each model's own; both axes logarithmic."""
    best: dict[str, dict[tuple[int, int], float]] = {}
    for part in groups(rows):
        own = [row.images_per_second for row in part if row.own and row.images_per_second]
        if own:
            found = best.setdefault(part[0].model, {})
            size = part[0].height, part[0].width
            found[size] = min(1000 / max(own), found.get(size, math.inf))
    sides = sorted({size for found in best.values() for size in found})
    with house_style():
        figure = new_figure(6.6, 4.4)
        axes = figure.subplots()
        for place, (model, found) in enumerate(best.items()):
            sizes = sorted(found)
            pixels = [height * width for height, width in sizes]
            axes.plot(
                pixels,
                [found[size] for size in sizes],
                marker="o",
                markersize=4,
                color=COLOURS[place % len(COLOURS)],
                label=model,
            )
        first = min(found[sides[0]] for found in best.values() if sides[0] in found)
        area = sides[0][0] * sides[0][1]
        axes.plot(
            [height * width for height, width in sides],
            [first * height * width / area for height, width in sides],
            color=INK,
            linestyle=":",
            linewidth=1,
            label="linear in pixels",
        )
        axes.set(xscale="log", yscale="log", xlabel="image side, pixels", ylabel="ms an image")
        axes.set_xticks([height * width for height, width in sides], [str(height) for height, _ in sides])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        legend_below([axes], figure)
        return figure
