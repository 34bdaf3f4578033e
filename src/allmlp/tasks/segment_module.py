"""The training and evaluation step of segmentation."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from allmlp.data.dense_batches import SegmentationBatch
from allmlp.dense.inference import labels_at
from allmlp.metrics.segmentation import ConfusionMatrix
from allmlp.recipes import Recipe
from allmlp.tasks.module import TrainingModule


class SegmentModule(TrainingModule):
    """Images to label maps.

    Args:
        recipe, network, batches: see `TrainingModule`.
        classes: names. ignore_label: of pixels that do not count.
    """

    def __init__(
        self, recipe: Recipe, network: nn.Module, batches: int, classes: Sequence[str], ignore_label: int
    ) -> None:
        super().__init__(recipe, network, batches)
        self.classes, self.ignore_label = tuple(classes), ignore_label

    def learn(self, batch: SegmentationBatch) -> tuple[Tensor, dict[str, Tensor]]:
        masks = batch.masks
        if isinstance(masks, list):  # never in training, where all have the crop's size
            masks = torch.stack(masks)
        losses = self.network(batch.images[..., : masks.shape[-2], : masks.shape[-1]], masks)
        loss = torch.stack(list(losses.values())).sum()
        count = len(batch.images)
        sums = {name: value.detach().double() * count for name, value in losses.items()}
        return loss, {"loss": loss.detach().double() * count, "images": torch.tensor(float(count)), **sums}

    def judge(self, network: nn.Module, batch: SegmentationBatch) -> dict[str, Tensor]:
        """Seen at one scale, whatever `inference` asks of the final evaluation."""
        scores = network(batch.images)
        matrix = ConfusionMatrix(self.classes, self.ignore_label)
        kept = 0
        for row, (height, width), mask, target in zip(scores, batch.sizes, batch.masks, batch.targets, strict=True):
            if not target["repeated"]:
                labels = labels_at(row[None, :, :height, :width], (mask.shape[-2], mask.shape[-1]))
                matrix.add(labels[0], mask)
                kept += 1
        return {"confusion": matrix.counts.to(scores.device), "images": torch.tensor(float(kept))}

    def summarise(self, training: Mapping[str, Tensor], evaluation: Mapping[str, Tensor]) -> dict[str, float]:
        images = float(training["images"])
        numbers = {"images": images}
        numbers |= {f"train_{name}": float(value) / images for name, value in training.items() if name != "images"}
        matrix = ConfusionMatrix(self.classes, self.ignore_label)
        matrix.counts = evaluation["confusion"].cpu()
        return numbers | {f"val_{name}": value for name, value in matrix.compute().metrics().items()}
