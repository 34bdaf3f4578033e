"""Weights that hide nothing: as many networks start, whole branches of them are multiplied by zero or nearly so."""

import torch
from torch import Tensor, nn


def perturb(network: nn.Module, seed: int = 0) -> None:
    """Change a new network's weights in place so that every one of them matters to the output; always alike.

    Tensors that start at one value (biases, norms' affines, batch statistics, layer scales, a zero head) are spread
    around it; those that start random stay as they are drawn. Zeros become normal with sd 0.1, of matrices with sd
    1 / sqrt(inputs); other values are multiplied by 0.5 to 1.5, tiny ones such as layer scales become 0.1 to 0.3.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator).to(like)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(like.shape, generator=generator)).to(like)

    with torch.no_grad():
        for tensor in network.state_dict().values():
            if not tensor.is_floating_point() or tensor.numel() < 2 or tensor.min() != tensor.max():
                continue
            value = tensor.flatten()[0].item()
            if value == 0:
                tensor.copy_(normal(tensor) * (0.1 if tensor.ndim < 2 else tensor[0].numel() ** -0.5))
            elif abs(value) < 0.1:
                tensor.copy_(uniform(tensor, 0.1, 0.3))
            else:
                tensor.copy_(value * uniform(tensor, 0.5, 1.5))
