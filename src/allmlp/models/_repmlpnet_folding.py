"""The inference form of RepMLPNet, from its own state dict or from an official "deploy" file."""

from collections.abc import Sequence

import torch

from allmlp.convert import Conversion, Layout
from allmlp.convert.repmlp import V2_DEPLOY, V2_TRAIN
from allmlp.errors import InputError
from allmlp.models._base import Size, State
from allmlp.reparam.conv_to_fc import merge_parallel_convs
from allmlp.reparam.state_dict import MutableState, in_float64, merge_affine_into, merge_conv_norms, pop_batch_norm


def merge_norms(state: MutableState, partition_sizes: Sequence[Size]) -> None:
    """Fold a model's state dict in place, or what the authors' "deploy" form leaves, whose `fc` is merged already.

    norm2 goes into the channel MLP, the last norm through the mean into the head, every other norm into the layer
    before it. norm1 stays as a scale and a shift, for they differ by channel while a matrix follows that a set shares;
    with one channel a set they are merged too.
    """
    merge_conv_norms(state)
    for key in [key for key in state if key.endswith(".rep_mlp.fc.weight")]:
        unit = key.removesuffix("rep_mlp.fc.weight")
        if unit + "rep_mlp.norm.weight" in state:
            merge_parallel_convs(state, unit + "rep_mlp.", partition_sizes[int(unit.split(".")[1])])
        scale, shift = pop_batch_norm(state, unit + "norm1")
        weight, cells = state[key], state[key].shape[1]
        if len(scale) * cells == len(weight):
            state[key] = weight * scale.repeat_interleave(cells)[:, None]
            bias = unit + "rep_mlp.fc.bias"
            state[bias] = state[bias] + shift.repeat_interleave(cells) * weight.sum(dim=1)
            merge_affine_into(state, unit + "rep_mlp.global_perceptron.fc1", scale, shift)
        else:
            state[unit + "norm1.weight"], state[unit + "norm1.bias"] = scale, shift
        merge_affine_into(state, unit + "ffn.fc1.conv", *pop_batch_norm(state, unit + "norm2"))
    if "norm.running_mean" in state:  # gone from a model that only gives inner maps
        scale, shift = pop_batch_norm(state, "norm")
        if "head.weight" in state:
            merge_affine_into(state, "head", scale, shift)
        else:
            state["norm.weight"], state["norm.bias"] = scale, shift


def _convert_deploy(state: State) -> Conversion:
    conversion = V2_DEPLOY.convert(state)
    before = conversion.tensors
    try:
        conversion.tensors = in_float64(before, lambda tensors: merge_norms(tensors, ()))
    except KeyError as error:
        raise InputError(
            f"The file ({conversion.layout} layout) lacks the tensor for {error}; it is not whole."
        ) from None
    for key, value in conversion.tensors.items():
        if key not in before or not torch.equal(value, before[key]):
            source = key if key in before else key.replace(".conv.bias", ".norm.bias")
            conversion.origin[key] = (conversion.origin[source][0], "merged")
    return conversion


LAYOUTS = (Layout(V2_DEPLOY.name, V2_DEPLOY.detect, _convert_deploy), V2_TRAIN)
