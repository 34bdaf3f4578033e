"""The matrix-multiply ceiling."""

import torch

from allmlp.speed import ceiling


def test_the_fastest_shape_is_kept(monkeypatch):
    monkeypatch.setattr(ceiling, "SHAPES", ((2, 2, 2), (256, 128, 64)))
    monkeypatch.setattr(ceiling, "TURN_SECONDS", 0.005)
    found = ceiling.find_ceiling()
    assert found.shape == (256, 128, 64)  # the other one is all overhead
    assert found.flops == 2 * 256 * 128 * 64


def test_it_computes_the_product():
    found = ceiling._product(3, 4, 5)
    found()
    a, b, out = found.operands
    assert torch.equal(out, a @ b)
    assert out.dtype == torch.float32
