"""The inference form of a model: everything linear that can merge is merged, outputs stay equal."""

import copy
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from allmlp.errors import InputError
from allmlp.models._base import AllMlpModule

ModelT = TypeVar("ModelT", bound=nn.Module)


def fold(model: ModelT) -> ModelT:
    """The inference form of a model, in evaluation mode; the model itself is left as it is.

    Norm affines, layer scales, batch norms and parallel branches are merged into the linear maps beside them, only
    where multiply-adds do not rise. Outputs are equal up to rounding. The result can be saved, loaded and exported;
    it refuses to be trained.

    Args:
        model: any model or block of this package, or a module that contains some (a detector, a segmenter); all of
            them are folded.

    Returns:
        A new model of the same class.

    Raises:
        InputError: nothing in the module can be folded.
    """
    if isinstance(model, AllMlpModule):
        return _fold_one(model)  # type: ignore[return-value]
    folded = copy.deepcopy(model).eval()
    done: list[str] = []
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, AllMlpModule) and not path.startswith(tuple(done)):
            parent, _, name = path.rpartition(".")
            setattr(folded.get_submodule(parent), name, _fold_one(module))
            done.append(path + ".")
    if done:
        return folded
    raise InputError(f"Wanted a model of this package to fold; got {type(model).__name__}.")


def _fold_one(model: AllMlpModule) -> AllMlpModule:
    if model.folded:
        return copy.deepcopy(model).eval()
    example = next(model.parameters())
    with torch.no_grad():
        state = model.folded_state()
    folded = type(model)(**{**model.arguments, "folded": True}, device=example.device, dtype=example.dtype)
    _prune_alike(folded, model, state)
    folded.load_state_dict(state)
    for name in ("pretrained_cfg", "default_cfg", "pretrained_model_args", "_traits", "_model_args"):
        if hasattr(model, name):
            setattr(folded, name, copy.deepcopy(getattr(model, name)))
    return folded.eval().requires_grad_(False)


def _prune_alike(folded: nn.Module, model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Take out of the new model what `prune_intermediate_layers` took out of the old one."""
    for name, part in model.named_children():
        if not hasattr(folded, name):  # merged into others
            continue
        whole = getattr(folded, name)
        if isinstance(part, nn.Identity) and not any(key.startswith(f"{name}.") for key in state):
            setattr(folded, name, nn.Identity())
        elif isinstance(part, (nn.Sequential, nn.ModuleList)) and len(part) < len(whole):
            setattr(folded, name, whole[: len(part)])
