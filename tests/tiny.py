"""A training run of a second: a Mixer of 2,000 parameters on the embedded digits at 16 pixels."""

import csv
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import allmlp
from allmlp.verbs.train import RunResult

SIZE = 16
ARGS = {"embed_dim": 16, "depth": 2, "tokens_mlp_dim": 8, "channels_mlp_dim": 16}
MODEL = {"name": "mixer_nano", "img_size": SIZE, "args": ARGS}
RECIPE: dict[str, Any] = {
    "data": "digits",
    "epochs": 2,
    "batch_size": 256,
    "device": "cpu",
    "progress": "none",
    "loggers": [],
    "checkpoint_minutes": 1e9,
}
BATCHES = 5  # of 256 in the 1,437 training images


def train(out: Path, **changes: Any) -> RunResult:
    """Train the tiny model into a folder."""
    return allmlp.train(out=out, **{"model": MODEL, **RECIPE, **changes})


def words(out: Path, *more: str) -> list[str]:
    """The same for a command line."""
    model = [f"model.args.{key}={value}" for key, value in ARGS.items()]
    recipe = [f"{key}={value}" for key, value in RECIPE.items()]
    return ["model=mixer_nano", f"img_size={SIZE}", *model, *recipe, f"out={out}", *more]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The saved weights of a run."""
    return load_file(Path(run) / "model.safetensors")


def history(run: Path, timed: bool = False) -> list[dict[str, str]]:
    """The rows of metrics.csv; without `timed` only what must be equal whenever the recipe is."""
    with open(Path(run) / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return rows if timed else [{k: v for k, v in row.items() if k not in _TIMES} for row in rows]


_TIMES = ("seconds", "images_per_second")


def assert_same_weights(one: Path, other: Path) -> None:
    """Every tensor of two runs is equal, bit for bit."""
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []
