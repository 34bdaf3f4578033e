"""A run that was stopped and continued gives the same bits as one that was not, wherever it was stopped."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import allmlp
from allmlp.errors import InputError
from allmlp.tasks.callbacks import Keeper
from allmlp.tasks.checkpoint_io import read_training_state
from allmlp.tasks.classify import ClassifyTask
from tiny import BATCHES, assert_same_weights, history, train, weights, words

# Everything that is random or has a memory: order, augmentation, mixing, dropout, stochastic depth, momentum, averages,
# sums over an epoch, gradients that add up.
EVERYTHING = {
    "accumulate": 2,
    "lr": 0.01,
    "label_smoothing": 0.1,
    "ema": {"decay": 0.9},
    "augment": {"mixup": 0.2, "cutmix": 1.0, "mix_prob": 0.8, "erase": 0.2},
    "model.drop_rate": 0.1,
    "model.drop_path_rate": 0.2,
    "keep": "best",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of two epochs of five batches that was never stopped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("allmlp.figures.report.write_report", lambda path: path)
        return train(tmp_path_factory.mktemp("whole") / "run", **EVERYTHING).run


def stop_at(monkeypatch, hook, when):
    """Send this process SIGINT just before the keeper's `hook` when `when(module, batch_idx)` is true, once."""
    original = getattr(Keeper, hook)
    sent = []

    def wrapper(self, trainer, module, *rest):
        if not sent and when(module, rest[-1] if rest else None):
            sent.append(True)
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, trainer, module, *rest)

    monkeypatch.setattr(Keeper, hook, wrapper)


def assert_same_run(one, other):
    """Weights, kept weights, optimiser, averages and every number of every epoch."""
    assert_same_weights(one, other)
    assert history(one) == history(other)
    first, second = (read_training_state(run / "checkpoints" / "last.ckpt") for run in (one, other))
    for key in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=0)
    torch.testing.assert_close(first["allmlp"]["average"], second["allmlp"]["average"], rtol=0, atol=0)
    best = [(run / "checkpoints" / "best.safetensors").read_bytes() for run in (one, other)]
    assert best[0] == best[1]


# Batches that are done when the signal comes, of all epochs. With accumulate=2 the run stops after batches 2, 4 and 5
# of an epoch, the first of these that is not before the signal.
@pytest.mark.parametrize(("batch", "stopped_after"), [(1, 2), (2, 2), (5, 5), (7, 7), (8, 9), (10, 10)])
def test_stopped_in_training(tmp_path, monkeypatch, whole, batch, stopped_after):
    stop_at(monkeypatch, "on_train_batch_end", lambda module, _: module.progress.total_batch + 1 == batch)
    result = train(tmp_path / "run", **EVERYTHING)
    assert (result.interrupted, result.signum, result.metrics) == (True, signal.SIGINT, {})
    progress = read_training_state(tmp_path / "run" / "checkpoints" / "last.ckpt")["allmlp"]["progress"]
    assert progress["epoch"] * BATCHES + progress["batch"] == stopped_after
    assert not (tmp_path / "run" / "metrics.json").exists()
    result = allmlp.train(resume=tmp_path / "run")
    assert not result.interrupted
    assert_same_run(result.run, whole)


def test_stopped_in_evaluation(tmp_path, monkeypatch, whole):
    """The evaluation split is one batch; the run stops with all training batches done and none evaluated."""
    stop_at(monkeypatch, "on_validation_batch_end", lambda module, _: module.progress.epoch == 1)
    assert train(tmp_path / "run", **EVERYTHING).interrupted
    assert len(history(tmp_path / "run")) == 1
    assert_same_run(allmlp.train(resume=tmp_path / "run").run, whole)


def test_stopped_between_epochs(tmp_path, monkeypatch, whole):
    stop_at(monkeypatch, "on_train_epoch_end", lambda module, _: module.progress.epoch == 0)
    assert train(tmp_path / "run", **EVERYTHING).interrupted
    assert len(history(tmp_path / "run")) == 1
    assert_same_run(allmlp.train(resume=tmp_path / "run").run, whole)


