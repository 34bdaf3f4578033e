"""Anchors, box coding, assignment, drawing and pooling of regions, each against a slow version."""

import numpy as np
import pytest
import torch

import dense_reference as slow
from allmlp.dense import assign as assignment
from allmlp.dense.anchors import cell_anchors, grid_anchors
from allmlp.dense.assign import IGNORED, NEGATIVE, assign, sample
from allmlp.dense.boxes import MAX_LOG_RATIO, as_sizes, clip_boxes, decode_boxes, encode_boxes, has_area
from allmlp.dense.rois import pool_regions, region_levels, to_regions
from allmlp.errors import InputError

STDS = (0.1, 0.1, 0.2, 0.2)


def random_boxes(count, size=200.0, least=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator, dtype=torch.float64) * (size - least)
    extent = least + torch.rand(count, 2, generator=generator, dtype=torch.float64) * (size - corner - least)
    return torch.cat([corner, corner + extent], dim=1)


@pytest.mark.parametrize("stride", [4, 8, 16, 32, 64])
def test_anchors_are_exact_squares_and_rectangles_of_one_area(stride):
    anchors = cell_anchors(stride, 8.0, (0.5, 1.0, 2.0), torch.float64)
    sides = anchors[:, 2:] - anchors[:, :2]
    torch.testing.assert_close(sides.prod(1), torch.full((3,), (8.0 * stride) ** 2, dtype=torch.float64))
    torch.testing.assert_close(sides[:, 1] / sides[:, 0], torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64))
    assert sides[0, 0] != sides[0, 0].round()  # not rounded to pixels
    grid = grid_anchors((3, 4), stride, dtype=torch.float64)
    assert np.abs(grid.numpy() - slow.anchors_of(3, 4, stride)).max() < 1e-9
    assert torch.equal(grid[1], torch.tensor([-4.0, -4, 4, 4], dtype=torch.float64) * stride)  # centred on (0, 0)


def test_coding_is_undone_by_decoding():
    anchors, boxes = random_boxes(50), random_boxes(50, seed=1)
    deltas = encode_boxes(anchors, boxes, STDS)
    for index in range(50):
        wanted = slow.encode(anchors[index].tolist(), boxes[index].tolist(), STDS)
        np.testing.assert_allclose(deltas[index].numpy(), wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(decode_boxes(anchors, deltas, STDS), boxes)


def test_no_step_is_larger_than_62_5():
    anchor = torch.tensor([[10.0, 10, 20, 20]], dtype=torch.float64)
    for sign, side in ((1, 625.0), (-1, 0.16)):
        box = decode_boxes(anchor, torch.tensor([[0.0, 0, 99 * sign, 99 * sign]], dtype=torch.float64), STDS)
        torch.testing.assert_close(box[:, 2:] - box[:, :2], torch.full((1, 2), side, dtype=torch.float64))
    assert pytest.approx(4.135166556742356) == MAX_LOG_RATIO


def test_clipping_and_area():
    boxes = torch.tensor([[-5.0, -5, 50, 20], [30, 30, 40, 40], [3, 4, 3, 9]])
    clipped = clip_boxes(boxes, torch.tensor([25.0, 35.0]))
    assert clipped.tolist() == [[0, 0, 35, 20], [30, 25, 35, 25], [3, 4, 3, 9]]
    assert has_area(clipped).tolist() == [True, False, False]


def test_sizes_are_checked_against_the_canvas():
    images = torch.zeros(2, 3, 20, 30)
    assert as_sizes(None, images).tolist() == [[20, 30], [20, 30]]
    for sizes in ([(20, 30)], [(20, 30), (21, 30)], [(20, 30), (20, 31)]):
        with pytest.raises(InputError, match="at most 20 x 30"):
            as_sizes(sizes, images)


@pytest.mark.parametrize("low_quality", [None, 0.3])
@pytest.mark.parametrize("table", [1 << 24, 130])  # the second makes the table of overlaps in slices of two objects
def test_assignment_equals_loops(low_quality, table, monkeypatch):
    monkeypatch.setattr(assignment, "_TABLE", table)
    objects = random_boxes(7, seed=3)
    boxes = torch.cat([random_boxes(55, seed=4), objects + 1.5, objects[:3]])
    found = assign(boxes, objects, 0.6, 0.35, low_quality)
    wanted = slow.assign(boxes.tolist(), objects.tolist(), 0.6, 0.35, low_quality)
    assert found.tolist() == wanted
    assert {-1, -2} < set(wanted)


def test_an_objects_own_best_boxes_go_to_it_even_from_another():
    objects = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 14]])
    boxes = torch.tensor([[0.0, 0, 10, 11]])  # nearer to the first, but all that the second has
    assert assign(boxes, objects, 0.7, 0.3).tolist() == [0]
    assert assign(boxes, objects, 0.7, 0.3, 0.3).tolist() == [1]


