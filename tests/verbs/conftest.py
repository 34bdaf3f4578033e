"""A run that may be written into."""

import shutil

import pytest


@pytest.fixture
def run(tiny_run, tmp_path):
    """A copy of the tiny run's folder."""
    return shutil.copytree(tiny_run, tmp_path / "run")
