"""The network of a run as it is exported: at a size, folded."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from allmlp.data import ImageSpec
from allmlp.errors import InputError
from allmlp.folding import fold
from allmlp.models._base import AllMlpModule, to_size
from allmlp.runs import SavedModel

_MULTIPLE = 32  # of the sides of the canvases of detectors and segmenters that take any


def at_size(saved: SavedModel, img_size: int | Sequence[int] | None) -> ImageSpec:
    """Set a saved network to a size in place; the images that it then wants.

    Args:
        img_size: (height, width), or one number for both; None for the size it has. Detectors and segmenters that take
            any size then get a square of the short side at which they were judged.

    Raises:
        InputError: a size that the network cannot take.
    """
    network: Any = saved.network
    if saved.task == "classify":
        if img_size is None:
            return saved.spec
        height, width = _checked(img_size)
        if hasattr(network, "set_input_size"):
            try:
                network.set_input_size((height, width))
            except (AssertionError, RuntimeError) as error:  # timm's own
                raise InputError(f"img_size: this model cannot take {height} x {width}: {error}") from error
        return saved.spec.replace(height=height, width=width)
    own, side = network.canvas, saved.config["allmlp"]["view"]["short_side"]
    if img_size is None:
        size = own or (-(-side // _MULTIPLE) * _MULTIPLE,) * 2
    else:
        size = _checked(img_size)
    if own is not None and size != own:
        if not hasattr(network.inner, "set_input_size"):
            raise InputError(f"img_size: wanted {own[0]} x {own[1]}, this model's only size; got {size}. Leave it out.")
        network.inner.set_input_size(size)
    return saved.spec.replace(height=size[0], width=size[1])


def _checked(img_size: int | Sequence[int]) -> tuple[int, int]:
    size = to_size(img_size)
    if min(size) < 1:
        raise InputError(f"img_size: wanted pixels of at least 1; got {size}.")
    return size


def folded(network: nn.Module) -> nn.Module:
    """The inference form of a network, itself if nothing in it folds, as of timm's models."""
    if any(isinstance(module, AllMlpModule) for module in network.modules()):
        return fold(network)
    return network.eval()
