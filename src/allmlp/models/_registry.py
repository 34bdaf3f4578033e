"""One call registers every size of an architecture with timm, as `allmlp_NAME`."""

import copy
import difflib
import fnmatch
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from allmlp.errors import InputError
from allmlp.models._base import AllMlpModel, Size, to_size
from allmlp.models._loading import match_checkpoint

PREFIX = "allmlp_"


@dataclass(frozen=True)
class Entry:
    """A registered name: its class, the arguments of its size, its default image size, and how it mixes tokens."""

    name: str
    model_class: type[nn.Module]
    arguments: Mapping[str, Any]
    img_size: Size
    published: bool = True
    pretrained_cfg: Mapping[str, Any] = field(default_factory=dict)
    mixing: str = "MLP"  # or "attention", "convolution"


_entries: dict[str, Entry] = {}


def register(
    model_class: type[AllMlpModel],
    sizes: Mapping[str, Mapping[str, Any]],
    *,
    img_size: int = 224,
    nano_img_size: int = 32,
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str = "bicubic",
    crop_pct: float = 0.875,
    licence: str = "apache-2.0",
    url: str = "",
    out_indices: int | Sequence[int] = 3,
    mixing: str = "MLP",
) -> None:
    """Register every size of an architecture with timm as `allmlp_NAME`.

    Args:
        model_class: the architecture.
        sizes: NAME -> constructor arguments. Names that end in `_nano` take `nano_img_size`; an `img_size` among the
            arguments overrides both, and `crop_pct` may be given there too.
        mean, std, interpolation, crop_pct: how the authors prepare images at evaluation; small images are not cropped.
        licence, url: of the official code.
        out_indices: what `features_only` returns by default.
        mixing: what mixes tokens: "MLP", "attention" or "convolution".
    """
    for name, size in sizes.items():
        arguments = dict(size)
        side = to_size(arguments.pop("img_size", nano_img_size if name.endswith("_nano") else img_size))
        cfg = {
            "num_classes": 1000,
            "input_size": (3, *side),
            "fixed_input_size": model_class.size_bound,
            "pool_size": None,
            "crop_pct": arguments.pop("crop_pct", 1.0 if name.endswith("_nano") else crop_pct),
            "interpolation": interpolation,
            "mean": tuple(mean),
            "std": tuple(std),
            "first_conv": model_class.first_conv,
            "classifier": "head",
            "license": licence,
            "origin_url": url,
        }
        if not model_class.size_bound:
            arguments.setdefault("img_size", side)
        _entries[name] = Entry(name, model_class, arguments, side, not name.endswith("_nano"), cfg, mixing)
        _tell_timm(model_class.__module__, _entrypoint(model_class, PREFIX + name, arguments, out_indices), cfg)


def _tell_timm(module: str, entrypoint: Any, cfg: Mapping[str, Any]) -> None:
    """Register a function that builds a model with timm, as if it were written in that module."""
    place, name = sys.modules[module], entrypoint.__name__
    entrypoint.__module__ = module
    place.default_cfgs = {  # type: ignore[attr-defined]
        **getattr(place, "default_cfgs", {}),
        **generate_default_cfgs({name: dict(cfg)}),
    }
    setattr(place, name, entrypoint)
    register_model(entrypoint)


def _entrypoint(
    model_class: type[AllMlpModel], name: str, arguments: Mapping[str, Any], out_indices: int | Sequence[int]
) -> Any:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return build_model_with_cfg(
            model_class,
            name,
            pretrained,
            pretrained_filter_fn=_for_timm,
            feature_cfg={"out_indices": out_indices, "feature_cls": "getter"},
            **{**arguments, **kwargs},
        )

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__doc__ = f"{model_class.__name__}({', '.join(f'{k}={v}' for k, v in arguments.items())})."
    return entrypoint


