"""Evaluation-mode batch norm is a scale and a shift per channel; merge it into a convolution before it."""

from torch import Tensor, nn

from allmlp.reparam.affine import linear_then_affine


def batch_norm_affine(norm: nn.modules.batchnorm._BatchNorm) -> tuple[Tensor, Tensor]:
    """(scale, shift), float64, so that norm(x) = scale * x + shift in evaluation mode."""
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None:
        raise ValueError("a batch norm without running statistics is not an affine map")
    return affine_of_statistics(mean, var, norm.weight, norm.bias, norm.eps)


def affine_of_statistics(
    mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """(scale, shift), float64, of a normalisation with fixed statistics."""
    scale = (var.double() + eps).rsqrt()
    if weight is not None:
        scale = scale * weight.double()
    shift = -mean.double() * scale
    if bias is not None:
        shift = shift + bias.double()
    return scale, shift


def conv_then_batch_norm(
    weight: Tensor, bias: Tensor | None, norm: nn.modules.batchnorm._BatchNorm
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution (or linear layer) that equals norm(conv(x)) in evaluation mode."""
    return linear_then_affine(weight, bias, *batch_norm_affine(norm))
