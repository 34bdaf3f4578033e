"""`allmlp benchmark`: files, table, figures, errors. No time is ever asserted."""

import csv
import io
import json

import pytest
from PIL import Image
from rich.console import Console

import allmlp
from allmlp.errors import InputError
from allmlp.speed import ceiling
from allmlp.speed.results import Row
from allmlp.verbs import verb_module
from allmlp.verbs._run import run_verb

QUICK = {"rounds": 2, "seconds": 1e-4, "memory": False, "progress": "none", "backend": "eager", "threads": 1}


@pytest.fixture(autouse=True)
def _small_ceiling(monkeypatch):
    monkeypatch.setattr(ceiling, "SHAPES", ((64, 64, 64),))
    monkeypatch.setattr(ceiling, "TURN_SECONDS", 1e-3)


def test_files_of_a_benchmark(tmp_path):
    result = allmlp.benchmark("mixer_nano", batch=(1, 2), out=tmp_path / "b", **QUICK)
    names = [(row.form, row.batch) for row in result.rows]
    assert names == [(form, batch) for batch in (1, 2) for form in ("ours", "authors", "timm")]
    assert all(row.median_ms > 0 and row.p95_ms >= row.median_ms and row.rounds == 2 for row in result.rows)
    assert all(row.difference < 1e-4 for row in result.rows)
    assert min(row.ratio for row in result.rows if row.own) == 1
    with open(tmp_path / "b" / "results.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(line["median_ms"]) for line in table] == [row.median_ms for row in result.rows]
    report = json.loads((tmp_path / "b" / "results.json").read_text())
    assert [Row(**row) for row in report["rows"]] == result.rows
    assert report["settings"]["threads"] == report["machine"]["threads"] == 1
    assert report["settings"]["ceiling_shape"] == [64, 64, 64]
    assert "torch" in report["versions"]
    with Image.open(tmp_path / "b" / "speed.png") as figure:
        assert min(figure.size) > 100
    assert not (tmp_path / "b" / "resolution.png").exists()


def test_what_is_shown(tmp_path):
    result = allmlp.benchmark("repmlpnet_nano", batch=1, out=tmp_path / "b", **QUICK)
    screen = Console(width=160, file=io.StringIO())
    screen.print(verb_module("benchmark").show(result))
    text = screen.file.getvalue()
    for words in (
        "repmlpnet_nano, infer, batch 1, 32 x 32",
        "authors_unmerged",
        "times as fast as authors eager",
        "torch",
    ):
        assert words in text


def test_macs_of_the_unfolded_model_count(tmp_path):
    from allmlp.metrics.cost import count_macs

    rows = allmlp.benchmark("repmlpnet_nano", batch=1, out=tmp_path / "b", **QUICK).rows
    assert {row.macs for row in rows} == {count_macs(allmlp.create_model("repmlpnet_nano"), (3, 32, 32))}


def test_several_sizes_make_a_figure_of_their_cost(tmp_path):
    result = allmlp.benchmark("mixer_nano", batch=1, img_size=(16, 32), against="none", out=tmp_path / "b", **QUICK)
    assert [(row.model, row.height) for row in result.rows] == [("mixer_nano", 16), ("mixer_nano", 32)]
    assert (tmp_path / "b" / "resolution.png").is_file()


def test_training(tmp_path):
    result = allmlp.benchmark("resmlp_nano", mode="train", batch=2, out=tmp_path / "b", **QUICK)
    assert [(row.form, row.mode, row.problem) for row in result.rows] == [
        (form, "train", "") for form in ("ours", "authors", "timm")
    ]


def test_a_run_is_measured_with_its_own_weights(tiny_run, tmp_path):
    result = allmlp.benchmark(tiny_run, batch=3, out=tmp_path / "b", **QUICK)
    assert [row.form for row in result.rows] == ["ours", "authors", "timm"]
    assert {(row.height, row.problem) for row in result.rows} == {(16, "")}


def test_a_model_of_timms_has_itself_only(tmp_path):
    (row,) = allmlp.benchmark("timm/resnet10t", batch=1, img_size=32, out=tmp_path / "b", **QUICK).rows
    assert (row.form, row.own, row.height) == ("timm", True, 32)


def test_an_interruption_keeps_what_is_finished(tmp_path, monkeypatch):
    from allmlp.speed import rounds

    real, calls = rounds.run_rounds, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(rounds, "run_rounds", interrupted)
    result = allmlp.benchmark("mixer_nano", batch=(1, 2, 3), out=tmp_path / "b", **QUICK)
    assert result.interrupted
    assert {row.batch for row in result.rows} == {1}
    assert verb_module("benchmark").status(result) == 130
    assert len((tmp_path / "b" / "results.csv").read_text().splitlines()) == 1 + 3


def test_words_of_the_command_line(tmp_path, capsys):
    words = ["mixer_nano", "batch=1,2", "backend=eager", "against=timm", "rounds=1", "seconds=0.001", "memory=false"]
    assert run_verb("benchmark", [*words, "progress=none", f"out={tmp_path / 'b'}"]) == 0
    assert "times as fast as timm eager" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("models", "changes", "message"),
    [
        ([], {}, "at least one model"),
        (["mixer_nono"], {}, "mixer_nano"),
        (["timm/no_such_net"], {}, "timm model"),
        (["mixer_nano"], {"backend": "tensorrt"}, "eager, compile, onnxruntime, openvino, pt2"),
        (["mixer_nano"], {"backend": "onnxruntime", "mode": "train"}, "eager, compile with mode=train"),
        (["mixer_nano"], {"mode": "fly"}, "infer or train"),
        (["mixer_nano"], {"batch": 0}, "batch: wanted"),
        (["mixer_nano"], {"batch": (8, -1)}, "batch: wanted"),
        (["mixer_nano"], {"img_size": 0}, "img_size: wanted"),
        (["mixer_nano"], {"rounds": 0}, "rounds: wanted"),
        (["mixer_nano"], {"seconds": 0}, "seconds: wanted"),
        (["mixer_nano"], {"threads": 0}, "threads: wanted"),
        (["mixer_nano"], {"img_size": 33}, "33"),
        (["vip_s7"], {"against": "authors"}, "there is none"),
        (["ff_nano"], {"against": ["timm"]}, "authors"),
        (["timm/resnet10t"], {"against": "authors"}, "there is none"),
        (["mixer_nano"], {"against": "no_such_peer"}, "no_such_peer"),
    ],
)
def test_bad_input(tmp_path, models, changes, message):
    with pytest.raises(InputError, match=message):
        allmlp.benchmark(*models, **{**QUICK, "batch": 1, "out": tmp_path / "b", **changes})


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    module = verb_module("benchmark")
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "openvino" else object())
    with pytest.raises(InputError, match=r"openvino, which is not installed.*allmlp\[export\]"):
        allmlp.benchmark("mixer_nano", **{**QUICK, "backend": "openvino"}, out=tmp_path / "b")
    assert module._backends(None, "infer") == ["eager", "onnxruntime"]


def test_an_existing_folder_is_left_alone(tmp_path):
    with pytest.raises(InputError, match="exists"):
        allmlp.benchmark("mixer_nano", batch=1, out=tmp_path, **QUICK)
