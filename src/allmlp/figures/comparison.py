"""Accuracy against cost for several models, with the line of those that none beats in both."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from allmlp.figures.style import COLOURS, FAINT, house_style, legend_below, new_figure, short

_BETTER_WHEN_HIGH = ("images/s",)
_LINE = 0.045  # height of a name, as a share of the panel's
_NEAR = 1.5  # points within this natural logarithm of a cost have names that may cover each other
_BESIDE = 6  # a name begins so many typographical points right of its point
_LEAST_RANGE = 2.0  # of an axis of costs, as a ratio


@dataclass(frozen=True)
class Point:
    """One model: name, group (its colour), score in [0, 1], and costs by title."""

    name: str
    group: str
    score: float
    costs: Mapping[str, float | None]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the (cost, score) pairs that no other beats in both, by rising cost; low costs are good."""
    front: list[int] = []
    for place in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[place][1] > points[front[-1]][1]:
            front.append(place)
    return front


def draw_pareto(points: Sequence[Point], score: str) -> Figure:
    """One panel a cost; groups have colours and the front is a grey line.

    Args:
        score: what the score is called.
    """
    costs = list(points[0].costs)
    groups = list(dict.fromkeys(point.group for point in points))
    with house_style():
        figure = new_figure(4.2 * len(costs), 3.9)
        panels = figure.subplots(1, len(costs), squeeze=False)[0]
        for axes, cost in zip(panels, costs):
            placed = [point for point in points if point.costs[cost]]
            values = [float(point.costs[cost] or 0) for point in placed]
            sign = -1 if cost in _BETTER_WHEN_HIGH else 1
            front = pareto_front([(sign * value, point.score) for value, point in zip(values, placed)])
            axes.plot(
                [values[i] for i in front], [100 * placed[i].score for i in front], color=FAINT, zorder=1, linewidth=3
            )
            for group in groups:
                places = [i for i, point in enumerate(placed) if point.group == group]
                axes.scatter(
                    [values[i] for i in places],
                    [100 * placed[i].score for i in places],
                    color=COLOURS[groups.index(group)],
                    label=group or "other",
                    zorder=2,
                )
            axes.set(xscale="log", xlabel=cost, ylabel=f"{score} %")
            axes.margins(x=0.25)
            low, high = axes.get_xlim()
            if values and high < _LEAST_RANGE * low:  # equal costs else make an axis of no length
                middle = math.sqrt(low * high)
                axes.set_xlim(middle / math.sqrt(_LEAST_RANGE), middle * math.sqrt(_LEAST_RANGE))
            wide = bool(values) and max(values) > 10 * min(values)
            axes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.xaxis.set_minor_formatter(NullFormatter())
            _name_points(
                axes, [(value, 100 * point.score, short(point.name, 22)) for value, point in zip(values, placed)]
            )
        legend_below(panels, figure)
        return figure


def _name_points(axes: Axes, places: Sequence[tuple[float, float, str]]) -> None:
    """Write names beside points, one below the other where they would cover each other."""
    low, high = axes.get_ylim()
    line = _LINE * (high - low)
    taken: list[tuple[float, float]] = []  # (log of the cost, height) of the names so far
    for x, y, name in sorted(places, key=lambda place: -place[1]):
        height = y
        while any(abs(math.log(x / other)) < _NEAR and abs(height - level) < line for other, level in taken):
            height -= line / 4
        taken.append((x, height))
        axes.annotate(
            name,
            (x, y),
            (_BESIDE, height),
            textcoords=("offset points", "data"),
            fontsize=7,
            va="center",
            arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.6} if height < y else None,
        )
