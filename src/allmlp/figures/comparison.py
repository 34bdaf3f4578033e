"""Accuracy against cost for several models, with the line of those that none beats in both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from allmlp.figures.style import COLOURS, FAINT, house_style, legend_below, new_figure, short

_BETTER_WHEN_HIGH = ("images/s",)


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
            for value, point in zip(values, placed):
                axes.annotate(
                    short(point.name, 22),
                    (value, 100 * point.score),
                    (3, 4),
                    textcoords="offset points",
                    fontsize=7,
                )
            axes.set(xscale="log", xlabel=cost, ylabel=f"{score} %")
            axes.margins(x=0.2)
            for ticks in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
                ticks(EngFormatter(sep=""))
        legend_below(panels, figure)
        return figure