def _for_timm(state: Mapping[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
    """What timm's `pretrained=True` loads: any layout and size, under our keys; timm adapts stem and classifier."""
    if not isinstance(model, AllMlpModel):
        return state
    return match_checkpoint(model, dict(state)).tensors


def register_control(
    name: str,
    model_class: type[nn.Module],
    arguments: Mapping[str, Any],
    *,
    module: str,
    mixing: str,
    first_conv: str | None,
    classifier: str,
    img_size: int = 32,
    out_indices: Sequence[int] | None = None,
) -> None:
    """Add a name whose class is timm's or follows timm's conventions, and register it with timm as `allmlp_NAME`.

    Args:
        model_class: built by `model_class(**arguments)`; one without an `img_size` takes images of any size.
        module: the module that timm shall list it under.
        mixing: what mixes tokens: "MLP", "attention" or "convolution".
        first_conv, classifier: paths of the layer that reads images, if it is a convolution, and of the classifier.
        img_size: default height and width in pixels.
        out_indices: what `features_only` returns by default; None if the class has no feature maps.
    """
    size_bound = "img_size" in inspect.signature(model_class).parameters
    side = to_size(img_size)
    cfg = {
        "num_classes": 1000,
        "input_size": (3, *side),
        "fixed_input_size": size_bound,
        "pool_size": None,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": first_conv,
        "classifier": classifier,
    }

    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        if not size_bound:
            kwargs.pop("img_size", None)
        if kwargs.get("features_only") and out_indices is None:
            raise InputError(f"Wanted feature maps; {name} has none. Take another model, such as resnet_nano.")
        return build_model_with_cfg(
            model_class,
            PREFIX + name,
            pretrained,
            feature_cfg={"out_indices": out_indices, "feature_cls": "getter"},
            **{**copy.deepcopy(dict(arguments)), **kwargs},
        )

    entrypoint.__name__ = entrypoint.__qualname__ = PREFIX + name
    entrypoint.__doc__ = f"{model_class.__name__} as {name}."
    _entries[name] = Entry(name, model_class, arguments, side, False, cfg, mixing)
    _tell_timm(module, entrypoint, cfg)


def list_models(pattern: str = "*") -> list[str]:
    """Names for `create_model`, in the order of the papers; `pattern` is a shell pattern such as "as_mlp*"."""
    return [name for name in _entries if fnmatch.fnmatch(name, pattern)]


def entry(name: str) -> Entry:
    """What is registered under a name.

    Raises:
        InputError: nothing is; the nearest names are offered.
    """
    if name not in _entries:
        near = difflib.get_close_matches(name, _entries, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}?" if near else "`allmlp list` shows them all."
        raise InputError(f"Wanted the name of a model; got {name!r}. {hint} timm's models are written timm/NAME.")
    return _entries[name]


def create_model(
    name: str,
    num_classes: int | None = None,
    img_size: int | Sequence[int] | None = None,
    in_chans: int | None = None,
    **overrides: Any,
) -> nn.Module:
    """Build a model with new weights.

    Args:
        name: one of `list_models()`, or `timm/NAME` for any model of timm's.
        num_classes: classes of the head; 0 gives pooled features. Default: the architecture's 1000.
        img_size: height and width in pixels, or one number. Default: the published size. Widths never change.
        in_chans: channels of the images; default 3.
        overrides: constructor arguments of the class, such as `drop_path_rate=0.1`.

    Raises:
        InputError: unknown name (the nearest are offered) or argument, or a size that the architecture cannot take.
    """
    arguments: dict[str, Any] = {**overrides, "num_classes": num_classes, "in_chans": in_chans}
    if img_size is not None:
        arguments["img_size"] = to_size(img_size)
    network: Any
    if name.startswith("timm/"):
        network, arguments = _create_timm(name.removeprefix("timm/"), arguments)
    else:
        network = _create_ours(name, arguments)
    if not hasattr(network, "arguments"):  # ours keep them themselves; a run writes down what builds its network again
        network.arguments = {key: value for key, value in arguments.items() if value is not None}
    return network


def _create_ours(name: str, arguments: dict[str, Any]) -> nn.Module:
    registered = PREFIX + entry(name).name
    try:
        return timm.create_model(registered, **arguments)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise InputError(f"{name}: {error}. `allmlp info {name}` shows what its constructor takes.") from error


def check_name(name: str) -> None:
    """Raise unless `create_model` knows the name."""
    if name.startswith("timm/"):
        _check_timm(name.removeprefix("timm/"))
    else:
        entry(name)


def _check_timm(name: str) -> None:
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        raise InputError(f"Wanted the name of a timm model; got {name!r}. Nearest: {', '.join(near) or 'none'}.")


def _create_timm(name: str, arguments: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """The model, and the arguments it took: those that have no use for an image size are built without."""
    _check_timm(name)
    try:
        return timm.create_model(name, **arguments), arguments
    except TypeError as error:
        if "img_size" not in str(error) or "img_size" not in arguments:
            raise InputError(f"timm/{name}: {error}.") from error
        return _create_timm(name, {key: value for key, value in arguments.items() if key != "img_size"})
