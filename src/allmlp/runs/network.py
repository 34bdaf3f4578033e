"""From a recipe to a network: build it, start it from other weights, say what it is and what images it wants."""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from allmlp._version import __version__
from allmlp.convert import read_checkpoint
from allmlp.data import ImageSpec
from allmlp.errors import InputError
from allmlp.models import LoadReport, create_model, load_official
from allmlp.models._base import AllMlpModel
from allmlp.models._loading import match_checkpoint
from allmlp.models._registry import PREFIX, entry
from allmlp.recipes.schema import DataGroup, ModelGroup


def create_network(group: ModelGroup, num_classes: int | None = None) -> nn.Module:
    """The classifier that a recipe's `model` describes, with new weights.

    Args:
        num_classes: classes of the data, if there is any; `group.num_classes` may ask for more. Without both, the
            model's own number.

    Raises:
        InputError: unknown name or argument, fewer classes than the data has, or an impossible image size.
    """
    classes = group.num_classes or num_classes
    if classes is not None and num_classes is not None and classes < num_classes:
        raise InputError(
            f"model.num_classes: wanted at least the {num_classes} classes of the data; got {classes}. Leave it out."
        )
    # Rates of 0 are every constructor's default, and not every constructor knows every rate.
    rates = {key: getattr(group, key) for key in ("drop_rate", "drop_path_rate") if getattr(group, key)}
    network = create_model(
        group.name, num_classes=classes, img_size=group.img_size, in_chans=group.in_chans, **rates, **group.args
    )
    if group.head_bias is not None:
        head: Any = classifier(network)
        nn.init.constant_(head.bias, group.head_bias)
    return network


def classifier(network: Any) -> nn.Module:
    """The layer that gives the logits.

    Raises:
        InputError: the network does not say which it is.
    """
    found = network.get_classifier() if hasattr(network, "get_classifier") else None
    if not isinstance(found, nn.Module):
        raise InputError(f"Wanted a network with one classifier layer; {type(network).__name__} names none.")
    return found


def config_of(network: nn.Module) -> Mapping[str, Any]:
    """timm's `pretrained_cfg` of a network, empty if it has none."""
    cfg = getattr(network, "pretrained_cfg", None) or {}
    return cfg if isinstance(cfg, Mapping) else cfg.to_dict()


def input_size(network: nn.Module, group: ModelGroup) -> tuple[int, int, int]:
    """(channels, height, width) of the images that a network is to see."""
    arguments = getattr(network, "arguments", {})
    channels, *size = config_of(network).get("input_size") or (3, 224, 224)
    if "img_size" in arguments:
        size = arguments["img_size"]
    elif group.img_size is not None:
        size = group.img_size
    elif not group.name.startswith("timm/"):
        size = entry(group.name).img_size
    channels = arguments.get("in_chans") or group.in_chans or channels
    return int(channels), int(size[0]), int(size[1])


def image_spec(network: nn.Module, model: ModelGroup, data: DataGroup) -> ImageSpec:
    """Size and normalisation of a network's images: the recipe's, where it says nothing the model's own.

    Raises:
        InputError: numbers that do not fit together.
    """
    channels, height, width = input_size(network, model)
    changes: dict[str, Any] = {"channels": channels, "height": height, "width": width}
    for key in ("crop_pct", "crop_mode", "interpolation", "mean", "std"):
        if getattr(data, key) is not None:
            changes[key] = getattr(data, key)
    cfg = {key: value for key, value in config_of(network).items() if key != "input_size"}
    if channels not in (1, 3):  # numbers for colours say nothing of other bands
        cfg = {**cfg, "mean": 0.5, "std": 0.5}
    return ImageSpec.from_pretrained_cfg(cfg, **changes)