def test_without_objects_all_is_background():
    assert assign(random_boxes(4), torch.zeros(0, 4).double(), 0.7, 0.3, 0.3).tolist() == [NEGATIVE] * 4
    assert assign(torch.zeros(0, 4), torch.ones(2, 4), 0.7, 0.3, 0.3).shape == (0,)


def test_drawing_keeps_to_its_numbers():
    assigned = torch.tensor([0] * 30 + [NEGATIVE] * 100 + [IGNORED] * 20)
    positive, negative = sample(assigned, 64, 0.25)
    assert (len(positive), len(negative)) == (16, 48)
    assert len(set(positive.tolist())) == 16
    assert (assigned[positive] == 0).all()
    assert (assigned[negative] == NEGATIVE).all()
    positive, negative = sample(assigned, 1000, 0.5)
    assert (len(positive), len(negative)) == (30, 100)
    few = torch.tensor([0, NEGATIVE, NEGATIVE, NEGATIVE, NEGATIVE])
    positive, negative = sample(few, 4, 0.5)
    assert (len(positive), len(negative)) == (1, 3)  # negatives fill up what positives leave
    torch.manual_seed(1)
    first = sample(assigned, 64, 0.25)[0]
    torch.manual_seed(1)
    assert torch.equal(first, sample(assigned, 64, 0.25)[0])


def test_levels_follow_the_box_size():
    sides = torch.tensor([1.0, 55, 56, 111.9, 112, 223.9, 224, 447.9, 448, 5000])
    boxes = torch.stack([torch.zeros(10), torch.zeros(10), sides, sides], dim=1)
    assert region_levels(boxes, 4).tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert region_levels(torch.zeros(1, 4), 4).tolist() == [0]
    assert region_levels(boxes, 4, finest=28.0).tolist()[:4] == [0, 0, 1, 1]


@pytest.mark.parametrize("fixed_shapes", [True, False])
@pytest.mark.parametrize("side", [7, 14])
def test_pooling_equals_loops_over_bins_and_samples(side, fixed_shapes):
    sizes, strides = [(50, 60), (25, 30), (13, 15), (7, 8)], (4, 8, 16, 32)
    maps = [torch.randn(2, 3, *size, dtype=torch.float64) for size in sizes]
    boxes = [random_boxes(6, 190, seed=5), torch.tensor([[0.0, 0, 240, 200], [-8, -8, 3, 3], [9, 9, 9, 9]]).double()]
    pooled = pool_regions(maps, strides, to_regions(boxes), side, fixed_shapes=fixed_shapes)
    row = 0
    for image, group in enumerate(boxes):
        for box in group.tolist():
            level = slow.level_of(box)
            wanted = slow.roi_align(maps[level][image].numpy(), box, strides[level], side)
            assert np.abs(pooled[row].numpy() - wanted).max() < 1e-10
            row += 1
    assert row == len(pooled)


def test_a_fixed_number_of_samples_gives_the_same_both_ways_with_gradients():
    maps = [torch.randn(2, 3, 64 // 2**n, 64 // 2**n, dtype=torch.float64, requires_grad=True) for n in range(4)]
    regions = to_regions([random_boxes(20, 200, seed=6), random_boxes(9, 200, seed=7)])
    found = []
    for fixed_shapes in (True, False):
        pooled = pool_regions(maps, (4, 8, 16, 32), regions, 7, 28.0, 1, fixed_shapes)
        weight = torch.linspace(-1, 1, pooled.numel(), dtype=torch.float64).view_as(pooled)
        found.append([pooled, *torch.autograd.grad((pooled * weight).sum(), maps)])
    for mine, wanted in zip(*found):
        torch.testing.assert_close(mine, wanted)


def test_pooling_takes_bfloat16_maps_and_no_regions():
    maps = [torch.randn(1, 2, 8, 8).bfloat16() for _ in range(4)]
    assert pool_regions(maps, (4, 8, 16, 32), torch.tensor([[0.0, 0, 0, 20, 20]]), 7).dtype == torch.bfloat16
    assert pool_regions(maps, (4, 8, 16, 32), torch.zeros(0, 5), 7).shape == (0, 2, 7, 7)
