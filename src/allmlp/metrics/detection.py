"""COCO average precision of boxes and masks: the twelve columns, AP of each class, precision-recall curves.

The matching is faster-coco-eval's, which gives pycocotools' numbers (tests/metrics/test_detection.py holds the two
together to 1e-6). Ours is the accumulation around it: results in the pixels of the original file, several processes,
and no number where there is nothing to measure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed
from jaxtyping import Float64
from torch import Tensor

from allmlp.data.rle import encode_mask, mask_library
from allmlp.errors import InputError

COLUMNS = (
    "ap",
    "ap50",
    "ap75",
    "ap_small",
    "ap_medium",
    "ap_large",
    "ar1",
    "ar10",
    "ar100",
    "ar_small",
    "ar_medium",
    "ar_large",
)
"""COCO's twelve columns in its order. AP over IoU .50:.95, at .50 and .75, by area (small < 32², medium < 96² pixels);
AR at 1, 10 and 100 detections an image, by area at 100."""

IOU_TYPES = {"box": "bbox", "mask": "segm"}


@dataclass(frozen=True)
class DetectionScores:
    """Scores of boxes or of masks, in [0, 1]; NaN where there is nothing to measure (no such object in the truth).

    Attributes:
        kind: "box" or "mask".
        columns: the twelve `COLUMNS`.
        classes: names, in label order.
        class_ap, class_ap50: AP of each class over IoU .50:.95 and at .50.
        instances: true objects of each class, crowds left out.
        recall: the 101 recall levels 0, 0.01, ... 1 of the curves.
        precision: precision at (IoU .50:.05:.95, recall level, class), all areas, 100 detections an image.
        images: how many images were scored.
    """

    kind: str
    columns: dict[str, float]
    classes: tuple[str, ...]
    class_ap: Float64[np.ndarray, "k"]
    class_ap50: Float64[np.ndarray, "k"]
    instances: np.ndarray
    recall: Float64[np.ndarray, "101"]
    precision: Float64[np.ndarray, "10 101 k"]
    images: int

    def metrics(self) -> dict[str, float]:
        """The columns with the kind in front (`box_ap`, `mask_ap50` ...), those that could not be measured left out."""
        return {f"{self.kind}_{name}": value for name, value in self.columns.items() if value == value}

    def per_class(self) -> list[dict[str, Any]]:
        """One row a class: name, ap, ap50 (None where the class is not in the truth) and true instances."""
        return [
            {"class": name, "ap": _number(ap), "ap50": _number(ap50), "instances": int(count)}
            for name, ap, ap50, count in zip(self.classes, self.class_ap, self.class_ap50, self.instances, strict=True)
        ]

    def curve(self, iou: float = 0.5) -> Float64[np.ndarray, "101"]:
        """Mean precision over the classes in the truth at each recall level, at an IoU of .50, .55, ... .95."""
        index = round((iou - 0.5) / 0.05)
        if not 0 <= index <= 9 or abs(0.5 + 0.05 * index - iou) > 1e-6:
            raise InputError(f"Curves exist at IoU 0.50, 0.55, ... 0.95, not at {iou}.")
        present = ~np.isnan(self.precision[index]).all(axis=0)
        return self.precision[index][:, present].mean(axis=1) if present.any() else np.full(101, np.nan)


def coco_results(
    image_id: int,
    detections: Mapping[str, Any],
    category_ids: Sequence[int],
    original_size: tuple[int, int] | None = None,
) -> list[dict[str, Any]]:
    """Detections of one image in COCO's results format.

    Args:
        image_id: the file's own id.
        detections: `boxes` (n, 4) x0, y0, x1, y1 in pixels of the original file, `scores` (n) in [0, 1],
            `labels` (n) in 0 .. k-1 and, for masks, `masks` (n, height, width) boolean at the original size.
        category_ids: the file's category id of each label.
        original_size: (height, width) that masks must have; None to take theirs.
    Returns:
        dictionaries of image_id, category_id, bbox (x, y, width, height), score and, with masks, segmentation.
    Raises:
        InputError: lengths disagree, a number is not finite, a label is not a class, a mask is of another size.
    """
    boxes = _array(detections["boxes"]).reshape(-1, 4).astype(np.float64)
    scores = _array(detections["scores"]).astype(np.float64)
    labels = _array(detections["labels"])
    masks = detections.get("masks")
    if not len(boxes) == len(scores) == len(labels) or (masks is not None and len(masks) != len(boxes)):
        raise InputError(f"Image {image_id}: boxes, scores, labels and masks differ in number.")
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise InputError(
            f"Image {image_id}: a detection's box or score is not finite; the network's weights are broken."
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(category_ids):
        raise InputError(f"Image {image_id}: labels go from {labels.min()} to {labels.max()}, of {len(category_ids)}.")
    results = []
    for index, (box, score, label) in enumerate(zip(boxes, scores, labels, strict=True)):
        x0, y0, x1, y1 = box.tolist()
        result = {
            "image_id": image_id,
            "category_id": category_ids[int(label)],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "score": float(score),
        }
        if masks is not None:
            mask = _array(masks[index])
            if original_size is not None and mask.shape != tuple(original_size):
                raise InputError(f"Image {image_id}: a mask of {mask.shape}, the original file has {original_size}.")
            result["segmentation"] = encode_mask(mask)
        results.append(result)
    return results


class DetectionMetric:
    """Collects detections image by image and scores them against the truth of the whole split.

    Only images that were added are scored (an image without detections counts once it was added with none), and
    `DetectionScores.images` says how many, so a run over part of a split says so.

    Args:
        ground_truth: COCO's dictionary of images, annotations and categories (`CocoDetection.ground_truth()`); the
            order of the categories is the order of the labels.
        masks: score masks too; every annotation then has a segmentation.
    """

    def __init__(self, ground_truth: Mapping[str, Any], masks: bool = False):
        self.ground_truth = ground_truth
        self.kinds = ("box", "mask") if masks else ("box",)
        self.category_ids = [int(category["id"]) for category in ground_truth["categories"]]
        self.sizes = {image["id"]: (image["height"], image["width"]) for image in ground_truth["images"]}
        self.found: dict[int, list[dict[str, Any]]] = {}
        bare = [a["id"] for a in ground_truth["annotations"] if masks and not a.get("segmentation")]
        if bare:
            raise InputError(
                f"Masks are to be scored, but annotation {bare[0]} has no segmentation ({len(bare)} have none)."
            )

    def add(self, image_id: int, detections: Mapping[str, Any]) -> None:
        """Add one image's detections (as `coco_results` takes them). An image added again keeps its first result."""
        if image_id not in self.sizes:
            raise InputError(f"Image {image_id} is not among the {len(self.sizes)} images of the truth.")
        masks = detections.get("masks")
        if "mask" in self.kinds and masks is None and len(detections["boxes"]):
            raise InputError(f"Image {image_id}: masks are to be scored, but the detections hold none.")
        wanted = dict(detections) if "mask" in self.kinds else {k: v for k, v in detections.items() if k != "masks"}
        self.found.setdefault(image_id, coco_results(image_id, wanted, self.category_ids, self.sizes[image_id]))

    def gather(self) -> None:
        """Bring all processes' results together in each, if there are several.

        A distributed sampler repeats images to fill the last batch; each image counts once.
        """
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            parts: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, self.found)
            self.found = {image: results for part in reversed(parts) for image, results in part.items()}

    def results(self) -> list[dict[str, Any]]:
        """All detections in COCO's results format, images in order of their id."""
        return [result for image in sorted(self.found) for result in self.found[image]]

    def compute(self) -> dict[str, DetectionScores]:
        """Scores by kind: "box" and, if asked for, "mask". `InputError` if no image was added."""
        if not self.found:
            raise InputError("No image to score: the evaluation split is empty.")
        return {kind: self._score(kind) for kind in self.kinds}

    def _score(self, kind: str) -> DetectionScores:
        mask_library()  # the message that says what to install
        from faster_coco_eval.core.coco import COCO
        from faster_coco_eval.core.faster_eval_api import COCOeval_faster

        # The library writes into the dictionaries it is given, and tells matches by annotation id, where 0 means none.
        annotations = [dict(annotation, id=1 + n) for n, annotation in enumerate(self.ground_truth["annotations"])]
        truth = COCO({**self.ground_truth, "annotations": annotations})
        # With a box beside the mask, COCO's code sorts masks by the area of the box.
        unwanted = "bbox" if kind == "mask" else "segmentation"
        found = truth.loadRes([{k: v for k, v in result.items() if k != unwanted} for result in self.results()])
        evaluation = COCOeval_faster(truth, found, iouType=IOU_TYPES[kind])
        evaluation.params.imgIds = sorted(self.found)
        evaluation.run()

        # sorted by category id, as the evaluation has them; bring the classes back to label order
        order = [sorted(self.category_ids).index(category) for category in self.category_ids]
        precision = np.asarray(evaluation.eval["precision"], dtype=np.float64)[:, :, order, 0, -1]
        precision = np.where(precision < 0, np.nan, precision)
        scored = [a for a in annotations if a["image_id"] in self.found and not a.get("iscrowd", 0)]
        count = dict.fromkeys(self.category_ids, 0)
        for annotation in scored:
            count[annotation["category_id"]] += 1
        return DetectionScores(
            kind=kind,
            columns={name: _measured(value) for name, value in zip(COLUMNS, evaluation.stats[:12], strict=True)},
            classes=tuple(category["name"] for category in self.ground_truth["categories"]),
            class_ap=precision.mean(axis=(0, 1)),
            class_ap50=precision[0].mean(axis=0),
            instances=np.array([count[category] for category in self.category_ids]),
            recall=np.asarray(evaluation.params.recThrs),
            precision=precision,
            images=len(self.found),
        )


def _measured(value: float) -> float:
    """COCO's -1 stands for "nothing to measure"."""
    return float("nan") if value < 0 else float(value)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
