"""External attention's double normalisation, and the operator it belongs to.

A softmax over tokens shares out each memory row's attention, the same total for every row; dividing by the sum over the
memory then makes each token's weights sum to 1.

Shapes: b batch, n tokens, c channels, m memory rows.
Source: Guo et al., arXiv 2105.02358; the 1e-9 is from the authors' code.
"""

import torch
from torch import Tensor

EPSILON = 1e-9  # keeps a token that no memory row attends to from dividing by 0


def double_normalise(logits: Tensor, tokens_dim: int, memory_dim: int) -> Tensor:
    """Softmax over the tokens, then divide by 1e-9 + the sum over the memory.

    Args:
        logits: similarities of tokens and memory rows, any shape.
        tokens_dim, memory_dim: which axes these are. They are not interchangeable.

    Returns:
        Weights in [0, 1] of the same shape, which sum to 1 over the memory.
    """
    if torch.compiler.is_exporting() and tokens_dim % logits.ndim != logits.ndim - 1:
        # The same in steps, which runtimes do where the numbers lie; ONNX Runtime has softmax along the last axis only
        # and would turn the tokens there and back.
        weights = (logits - logits.amax(dim=tokens_dim, keepdim=True)).exp()
        attention = weights / weights.sum(dim=tokens_dim, keepdim=True)
    else:
        attention = logits.softmax(dim=tokens_dim)
    return attention / (EPSILON + attention.sum(dim=memory_dim, keepdim=True))


def external_attention(tokens: Tensor, memory_key: Tensor, memory_value: Tensor) -> Tensor:
    """Tokens attend to a memory instead of to each other: double_normalise(F Mk^T) Mv.

    Args:
        tokens: F, (b, n, c).
        memory_key: Mk, (m, c).
        memory_value: Mv, (m, c) or any other width.

    Returns:
        (b, n, width of the values). Permuting the tokens permutes the result alike.

    Example:
        >>> external_attention(torch.randn(2, 196, 64), torch.randn(32, 64), torch.randn(32, 64)).shape
        torch.Size([2, 196, 64])
    """
    return double_normalise(tokens @ memory_key.transpose(-2, -1), tokens_dim=-2, memory_dim=-1) @ memory_value
