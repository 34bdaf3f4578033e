"""Randomness as a pure function of (seed, epoch, index): nothing to save, nothing that a worker count could change."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

_MASK = (1 << 64) - 1


def sample_seed(*parts: int) -> int:
    """A 63-bit seed from any number of integers, e.g. (seed, epoch, index); changing one changes about half its bits.

    Each part is stirred in by the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), which is a bijection.
    """
    state = 0
    for part in parts:
        state = (state + (part & _MASK) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def sample_generator(*parts: int) -> torch.Generator:
    """A CPU generator seeded with `sample_seed(*parts)`."""
    return torch.Generator().manual_seed(sample_seed(*parts))


def reseed(seed: int) -> None:
    """Start the global generators of `random`, NumPy and torch (CPU) from `seed`."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)  # not torch.manual_seed: that would reset the GPU's generators too


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Afterwards the global generators of `random`, NumPy and torch (CPU) are as they were before.

    Costs 0.1 ms, most of it for NumPy's: enter once for many `reseed`.
    """
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """`restored`, and inside the generators start from `seed`: for libraries that draw from them, as timm does."""
    with restored():
        reseed(seed)
        yield
