"""What counts as agreement, and what does not."""

import numpy as np
import pytest

from allmlp.export.parity import compare

NAMES = ("boxes", "scores", "labels", "counts", "masks")


def detections(*rows):
    """One image's arrays of rows (x, score, label), boxes 20 pixels wide, filled up to 4."""
    boxes, scores, labels = np.zeros((1, 4, 4), np.float32), np.zeros((1, 4), np.float32), np.zeros((1, 4), np.int64)
    for place, (x, score, label) in enumerate(rows):
        boxes[0, place], scores[0, place], labels[0, place] = (x, 5, x + 20, 25), score, label
    return [boxes, scores, labels, np.array([len(rows)]), np.full((1, 4, 7, 7), 0.5, np.float32)]


def test_logits_are_measured_in_their_spread():
    wanted = np.array([[0.0, 100.0], [200.0, 300.0]])
    parity = compare(["logits"], [wanted], [wanted + 1], "fp32")
    assert parity.differences["logits"] == pytest.approx(1 / wanted.std())
    assert parity.wrong == ["logits"]
    assert compare(["logits"], [wanted], [wanted + 1], "fp16").wrong == []


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_are_wrong(bad):
    wanted = np.array([[0.0, 1.0]])
    assert compare(["logits"], [wanted], [np.array([[0.0, bad]])], "fp16").wrong == ["logits"]


def test_other_shapes_are_wrong():
    assert compare(["logits"], [np.ones((2, 3))], [np.ones((2, 4))], "fp16").wrong == ["logits"]


def test_labels_are_counted():
    wanted = np.zeros((1, 10, 10), np.uint8)
    got = wanted.copy()
    got[0, 0, :2] = 1
    parity = compare(["labels"], [wanted], [got], "fp32")
    assert parity.differences["labels"] == pytest.approx(0.02)
    assert parity.wrong == ["labels"]


def test_detections_may_change_places_but_not_class_or_box():
    wanted = detections((10, 0.9, 1), (50, 0.8, 2))
    swapped = detections((50, 0.8, 2), (10, 0.9, 1))
    parity = compare(NAMES, wanted, swapped, "fp32")
    assert parity.wrong == []
    assert parity.unmatched == (0, 2)
    assert compare(NAMES, wanted, detections((10, 0.9, 1), (50.5, 0.8, 2)), "fp32").wrong == ["boxes"]
    assert compare(NAMES, wanted, detections((10, 0.9, 1), (50, 0.7, 2)), "fp32").wrong == ["scores"]
    other_class = compare(NAMES, wanted, detections((10, 0.9, 1), (50, 0.8, 3)), "fp32")
    assert other_class.wrong == ["partners"]
    assert other_class.unmatched == (1, 2)


def test_missing_and_additional_detections_are_wrong():
    wanted = detections((10, 0.9, 1))
    assert compare(NAMES, wanted, detections(), "fp32").wrong == ["partners"]
    assert compare(NAMES, detections(), wanted, "fp32").unmatched == (1, 1)
