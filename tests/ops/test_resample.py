"""Resizing matrices against Pillow, PyTorch, and loops."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from allmlp.ops.resample import nearest_cells, resize_matrix

PILLOW = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
SIZES = [(50, 20), (20, 50), (37, 36), (64, 3), (3, 64), (1, 5), (5, 1), (40, 40)]


def matrix(length, resized, kind, first=0, count=None, **more):
    return resize_matrix(length, torch.tensor(resized), torch.tensor(first), count or resized, kind, **more)


@pytest.mark.parametrize("kind", PILLOW)
@pytest.mark.parametrize(("length", "resized"), SIZES)
def test_an_axis_is_resized_as_by_pillow(kind, length, resized):
    pixels = np.random.default_rng(length).integers(0, 256, (11, length), dtype=np.uint8)
    wanted = np.asarray(Image.fromarray(pixels).resize((resized, 11), PILLOW[kind])).astype(float)
    found = torch.from_numpy(pixels).float() @ matrix(length, resized, kind).T
    assert np.abs(found.clamp(0, 255).numpy() - wanted).max() <= 0.501


@pytest.mark.parametrize(("length", "resized"), SIZES)
def test_without_a_low_pass_it_is_interpolation_between_neighbours(length, resized):
    x = torch.randn(1, 2, length)
    wanted = F.interpolate(x, resized, mode="linear", align_corners=False)
    torch.testing.assert_close(x @ matrix(length, resized, "bilinear", antialias=False).T, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["nearest", *PILLOW])
def test_a_part_is_the_part_of_the_whole_and_nothing_lies_outside(kind):
    whole = matrix(30, 17, kind)
    torch.testing.assert_close(whole.sum(1), torch.ones(17))
    torch.testing.assert_close(matrix(30, 17, kind, first=4, count=9), whole[4:13])
    around = matrix(30, 17, kind, first=-3, count=25)
    torch.testing.assert_close(around[3:20], whole)
    assert not around[:3].any()
    assert not around[20:].any()


@pytest.mark.parametrize(("length", "resized"), SIZES)
def test_the_nearest_cell_is_under_the_centre(length, resized):
    cells = nearest_cells(torch.arange(resized), length, torch.tensor(resized))
    assert cells.tolist() == [(2 * cell + 1) * length // (2 * resized) for cell in range(resized)]
    assert matrix(length, resized, "nearest").argmax(1).tolist() == cells.tolist()
