"""The machine's matrix-multiply ceiling: the largest sustained rate of a float32 product, on the same threads."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

# (m, k, n) of (m, k) times (k, n): squares, and the tall ones that linear layers over many tokens are.
SHAPES = (
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    (4096, 4096, 4096),
    (4096, 1024, 1024),
    (4096, 1024, 4096),
    (4096, 4096, 1024),
)
SUSTAINED_SECONDS = 0.3


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
    """Run every one of `SHAPES` for `SUSTAINED_SECONDS` after a warm-up, and keep the one of the highest mean rate."""
    found = []
    for shape in SHAPES:
        ceiling = _product(*shape)
        ceiling()
        count, start = 0, time.perf_counter()
        while count == 0 or time.perf_counter() - start < SUSTAINED_SECONDS:
            ceiling()
            count += 1
        found.append((count * ceiling.flops / (time.perf_counter() - start), ceiling))
    return max(found, key=lambda pair: pair[0])[1]


def _product(m: int, k: int, n: int) -> Ceiling:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(m, k, generator=generator), torch.randn(k, n, generator=generator)
    return Ceiling((m, k, n), 2 * m * k * n, (a, b, torch.empty(m, n)))
