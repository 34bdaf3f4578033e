"""From scored boxes to detections and masks in the image, against slow versions; fixed shapes."""

import math

import numpy as np
import pytest
import torch

import dense_reference as slow
from allmlp.dense.postprocess import Detections, paste_mask, paste_masks, rescale_boxes, to_lists
from allmlp.dense.postprocess import best_detections as best_detections_of_batch


def candidates(count=40, classes=5, boxes_for_each=True, seed=0):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (count, classes if boxes_for_each else 1, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 40, corner.shape)], axis=2)
    return torch.from_numpy(boxes), torch.from_numpy(rng.uniform(0, 1, (count, classes)) ** 3)


def best_detections(boxes, scores, **settings):
    """Of one image, the second of a batch of two."""
    found = best_detections_of_batch(torch.stack([boxes + 7, boxes]), torch.stack([scores / 2, scores]), **settings)
    return [part[1] for part in found]


@pytest.mark.parametrize("boxes_for_each", [True, False])
def test_best_detections_equal_suppression_class_by_class(boxes_for_each):
    boxes, scores = candidates(boxes_for_each=boxes_for_each)
    found = []
    for label in range(scores.shape[1]):
        chosen = [i for i in range(len(boxes)) if scores[i, label] > 0.05]
        own = [boxes[i, label if boxes_for_each else 0].tolist() for i in chosen]
        values = [float(scores[i, label]) for i in chosen]
        found += [(values[i], label, own[i]) for i in slow.nms(own, values, 0.5)]
    found = sorted(found, reverse=True)[:25]
    box, score, label, count = best_detections(boxes, scores, count=25)
    assert int(count) == len(found) == 25
    assert label.tolist() == [item[1] for item in found]
    np.testing.assert_array_equal(score.numpy(), [item[0] for item in found])
    np.testing.assert_array_equal(box.numpy(), [item[2] for item in found])


def test_shapes_are_fixed_and_rows_after_the_last_are_zero():
    boxes, scores = candidates(classes=2)
    for factor in (1.0, 0.0):
        box, score, label, count = best_detections(boxes, scores * factor, score_threshold=0.5, count=30)
        assert box.shape == (30, 4)
        assert score.shape == label.shape == (30,)
        number = int(count)
        assert number < 30
        assert bool((score[:number] > 0.5).all())
        assert not box[number:].any()
        assert not score[number:].any()
        assert not label[number:].any()
    assert number == 0
    assert best_detections(boxes[:3], scores[:3], count=30)[0].shape == (6, 4)


def test_fewer_candidates_change_nothing_while_all_that_count_are_among_them():
    boxes, scores = candidates()
    number = int((scores > 0.05).sum())
    all_of_them = best_detections(boxes, scores, candidates=10_000)
    for mine, wanted in zip(best_detections(boxes, scores, candidates=number), all_of_them):
        assert torch.equal(mine, wanted[: len(mine)] if mine.ndim else wanted)


def test_lists_hold_the_real_rows():
    detections = Detections(
        torch.arange(16.0).reshape(2, 2, 4), torch.tensor([[0.9, 0.5], [0.4, 0]]), torch.ones(2, 2).long(),
        torch.tensor([2, 1]), torch.rand(2, 2, 4, 4),
    )  # fmt: skip
    first, second = to_lists(detections)
    assert first["boxes"].shape == (2, 4)
    assert second["scores"].tolist() == pytest.approx([0.4])
    assert second["mask_probs"].shape == (1, 4, 4)
    assert "mask_probs" not in to_lists(detections._replace(masks=None))[0]


def slow_paste(probs, box, size):
    """Sample the grid at each pixel's centre; 0 beyond the grid."""
    m = len(probs)
    x1, y1, x2, y2 = box
    mask = np.zeros(size, dtype=bool)

    def at(row, column):
        return probs[row, column] if 0 <= row < m and 0 <= column < m else 0.0

    for y in range(size[0]):
        for x in range(size[1]):
            v, u = (y + 0.5 - y1) / (y2 - y1) * m - 0.5, (x + 0.5 - x1) / (x2 - x1) * m - 0.5
            top, left = math.floor(v), math.floor(u)
            fv, fu = v - top, u - left
            value = (at(top, left) * (1 - fu) + at(top, left + 1) * fu) * (1 - fv)
            value += (at(top + 1, left) * (1 - fu) + at(top + 1, left + 1) * fu) * fv
            mask[y, x] = value >= 0.5
    return mask


@pytest.mark.parametrize(
    "box",
    [(3.2, 4.7, 17.9, 20.1), (-6.0, -2.5, 8.3, 11.0), (15.5, 18.0, 40.0, 33.0), (5.1, 5.2, 6.0, 5.9), (0, 0, 25, 22)],
)
def test_pasting_samples_the_grid_at_pixel_centres(box):
    probs = torch.rand(28, 28, generator=torch.Generator().manual_seed(1))
    mine = paste_mask(probs, box, (22, 25))
    wanted = slow_paste(probs.double().numpy(), box, (22, 25))
    assert mine.shape == (22, 25)
    assert (mine.numpy() != wanted).sum() <= 1  # a value within rounding of the threshold


def test_pasting_a_full_grid_fills_the_pixels_whose_centre_is_inside():
    mask = paste_mask(torch.ones(14, 14), (2.0, 3.0, 9.0, 11.0), (20, 20))
    wanted = torch.zeros(20, 20, dtype=torch.bool)
    wanted[3:11, 2:9] = True
    assert torch.equal(mask, wanted)
    assert not paste_mask(torch.ones(14, 14), (5.0, 5, 5, 9), (20, 20)).any()
    assert not paste_mask(torch.ones(14, 14), (30.0, 30, 40, 40), (20, 20)).any()
    assert paste_masks(torch.ones(0, 14, 14), torch.zeros(0, 4), (5, 6)).shape == (0, 5, 6)


def test_boxes_follow_the_image_to_another_size():
    boxes = torch.tensor([[10.0, 20, 30, 40]])
    assert rescale_boxes(boxes, (100, 200), (50, 400)).tolist() == [[20, 10, 60, 20]]
