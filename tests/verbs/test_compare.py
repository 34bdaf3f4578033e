"""Comparisons: one recipe, several models and seeds, one table; a failing member and an interruption lose nothing."""

import csv
import json
import os
import signal

import pytest

import allmlp
import allmlp.verbs
import tiny
from allmlp.errors import InputError
from allmlp.figures.comparison import pareto_front
from allmlp.metrics.cost import count_macs, count_parameters
from allmlp.verbs._run import run_verb
from allmlp.verbs.compare import Member

RECIPE = {**tiny.RECIPE, "epochs": 1, "img_size": 16}
MODELS = ["lenet5", "plain_mlp"]


def compare(out, **changes):
    return allmlp.compare(out=out, **{"models": MODELS, "seeds": 2, **RECIPE, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return compare(tmp_path_factory.mktemp("compare") / "out")


def test_every_member_is_trained_with_every_seed(finished):
    runs = {str(path.parent.relative_to(finished.folder)) for path in finished.folder.rglob("metrics.json")}
    assert runs == {f"{name}/seed-{seed}" for name in MODELS for seed in range(2)}
    for member in finished.members:
        found = [
            json.loads((finished.folder / member.model / f"seed-{seed}" / "metrics.json").read_text())
            for seed in (0, 1)
        ]
        assert member.scores == [one["top1"] for one in found]
        assert len({one["top1"] for one in found} | {one["loss"] for one in found}) > 1
        assert member.score == pytest.approx(sum(member.scores) / 2)
        network = allmlp.create_model(member.model, num_classes=10, img_size=16)
        assert member.parameters == count_parameters(network)
        assert member.macs == count_macs(network, (3, 16, 16))
        assert member.images_per_second > 0
        assert member.cpu_seconds > 0
    assert [member.group for member in finished.members] == ["convolution", "MLP"]


def test_files(finished):
    with open(finished.folder / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["group"] for row in rows] == ["MLP", "convolution"]
    assert [row["model"] for row in rows] == ["plain_mlp", "lenet5"]
    assert (finished.folder / "table.md").read_text().count("\n") == 4
    assert (finished.folder / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads((finished.folder / "compare.json").read_text())) == 2


def test_going_on_with_a_finished_one_trains_nothing(finished):
    times = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("model.safetensors")}
    again = allmlp.compare(resume=finished.folder, progress="none")
    assert [member.scores for member in again.members] == [member.scores for member in finished.members]
    assert times == {path: path.stat().st_mtime_ns for path in finished.folder.rglob("model.safetensors")}


def test_judged_on_other_data_too(finished, tmp_path):
    digits = allmlp.verbs.data("digits", out=tmp_path / "digits", progress="none")
    again = allmlp.compare(resume=finished.folder, also=digits.folder, progress="none")
    # The same held-out digits, from files: the same score.
    assert [member.also for member in again.members] == [member.scores for member in finished.members]
    with open(finished.folder / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["on other data %"] for row in rows] == [row["top1 median %"] for row in rows]


def test_a_failing_member_does_not_end_the_others(tmp_path, capsys):
    words = [f"{key}={value}" for key, value in RECIPE.items()]
    status = run_verb("compare", ["models=repmlpnet_nano,lenet5", "seeds=1", *words, f"out={tmp_path / 'out'}"])
    printed = capsys.readouterr().out
    assert status == 1
    assert "repmlpnet_nano, seed 0: InputError: " in printed
    assert "failed" in printed
    assert (tmp_path / "out/lenet5/seed-0/metrics.json").is_file()


def test_a_stopped_one_goes_on(tmp_path, monkeypatch):
    from allmlp.tasks.classify_module import ClassifyModule

    learn = ClassifyModule.learn
    calls = []

    def stop_at_seventh(self, batch):
        calls.append(1)
        if len(calls) == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return learn(self, batch)

    monkeypatch.setattr(ClassifyModule, "learn", stop_at_seventh)
    stopped = compare(tmp_path / "out", seeds=1)
    assert stopped.interrupted
    assert stopped.signum == signal.SIGINT
    done = allmlp.compare(resume=tmp_path / "out", progress="none")
    assert not done.interrupted
    assert [len(member.scores) for member in done.members] == [1, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": []}, "models=NAME"),
        ({"seeds": 0}, "at least one seed"),
        ({"models": ["mixer_nanno"]}, "mixer_nano"),
        ({"models": ["timm/resnet5o"]}, "resnet50"),
        ({"epochz": 3}, "epochs"),
    ],
)
def test_wrong_words(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        compare(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_an_error_that_says_how_to_go_on(finished):
    with pytest.raises(InputError, match="resume="):
        compare(finished.folder)
    with pytest.raises(InputError, match=r"members\.json"):
        allmlp.compare(resume=finished.folder.parent)


def test_median_of_no_scores_is_none():
    assert Member("x").score is None
    assert Member("x", scores=[0.1, 0.9, 0.2]).score == 0.2


def test_pareto_front():
    points = [(3.0, 0.9), (1.0, 0.5), (2.0, 0.4), (1.0, 0.6), (4.0, 0.9), (5.0, 0.95)]
    assert pareto_front(points) == [3, 0, 5]
