"""Numbers that are not finite, a full disk, a folder in use: nothing good is lost, and the message says what to do."""

import errno
import os
import re
import resource
import signal

import pytest
import torch

import allmlp
from allmlp.errors import InputError
from allmlp.recipes import load_recipe
from allmlp.runs import FolderLock, load_model
from allmlp.tasks.callbacks import Keeper
from allmlp.tasks.checkpoint_io import SafeCheckpointIO, read_training_state
from allmlp.tasks.classify import ClassifyTask
from allmlp.tasks.classify_module import ClassifyModule
from allmlp.verbs._run import run_verb
from tiny import assert_same_weights, history, train, weights, words

SETTINGS = {"ema.decay": 0.9, "checkpoint_minutes": 1e-9}  # a checkpoint after every batch


def break_batch(monkeypatch, number, how):
    """Make the loss of one batch of the run (counted over all epochs from 0) what `how` returns."""
    learn = ClassifyModule.learn

    def broken(self, batch):
        loss, sums = learn(self, batch)
        return (how(loss) if self.progress.total_batch == number else loss), sums

    monkeypatch.setattr(ClassifyModule, "learn", broken)


def stopped_after(monkeypatch, folder, batches):
    """The weights of the same run, stopped after so many batches."""
    with monkeypatch.context() as patch:
        end = Keeper.on_train_batch_end

        def stop(self, trainer, module, *rest):
            if module.progress.total_batch + 1 == batches:
                os.kill(os.getpid(), signal.SIGINT)
            return end(self, trainer, module, *rest)

        patch.setattr(Keeper, "on_train_batch_end", stop)
        run = train(folder, **SETTINGS).run
    return read_training_state(run / "checkpoints" / "last.ckpt")["allmlp"]["average"]


def images_of(run, epoch, batch):
    """The names of the images of one batch of a run."""
    task = ClassifyTask(load_recipe(run))
    task.open_data()
    return task.batch_names(epoch, batch, 0, 1)


@pytest.mark.parametrize(
    ("how", "what"),
    [
        (lambda loss: loss * torch.nan, "loss; in epoch 2, batch 3 it was nan"),
        (lambda loss: loss * torch.inf, "loss; in epoch 2, batch 3 it was inf"),
        (lambda loss: loss + 1e30 * (loss - loss.detach()) * 1e30, "gradient; in epoch 2, batch 3 it was (nan|inf)"),
    ],
    ids=["nan", "inf", "gradient"],
)
def test_numbers_that_are_not_finite(tmp_path, monkeypatch, how, what):
    """The run stops before they reach a weight; the batch is named; the weights before it are kept, also averaged."""
    good = stopped_after(monkeypatch, tmp_path / "stopped", 7)
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        break_batch(patch, 7, how)
        with pytest.raises(InputError, match=f"Wanted a finite {what}") as caught:
            train(run, **SETTINGS)
    message = str(caught.value)
    names = images_of(run, 1, 2)
    assert f"Its images: {', '.join(names[:8])} ... (256 images)." in message
    assert f"from the last good weights: allmlp train {run}/recipe.yaml init={run} lr=..." in message
    assert f"Kept: {run}/model.safetensors, {run}/checkpoints/last.ckpt" in message
    kept = weights(run)
    assert all(torch.equal(kept[key], value) for key, value in good.items())
    state = read_training_state(run / "checkpoints" / "last.ckpt")
    assert all(torch.equal(state["allmlp"]["average"][key], value) for key, value in good.items())
    # What the message says to type works.
    again = allmlp.train(run / "recipe.yaml", init=run, lr=1e-4, out=tmp_path / "again")
    assert len(again.history) == 2


def test_resuming_a_diverged_run_diverges_again(tmp_path, monkeypatch):
    """The same bits: going on cannot mend it, and must not hide it."""
    break_batch(monkeypatch, 7, lambda loss: loss * torch.nan)
    messages = []
    for arguments in ({"out": tmp_path / "run", **SETTINGS}, {"resume": tmp_path / "run"}):
        with pytest.raises(InputError, match="Wanted a finite loss") as caught:
            train(**arguments) if "out" in arguments else allmlp.train(**arguments)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_divergence_from_the_command_line(tmp_path, capsys):
    """A rate that no network survives: one paragraph, exit status 2, no traceback; the run's folder stays."""
    status = run_verb("train", words(tmp_path / "run", "lr=1e38", "optim.opt=momentum", "optim.clip=none"))
    out, told = capsys.readouterr()
    assert (status, out) == (2, "")
    assert re.match(r"allmlp train: Wanted a finite loss; in epoch \d, batch \d it was (nan|inf)\. Its images: ", told)
    assert len(told.splitlines()) == 1
    assert load_model(tmp_path / "run").network(torch.zeros(1, 3, 16, 16)).isfinite().all()


