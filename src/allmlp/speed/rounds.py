"""Time several things in turns: in every round each has its visit, in an order that rotates.

What else the machine does, and how warm it is, so falls on all alike; ratios are taken inside rounds.
"""

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Call = Callable[[], Any]


@dataclass
class Times:
    """Seconds of one thing: of every single call, and the median call of every round."""

    calls: list[float] = field(default_factory=list)
    rounds: list[float] = field(default_factory=list)


def run_rounds(
    calls: Mapping[str, Call], rounds: int, seconds: float = 0.1, tell: Callable[[int], object] = lambda _: None
) -> dict[str, Times]:
    """Visit every contestant once a round.

    Args:
        calls: what to time, by name. Each is called once or twice before, to warm up.
        rounds: at least 1.
        seconds: a visit repeats its call until it should last so long.
        tell: called with 1 after each round.
    """
    repeats = {name: _repeats(call, seconds) for name, call in calls.items()}
    times = {name: Times() for name in calls}
    names = list(calls)
    collecting = gc.isenabled()
    try:
        for number in range(rounds):
            gc.collect()
            gc.disable()
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                found = _visit(calls[name], repeats[name])
                times[name].calls += found
                times[name].rounds.append(statistics.median(found))
            gc.enable()
            tell(1)
    finally:
        (gc.enable if collecting else gc.disable)()
    return times


def _visit(call: Call, repeats: int) -> list[float]:
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return found


def _repeats(call: Call, seconds: float) -> int:
    (once,) = _visit(call, 1)
    if once < seconds:
        (once,) = _visit(call, 1)  # the first call may have had to warm up
    return max(1, math.ceil(seconds / once))


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return float(low), float(middle), float(high)


def ratio(one: Times, other: Times) -> tuple[float, float, float]:
    """Quartiles over rounds of how many times as long one takes as the other in the same round."""
    return quartiles([a / b for a, b in zip(one.rounds, other.rounds)])
