"""Layers that two or more architectures use."""

from allmlp.layers.conv_norm import ConvNorm
from allmlp.layers.grouped_linear import GroupedLinear
from allmlp.layers.pointwise_linear import PointwiseLinear
from allmlp.layers.token_linear import TokenLinear

__all__ = ["ConvNorm", "GroupedLinear", "PointwiseLinear", "TokenLinear"]
