"""Merge layers inside a state dict, by their keys, so that models and foreign files fold in one way."""

from collections.abc import Callable, Mapping, MutableMapping

from torch import Tensor

from allmlp.reparam.affine import affine_then_linear, linear_then_affine
from allmlp.reparam.batch_norm import affine_of_statistics

EPSILON = 1e-5  # PyTorch's default for batch norms
MutableState = MutableMapping[str, Tensor]


def in_float64(state: Mapping[str, Tensor], merge: Callable[[MutableState], None]) -> dict[str, Tensor]:
    """A merged copy of a state dict: `merge` changes it in place in float64; the result has the first tensor's dtype.

    Only the end is rounded, so that long chains of merges lose nothing.
    """
    dtype = next(value.dtype for value in state.values() if value.is_floating_point())
    merged: MutableState = {key: value.double() if value.is_floating_point() else value for key, value in state.items()}
    merge(merged)
    return {key: value.to(dtype) if value.is_floating_point() else value for key, value in merged.items()}


def pop_batch_norm(state: MutableState, prefix: str) -> tuple[Tensor, Tensor]:
    """Take the batch norm at `prefix` out of a state dict and return its (scale, shift)."""
    state.pop(f"{prefix}.num_batches_tracked", None)
    mean, var = state.pop(f"{prefix}.running_mean"), state.pop(f"{prefix}.running_var")
    return affine_of_statistics(mean, var, state.pop(f"{prefix}.weight"), state.pop(f"{prefix}.bias"), EPSILON)


def merge_conv_norms(state: MutableState) -> None:
    """Merge every batch norm `PATH.norm` beside a convolution `PATH.conv` without bias into that convolution."""
    for key in [key for key in state if key.endswith(".conv.weight")]:
        path = key.removesuffix("conv.weight")
        if path + "norm.running_mean" in state:
            scale, shift = pop_batch_norm(state, path + "norm")
            state[key], state[path + "conv.bias"] = linear_then_affine(state[key], None, scale, shift)


def merge_affine_into(state: MutableState, linear: str, scale: Tensor, shift: Tensor) -> None:
    """Merge x -> scale * x + shift into the layer `linear` (with bias, without padding) that reads it."""
    weight, bias = f"{linear}.weight", f"{linear}.bias"
    state[weight], state[bias] = affine_then_linear(scale, shift, state[weight], state[bias])
