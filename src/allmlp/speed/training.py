"""A training step to time: forward, cross-entropy, backward, AdamW."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def training_call(network: nn.Module, backend: str) -> Callable[[Tensor], Tensor]:
    """The network's forward in training, "eager" or "compile"."""
    call: Any = torch.compile(network.train(), dynamic=False) if backend == "compile" else network.train()
    return call


def training_step(network: nn.Module, call: Callable[[Tensor], Tensor], images: Tensor) -> Callable[[], None]:
    """One step on the same batch at every call; labels count up. The rate is too small to lead anywhere."""
    labels = torch.arange(len(images)) % call(images).shape[1]
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-7, weight_decay=0.05, fused=True)

    def step() -> None:
        loss = F.cross_entropy(call(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def training_outputs(network: nn.Module, call: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, float]:
    """Logits in training mode and the norm of the loss's gradient by all parameters, dropout off."""
    with _without_dropout(network):
        logits = call(images)
        network.zero_grad()
        F.cross_entropy(logits, torch.arange(len(images)) % logits.shape[1]).backward()
    found = [p.grad for p in network.parameters() if p.grad is not None]
    norm = torch.stack([gradient.norm() for gradient in found]).norm().item()
    network.zero_grad()
    return logits.detach(), norm


@contextmanager
def _without_dropout(network: nn.Module) -> Iterator[None]:
    layers = [module for module in network.modules() if isinstance(module, nn.Dropout)]
    rates = [layer.p for layer in layers]
    for layer in layers:
        layer.p = 0.0
    try:
        yield
    finally:
        for layer, rate in zip(layers, rates):
            layer.p = rate