def model_config(
    network: nn.Module, group: ModelGroup, spec: ImageSpec, classes: Sequence[str], task: str
) -> dict[str, Any]:
    """What config.json says: timm's hub layout, and under "allmlp" what is ours.

    `timm.create_model("local-dir:RUN", pretrained=True)` reads it.
    """
    arguments: Any = getattr(network, "arguments", group.args)
    count = arguments.get("num_classes") or group.num_classes or len(classes)
    names = [*classes, *(f"class {index}" for index in range(len(classes), count))]
    # The file lies beside config.json: nothing here points at another one.
    pretrained_cfg = {
        **{key: value for key, value in config_of(network).items() if key in ("first_conv", "classifier", "license")},
        **spec.to_dict(),
        "num_classes": count,
        "fixed_input_size": bool(getattr(network, "size_bound", config_of(network).get("fixed_input_size"))),
        "pool_size": None,
    }
    return {
        "architecture": _timm_name(group.name),
        "num_classes": count,
        "num_features": getattr(network, "num_features", None),
        "label_names": names,
        "model_args": {**arguments, "num_classes": count},
        "pretrained_cfg": pretrained_cfg,
        "allmlp": {"version": __version__, "task": task, "name": group.name, "classes": list(classes)},
    }


def _timm_name(name: str) -> str:
    return name.removeprefix("timm/") if name.startswith("timm/") else PREFIX + name


def start_from(
    network: nn.Module, group: ModelGroup, init: str, reinit: Sequence[str], classes: Sequence[str]
) -> LoadReport:
    """Load the weights of a run or file into a new network; the classifier starts anew if its classes are others.

    Args:
        init: a run folder, an official file, or one of timm's.
        reinit: shell patterns of more tensors that start anew.
        classes: of the new data.

    Raises:
        InputError: no such file, another architecture, or tensors that do not fit.
    """
    state = read_checkpoint(init)
    known = _classes_of(Path(init))
    anew = known is not None and list(known) != list(classes)
    if isinstance(network, AllMlpModel):
        if not anew:
            found = match_checkpoint(network, dict(state)).tensors
            anew = any(found[key].shape != value.shape for key, value in _head_state(network).items() if key in found)
        return load_official(network, state, reinit=(*reinit, *(["head.*"] if anew else [])))
    return _load_plain(network, state, reinit, anew, f"{group.name} from {init}")


def _classes_of(path: Path) -> list[str] | None:
    """The class names of a run, or None for a mere file."""
    import json

    config = (path if path.is_dir() else path.parent) / "config.json"
    with contextlib.suppress(OSError, ValueError):
        return json.loads(config.read_text(encoding="utf-8")).get("allmlp", {}).get("classes")
    return None


def _head_state(network: AllMlpModel) -> dict[str, Tensor]:
    return {key: value for key, value in network.state_dict().items() if key.startswith("head.")}


def _load_plain(
    network: nn.Module, state: dict[str, Tensor], reinit: Sequence[str], anew: bool, what: str
) -> LoadReport:
    """Load into a model of timm's: through its own filter, the classifier anew where it does not fit."""
    import fnmatch

    own = network.state_dict()
    adapt = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if adapt is not None and any(key not in state or state[key].shape != own[key].shape for key in own):
        state = dict(adapt(state, network))
    head = config_of(network).get("classifier") or ""
    heads = [head] if isinstance(head, str) else list(head)
    report = LoadReport("timm")

    def starts_anew(key: str) -> bool:
        of_head = any(key.startswith(f"{name}.") for name in heads if name)
        misfit = key not in state or state[key].shape != own[key].shape
        return (of_head and (anew or misfit)) or any(fnmatch.fnmatch(key, pattern) for pattern in reinit)

    report.reinitialised = [key for key in own if starts_anew(key)]
    report.copied = [key for key in own if key not in report.reinitialised]
    wrong = [key for key in report.copied if key not in state or state[key].shape != own[key].shape]
    strange = [key for key in state if key not in own]
    if wrong or strange:
        raise InputError(
            f"Wanted weights for {what}; missing or of another shape: {', '.join(wrong) or 'none'}; "
            f"not in the model: {', '.join(strange) or 'none'}."
        )
    network.load_state_dict({key: state[key] for key in report.copied}, strict=False)
    return report


def clone_state(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the state dict on the CPU that later training does not change."""
    return {key: value.detach().to("cpu", copy=True) for key, value in network.state_dict().items()}