def test_stopped_before_the_first_checkpoint(tmp_path, monkeypatch, whole, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(ClassifyTask, "open_data", lambda self: os.kill(os.getpid(), signal.SIGINT))
        assert train(tmp_path / "run", **{**EVERYTHING, "progress": "lines"}).interrupted
    assert os.listdir(tmp_path / "run") == ["recipe.yaml", "environment.json"]
    told = f"Stopped by SIGINT; nothing was trained yet. Go on with: allmlp train resume={tmp_path / 'run'}"
    assert told in capsys.readouterr().err
    assert_same_run(allmlp.train(resume=tmp_path / "run", progress="none").run, whole)


def test_stopped_after_the_last_epoch(tmp_path, monkeypatch, whole):
    """In the final evaluation a signal ends at once what is running; all epochs are on disk by then."""
    with monkeypatch.context() as patch:
        patch.setattr(ClassifyTask, "evaluate", lambda self, *_: os.kill(os.getpid(), signal.SIGTERM))
        result = train(tmp_path / "run", **EVERYTHING)
    assert (result.interrupted, result.signum) == (True, signal.SIGTERM)
    assert len(history(tmp_path / "run")) == 2
    result = allmlp.train(resume=tmp_path / "run")
    assert 0 <= result.metrics["top1"] <= 1
    assert_same_run(result.run, whole)


def test_stopped_again_and_again(tmp_path, monkeypatch, whole):
    """Every process gets one more step done."""
    train_more = lambda: allmlp.train(resume=tmp_path / "run")  # noqa: E731
    stop_at(monkeypatch, "on_train_batch_end", lambda module, _: True)
    result = train(tmp_path / "run", **EVERYTHING)
    stops = 0
    while result.interrupted:
        stops += 1
        monkeypatch.undo()
        monkeypatch.setattr("allmlp.figures.report.write_report", lambda path: path)
        stop_at(monkeypatch, "on_train_batch_end", lambda module, _: True)
        result = train_more()
    assert stops == 6
    assert_same_run(result.run, whole)


@pytest.mark.parametrize("workers", [0, 2])
def test_any_number_of_workers(tmp_path, monkeypatch, whole, workers):
    """Stopped with one number of data workers, continued with another."""
    stop_at(monkeypatch, "on_train_batch_end", lambda module, _: module.progress.total_batch + 1 == 7)
    assert train(tmp_path / "run", **EVERYTHING, **{"data.workers": workers}).interrupted
    assert multiprocessing.active_children() == []
    result = allmlp.train(resume=tmp_path / "run", **{"data.workers": 2 - workers})
    assert_same_run(result.run, whole)


def test_saving_by_the_clock_changes_nothing(tmp_path, whole):
    saving_always = train(tmp_path / "run", **{**EVERYTHING, "checkpoint_minutes": 1e-9})
    assert_same_run(saving_always.run, whole)


def test_another_seed_gives_other_weights(tmp_path, whole):
    """What the tests above compare is not equal by itself."""
    other = train(tmp_path / "run", **EVERYTHING, seed=1).run
    assert not torch.equal(weights(other)["stem.weight"], weights(whole)["stem.weight"])
    assert history(other) != history(whole)


# ---- what resume takes and refuses


def test_a_finished_run_is_left_alone(whole, capsys):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    result = allmlp.train(resume=whole, progress="lines")
    assert f"{whole} is finished: nothing to do." in capsys.readouterr().err
    assert result.metrics["epochs"] == 2
    assert len(result.history) == 2
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 3}, r"epochs would change the result\. Leave it out, or start a new run: .*init="),
        ({"lr": 0.5, "seed": 1}, "optim.lr, seed would change the result"),
        ({"model.args.depth": 3}, "model.args would change the result|model.args.depth would change the result"),
        ({"recipe": "small"}, r"leave out the recipe and out\. To start a new run from its weights, take init=RUN"),
        ({"out": "other"}, "leave out the recipe and out"),
        ({"epoch": 3}, "Unknown key 'epoch'"),
    ],
    ids=str,
)
def test_what_would_change_the_result_is_refused(whole, arguments, message):
    with pytest.raises(InputError, match=message):
        allmlp.train(resume=whole, **arguments)


