"""Shared fixtures: the golden numbers, one thread, no network."""

import functools
import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch.set_num_threads(1)  # tiny tensors gain nothing from more, and tests may share the machine

# ALLMLP_GOLDENS overrides where the golden numbers lie; beside the project by default.
GOLDENS = Path(os.environ.get("ALLMLP_GOLDENS", Path(__file__).parents[2] / "shared" / "goldens"))


@dataclass
class Golden:
    """One golden case: its manifest, its arrays, and the weights and input that its rule makes."""

    case: str
    manifest: dict[str, Any]
    arrays: dict[str, np.ndarray]
    rule: ModuleType

    @functools.cached_property
    def _weights(self) -> dict[str, torch.Tensor]:
        return {key: torch.from_numpy(value) for key, value in self.rule.official_weights(self.manifest).items()}

    def weights(self) -> dict[str, torch.Tensor]:
        """The official state dict; a new dictionary each time, the tensors shared."""
        return dict(self._weights)

    def input(self) -> torch.Tensor:
        return torch.from_numpy(self.rule.official_input(self.manifest))

    def normal(self, seed: int, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.from_numpy(self.rule.normal(seed, shape))


@pytest.fixture(scope="session")
def golden():
    """A function from a case's name to its `Golden`; skips where the numbers are not there."""
    if not (GOLDENS / "weights.py").is_file():
        pytest.skip(f"no golden numbers at {GOLDENS}; set ALLMLP_GOLDENS to their folder")
    spec = importlib.util.spec_from_file_location("golden_weights", GOLDENS / "weights.py")
    rule = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rule)

    def load(case: str) -> Golden:
        manifest = json.loads((GOLDENS / f"{case}.json").read_text())
        with np.load(GOLDENS / f"{case}.npz") as file:
            arrays = {key: file[key] for key in file.files}
        return Golden(case, manifest, arrays, rule)

    return load


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def no_report(monkeypatch):
    """Training runs draw no report, which takes longer than the tiny runs of the tests themselves."""
    monkeypatch.setattr("allmlp.figures.report.write_report", lambda path: Path(path) / "report.html")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """A finished run of the tiny model on the digits, with everything in its folder; not to be changed."""
    from tiny import train

    changes = {"epochs": 6, "batch_size": 64, "lr": 0.01, "ema.decay": 0.9}
    return train(tmp_path_factory.mktemp("tiny") / "run", **changes).run
