"""A convolution over a small map is a fully-connected layer with a Toeplitz matrix; write it as one.

Source: Ding et al., "RepMLP", arXiv 2105.01883, section 3.4. The authors feed an identity matrix through the
convolution; here the matrix is read off the kernel, which also holds for as many outputs as inputs or not.
Shapes: o outputs, i inputs of a group, kh x kw the kernel, h x w the map.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from allmlp.errors import InputError
from allmlp.reparam.affine import linear_then_affine
from allmlp.reparam.state_dict import MutableState, pop_batch_norm


def conv_to_fc(kernel: Float[Tensor, "o i kh kw"], size: tuple[int, int]) -> Float[Tensor, "oN iN"]:
    """The matrix of a convolution over maps of `size`, zero-padded by half its kernel on every side, stride 1.

    matrix[(o, y, x), (i, v, u)] = kernel[o, i, v - y + kh // 2, u - x + kw // 2], and 0 beyond the kernel.

    With groups, i counts the inputs of a group and the matrix is that of a grouped fully-connected layer: its rows
    fall into as many equal blocks, each for the inputs of its group.

    Args:
        kernel: odd height and width; may be larger than the map.
        size: height and width of the map.

    Returns:
        (o * h * w, i * h * w), both axes in the order channel, row, column.

    Raises:
        InputError: an even kernel, which has no middle.
    """
    outputs, inputs, *sides = kernel.shape
    if not all(side % 2 for side in sides):
        raise InputError(f"Wanted a kernel of odd sides; got {sides[0]} x {sides[1]}.")
    # table[.., v - y + h - 1, u - x + w - 1]: the kernel in a window of all offsets; a negative margin crops it.
    vertical, horizontal = (length - 1 - side // 2 for length, side in zip(size, sides))
    table = F.pad(kernel, (horizontal, horizontal, vertical, vertical))
    rows, columns = (_offsets(length).to(kernel.device) for length in size)
    matrix = table[:, :, rows[:, None, :, None], columns[None, :, None, :]]  # o i y x v u
    cells = size[0] * size[1]
    return matrix.permute(0, 2, 3, 1, 4, 5).reshape(outputs * cells, inputs * cells)


def _offsets(length: int) -> Tensor:
    places = torch.arange(length)
    return places[None, :] - places[:, None] + length - 1


def merge_parallel_convs(state: MutableState, prefix: str, size: tuple[int, int]) -> None:
    """In a state dict, merge norm(fc(x)) + sum over k of conv_k(x) into `fc`, which gets a bias.

    Args:
        state: changed in place. Holds `fc.weight` (outputs, inputs of a group), the batch norm `norm.*` with one entry
            for each output or for each run of equally many, and convolutions `local.K.conv.weight`, `.bias`, whose own
            norms are merged already.
        prefix: of all these keys.
        size: height and width of the maps that the layer reads.
    """
    scale, shift = pop_batch_norm(state, prefix + "norm")
    repeats = len(state[prefix + "fc.weight"]) // len(scale)
    weight, bias = linear_then_affine(
        state[prefix + "fc.weight"], None, scale.repeat_interleave(repeats), shift.repeat_interleave(repeats)
    )
    for key in [key for key in state if key.startswith(prefix + "local.") and key.endswith(".conv.weight")]:
        weight = weight + conv_to_fc(state.pop(key), size)
        bias = bias + state.pop(key.removesuffix("weight") + "bias").repeat_interleave(size[0] * size[1])
    state[prefix + "fc.weight"], state[prefix + "fc.bias"] = weight, bias