def test_weights_that_are_not_finite_never_become_a_checkpoint(tmp_path):
    writer = SafeCheckpointIO(tmp_path / "best.safetensors")
    good, bad = {"w": torch.ones(2)}, {"w": torch.tensor([1.0, torch.nan])}
    for state, average in ((bad, good), (good, bad)):
        writer.save_checkpoint({"state_dict": state, "allmlp": {"average": average}}, tmp_path / "last.ckpt")
        assert "1 tensors are not, w among them" in str(writer.failure)
        assert not (tmp_path / "last.ckpt").exists()
    writer.save_checkpoint({"state_dict": good, "allmlp": {"average": good}}, tmp_path / "last.ckpt")
    assert writer.failure is None
    assert torch.equal(read_training_state(tmp_path / "last.ckpt")["state_dict"]["w"], good["w"])


def test_a_checkpoint_never_knows_of_best_weights_that_are_not_there(tmp_path, monkeypatch):
    """They are written first; if that fails the old checkpoint stays, and they are written with the next."""
    writer = SafeCheckpointIO(tmp_path / "best.safetensors")
    checkpoint = {"state_dict": {}, "allmlp": {}}
    with monkeypatch.context() as patch:
        patch.setattr("allmlp.runs.files.os.fsync", _full)
        writer.best = {"w": torch.ones(2)}
        writer.save_checkpoint(checkpoint, tmp_path / "last.ckpt")
    assert "the disk is full" in str(writer.failure)
    assert list(tmp_path.iterdir()) == []
    writer.save_checkpoint(checkpoint, tmp_path / "last.ckpt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.safetensors", "last.ckpt"]
    assert writer.best is None


# ---- the disk


def _full(descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_disk_fills_while_saving(tmp_path, monkeypatch):
    """The last checkpoint before counts; with room again the run goes on to the same bits."""
    whole = train(tmp_path / "whole", **SETTINGS).run
    run, fsync, saved = tmp_path / "run", os.fsync, []

    def full_at_the_seventh(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(".tmp") and (run / "checkpoints").exists():
            saved.append(descriptor)
            if len(saved) > 6:
                _full(descriptor)
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("allmlp.runs.files.os.fsync", full_at_the_seventh)
        with pytest.raises(InputError, match=r"the disk is full .*What was there before is untouched\. Make room"):
            train(run, **SETTINGS)
    assert len(saved) > 6
    assert not [path for path in run.rglob("*") if path.name.endswith(".tmp")]
    assert read_training_state(run / "checkpoints" / "last.ckpt")["allmlp"]["progress"]["step"] >= 4
    assert_same_weights(allmlp.train(resume=run).run, whole)
    assert history(run) == history(whole)


def test_the_system_refuses_in_the_middle_of_a_checkpoint(tmp_path):
    """torch.save says something vague about its zip file; the person reads what the system said."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(InputError, match=r"Wanted to write .*last\.ckpt; the system refused: File too large"):
            train(tmp_path / "run", **SETTINGS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_report_that_cannot_be_drawn_loses_nothing(tmp_path, monkeypatch, capsys):
    def fail(path):
        raise RuntimeError("no ink")

    monkeypatch.setattr("allmlp.figures.report.write_report", fail)
    result = train(tmp_path / "run", progress="lines")
    assert result.metrics["epochs"] == 2
    assert (
        "report.html could not be drawn (RuntimeError: no ink); the run itself is complete." in capsys.readouterr().err
    )


# ---- the folder


def test_a_run_folder_in_use(tmp_path, monkeypatch):
    monkeypatch.setattr(ClassifyTask, "evaluate", lambda self, *_: os.kill(os.getpid(), signal.SIGINT))
    run = train(tmp_path / "run").run
    with FolderLock(run), pytest.raises(InputError, match=f"in use by process {os.getpid()} on "):
        allmlp.train(resume=run)
