"""Detection and instance segmentation, from a recipe to numbers."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from allmlp.data.coco import DetectionData, class_counts
from allmlp.data.dense_batches import AspectRatioBatches, DetectionCollate
from allmlp.data.dense_loader import DenseLoader
from allmlp.data.dense_transforms import DetectionAugment, build_detection_transform
from allmlp.errors import InputError
from allmlp.recipes import Recipe
from allmlp.runs.dense import HEADS
from allmlp.runs.dense_data import open_objects
from allmlp.tasks.dense import DenseTask, changed, peak_memory_mb, small_side
from allmlp.tasks.detect_evaluation import evaluate_source

if TYPE_CHECKING:
    from allmlp.tasks.module import TrainingModule


class DetectTask(DenseTask):
    """Detection; see `Task`."""

    name: ClassVar[str] = "detect"
    monitor: ClassVar[str] = "val_box_ap"
    multiple = 32

    data: DetectionData
    augment: DetectionAugment

    def open_data(self) -> None:
        recipe = self.recipe
        head = recipe.model.head or HEADS["detect"]
        self.augment = detection_augment(recipe)
        self.data = open_objects(recipe.data, "mask" in head, recipe.model.in_chans or 3)
        if "mask" in head and not self.data.has_masks:
            boxes = {"mask_rcnn": "faster_rcnn"}.get(head, "cascade_rcnn")
            raise InputError(
                f"{head} learns masks; {recipe.data.name} has boxes alone. Take model.head={boxes}, which learns boxes."
            )

    def describe_data(self) -> dict[str, Any]:
        found = super().describe_data()
        for split, part in (("train", self.data.train), ("val", self.data.val)):
            found[split]["objects"] = class_counts(part, self.data.classes)
        return found

    def train_sampler(self, rank: int, world_size: int) -> AspectRatioBatches:
        recipe = self.recipe
        batch = max(1, min(recipe.batch_size, len(self.data.train)) // world_size)
        wide = self.data.train.is_wide()
        return AspectRatioBatches(wide, batch, seed=recipe.seed, rank=rank, world_size=world_size)

    def collate(self) -> DetectionCollate:
        return DetectionCollate(self.multiple, self.canvas)

    def train_loader(self, rank: int = 0, world_size: int = 1) -> DenseLoader:
        transform = build_detection_transform(self.spec, self.augment, training=True)
        dataset = self.data.train.with_transform(transform, self.recipe.seed)
        return self.load(dataset, self.train_sampler(rank, world_size), self.collate())

    def make_module(self, network: nn.Module, batches: int) -> "TrainingModule":
        from allmlp.tasks.detect_module import DetectModule

        source: Any = self.data.val.source
        return DetectModule(self.recipe, network, batches, source.ground_truth(), self.data.has_masks)

    def evaluate(self, network: nn.Module, folder: Path, device: str) -> dict[str, Any]:
        workers = self.recipe.data.workers
        metrics = evaluate_source(
            network,
            self.data,
            self.spec,
            self.augment.view,
            folder,
            device,
            self.recipe.batch_size,
            0 if workers == "auto" else workers,
        )
        return metrics | {"peak_memory_mb": peak_memory_mb()}


def detection_augment(recipe: Recipe) -> DetectionAugment:
    """The recipe's augmentation.

    Raises:
        InputError: a kind or setting that detection does not know.
    """
    group, data, side = recipe.augment, recipe.data, small_side(recipe)
    if group.kind == "paper":
        base = DetectionAugment(flip=0.5 if group.flip is None else group.flip)
    elif group.kind == "small":
        base = DetectionAugment.small(side, group.flip or 0.0)
    elif group.kind == "none":
        base = DetectionAugment((side,), side, crop_chance=0.0, flip=0.0, test_short_side=side, antialias=True)
    else:
        raise InputError(f"augment.kind: detection wants paper, small or none; got {group.kind}.")
    bounds = {"test_short_side": data.short_side, "long_side": data.long_side}
    return changed(base, {key: value for key, value in bounds.items() if value is not None} | group.args)
