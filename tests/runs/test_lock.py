"""One process at a time works in a run folder, and a dead one holds nothing."""

import os
import subprocess
import sys

import pytest

from allmlp.errors import InputError
from allmlp.runs import FolderLock

_HOLD = """
import pathlib, sys
from allmlp.runs import FolderLock
assert "torch" not in sys.modules
with FolderLock(pathlib.Path(sys.argv[1])):
    (pathlib.Path(sys.argv[1]) / ".half.tmp").write_text("half")
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `tmp_path` until its standard input is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_another_process_is_told_who_holds_it(tmp_path, holder):
    with pytest.raises(InputError, match=f"in use by process {holder.pid} on .*out=..."), FolderLock(tmp_path):
        pass
    assert (tmp_path / ".half.tmp").exists()  # somebody is still writing it


def test_it_is_free_once_the_holder_is_done(tmp_path, holder):
    holder.communicate()
    assert holder.returncode == 0
    with FolderLock(tmp_path):
        assert (tmp_path / ".lock").exists()
    assert not (tmp_path / ".lock").exists()


def test_it_dies_with_its_process(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert {".lock", ".half.tmp"} <= set(os.listdir(tmp_path))
    with FolderLock(tmp_path):
        assert not (tmp_path / ".half.tmp").exists()
    assert os.listdir(tmp_path) == []


def test_the_same_process_cannot_take_it_twice(tmp_path):
    with FolderLock(tmp_path):
        with pytest.raises(InputError, match=f"in use by process {os.getpid()}"), FolderLock(tmp_path):
            pass
        assert (tmp_path / ".lock").exists()
    with FolderLock(tmp_path):
        pass
