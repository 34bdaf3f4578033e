"""Rounds, on a clock that the contestants move."""

import pytest

from allmlp.speed import rounds
from allmlp.speed.rounds import quartiles, ratio, run_rounds


class Clock:
    """A clock whose second gets longer the more is done, as of a machine that something else gets busy on."""

    def __init__(self, monkeypatch, drift: float = 1.0) -> None:
        self.now, self.drift, self.log = 0.0, drift, []
        monkeypatch.setattr(rounds.time, "perf_counter", lambda: self.now)

    def contestant(self, name: str, seconds: float):
        def call() -> None:
            self.now += seconds * self.drift
            self.log.append(name)

        return call


def test_everyone_has_a_turn_a_round_and_the_order_rotates(monkeypatch):
    clock = Clock(monkeypatch)
    calls = {name: clock.contestant(name, 1.0) for name in "abc"}
    finished = []
    times = run_rounds(calls, 4, seconds=0.5, tell=finished.append)
    assert "".join(clock.log) == "abc" + "abc" + "bca" + "cab" + "abc"  # a warm-up, then rounds
    assert finished == [1, 1, 1, 1]
    assert all(found.rounds == [1.0] * 4 and found.calls == [1.0] * 4 for found in times.values())


def test_short_calls_are_repeated(monkeypatch):
    clock = Clock(monkeypatch)
    times = run_rounds({"short": clock.contestant("s", 0.25), "long": clock.contestant("l", 3.0)}, 2, seconds=1.0)
    assert len(times["short"].calls) == 2 * 4
    assert len(times["long"].calls) == 2 * 1


def test_ratios_are_exact_on_a_machine_that_gets_slower(monkeypatch):
    clock = Clock(monkeypatch)

    def slower(_: int) -> None:
        clock.drift *= 3

    times = run_rounds({"a": clock.contestant("a", 1.0), "b": clock.contestant("b", 2.0)}, 5, 0.1, slower)
    assert times["b"].rounds == [2.0, 6.0, 18.0, 54.0, 162.0]
    assert ratio(times["b"], times["a"]) == pytest.approx((2.0, 2.0, 2.0))


def test_a_round_counts_by_its_median_call(monkeypatch):
    clock = Clock(monkeypatch)
    lengths = iter([1.0, 1.0, 1.0, 50.0, 1.0])

    def call() -> None:
        clock.now += next(lengths)

    assert run_rounds({"a": call}, 1, seconds=3.0)["a"].rounds == [1.0]


def test_the_garbage_collector_runs_again_after_an_error():
    calls = iter([None])

    def call() -> None:
        next(calls)

    with pytest.raises(StopIteration):
        run_rounds({"a": call}, 1)
    assert rounds.gc.isenabled()


def test_quartiles():
    assert quartiles([4.0, 1.0, 2.0, 3.0, 5.0]) == (2.0, 3.0, 4.0)
