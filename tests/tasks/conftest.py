"""Runs of these tests draw no report; tests/figures draws one."""

import pytest


@pytest.fixture(autouse=True)
def _quick(no_report):
    pass
