"""Scores of semantic segmentation from one confusion matrix: IoU of each class, their mean, and the accuracies.

Shapes: b images, h and w pixels, k classes.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from jaxtyping import Float64, Int64
from torch import Tensor

from allmlp.errors import InputError


@dataclass(frozen=True)
class SegmentationScores:
    """Scores in [0, 1] over all pixels counted.

    `iou` and `accuracy` (recall of a class) hold one value a class, NaN where there is nothing to measure: IoU of a
    class that is in neither truth nor prediction, accuracy of a class that is not in the truth. Their means leave
    those classes out. A class that is predicted somewhere and true nowhere has IoU 0 and does count.
    """

    classes: tuple[str, ...]
    miou: float
    mean_accuracy: float
    pixel_accuracy: float
    iou: Float64[Tensor, "k"]
    accuracy: Float64[Tensor, "k"]
    pixels: Int64[Tensor, "k"]
    confusion: Int64[Tensor, "k k"]

    def metrics(self) -> dict[str, float]:
        """The three means, as a run folder's `metrics.json` names them."""
        return {"miou": self.miou, "mean_accuracy": self.mean_accuracy, "pixel_accuracy": self.pixel_accuracy}

    def per_class(self) -> list[dict[str, Any]]:
        """One row a class: name, iou, accuracy (None where there is nothing to measure) and true pixels."""
        rows = zip(self.classes, self.iou.tolist(), self.accuracy.tolist(), self.pixels.tolist(), strict=True)
        return [
            {"class": name, "iou": _number(iou), "accuracy": _number(accuracy), "pixels": pixels}
            for name, iou, accuracy, pixels in rows
        ]


class ConfusionMatrix:
    """Counts of pixels by (true class, predicted class), added up over images and processes.

    Counts are 64-bit integers, so the result does not depend on the order or the number of processes.
    """

    def __init__(self, classes: list[str] | tuple[str, ...], ignore_label: int = 255):
        self.classes = tuple(classes)
        self.ignore_label = ignore_label
        self.counts: Int64[Tensor, "k k"] = torch.zeros(len(classes), len(classes), dtype=torch.int64)

    def add(self, prediction: Tensor, truth: Tensor) -> None:
        """Count the pixels of class maps of equal shape, (h, w) or (b, h, w), but those labelled `ignore_label`.

        Raises:
            InputError: the shapes differ, or a label is not a class number (it would be counted as another class).
        """
        if prediction.shape != truth.shape:
            raise InputError(
                f"Prediction {tuple(prediction.shape)} and label map {tuple(truth.shape)} differ in size: "
                "resize the prediction to the label map, never the other way round."
            )
        k = len(self.classes)
        truth = truth.reshape(-1).to(torch.int64)
        counted = truth != self.ignore_label
        truth, prediction = truth[counted], prediction.reshape(-1).to(truth.device, torch.int64)[counted]
        for name, labels in (("label map", truth), ("prediction", prediction)):
            if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < k:
                raise InputError(
                    f"The {name} holds {int(labels.min())} to {int(labels.max())}; wanted class numbers 0 to {k - 1} "
                    f"or {self.ignore_label} (ignored)."
                )
        self.counts += torch.bincount(truth * k + prediction, minlength=k * k).reshape(k, k).cpu()

    def merge(self, other: "ConfusionMatrix") -> None:
        """Add another matrix over the same classes."""
        if other.classes != self.classes:
            raise InputError(f"Only matrices over the same classes add up: {self.classes} and {other.classes}.")
        self.counts += other.counts

    def all_reduce(self, device: torch.device | str = "cpu") -> None:
        """Add up over all processes, if there are several. `device`: where the process group can sum (NCCL: CUDA).

        Call it once, after the last `add`: a second call would count every other process's pixels again.
        """
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            counts = self.counts.to(device)
            torch.distributed.all_reduce(counts)
            self.counts = counts.cpu()

    def compute(self) -> SegmentationScores:
        """The scores; `InputError` if no pixel was counted."""
        if not int(self.counts.sum()):
            raise InputError("No labelled pixel to score: the split is empty or everything in it is ignored.")
        counts = self.counts.double()
        right, true, predicted = counts.diag(), counts.sum(1), counts.sum(0)
        # 0 / 0 is NaN, which is what "nothing to measure" shall be
        iou, accuracy = right / (true + predicted - right), right / true
        return SegmentationScores(
            classes=self.classes,
            miou=float(iou.nanmean()),
            mean_accuracy=float(accuracy.nanmean()),
            pixel_accuracy=float(right.sum() / counts.sum()),
            iou=iou,
            accuracy=accuracy,
            pixels=self.counts.sum(1),
            confusion=self.counts.clone(),
        )


def _number(value: float) -> float | None:
    return None if value != value else value
