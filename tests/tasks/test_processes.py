"""Two training processes on one machine: the same weights as one, one writer, and no process left waiting."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from allmlp.tasks.checkpoint_io import read_training_state
from tiny import assert_same_weights, history, train, weights, words

pytestmark = pytest.mark.slow

# No mixing and no dropout: those draw anew in every process. No Adam: it makes whole steps of rounding errors where a
# gradient is nearly nothing.
SETTINGS = {"optim.opt": "momentum", "lr": 0.1, "ema.decay": 0.9, "augment.erase": 0.2}

# Runs the command line after a change to the training step; Lightning starts the second process from the same file.
_SCRIPT = """
import os, signal, sys
import allmlp.figures.report as report
from allmlp.tasks.classify_module import ClassifyModule
from allmlp.verbs._run import run_verb
report.write_report = lambda path: path
learn = ClassifyModule.learn
def changed(self, batch):
    loss, sums = learn(self, batch)
    if self.progress.total_batch == 7 and self.global_rank == 1:
        {change}
    return loss, sums
ClassifyModule.learn = changed
sys.exit(run_verb("train", sys.argv[1:]))
"""


def run(tmp_path: Path, arguments: list[str], change: str = "pass") -> subprocess.CompletedProcess[str]:
    """Train in two processes; `change` is done by the second one at batch 8 of the run."""
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT.format(change=change))
    env = {**os.environ, "TMPDIR": str(tmp_path / "scratch"), "OMP_NUM_THREADS": "1"}
    (tmp_path / "scratch").mkdir(exist_ok=True)
    command = [sys.executable, "-W", "ignore", str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300, check=False)


def two(out: Path) -> list[str]:
    recipe = [f"{key}={value}" for key, value in SETTINGS.items()]
    return words(out, *recipe, "devices=2", "strategy=ddp", "progress=lines")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A run of two processes."""
    folder = tmp_path_factory.mktemp("pair")
    done = run(folder, two(folder / "run"))
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_two_processes_train_what_one_does(pair, tmp_path, no_report):
    one = train(tmp_path / "one", **SETTINGS).run
    first, second = weights(one), weights(pair)
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=1e-4, atol=1e-6)
    for mine, theirs in zip(history(one), history(pair), strict=True):
        assert float(theirs["train_loss"]) == pytest.approx(float(mine["train_loss"]), rel=1e-5)
        assert float(theirs["val_top1"]) == pytest.approx(float(mine["val_top1"]), abs=2 / 360)


def test_nothing_of_the_second_process_is_left(pair):
    assert [path for path in (pair.parent / "scratch").iterdir() if path.name.startswith("allmlp-")] == []
    assert not (pair / ".lock").exists()


def test_a_signal_to_one_of_them_stops_both_and_they_go_on_to_the_same_bits(pair, tmp_path):
    out = tmp_path / "run"
    done = run(tmp_path, [*two(out)], "os.kill(os.getpid(), signal.SIGTERM)")
    assert done.returncode == 128 + signal.SIGINT, done.stderr
    assert f"its state is saved. Go on with: allmlp train resume={out}" in done.stderr
    assert read_training_state(out / "checkpoints" / "last.ckpt")["allmlp"]["progress"]["epoch"] == 1
    done = run(tmp_path, [f"resume={out}"])
    assert done.returncode == 0, done.stderr
    assert_same_weights(out, pair)
    assert history(out) == history(pair)


def test_a_loss_that_is_not_finite_in_one_of_them_ends_both(tmp_path):
    done = run(tmp_path, two(tmp_path / "run"), "loss = loss * float('nan')")
    assert done.returncode == 2
    assert "Wanted a finite loss; in epoch 2, batch 3 it was" in done.stderr
    assert "Its images: digits/" in done.stderr
    assert (tmp_path / "run" / "model.safetensors").exists()
