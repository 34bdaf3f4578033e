"""Rows from times that are known."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from allmlp.speed.ceiling import Ceiling
from allmlp.speed.contestants import Contestant
from allmlp.speed.results import CEILING, groups, judge, make_rows
from allmlp.speed.rounds import Times
from allmlp.speed.subject import Form, Subject


def rows_of(mode: str = "infer", **seconds: list[float]):
    """Rows of forms that took these seconds, one call a round; the matrix product of 1,000 operations took 1 s."""
    nothing = torch.nn.Identity()
    forms = {name: Form(name, nothing, 50, same=name != "other") for name in ["ours", *seconds, "wrong"]}
    contestants = [Contestant(forms[name], "eager", call=print, difference=0.0) for name in seconds]
    contestants.append(Contestant(forms["wrong"], "eager", call=print, difference=1.0, problem="wrong: ..."))
    subject = Subject("model", nothing, (3, 8, 16), [forms["ours"], *forms.values()], [])
    times = {f"{name} eager": Times(found, found) for name, found in seconds.items()}
    count = len(next(iter(seconds.values())))
    times[CEILING] = Times([1.0] * count, [1.0] * count)
    ceiling = Ceiling((1, 1, 1), 1000, (torch.empty(0),) * 3)
    return make_rows(subject, contestants, times, ceiling, 4, mode, {"ours eager": 12.0})


def test_numbers_of_a_row():
    row = rows_of(ours=[1.0, 2.0, 3.0])[0]
    assert (row.model, row.form, row.backend, row.mode) == ("model", "ours", "eager", "infer")
    assert (row.batch, row.height, row.width, row.own, row.same) == (4, 8, 16, True, True)
    assert row.median_ms == 2000
    assert row.p95_ms == pytest.approx(2900)
    assert row.images_per_second == 2  # 4 images in 2 s
    assert row.spread == pytest.approx(0.5)  # quartiles 1.5 and 2.5
    assert row.ceiling_gflops == pytest.approx(1e-6)
    assert row.share_of_ceiling == pytest.approx(2 * 4 * 50 / 1000 / 2)
    assert (row.peak_memory_mib, row.macs, row.rounds, row.calls) == (12.0, 50, 3, 3)


def test_a_training_step_is_three_forward_passes_of_work():
    assert rows_of("train", ours=[1.0])[0].share_of_ceiling == pytest.approx(3 * 2 * 4 * 50 / 1000)


def test_ratios_are_to_the_fastest_of_ours_round_by_round():
    ours, authors, timm, other, wrong = rows_of(
        ours=[1.0, 2.0, 4.0], authors=[3.0, 6.0, 12.0], timm=[2.0, 4.0, 9.0], other=[0.5, 0.5, 0.5]
    )
    assert ours.ratio == 1
    assert authors.ratio == authors.ratio_low == authors.ratio_high == 3
    assert (timm.ratio, timm.ratio_low, timm.ratio_high) == pytest.approx((2, 2, 2.125))
    assert wrong.median_ms is None
    assert wrong.ratio is None
    verdict = judge([ours, authors, timm, other, wrong])
    assert (verdict.best, verdict.peer, verdict.authors) == (ours, timm, authors)  # the other computes something else


def test_without_peers_there_is_no_verdict_on_them():
    verdict = judge(rows_of(ours=[1.0]))
    assert verdict.best is not None
    assert verdict.peer is verdict.authors is None


def test_rows_fall_into_what_was_timed_together():
    rows = rows_of(ours=[1.0]) + rows_of("train", ours=[1.0])
    assert [[row.mode for row in part] for part in groups(rows)] == [["infer"] * 2, ["train"] * 2]


def test_the_summary_of_the_documentation():
    path = Path(__file__).parents[2] / "benchmarks" / "speed.py"
    spec = importlib.util.spec_from_file_location("speed_script", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    first = rows_of(ours=[1.0], authors=[3.0], timm=[2.0])
    second = [replace(row, model="b") for row in rows_of(ours=[1.0], authors=[12.0])]
    alone = [replace(row, model="c", batch=1) for row in rows_of(ours=[1.0])]
    lines = script.summary([*first, *second, *alone])
    titles = ["model", "batch", *script.TITLES]
    assert all(len(line) == len(titles) for line in lines)
    table = {(line[0], line[1]): dict(zip(titles, line)) for line in lines}
    assert table["model", "4"]["fastest peer"] == "timm eager"
    assert table["model", "4"]["times as fast (quartiles)"] == "2.00 (2.00 to 2.00)"
    assert table["model", "4"]["times as fast as authors' in eager (quartiles)"] == "3.00 (3.00 to 3.00)"
    assert table["c", "1"]["fastest peer"] == "none"
    means = table["geometric mean", "4"]
    assert means["times as fast as authors' in eager (quartiles)"] == "6.00"  # of 3 and 12
    assert means["of ceiling %"] == "40"
    assert table["geometric mean", "1"]["times as fast (quartiles)"] == ""
