"""Semantic segmentation, from a recipe to numbers."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from allmlp.data import EpochBatchSampler
from allmlp.data.dense_batches import SegmentationCollate
from allmlp.data.dense_loader import DenseLoader
from allmlp.data.dense_transforms import SegmentationAugment, build_segmentation_transform
from allmlp.data.mask_folder import SegmentationData
from allmlp.errors import InputError
from allmlp.recipes import Recipe
from allmlp.runs.dense_data import open_label_maps
from allmlp.tasks.dense import DenseTask, changed, peak_memory_mb, small_side
from allmlp.tasks.segment_evaluation import evaluate_source

if TYPE_CHECKING:
    from allmlp.tasks.module import TrainingModule


class SegmentTask(DenseTask):
    """Segmentation; see `Task`."""

    name: ClassVar[str] = "segment"
    monitor: ClassVar[str] = "val_miou"
    multiple = 1

    data: SegmentationData
    augment: SegmentationAugment

    def open_data(self) -> None:
        self.augment = segmentation_augment(self.recipe)
        self.data = open_label_maps(self.recipe.data, self.recipe.model.in_chans or 3)

    def train_sampler(self, rank: int, world_size: int) -> EpochBatchSampler:
        recipe = self.recipe
        batch = max(1, min(recipe.batch_size, len(self.data.train)) // world_size)
        return EpochBatchSampler(
            len(self.data.train), batch, seed=recipe.seed, drop_last=True, rank=rank, world_size=world_size
        )

    def collate(self) -> SegmentationCollate:
        return SegmentationCollate(self.multiple, self.canvas)

    def train_loader(self, rank: int = 0, world_size: int = 1) -> DenseLoader:
        sampler = self.train_sampler(rank, world_size)
        if sampler.batch_size < 2:
            raise InputError(
                "Wanted at least 2 images a batch of each process, since batch norm has nothing to average over one; "
                f"got batch_size={self.recipe.batch_size} and {len(self.data.train)} images."
            )
        transform = build_segmentation_transform(self.spec, self.augment, training=True)
        return self.load(self.data.train.with_transform(transform, self.recipe.seed), sampler, self.collate())

    def make_module(self, network: nn.Module, batches: int) -> "TrainingModule":
        from allmlp.tasks.segment_module import SegmentModule

        return SegmentModule(self.recipe, network, batches, self.data.classes, self.data.ignore_label)

    def evaluate(self, network: nn.Module, folder: Path, device: str) -> dict[str, Any]:
        workers = self.recipe.data.workers
        metrics = evaluate_source(
            network,
            self.data,
            self.spec,
            self.augment.view,
            self.recipe.inference,
            folder,
            device,
            self.recipe.batch_size,
            0 if workers == "auto" else workers,
        )
        return metrics | {"peak_memory_mb": peak_memory_mb()}


def segmentation_augment(recipe: Recipe) -> SegmentationAugment:
    """The recipe's augmentation.

    Raises:
        InputError: a kind or setting that segmentation does not know.
    """
    group, data, side = recipe.augment, recipe.data, small_side(recipe)
    if group.kind == "paper":
        base = SegmentationAugment(flip=0.5 if group.flip is None else group.flip)
    elif group.kind == "small":
        base = SegmentationAugment.small(side, group.flip or 0.0)
    elif group.kind == "none":
        base = SegmentationAugment(
            side, side, (1.0, 1.0), (side, side), 1.0, 0.0, 0.0, (1.0, 1.0), (1.0, 1.0), 0, antialias=True
        )
    else:
        raise InputError(f"augment.kind: segmentation wants paper, small or none; got {group.kind}.")
    bounds = {"short_side": data.short_side, "long_side": data.long_side}
    return changed(base, {key: value for key, value in bounds.items() if value is not None} | group.args)
