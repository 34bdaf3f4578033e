"""A benchmark's rows: what was measured of every contestant."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from allmlp.speed.ceiling import Ceiling
from allmlp.speed.contestants import Contestant
from allmlp.speed.rounds import Times, quartiles, ratio
from allmlp.speed.subject import Subject

CEILING = "ceiling"  # the name of the matrix product among what is timed
TRAINING_MACS = 3  # a step's matrix products, in those of its forward pass


@dataclass(frozen=True)
class Row:
    """One contestant. Numbers are None where there is nothing to say, as of one that is wrong.

    own: whether it is a form of the model that is measured, not of a peer. same: whether it computes the same function.
    difference: of its outputs from the unfolded network's, in standard deviations. median_ms, p95_ms: of all single
    calls. spread: between the quartiles of the rounds, in parts of the median. macs: of an image, forward, in the
    unfolded network. ceiling_gflops: the median rate of the matrix product beside it. share_of_ceiling: MACs a second
    over those of the matrix product in the same round; of training three times the forward pass's. peak_memory_mib:
    see `allmlp.speed.memory`. ratio: its time over that of the fastest of the model's own forms, the median of all
    rounds, and its quartiles: above 1, ours is faster.
    """

    model: str
    form: str
    backend: str
    mode: str
    batch: int
    height: int
    width: int
    own: bool
    same: bool
    difference: float | None = None
    problem: str = ""
    median_ms: float | None = None
    p95_ms: float | None = None
    spread: float | None = None
    images_per_second: float | None = None
    macs: int | None = None
    ceiling_gflops: float | None = None
    share_of_ceiling: float | None = None
    peak_memory_mib: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    rounds: int = 0
    calls: int = 0

    @property
    def name(self) -> str:
        """Form and backend."""
        return f"{self.form} {self.backend}"

    @property
    def group(self) -> tuple[str, str, int, int, int]:
        """What rows that were timed together have in common."""
        return self.model, self.mode, self.batch, self.height, self.width


def make_rows(
    subject: Subject,
    contestants: Sequence[Contestant],
    times: Mapping[str, Times],
    ceiling: Ceiling,
    batch: int,
    mode: str,
    memory: Mapping[str, float | None],
) -> list[Row]:
    """The rows of contestants that were timed together, in their order."""
    own = subject.forms[0]
    timed = {c.name: times[c.name] for c in contestants if c.counts}
    best = min(
        (timed[c.name] for c in contestants if c.counts and c.form is own),
        key=lambda found: quartiles(found.calls)[1],
        default=None,
    )
    rows = []
    for contestant in contestants:
        found, numbers = timed.get(contestant.name), {}
        if found is not None:
            macs = contestant.form.macs
            work = 2 * batch * macs * (TRAINING_MACS if mode == "train" else 1)
            low, middle, high = quartiles(found.rounds)
            share = ratio(times[CEILING], found)[1] * work / ceiling.flops
            compared = (None, None, None) if best is None else ratio(found, best)
            numbers = {
                "median_ms": 1000 * quartiles(found.calls)[1],
                "p95_ms": 1000 * float(np.percentile(found.calls, 95)),
                "spread": (high - low) / middle,
                "images_per_second": batch / quartiles(found.calls)[1],
                "macs": macs,
                "ceiling_gflops": ceiling.flops / quartiles(times[CEILING].rounds)[1] / 1e9,
                "share_of_ceiling": share,
                "ratio_low": compared[0],
                "ratio": compared[1],
                "ratio_high": compared[2],
                "rounds": len(found.rounds),
                "calls": len(found.calls),
            }
        _, height, width = subject.input_size
        row: dict[str, Any] = {"problem": contestant.problem, "difference": contestant.difference, **numbers}
        rows.append(
            Row(
                subject.name,
                contestant.form.name,
                contestant.backend,
                mode,
                batch,
                height,
                width,
                contestant.form is own,
                contestant.form.same,
                peak_memory_mib=memory.get(contestant.name),
                **row,
            )
        )
    return rows


@dataclass(frozen=True)
class Verdict:
    """What the rows that were timed together say.

    best: the fastest of the model's own forms. peer: the fastest of the other forms of the same function. authors: the
    authors' form in eager mode, or timm's where there is no other: what a person runs who has neither. Each is None if
    it is not there or has no time.
    """

    best: Row | None
    peer: Row | None
    authors: Row | None


def judge(rows: Sequence[Row]) -> Verdict:
    """Of one group's rows."""
    timed = sorted((row for row in rows if row.median_ms is not None), key=lambda row: -(row.images_per_second or 0))
    peers = [row for row in timed if row.same and not row.own]
    eager = sorted((row for row in peers if row.name in ("authors eager", "timm eager")), key=lambda row: row.form)
    own = [row for row in timed if row.own]
    return Verdict(*(next(iter(some), None) for some in (own, peers, eager)))


def groups(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows by what was timed together, in their order."""
    return [list(some) for _, some in groupby(rows, key=lambda row: row.group)]
