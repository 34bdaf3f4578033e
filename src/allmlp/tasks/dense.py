"""What detection and segmentation share, from a recipe to loaders."""

import dataclasses
import difflib
import os
import resource
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from allmlp.data import EpochBatchSampler, ImageSpec
from allmlp.data.coco import DetectionData
from allmlp.data.dense_batches import EvaluationBatches, evaluation_batch
from allmlp.data.dense_dataset import DenseDataset
from allmlp.data.dense_loader import DenseLoader, make_dense_loader
from allmlp.data.dense_transforms import DetectionAugment, SegmentationAugment, build_view_transform
from allmlp.data.mask_folder import SegmentationData
from allmlp.errors import InputError
from allmlp.recipes import Recipe
from allmlp.runs.dense import create_dense, dense_config, dense_spec, start_dense
from allmlp.runs.dense_data import EMBEDDED, fingerprint
from allmlp.tasks.optim import freeze
from allmlp.tasks.task import Task

if TYPE_CHECKING:
    from allmlp.models import LoadReport

Augment = TypeVar("Augment", DetectionAugment, SegmentationAugment)

_SMALL_SIDE = 128  # pixels, of "small" augmentation where nothing says more
_SHOWN = 5  # examples of each finding in the summary


class DenseTask(Task):
    """Base of detection and segmentation; see `Task`. A subclass sets `multiple` and implements what is left.

    multiple: batches are padded to sides that are multiples of it, where the network has no canvas.
    """

    multiple: int
    data: DetectionData | SegmentationData
    augment: DetectionAugment | SegmentationAugment
    spec: ImageSpec
    canvas: tuple[int, int] | None

    def describe_data(self) -> dict[str, Any]:
        data = self.data
        return {
            "name": data.name,
            "classes": list(data.classes),
            "train": {"images": len(data.train)},
            "val": {"images": len(data.val)},
            "report": data.report.to_dict(),
            "skipped": [{"path": p.where, "reason": p.reason} for p in data.report.skipped()],
            "fingerprint": fingerprint(data),
        }

    def summary(self) -> str:
        data = self.data
        classes = ", ".join(data.classes[:6]) + (" ..." if len(data.classes) > 6 else "")
        first = (
            f"{data.name}: {len(data.train):,} images to train on, {len(data.val):,} to evaluate on, "
            f"{len(data.classes)} classes ({classes})"
        )
        return "\n".join([first, *filter(None, [data.report.summary(_SHOWN)])])

    def build_network(self) -> "tuple[nn.Module, LoadReport | None]":
        recipe, view = self.recipe, self.augment.view
        side = small_side(recipe) if recipe.augment.kind != "paper" else None
        network = create_dense(self.name, recipe.model, len(self.data.classes), (side, side) if side else None)
        report = None
        if recipe.init is not None:
            report = start_dense(network, recipe.init, recipe.reinit, self.data.classes)
        freeze(network, recipe.freeze)
        self.canvas = network.canvas
        self.spec = dense_spec(network, recipe.model, recipe.data, view)
        self._check_canvas()
        return network, report

    def model_config(self, network: Any) -> dict[str, Any]:
        recipe = self.recipe
        return dense_config(
            network, self.name, recipe.model, self.spec, self.augment.view, recipe.inference, self.data.classes
        )

    def evaluation_loader(self, rank: int = 0, world_size: int = 1) -> DenseLoader:
        dataset = self.data.val.with_transform(build_view_transform(self.spec, self.augment.view))
        batch = evaluation_batch(self.data.val, max(1, self.recipe.batch_size // world_size))
        sampler = EvaluationBatches(len(dataset), batch, rank=rank, world_size=world_size)
        return self.load(dataset, sampler, self.collate())

    def batch_names(self, epoch: int, batch: int, rank: int, world_size: int) -> list[str]:
        keys = next(self.train_sampler(rank, world_size).batches(epoch, batch), [])
        source: Any = self.data.train.source
        return [source.path(index) for _, index in keys]

    def train_sampler(self, rank: int, world_size: int) -> EpochBatchSampler:
        """The training batches of a process."""
        raise NotImplementedError

    def collate(self) -> Callable[[Any], Any]:
        """What makes batches of items."""
        raise NotImplementedError

    def load(self, dataset: DenseDataset, sampler: EpochBatchSampler, collate: Callable[[Any], Any]) -> DenseLoader:
        """A loader with the recipe's workers. Automatically: none where an image takes a few milliseconds."""
        height, width = dataset.source.size(0)
        automatic = 0 if height * width <= 256 * 256 else max(0, (os.cpu_count() or 1) - 1)
        workers = self.recipe.data.workers
        count = automatic if workers == "auto" else workers
        return make_dense_loader(dataset, sampler, collate, count, pin_memory=self.recipe.device in ("cuda", "gpu"))

    def _check_canvas(self) -> None:
        if self.canvas is None:
            return
        view = self.augment.view
        worst = max(view.long_side, view.short_side)
        if worst > min(self.canvas):
            raise InputError(
                f"Wanted images that fit the network's canvas of {self.canvas[0]} x {self.canvas[1]}; the augmentation "
                f"resizes to sides of up to {worst} pixels. Take model.img_size={worst}, or lower "
                "data.short_side and data.long_side."
            )


def small_side(recipe: Recipe) -> int:
    """The side of the canvas that "small" augmentation fills: the recipe's image size, else the data's own."""
    if recipe.model.img_size is not None:
        return min(recipe.model.img_size)
    return recipe.data.scene_size if recipe.data.name == EMBEDDED else _SMALL_SIDE


def changed(augment: Augment, changes: dict[str, Any]) -> Augment:
    """The augmentation with some settings replaced.

    Raises:
        InputError: a setting that does not exist; the nearest is named.
    """
    known = [field.name for field in dataclasses.fields(augment)]
    for key in changes:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise InputError(
                f"augment.args.{key}: no such setting. " + (f"Did you mean {near[0]}?" if near else f"Known: {known}.")
            )
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in changes.items()}
    return dataclasses.replace(augment, **values)


def peak_memory_mb() -> int:
    """The most memory that this process has held so far, in MB of 2**20 bytes; workers are not counted."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))
