"""The machine's matrix-multiply ceiling: the largest sustained rate of a float32 product, on the same threads."""

import statistics
from dataclasses import dataclass

import torch
from torch import Tensor

from allmlp.speed.rounds import run_rounds

# (m, k, n) of (m, k) times (k, n): squares, and the tall ones that linear layers over many tokens are.
SHAPES = (
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    (4096, 4096, 4096),
    (4096, 1024, 1024),
    (4096, 1024, 4096),
    (4096, 4096, 1024),
)
TURN_SECONDS = 0.2


@dataclass
class Ceiling:
    """The fastest of the shapes, ready to be run beside what is measured.

    shape: (m, k, n). flops: of one product. Calling it computes one.
    """

    shape: tuple[int, int, int]
    flops: int
    operands: tuple[Tensor, Tensor, Tensor]

    def __call__(self) -> None:
        a, b, out = self.operands
        torch.mm(a, b, out=out)


def find_ceiling() -> Ceiling:
    """Run all of `SHAPES` in turns for a while, and keep the one of the highest median rate."""
    found = [_product(*shape) for shape in SHAPES]
    times = run_rounds({str(ceiling.shape): ceiling for ceiling in found}, rounds=3, seconds=TURN_SECONDS)
    return max(found, key=lambda ceiling: ceiling.flops / statistics.median(times[str(ceiling.shape)].rounds))


def _product(m: int, k: int, n: int) -> Ceiling:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(m, k, generator=generator), torch.randn(k, n, generator=generator)
    return Ceiling((m, k, n), 2 * m * k * n, (a, b, torch.empty(m, n)))
