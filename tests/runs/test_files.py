"""Files are there whole or not at all, whatever the disk says."""

import errno
import json
import os
import resource
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from allmlp.errors import InputError
from allmlp.runs import replacing, save_weights, write_json, write_text
from allmlp.runs.files import remove_leftovers


@pytest.fixture
def full_disk(monkeypatch):
    """Every sync to the disk says that it is full."""

    def refuse(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("allmlp.runs.files.os.fsync", refuse)


@pytest.fixture
def small_files():
    """The operating system refuses to let a file grow beyond 10,000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_the_new_contents_appear_at_the_end_only(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == tmp_path  # the same file system, so that replacing is one step
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_contents_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr("allmlp.runs.files.os.fsync", lambda descriptor: done.append("sync"))
    replace = os.replace
    monkeypatch.setattr("allmlp.runs.files.os.replace", lambda *paths: (done.append("replace"), replace(*paths)))
    write_text(tmp_path / "a.txt", "new")
    assert done == ["sync", "replace", "sync"]


def test_an_error_inside_leaves_everything_as_it_was(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_full_disk(tmp_path, full_disk):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(InputError, match=r"a\.txt; the disk is full \([\d,]+ bytes free\).*untouched.*Make room"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_refusal_in_the_middle_of_a_file(tmp_path, small_files):
    path = tmp_path / "model.safetensors"
    save_weights(path, {"w": torch.ones(10)})
    with pytest.raises(InputError, match="the system refused: File too large"):
        save_weights(path, {"w": torch.ones(10_000)})
    assert torch.equal(load_file(path)["w"], torch.ones(10))
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="the system refused: No such file or directory"):
        write_text(tmp_path / "no" / "a.txt", "new")


def test_json_takes_what_results_are_made_of(tmp_path):
    path = write_json(tmp_path / "a.json", {"array": np.eye(2), "number": np.float32(0.5), "path": tmp_path, "é": 1})
    assert json.loads(path.read_text()) == {"array": [[1, 0], [0, 1]], "number": 0.5, "path": str(tmp_path), "é": 1}
    with pytest.raises(TypeError, match="object cannot be written as JSON"):
        write_json(path, {"thing": object()})


def test_names_that_are_not_utf8_can_be_written(tmp_path):
    path = write_text(tmp_path / "a.txt", "\udcff.png")
    assert path.read_bytes() == b"\xff.png"


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    kept = [tmp_path / "model.safetensors", tmp_path / ".lock", tmp_path / "checkpoints" / "last.ckpt"]
    left = [tmp_path / ".model.safetensors.123.tmp", tmp_path / "checkpoints" / ".last.ckpt.123.tmp"]
    for path in kept + left:
        path.write_text("x")
    remove_leftovers(tmp_path)
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in left)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    path = tmp_path / "model.safetensors"
    with pytest.raises(InputError, match="finite weights to save; 1 tensors are not, b among them"):
        save_weights(path, {"a": torch.ones(2), "b": torch.tensor([1.0, value]), "n": torch.tensor(3)})
    assert not path.exists()


def test_shared_and_strided_tensors_are_saved_as_they_read(tmp_path):
    base = torch.arange(6.0).reshape(2, 3)
    state = {"a": base, "b": base, "t": base.T, "n": torch.tensor(7)}
    save_weights(tmp_path / "deep" / "w.safetensors", state)
    found = load_file(tmp_path / "deep" / "w.safetensors")
    assert {key: value.tolist() for key, value in found.items()} == {k: v.tolist() for k, v in state.items()}
