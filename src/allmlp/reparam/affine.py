"""Merge per-channel scales and shifts into the linear map before or after them.

Every function computes in float64 and returns its input's dtype, so that repeated merging loses nothing.
Shapes: o outputs, i inputs, then any kernel axes.
"""

import torch
from torch import Tensor


def affine_then_linear(
    scale: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The linear map that equals x -> weight (scale * x + shift) + bias.

    Args:
        scale, shift: (i,); a shift of None is zero.
        weight: (o, i, ...); with kernel axes the shift passes through the kernel's sum, exact only without padding.
        bias: (o,) or None.

    Returns:
        weight and bias of the merged map.
    """
    w = weight.double()
    columns = scale.double().reshape(1, -1, *[1] * (w.ndim - 2))
    b = torch.zeros(len(w), dtype=torch.float64, device=w.device) if bias is None else bias.double()
    if shift is not None:
        b = b + w.flatten(2).sum(-1) @ shift.double() if w.ndim > 2 else b + w @ shift.double()
    return (w * columns).to(weight.dtype), b.to(weight.dtype)


def linear_then_affine(
    weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The linear map that equals x -> scale * (weight x + bias) + shift; scale and shift are (o,)."""
    s = scale.double()
    b = torch.zeros(len(weight), dtype=torch.float64, device=weight.device) if bias is None else bias.double()
    b = s * b if shift is None else s * b + shift.double()
    return (weight.double() * s.reshape(-1, *[1] * (weight.ndim - 1))).to(weight.dtype), b.to(weight.dtype)


def linear_then_linear(
    first: Tensor, first_bias: Tensor | None, second: Tensor, second_bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The linear map that equals x -> second (first x + first_bias) + second_bias, with nothing in between.

    Args:
        first: (h, i). second: (o, h).

    Returns:
        weight (o, i) and bias (o,).
    """
    w2 = second.double()
    b = torch.zeros(len(w2), dtype=torch.float64, device=w2.device) if second_bias is None else second_bias.double()
    if first_bias is not None:
        b = b + w2 @ first_bias.double()
    return (w2 @ first.double()).to(second.dtype), b.to(second.dtype)
