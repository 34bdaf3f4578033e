"""Detection and segmentation runs of seconds: a tiny AS-MLP on a few scenes of 64 pixels."""

from pathlib import Path
from typing import Any

import allmlp
from allmlp.verbs.train import RunResult

SIZE = 64
DETECTOR = {"channels": 16, "rpn": {"test_proposals": 20}, "roi": {"box_hidden": 16, "mask_convs": 1, "detections": 9}}
BODY = {"embed_dim": 8, "depths": [1, 1, 1, 1]}


def recipe(task: str, **changes: Any) -> dict[str, Any]:
    """The keys of a tiny run."""
    arguments = {**BODY, **(DETECTOR if task == "detect" else {})}
    keys: dict[str, Any] = {
        "task": task,
        "model": {"name": "as_mlp_nano", "img_size": SIZE, "args": arguments},
        "data": {"train_scenes": 8, "val_scenes": 4, "scene_size": SIZE},
        "epochs": 2,
        "batch_size": 4,
        "schedule.warmup_steps": 1,
        "device": "cpu",
        "progress": "none",
        "loggers": [],
    }
    return {**keys, **changes}


def train(out: Path, task: str, **changes: Any) -> RunResult:
    """Train into a folder."""
    return allmlp.train(out=out, **recipe(task, **changes))
