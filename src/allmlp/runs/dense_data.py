"""The images that a recipe of detection or segmentation names, and whether they are still the same."""

import hashlib
import json
import os
from typing import Any

from allmlp.data.coco import DetectionData, open_detection
from allmlp.data.digit_scenes import cached_digit_scenes
from allmlp.data.mask_folder import SegmentationData, open_segmentation
from allmlp.recipes.schema import DataGroup

EMBEDDED = "digit_scenes"


def open_objects(group: DataGroup, masks: bool, channels: int) -> DetectionData:
    """The data of a detection recipe.

    Args:
        masks: read masks, if there are any.

    Raises:
        InputError: see `open_detection`.
    """
    return open_detection(
        _name(group, group.train_json),
        train_json=group.train_json,
        train_images=group.train_images,
        val_json=group.val_json,
        val_images=group.val_images,
        masks=None if masks else False,
        keep_empty=group.keep_empty,
        **_common(group, channels),
    )


def open_label_maps(group: DataGroup, channels: int) -> SegmentationData:
    """The data of a segmentation recipe.

    Raises:
        InputError: see `open_segmentation`.
    """
    return open_segmentation(
        _name(group, group.train_images),
        train_images=group.train_images,
        train_masks=group.train_masks,
        val_images=group.val_images,
        val_masks=group.val_masks,
        classes=group.classes,
        label_rule=group.label_rule,
        id_map=group.id_map,
        **_common(group, channels),
    )


def folder_of(group: DataGroup) -> str:
    """Where the data lie: `group.name`, or the folder of the embedded scenes."""
    if group.name != EMBEDDED:
        return group.name
    return str(cached_digit_scenes(group.train_scenes, group.val_scenes, group.scene_size, group.split_seed))


def _name(group: DataGroup, given: str | None) -> str | None:
    """The data set to open, or None where its files are named one by one (`given`) in place of the embedded one."""
    return None if given and group.name == EMBEDDED else group.name


def _common(group: DataGroup, channels: int) -> dict[str, Any]:
    return {
        "val_fraction": group.val_fraction,
        "seed": group.split_seed,
        "channels": channels,
        "on_bad": group.on_bad_image,
        "check": group.check,
        "train_scenes": group.train_scenes,
        "val_scenes": group.val_scenes,
        "scene_size": group.scene_size,
    }


def fingerprint(data: DetectionData | SegmentationData) -> str:
    """A hash of the images' names, sizes and objects, and of the classes: a continued run must find the same."""
    digest = hashlib.sha256(json.dumps(list(data.classes)).encode())
    for split in (data.train, data.val):
        source: Any = split.source
        for image in source.images:
            boxes = [(a.label, a.bbox) for a in getattr(image, "annotations", ())]
            entry = (os.path.basename(image.path), image.height, image.width, boxes)
            digest.update(json.dumps(entry).encode())
    return digest.hexdigest()
