"""Image classification, from a recipe to numbers."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from allmlp.data import (
    AugmentSettings,
    ClassificationData,
    ClassificationDataset,
    EpochBatchSampler,
    MixSettings,
    build_transform,
    make_loader,
    make_mixup,
    open_classification,
)
from allmlp.data.loader import default_workers
from allmlp.recipes import Recipe
from allmlp.runs import create_network, image_spec, model_config, start_from
from allmlp.tasks.classify_evaluation import evaluate_source
from allmlp.tasks.optim import freeze
from allmlp.tasks.task import Task

if TYPE_CHECKING:
    from allmlp.data import ImageSource, ImageSpec
    from allmlp.models import LoadReport
    from allmlp.tasks.module import TrainingModule


class ClassifyTask(Task):
    """Classification; see `Task`."""

    name: ClassVar[str] = "classify"
    monitor: ClassVar[str] = "val_top1"

    data: ClassificationData
    spec: "ImageSpec"

    def open_data(self) -> None:
        group = self.recipe.data
        self.data = open_classification(
            group.name,
            val_fraction=group.val_fraction,
            seed=group.split_seed,
            on_bad_image=group.on_bad_image,
            root=group.root,
            download=group.download,
            options=group.options or None,
        )

    def describe_data(self) -> dict[str, Any]:
        return self.data.describe()

    def summary(self) -> str:
        data = self.data
        lines = [
            f"{data.name}: {len(data.train):,} images to train on, {len(data.val):,} to evaluate on, "
            f"{len(data.classes)} classes ({_shorten(data.classes)})"
        ]
        lines += [f"note: {note}" for note in data.notes]
        if data.skipped:
            lines.append(f"{len(data.skipped)} images cannot be read and are left out (listed in data.json):")
            lines += [f"  {image.path}: {image.reason}" for image in data.skipped[:5]]
        return "\n".join(lines)

    def build_network(self) -> "tuple[nn.Module, LoadReport | None]":
        recipe = self.recipe
        network = create_network(recipe.model, len(self.data.classes))
        report = None
        if recipe.init is not None:
            report = start_from(network, recipe.model, recipe.init, recipe.reinit, self.data.classes)
        freeze(network, recipe.freeze)
        self.spec = image_spec(network, recipe.model, recipe.data)
        return network, report

    def model_config(self, network: nn.Module) -> dict[str, Any]:
        return model_config(network, self.recipe.model, self.spec, self.data.classes, task=self.name)

    def train_loader(self, rank: int = 0, world_size: int = 1) -> Any:
        transform = build_transform(self.spec, augment_settings(self.recipe), training=True)
        dataset = ClassificationDataset(self.data.train, transform, self.recipe.seed)
        return self._loader(dataset, self._train_sampler(rank, world_size), world_size)

    def evaluation_loader(self, rank: int = 0, world_size: int = 1) -> Any:
        dataset = ClassificationDataset(self.data.val, build_transform(self.spec))
        each = min(2 * self.recipe.batch_size // world_size, -(-len(dataset) // world_size))
        sampler = EpochBatchSampler(len(dataset), max(1, each), shuffle=False, rank=rank, world_size=world_size)
        return self._loader(dataset, sampler, world_size)

    def batch_names(self, epoch: int, batch: int, rank: int, world_size: int) -> list[str]:
        sampler = self._train_sampler(rank, world_size)
        keys = next(sampler.batches(epoch, batch), [])
        return [self.data.train.path(index) for _, index in keys]

    def make_module(self, network: nn.Module, batches: int) -> "TrainingModule":
        from allmlp.tasks.classify_module import ClassifyModule

        recipe = self.recipe
        settings = MixSettings(
            recipe.augment.mixup,
            recipe.augment.cutmix,
            probability=recipe.augment.mix_prob,
            switch=recipe.augment.switch_prob,
            mode=recipe.augment.mix_mode,
            label_smoothing=recipe.label_smoothing,
        )
        classes = recipe.model.num_classes or len(self.data.classes)
        return ClassifyModule(recipe, network, batches, make_mixup(settings, classes))

    def evaluate(self, network: nn.Module, folder: Path, device: str) -> dict[str, Any]:
        source: ImageSource = self.data.val
        workers = None if self.recipe.data.workers == "auto" else self.recipe.data.workers
        batch = 2 * self.recipe.batch_size
        return evaluate_source(network, source, self.spec, self.data.classes, folder, device, batch, workers)

    def _train_sampler(self, rank: int, world_size: int) -> EpochBatchSampler:
        recipe = self.recipe
        return EpochBatchSampler(
            len(self.data.train),
            max(1, min(recipe.batch_size, len(self.data.train)) // world_size),
            seed=recipe.seed,
            drop_last=True,
            rank=rank,
            world_size=world_size,
            repeats=recipe.augment.repeats,
        )

    def _loader(self, dataset: ClassificationDataset, sampler: EpochBatchSampler, processes: int) -> Any:
        workers = self.recipe.data.workers
        count = default_workers(dataset, processes) if workers == "auto" else workers
        return make_loader(dataset, sampler, count, pin_memory=self.recipe.device in ("cuda", "gpu"))


def augment_settings(recipe: Recipe) -> AugmentSettings:
    """The recipe's augmentation in the data package's words."""
    group = recipe.augment
    names = ("flip", "shift", "rotate", "zoom", "fill", "color_jitter", "erase", "auto_augment")
    settings = AugmentSettings(group.kind, **{name: getattr(group, name) for name in names})
    return replace(settings, crop_area=group.crop_area, crop_ratio=group.crop_ratio, interpolation=group.interpolation)


def _shorten(names: list[str]) -> str:
    return ", ".join(names[:6]) + (" ..." if len(names) > 6 else "")
