"""Segmentations to and from arrays, against counting and against pycocotools; what cannot be decoded is refused."""

import numpy as np
import pytest

from allmlp.data.rle import decode_segmentation, encode_mask, mask_area, segmentation_fault
from allmlp.errors import InputError

HEIGHT, WIDTH = 10, 12


@pytest.fixture
def mask():
    return np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.4


def column_runs(mask):
    """Uncompressed run lengths by counting, column by column, background first."""
    runs, current = [0], 0
    for value in mask.T.ravel():
        if value != current:
            runs.append(0)
            current = value
        runs[-1] += 1
    return runs


def test_masks_survive_both_kinds_of_run_lengths(mask):
    compressed = encode_mask(mask)
    assert compressed["size"] == [HEIGHT, WIDTH]
    assert isinstance(compressed["counts"], str)
    uncompressed = {"size": [HEIGHT, WIDTH], "counts": column_runs(mask)}
    for segmentation in (compressed, uncompressed):
        decoded = decode_segmentation(segmentation, HEIGHT, WIDTH)
        assert decoded.dtype == np.uint8
        assert np.array_equal(decoded, mask)
        assert segmentation_fault(segmentation, HEIGHT, WIDTH) is None
        assert mask_area(segmentation, HEIGHT, WIDTH) == mask.sum()


# pycocotools' own array conversion, not ours
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
def test_polygons_equal_pycocotools():
    from pycocotools import mask as reference

    for polygons in (
        [[1, 1, 8, 1, 8, 8, 1, 8]],
        [[1.5, 1.25, 8, 1, 8, 8.75], [9, 9, 11, 9, 11, 9.9, 9, 9.9]],
        [[-5, -5, 5, -5, 5, 5, -5, 5]],
    ):
        theirs = reference.decode(reference.merge(reference.frPyObjects(polygons, HEIGHT, WIDTH)))
        assert np.array_equal(decode_segmentation(polygons, HEIGHT, WIDTH), theirs)
    rectangle = decode_segmentation([[2, 3, 7, 3, 7, 6, 2, 6]], HEIGHT, WIDTH)
    assert rectangle.sum() == rectangle[3:6, 2:7].sum() == 15


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "wanted a list of polygons"),
        ([], "wanted a list of polygons"),
        ("text", "wanted a list of polygons"),
        ([[1, 1, 8, 1]], "at least three"),
        ([[1, 1, 8, 1, 8, 8, 1]], "at least three"),
        ([[[1, 1], [8, 1], [8, 8]]], "at least three"),
        ([1, 1, 8, 1, 8, 8], "at least three"),
        ([[1, 1, float("nan"), 1, 8, 8]], "finite"),
        ([[1, 1, 1e12, 1, 8, 8]], "finite"),
        ([[1, 1, "8", 1, 8, 8]], "finite"),
        ({"size": [HEIGHT, WIDTH]}, "keys size and counts"),
        ({"size": [WIDTH, HEIGHT], "counts": "P137"}, "for an image of size"),
        ({"size": [HEIGHT, WIDTH], "counts": "P137"}, "do not decode"),
        ({"size": [HEIGHT, WIDTH], "counts": ""}, "do not decode"),
        ({"size": [HEIGHT, WIDTH], "counts": "hello world zzz"}, "do not decode"),
        ({"size": [HEIGHT, WIDTH], "counts": 7}, "string or a list"),
        ({"size": [HEIGHT, WIDTH], "counts": [5, 10]}, "do not decode"),
        ({"size": [HEIGHT, WIDTH], "counts": [5, 10, 1000]}, "do not decode"),
        ({"size": [HEIGHT, WIDTH], "counts": [5, -10, 125]}, "whole numbers"),
        ({"size": [HEIGHT, WIDTH], "counts": [5.5, 10, 104.5]}, "whole numbers"),
    ],
)
def test_what_does_not_decode_is_refused(segmentation, message):
    with pytest.raises(InputError, match=message):
        decode_segmentation(segmentation, HEIGHT, WIDTH)
    assert message in segmentation_fault(segmentation, HEIGHT, WIDTH)
