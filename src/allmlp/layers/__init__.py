"""Layers that two or more architectures use."""

from allmlp.layers.token_linear import TokenLinear

__all__ = ["TokenLinear"]