def test_the_same_value_and_free_keys_are_taken(whole):
    allmlp.train(resume=whole, epochs="2", device="cpu", progress="none", **{"data.workers": "2"})


def test_runs_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match="Wanted a run folder; there is none at"):
        allmlp.train(resume=tmp_path / "nothing")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"with recipe\.yaml to go on with; .* has none\. Start anew from it: init="):
        allmlp.train(resume=tmp_path)


def test_a_truncated_checkpoint(tmp_path, monkeypatch, whole):
    stop_at(monkeypatch, "on_train_batch_end", lambda module, _: module.progress.total_batch + 1 == 7)
    train(tmp_path / "run", **EVERYTHING)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    contents = last.read_bytes()
    last.write_bytes(contents[: len(contents) // 2])
    with pytest.raises(
        InputError, match=r"last\.ckpt \([\d,]+ bytes\) is truncated.*Remove it to train that run again"
    ):
        allmlp.train(resume=tmp_path / "run")
    last.unlink()
    assert_same_run(allmlp.train(resume=tmp_path / "run").run, whole)


def test_a_checkpoint_that_wants_to_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    path = tmp_path / "last.ckpt"
    torch.save({"allmlp": Evil()}, path)
    with pytest.raises(InputError, match="not one"):
        read_training_state(path)
    assert not (tmp_path / "ran").exists()


# ---- from outside


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "allmlp", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def wait_for(path, process, seconds=120):
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_from_outside(tmp_path, number):
    """The process saves, says how to go on, exits with 128 + the signal's number, and shows no traceback."""
    run = tmp_path / "run"
    process = start("train", *words(run, "epochs=100000", "progress=lines"))
    wait_for(run / "metrics.csv", process)
    process.send_signal(number)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert out == ""
    assert "Traceback" not in error
    name = signal.Signals(number).name
    assert error.splitlines()[-1] == f"Stopped by {name}; its state is saved. Go on with: allmlp train resume={run}"
    assert read_training_state(run / "checkpoints" / "last.ckpt")["allmlp"]["progress"]["step"] > 0
    assert not (run / ".lock").exists()


def test_a_second_signal_ends_it_at_once(tmp_path, monkeypatch):
    """A person who asks twice does not want to wait for the batch."""

    def hang(self, *_):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("went on after the second signal")

    monkeypatch.setattr(Keeper, "on_train_batch_end", hang)
    result = train(tmp_path / "run")
    assert result.interrupted
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_handlers_of_the_caller_come_back(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    train(tmp_path / "run", epochs=1)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


_KILLED_WHILE_SAVING = """
import os, signal, sys
import allmlp.runs.files as files
replace, saved = os.replace, []
def kill_at_the_third(source, target):
    if str(target).endswith("last.ckpt"):
        saved.append(target)
        if len(saved) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
files.os.replace = kill_at_the_third
from allmlp.verbs._run import run_verb
run_verb("train", sys.argv[1:])
"""


def test_killed_while_saving(tmp_path, whole):
    """kill -9 between writing a checkpoint and giving it its name: the one before counts, and nothing is left over."""
    run = tmp_path / "run"
    recipe = [f"{key}={value}" for key, value in EVERYTHING.items() if not isinstance(value, dict)]
    recipe += [f"{group}.{key}={value}" for group in ("ema", "augment") for key, value in EVERYTHING[group].items()]
    arguments = words(run, *recipe, "checkpoint_minutes=1e-9")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", _KILLED_WHILE_SAVING, *arguments], check=False)
    assert done.returncode == -signal.SIGKILL
    left = [path.name for path in (run / "checkpoints").iterdir() if path.name.endswith(".tmp")]
    assert len(left) == 1
    assert (run / ".lock").exists()
    progress = read_training_state(run / "checkpoints" / "last.ckpt")["allmlp"]["progress"]
    assert (progress["epoch"], progress["batch"]) == (0, 4)
    allmlp.train(resume=run)
    assert_same_run(run, whole)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "best.safetensors",
        "last.ckpt",
        "last.safetensors",
    ]
