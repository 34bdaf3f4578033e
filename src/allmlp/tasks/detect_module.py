"""The training and evaluation step of detection."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from allmlp.data.dense_batches import DetectionBatch
from allmlp.metrics.detection import DetectionMetric
from allmlp.recipes import Recipe
from allmlp.tasks.detect_evaluation import in_original_pixels
from allmlp.tasks.module import TrainingModule


class DetectModule(TrainingModule):
    """Images to boxes, and masks.

    Args:
        recipe, network, batches: see `TrainingModule`.
        ground_truth: COCO's dictionary of the evaluation split.
        masks: score masks too.
    """

    def __init__(
        self, recipe: Recipe, network: nn.Module, batches: int, ground_truth: Mapping[str, Any], masks: bool
    ) -> None:
        super().__init__(recipe, network, batches)
        self._truth = ground_truth, masks
        self._metric = DetectionMetric(*self._truth)

    def learn(self, batch: DetectionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        losses = self.network(batch.images, batch.sizes, batch.targets)
        loss = torch.stack(list(losses.values())).sum()
        count = len(batch.images)
        sums = {name: value.detach().double() * count for name, value in losses.items()}
        return loss, {"loss": loss.detach().double() * count, "images": torch.tensor(float(count)), **sums}

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._metric = DetectionMetric(*self._truth)

    def judge(self, network: nn.Module, batch: DetectionBatch) -> dict[str, Tensor]:
        found = network(batch.images, batch.sizes)
        kept = 0
        for result, size, target in zip(found, batch.sizes, batch.targets, strict=True):
            if not target["repeated"]:
                self._metric.add(target["image_id"], in_original_pixels(result, size, target["original_size"]))
                kept += 1
        return {"images": torch.tensor(float(kept))}

    def summarise(self, training: Mapping[str, Tensor], evaluation: Mapping[str, Tensor]) -> dict[str, float]:
        images = float(training["images"])
        numbers = {"images": images}
        numbers |= {f"train_{name}": float(value) / images for name, value in training.items() if name != "images"}
        self._metric.gather()
        for scores in self._metric.compute().values():
            numbers |= {
                f"val_{scores.kind}_{column}": scores.columns[column]
                for column in ("ap", "ap50", "ap75")
                if scores.columns[column] == scores.columns[column]
            }
        return numbers
