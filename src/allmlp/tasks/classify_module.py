"""The training and evaluation step of classification."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from allmlp.recipes import Recipe
from allmlp.tasks.losses import sigmoid_loss, softmax_loss
from allmlp.tasks.module import TrainingModule

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Batch = tuple[Tensor, Tensor, Tensor]


class ClassifyModule(TrainingModule):
    """Images to classes.

    Args:
        recipe, network, batches: see `TrainingModule`.
        mix: mixup and cutmix: (images, labels) -> (images, soft targets), or None.
    """

    def __init__(self, recipe: Recipe, network: nn.Module, batches: int, mix: Mix | None = None) -> None:
        super().__init__(recipe, network, batches)
        self.mix = mix
        self.loss_of = sigmoid_loss if recipe.loss == "bce" else softmax_loss

    def learn(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        images, labels, _ = batch
        targets = labels
        if self.mix is not None:
            images, targets = self.mix(images, labels)
        logits = self.network(images)
        loss = self.loss_of(logits, targets, self.recipe.label_smoothing).mean()
        with torch.no_grad():
            # Of a mixed image the class with the larger share counts.
            wanted = targets if targets.ndim == 1 else targets.argmax(1)
            hits = (logits.argmax(1) == wanted).sum()
        return loss, _sums(loss=loss.detach() * len(labels), hits=hits, images=torch.tensor(len(labels)))

    def judge(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        images, labels, _ = batch
        logits = network(images)
        top = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        loss = self.loss_of(logits, labels).sum()
        return _sums(loss=loss, top1=top[:, 0].sum(), top5=top.any(1).sum(), images=torch.tensor(len(labels)))

    def summarise(self, training: Mapping[str, Tensor], evaluation: Mapping[str, Tensor]) -> dict[str, float]:
        numbers = {"images": float(training["images"])}
        numbers["train_loss"] = float(training["loss"]) / numbers["images"]
        numbers["train_top1"] = float(training["hits"]) / numbers["images"]
        for name in ("loss", "top1", "top5"):
            numbers[f"val_{name}"] = float(evaluation[name]) / float(evaluation["images"])
        return numbers


def _sums(**values: Tensor) -> dict[str, Tensor]:
    """Sums in double precision, where the device has it: an epoch may hold millions of images."""
    return {name: value if value.device.type == "mps" else value.double() for name, value in values.items()}
