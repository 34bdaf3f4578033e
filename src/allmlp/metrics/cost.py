"""What a network costs: parameters, multiply-accumulates (whole and by block), latency."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Part:
    """A direct part of a network, or one block of a sequence: its name, class, parameters and MACs for one image."""

    name: str
    kind: str
    parameters: int
    macs: int


def count_parameters(network: nn.Module, trainable: bool = False) -> int:
    """Numbers in all parameters, each shared one once; buffers do not count."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad or not trainable)


def count_macs(network: nn.Module, input_size: Sequence[int]) -> int:
    """Multiply-accumulates of one image (channels, height, width).

    `torch.utils.flop_counter` counts a multiplication and an addition for each of matrix products and convolutions;
    half of that is given here. Element-wise work is not counted.
    """
    return _flops(network, input_size).get("Global", 0) // 2


def cost_table(network: nn.Module, input_size: Sequence[int]) -> list[Part]:
    """Parameters and MACs of each direct part; sequences of blocks are opened, down to the block."""
    flops = _flops(network, input_size)
    root = type(network).__name__
    parts: list[Part] = []

    def add(name: str, module: nn.Module) -> None:
        if isinstance(module, (nn.Sequential, nn.ModuleList)) and len(module):
            for index, child in module.named_children():
                add(f"{name}.{index}", child)
        else:
            macs = flops.get(f"{root}.{name}", 0) // 2
            parts.append(Part(name, type(module).__name__, count_parameters(module), macs))

    for name, child in network.named_children():
        add(name, child)
    return parts


def _flops(network: nn.Module, input_size: Sequence[int]) -> dict[str, int]:
    example = next(network.parameters())
    images = torch.zeros(1, *input_size, device=example.device, dtype=example.dtype)
    training = network.training
    network.eval()
    counter = FlopCounterMode(display=False)
    # Attention as plain matrix products: the counter knows no rule for the CPU's fused kernel and would leave it out.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        network(images)
    network.train(training)
    return {name: sum(by_op.values()) for name, by_op in counter.get_flop_counts().items()}


def measure_latency(network: nn.Module, input_size: Sequence[int], budget_seconds: float = 1.0) -> float:
    """Median milliseconds of one image, in evaluation mode, after a warm-up.

    Runs until the budget is used up, at least 5 times. For a note beside a result; `allmlp benchmark` measures well.
    """
    example = next(network.parameters())
    images = torch.zeros(1, *input_size, device=example.device, dtype=example.dtype)
    training = network.training
    network.eval()
    times: list[float] = []
    with torch.inference_mode():
        network(images)
        end = time.perf_counter() + budget_seconds
        while len(times) < 5 or (time.perf_counter() < end and len(times) < 200):
            started = time.perf_counter()
            network(images)
            if images.is_cuda:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
    network.train(training)
    return 1000 * statistics.median(times)


def measure_throughputs(
    networks: Mapping[str, tuple[nn.Module, Sequence[int]]], batch: int = 32, rounds: int = 5
) -> dict[str, float]:
    """Images a second of each network's inference: medians over rounds in which each has its turn.

    Args:
        networks: name -> (network, (channels, height, width)).
        batch: images at a time.
    """
    times: dict[str, list[float]] = {name: [] for name in networks}
    with torch.inference_mode():
        for _ in range(rounds + 1):
            for name, (network, size) in networks.items():
                example = next(network.parameters())
                images = torch.zeros(batch, *size, device=example.device, dtype=example.dtype)
                network.eval()
                started = time.perf_counter()
                network(images)
                if images.is_cuda:
                    torch.cuda.synchronize()
                times[name].append(time.perf_counter() - started)
    return {name: batch / statistics.median(found[1:]) for name, found in times.items()}  # the first warms up
