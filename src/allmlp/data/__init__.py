"""Images and labels, from what a person has on disk to normalised batches. Knows no model.

The way through for classification::

    data = open_classification("digits")  # or a folder, a CSV/Parquet file, torch/NAME, hfds/NAME, wds/NAME
    spec = ImageSpec(32, 32)  # size and normalisation, travels with the model
    transform = build_transform(spec, AugmentSettings("small"), training=True)
    dataset = ClassificationDataset(data.train, transform, seed=0)
    sampler = EpochBatchSampler(len(dataset), batch_size=64, seed=0, shuffle=True, drop_last=True)
    loader = make_loader(dataset, sampler)  # yields (images, labels, indices)
    sampler.set_epoch(0)

Everything random is a function of (seed, epoch, index), never of a process, a worker or what was drawn before, so that
a run can be stopped at any batch and continued with any number of workers, bit for bit. `loader.state_dict()` says
which batch comes next. Batches come as (images float32 (B, C, H, W), labels int64 (B,), indices int64 (B,)); `indices`
say which images of the source these are: where one could not be read, the image taken in its place.

Names load on first use: importing this package imports neither torch nor timm.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from allmlp.data.augment import AugmentSettings
    from allmlp.data.classification import ClassificationData, open_classification, open_evaluation
    from allmlp.data.image_file import BadImage, UnreadableImageError, read_image
    from allmlp.data.listing import list_images
    from allmlp.data.loader import ClassificationDataset, ResumableLoader, make_loader
    from allmlp.data.mixing import MixSettings, make_mixup
    from allmlp.data.randomness import sample_seed, seeded
    from allmlp.data.sampler import EpochBatchSampler
    from allmlp.data.source import ImageSource, open_images
    from allmlp.data.spec import ImageSpec
    from allmlp.data.transforms import ImageTransform, build_transform

_WHERE = {
    "AugmentSettings": "augment",
    "BadImage": "image_file",
    "ClassificationData": "classification",
    "ClassificationDataset": "loader",
    "EpochBatchSampler": "sampler",
    "ImageSource": "source",
    "ImageSpec": "spec",
    "ImageTransform": "transforms",
    "MixSettings": "mixing",
    "ResumableLoader": "loader",
    "UnreadableImageError": "image_file",
    "build_transform": "transforms",
    "list_images": "listing",
    "make_loader": "loader",
    "make_mixup": "mixing",
    "open_classification": "classification",
    "open_evaluation": "classification",
    "open_images": "source",
    "read_image": "image_file",
    "sample_seed": "randomness",
    "seeded": "randomness",
}

__all__ = [
    "AugmentSettings",
    "BadImage",
    "ClassificationData",
    "ClassificationDataset",
    "EpochBatchSampler",
    "ImageSource",
    "ImageSpec",
    "ImageTransform",
    "MixSettings",
    "ResumableLoader",
    "UnreadableImageError",
    "build_transform",
    "list_images",
    "make_loader",
    "make_mixup",
    "open_classification",
    "open_evaluation",
    "open_images",
    "read_image",
    "sample_seed",
    "seeded",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'allmlp.data' has no attribute {name!r}")
    return getattr(importlib.import_module(f"allmlp.data.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
