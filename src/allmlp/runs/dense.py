"""From a recipe to a detector or segmenter, and what config.json says of it."""

import fnmatch
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timm import get_pretrained_cfg

from allmlp._version import __version__
from allmlp.convert import read_checkpoint
from allmlp.data import ImageSpec
from allmlp.data.dense_transforms import View
from allmlp.dense import Detector, Segmenter, create_detector, create_segmenter
from allmlp.errors import InputError
from allmlp.models import LoadReport, load_official
from allmlp.models._registry import PREFIX
from allmlp.recipes.schema import DataGroup, InferenceGroup, ModelGroup

_CREATE: dict[str, Any] = {"detect": create_detector, "segment": create_segmenter}
HEADS = {"detect": "mask_rcnn", "segment": "upernet"}
TASKS = tuple(_CREATE)


def create_dense(
    task: str, group: ModelGroup, num_classes: int, img_size: tuple[int, int] | None = None
) -> Detector | Segmenter:
    """The detector or segmenter that a recipe's `model` describes, with new weights.

    Args:
        task: "detect" or "segment".
        num_classes: classes of the data; `group.num_classes` may ask for more.
        img_size: the canvas of networks that have only one size, where `group.img_size` names none.

    Raises:
        InputError: unknown name or argument, fewer classes than the data has, or an impossible image size.
    """
    classes = group.num_classes or num_classes
    if classes < num_classes:
        raise InputError(
            f"model.num_classes: wanted at least the {num_classes} classes of the data; got {classes}. Leave it out."
        )
    given = {key: getattr(group, key) for key in ("drop_rate", "drop_path_rate", "in_chans") if getattr(group, key)}
    size = group.img_size or img_size
    return _CREATE[task](
        group.head or HEADS[task], group.name, classes, group.size, img_size=size, **given, **group.args
    )


def rebuild_dense(task: str, arguments: Mapping[str, Any]) -> Detector | Segmenter:
    """The network of these arguments, as config.json has them."""
    return _CREATE[task](**{key: value for key, value in arguments.items() if key != "pretrained"})


def dense_spec(network: Detector | Segmenter, group: ModelGroup, data: DataGroup, view: View) -> ImageSpec:
    """Channels and normalisation of a network's images; the size is what its canvas or the view asks for."""
    height, width = network.canvas or (view.short_side, view.short_side)
    name = group.name.removeprefix("timm/") if group.name.startswith("timm/") else PREFIX + group.name
    cfg = get_pretrained_cfg(name)
    changes = {key: getattr(data, key) for key in ("mean", "std") if getattr(data, key) is not None}
    known = {} if cfg is None else {"mean": cfg.mean, "std": cfg.std}
    return ImageSpec.from_pretrained_cfg(known, height=height, width=width, channels=group.in_chans or 3, **changes)


def dense_config(
    network: Detector | Segmenter,
    task: str,
    group: ModelGroup,
    spec: ImageSpec,
    view: View,
    inference: InferenceGroup,
    classes: Sequence[str],
) -> dict[str, Any]:
    """What config.json says: how the network is built again, and how it sees images."""
    names = [*classes, *(f"class {index}" for index in range(len(classes), network.num_classes))]
    return {
        "architecture": network.arguments["name"],
        "num_classes": network.num_classes,
        "label_names": names,
        "model_args": network.arguments,
        "pretrained_cfg": spec.to_dict(),
        "allmlp": {
            "version": __version__,
            "task": task,
            "name": group.name,
            "classes": list(classes),
            "view": vars(view),
            "inference": inference.model_dump(),
        },
    }


def view_of(config: Mapping[str, Any], data: DataGroup | None = None) -> View:
    """The size at which a saved network sees images; `data` may name other bounds."""
    bounds = {} if data is None else {"short_side": data.short_side, "long_side": data.long_side}
    return View(**config["allmlp"]["view"] | {key: side for key, side in bounds.items() if side is not None})


def start_dense(network: Detector | Segmenter, init: str, reinit: Sequence[str], classes: Sequence[str]) -> LoadReport:
    """Load the weights of a run or file into a new network.

    A file of a whole detector or segmenter goes into all of it, its last layers anew if its classes are others. A file
    of a classifier, or of a dense model of another kind, goes into the backbone.

    Raises:
        InputError: no such file, another architecture, or tensors that do not fit.
    """
    state = read_checkpoint(init)
    own = network.state_dict()
    whole = len(own.keys() & state.keys()) > len(own) // 2 or any(layout.detect(state) for layout in network.layouts)
    if not whole:
        report = load_official(network.backbone, state, reinit)
        report.reinitialised = [f"backbone.{key}" for key in report.reinitialised]
        report.reinitialised += [key for key in own if not key.startswith("backbone.")]
        report.notes.append("the backbone alone starts from this file; neck and heads are new")
        return report
    last = [key for key in own if any(fnmatch.fnmatch(key, pattern) for pattern in network.class_layers)]
    known = _classes_of(Path(init))
    anew = known is not None and known != list(classes)
    if not anew:
        from allmlp.models._loading import match_checkpoint

        found = match_checkpoint(network, dict(state)).tensors
        anew = any(found[key].shape != own[key].shape for key in last if key in found)
    return load_official(network, state, reinit=(*reinit, *(network.class_layers if anew else ())))


def _classes_of(path: Path) -> list[str] | None:
    """The class names of a run, or None for a mere file."""
    config = (path if path.is_dir() else path.parent) / "config.json"
    try:
        return json.loads(config.read_text(encoding="utf-8")).get("allmlp", {}).get("classes")
    except (OSError, ValueError):
        return None
