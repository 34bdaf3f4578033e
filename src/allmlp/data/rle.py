"""COCO segmentations: polygons, compressed and uncompressed run lengths, to and from arrays.

Rasterising and the run-length code are faster-coco-eval's (C++, the rules of pycocotools). What is ours is the check
before: that library answers a NaN coordinate with endless memory and a list of four coordinates with a rectangle.
"""

import math
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import UInt8

from allmlp.errors import InputError

# The rasteriser walks every polygon's edge pixel by pixel, so a stray 1e12 would never end.
_FARTHEST_PIXEL = 1e6


def mask_library() -> ModuleType:
    """The module `faster_coco_eval.core.mask`, loaded on first use; `InputError` with the mend if not installed."""
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise InputError(
            f"COCO masks and scores need faster-coco-eval ({error}): type pip install 'allmlp[train]'."
        ) from error
    return mask


def segmentation_fault(segmentation: Any, height: int, width: int) -> str | None:
    """What is wrong with a COCO `segmentation` of an image of this size in pixels, or None.

    Polygons are checked by their numbers, run lengths by decoding them.
    """
    try:
        if isinstance(segmentation, dict):
            _decode_runs(segmentation, height, width)
        else:
            _check_polygons(segmentation)
    except InputError as error:
        return str(error)
    return None


def decode_segmentation(segmentation: Any, height: int, width: int) -> UInt8[np.ndarray, "height width"]:
    """The mask of a COCO `segmentation`: 1 inside, 0 outside.

    Args:
        segmentation: a list of polygons `[x0, y0, x1, y1, ...]` in pixels (several are united), or a dictionary with
            `size` and `counts`, where counts is a compressed string or a list of run lengths, column by column.
        height, width: of the image the mask belongs to.
    Raises:
        InputError: it does not decode, or belongs to an image of another size.
    """
    if isinstance(segmentation, dict):
        return _decode_runs(segmentation, height, width)
    _check_polygons(segmentation)
    library = mask_library()
    return library.decode(library.merge(library.frPyObjects(segmentation, height, width)))


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """A 0/1 or boolean (height, width) array as compressed COCO run lengths, ready for JSON."""
    encoded = mask_library().encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def mask_area(segmentation: Any, height: int, width: int) -> int:
    """Pixels inside a COCO `segmentation`; `InputError` as in `decode_segmentation`."""
    return int(decode_segmentation(segmentation, height, width).sum())


def _check_polygons(segmentation: Any) -> None:
    if not isinstance(segmentation, list) or not segmentation:
        raise InputError(f"wanted a list of polygons or a run-length dictionary, got {_short(segmentation)}")
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise InputError(f"a polygon is a list of at least three x, y pairs, got {_short(polygon)}")
        for value in polygon:
            if not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > _FARTHEST_PIXEL:
                raise InputError(f"a polygon's coordinates are finite pixels, got {_short(value)}")


def _decode_runs(segmentation: dict, height: int, width: int) -> UInt8[np.ndarray, "height width"]:
    if "counts" not in segmentation or "size" not in segmentation:
        raise InputError(f"run lengths have the keys size and counts, got {sorted(map(str, segmentation))}")
    size, counts = segmentation["size"], segmentation["counts"]
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        raise InputError(f"the mask is for an image of size {_short(size)}, the image is [{height}, {width}]")
    if not isinstance(counts, str | bytes | list):
        raise InputError(f"counts is a string or a list of run lengths, got {_short(counts)}")
    runs = {"size": [height, width], "counts": counts}
    if isinstance(counts, list) and any(isinstance(run, bool) or not isinstance(run, int) or run < 0 for run in counts):
        raise InputError("uncompressed run lengths are whole numbers >= 0")
    library = mask_library()
    try:
        return library.decode(library.frPyObjects(runs, height, width) if isinstance(counts, list) else runs)
    except (ValueError, RuntimeError, TypeError) as error:
        raise InputError(f"the run lengths do not decode: {error}") from error


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
