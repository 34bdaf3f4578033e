"""Weights to disk and back, and a whole model from its folder."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from allmlp.convert import read_checkpoint
from allmlp.data import ImageSpec
from allmlp.errors import InputError
from allmlp.models import LoadReport, create_model
from allmlp.runs.files import replacing
from allmlp.runs.folder import RunFolder, open_run


@dataclass(frozen=True)
class SavedModel:
    """A model as a run folder holds it.

    network: in evaluation mode, on the CPU. spec: the images that it wants. classes: their names, a label is a place.
    name: as `create_model` takes it. task: classify, detect or segment. config: all of config.json.
    """

    network: nn.Module
    spec: ImageSpec
    classes: list[str]
    name: str
    task: str
    config: dict[str, Any]
    folder: RunFolder


def save_weights(path: str | Path, state: Mapping[str, Tensor]) -> None:
    """Write a state dict as safetensors, whole or not at all.

    Raises:
        InputError: numbers that are not finite, or the system refused.
    """
    from safetensors.torch import save

    broken = not_finite(state)
    if broken:
        raise InputError(f"Wanted finite weights to save; {len(broken)} tensors are not, {broken[0]} among them.")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Cloned, since the format holds no tensor that shares its memory with another.
    contents = save({key: value.detach().cpu().contiguous().clone() for key, value in state.items()})
    with replacing(path) as temporary:
        temporary.write_bytes(contents)


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Keys of tensors that hold a NaN or an infinity."""
    return [
        key
        for key, value in state.items()
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all())
    ]


def read_config(run: RunFolder) -> dict[str, Any]:
    """config.json of a run.

    Raises:
        InputError: none is there, or it is not one of ours.
    """
    if not run.config.is_file():
        raise InputError(
            f"Wanted a trained model; {run} has no config.json. If its training was stopped, go on: "
            f"allmlp train resume={run}"
        )
    try:
        config = json.loads(run.config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"Wanted JSON in {run.config}; it cannot be read: {error}.") from error
    if "allmlp" not in config or "model_args" not in config:
        raise InputError(
            f"Wanted a config.json that allmlp wrote; {run.config} is another program's. Make a run from the weights: "
            f"allmlp convert FILE model=NAME out=DIR"
        )
    return config


def load_model(path: str | Path) -> SavedModel:
    """The model of a run folder, ready to predict.

    Raises:
        InputError: no run there, no weights in it yet, or broken files.
    """
    run = open_run(path)
    config = read_config(run)
    if not run.weights.is_file():
        raise InputError(
            f"Wanted trained weights; {run} has no model.safetensors yet. Go on with it: allmlp train resume={run}"
        )
    own = config["allmlp"]
    arguments = dict(config["model_args"])
    network: nn.Module
    if own["task"] in ("detect", "segment"):
        from allmlp.runs.dense import rebuild_dense

        network = rebuild_dense(own["task"], arguments)
    else:
        network = create_model(own["name"], **arguments)
    state = read_checkpoint(run.weights)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{run.weights} does not fit {run.config}: {error}") from error
    spec = ImageSpec.from_pretrained_cfg(config["pretrained_cfg"])
    return SavedModel(network.eval(), spec, config["label_names"], own["name"], own["task"], config, run)


def report_as_json(report: LoadReport, source: str) -> dict[str, Any]:
    """A load report as init.json has it."""
    return {"source": source, **asdict(report)}
