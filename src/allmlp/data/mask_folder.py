"""Images with label maps: folders of images and mask files, or the embedded digit scenes.

data = open_segmentation("digit_scenes")  # or a folder with images/train, masks/train, images/val, masks/val
train = data.train.with_transform(build_segmentation_transform(spec, augment, training=True), seed=0)
image, target = train[(epoch, index)]
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors

from allmlp.data.data_report import DataReport
from allmlp.data.dense_dataset import DenseDataset, Target, check_channels, read_picture
from allmlp.data.dense_files import decodes_all, in_threads, seen_size
from allmlp.data.digit_scenes import DEFAULT_SIZE, DEFAULT_TRAIN, DEFAULT_VAL, cached_digit_scenes
from allmlp.data.label_map import IGNORE_LABEL, LabelMap, check_names, read_classes, read_id_map, read_mask
from allmlp.data.mask_layout import Layout, Pairs, find_layout, pair_folders
from allmlp.data.packed import PackedList
from allmlp.data.randomness import sample_generator
from allmlp.errors import InputError

_SPLIT = 4  # keeps this permutation's seed apart from the others
_LOOKED_AT = 16  # masks read before any run, however large the data set


@dataclass(frozen=True, slots=True)
class MaskedImage:
    """One image and its mask file, with their size in pixels."""

    path: str
    mask_path: str
    height: int
    width: int


class MaskSource:
    """Images with mask files as (image, target).

    A target holds mask, a `tv_tensors.Mask` uint8 (h, w) of labels 0 .. k-1 and 255 for ignored, and path.
    """

    def __init__(self, images: list[MaskedImage], labels: LabelMap, channels: int = 3):
        self.images, self.labels, self.channels = PackedList(images), labels, channels
        self._sizes = np.array([(image.height, image.width) for image in images], dtype=np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.images)

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) in pixels."""
        return int(self._sizes[index, 0]), int(self._sizes[index, 1])

    def path(self, index: int) -> str:
        """Of the image file."""
        return self.images[index].path

    def read(self, index: int) -> tuple[tv_tensors.Image, Target]:
        """Image uint8 (c, h, w) and its target; `InputError` for unreadable files and labels beyond the list."""
        record = self.images[index]
        image = read_picture(record.path, self.channels, (record.height, record.width))
        labels = self.labels.labels(read_mask(record.mask_path), record.mask_path)
        if labels.shape != (record.height, record.width):
            raise InputError(f"The mask {record.mask_path} is now {labels.shape}, its image {image.shape[-2:]}.")
        return image, {"mask": tv_tensors.Mask(torch.from_numpy(labels)), "path": record.path}


@dataclass(frozen=True)
class SegmentationData:
    """A data set for semantic segmentation.

    Attributes:
        name: as it was asked for.
        classes: names in label order.
        train, val: items (image, target) as the files have them; give them a transform with `with_transform`.
        ignore_label: the label of pixels that do not count.
        report: what was skipped.
    """

    name: str
    classes: tuple[str, ...]
    train: DenseDataset
    val: DenseDataset
    ignore_label: int
    report: DataReport


def open_segmentation(
    data: str | os.PathLike[str] | None = None,
    *,
    train_images: str | os.PathLike[str] | None = None,
    train_masks: str | os.PathLike[str] | None = None,
    val_images: str | os.PathLike[str] | None = None,
    val_masks: str | os.PathLike[str] | None = None,
    classes: list[str] | tuple[str, ...] | str | os.PathLike[str] | None = None,
    label_rule: str | None = None,
    id_map: dict[int, int] | str | os.PathLike[str] | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
    channels: int = 3,
    on_bad: str = "skip",
    check: str = "auto",
    train_scenes: int = DEFAULT_TRAIN,
    val_scenes: int = DEFAULT_VAL,
    scene_size: int = DEFAULT_SIZE,
) -> SegmentationData:
    """Open images with mask files.

    Args:
        data: "digit_scenes", or a folder of a layout that `find_layout` knows. None if the folders are named below.
        train_images, train_masks, val_images, val_masks: folders, in place of those found.
        classes: names in label order, or a file of them (one a line, or JSON). None: `classes.txt` or `classes.json` in
            the folder, else what ADE20K, VOC or Cityscapes folders imply.
        label_rule: "plain" or "zero_ignored" (see `LabelMap`); None: "zero_ignored" for ADE20K's folders (which the
            report notes), else "plain".
        id_map: {number in the file: label, or 255 to ignore}, or a JSON file of it; goes before `label_rule`.
        val_fraction: part of the images, drawn with `seed`, that is held out where the data are not split.
        channels: 1 to read images in grey, 3 in colour.
        on_bad: "skip" lists what cannot be used in the report; "stop" raises at the first.
        check: "headers" opens every file and reads 16 masks; "full" decodes all; "auto" decodes small data sets only.
        train_scenes, val_scenes, scene_size: of "digit_scenes": how many, and the side in pixels. `seed` draws them;
            they are written once to a cache (`cached_digit_scenes`) and read like any other data.
    Raises:
        InputError: nothing there, no list of classes, labels beyond it, or nothing that can be used.
    """
    check_channels(channels)
    name = os.fspath(data) if data is not None else os.fspath(train_images or "")
    if data is not None and os.fspath(data) == "digit_scenes":
        data = cached_digit_scenes(train_scenes, val_scenes, scene_size, seed)
    if bool(train_images) != bool(train_masks) or bool(val_images) != bool(val_masks):
        raise InputError(
            "Images and masks go together: name both folders of a split, data.train_images= data.train_masks=."
        )
    layout = find_layout(data) if data is not None else Layout("folders", {})
    for split, images, masks in (("train", train_images, train_masks), ("val", val_images, val_masks)):
        if images and masks:
            layout.pairs[split] = pair_folders(images, masks)
    if not layout.pairs.get("train"):
        raise InputError(
            "Wanted a data set: a folder with images/train and masks/train, or data.train_images= data.train_masks=."
        )
    labels = _label_map(layout, classes, label_rule, id_map, name)
    report = DataReport(on_bad)
    if layout.kind != "folders":
        report.notes.append(
            f"The folders are {layout.kind}'s: {len(labels.classes)} classes, "
            + ("0 is ignored and other numbers count from 1." if labels.rule == "zero_ignored" else "255 is ignored.")
        )
    if "val" not in layout.pairs:
        layout.pairs = _drawn(layout.pairs["train"], val_fraction, seed)
        report.notes.append(f"There is no val folder: {len(layout.pairs['val'])} images are held out for evaluation.")
    sound = {split: _checked(pairs, split, labels, report, check) for split, pairs in layout.pairs.items()}
    for split, kept in sound.items():
        if not kept:
            raise InputError(f"{name}: no image of the {split} split can be used.\n{report.summary()}")
    return SegmentationData(
        name=name,
        classes=labels.classes,
        train=DenseDataset(MaskSource(sound["train"], labels, channels)),
        val=DenseDataset(MaskSource(sound["val"], labels, channels)),
        ignore_label=IGNORE_LABEL,
        report=report,
    )


def _label_map(layout: Layout, classes: Any, label_rule: str | None, id_map: Any, name: str) -> LabelMap:
    if classes is None:
        names = layout.classes
    elif isinstance(classes, (str, os.PathLike)):
        names = read_classes(Path(classes))
    else:
        names = check_names(list(classes), "data.classes")
    if names is None:
        raise InputError(
            f"Wanted the names of the classes of {name}: write them to classes.txt in that folder, one a line, label 0 "
            "first, or name a file with data.classes=FILE."
        )
    given = read_id_map(id_map) if id_map is not None else layout.id_map if label_rule is None else None
    return LabelMap(names, label_rule or layout.rule, given)


def _drawn(pairs: Pairs, val_fraction: float, seed: int) -> dict[str, Pairs]:
    """The pairs split in two, at random but always alike."""
    if not 0 < val_fraction < 1:
        raise InputError(f"val_fraction lies between 0 and 1; got {val_fraction}.")
    if len(pairs) < 2:
        raise InputError(f"{len(pairs)} image cannot be split into training and evaluation.")
    order = torch.randperm(len(pairs), generator=sample_generator(seed, _SPLIT)).tolist()
    held_out = set(order[: min(len(pairs) - 1, max(1, round(val_fraction * len(pairs))))])
    return {
        "train": [pair for place, pair in enumerate(pairs) if place not in held_out],
        "val": [pair for place, pair in enumerate(pairs) if place in held_out],
    }


def _checked(pairs: Pairs, split: str, labels: LabelMap, report: DataReport, check: str) -> list[MaskedImage]:
    """The pairs that can be used. Labels beyond the list of classes raise, because all masks will have them."""
    decode = decodes_all(check, [path for pair in pairs for path in pair if path is not None])
    looked_at = set(range(0, len(pairs), max(1, len(pairs) // _LOOKED_AT)))

    def look(item: tuple[int, tuple[str, str | None]]) -> MaskedImage | tuple[str, str, str] | InputError:
        number, (image, mask) = item
        if mask is None:
            return image, "the image has no mask", ""
        size = seen_size(image, decode)
        if isinstance(size, str):
            return image, "cannot read the image", size
        of_mask = seen_size(mask)
        if isinstance(of_mask, str):
            return mask, "cannot read the mask", of_mask
        if size != of_mask:
            detail = f"mask {of_mask[1]} x {of_mask[0]}, image {size[1]} x {size[0]}"
            return mask, "the mask has another size than its image", detail
        if decode or number in looked_at:
            try:
                numbers = read_mask(mask)
            except InputError as error:
                return mask, "cannot read the mask", str(error)
            try:
                labels.labels(numbers, mask)
            except InputError as error:
                return error
        return MaskedImage(image, mask, *size)

    sound = []
    for found in in_threads(look, list(enumerate(pairs))):
        if isinstance(found, InputError):
            raise found
        if isinstance(found, MaskedImage):
            sound.append(found)
        else:
            report.add(split, *found)
    return sound


def open_segmentation_evaluation(
    data: str | os.PathLike[str] | None,
    classes: Sequence[str],
    *,
    images: str | os.PathLike[str] | None = None,
    masks: str | os.PathLike[str] | None = None,
    names: list[str] | str | None = None,
    label_rule: str | None = None,
    id_map: dict[int, int] | str | os.PathLike[str] | None = None,
    channels: int = 3,
    on_bad: str = "skip",
    check: str = "auto",
) -> SegmentationData:
    """Open images with mask files to judge a model that knows `classes`: the val part of a folder, or all there is.

    The result's `train` is its `val`. Labels are matched by the names of their classes; without names they are taken to
    be the model's. Other arguments as in `open_segmentation`, `names` for its `classes`.

    Raises:
        InputError: nothing there, or a class that the model does not know.
    """
    check_channels(channels)
    name = os.fspath(data) if data is not None else os.fspath(images or "")
    if bool(images) != bool(masks):
        raise InputError("Images and masks go together: name both folders, data.val_images= data.val_masks=.")
    if images and masks:
        layout = Layout("folders", {"val": pair_folders(images, masks)})
    else:
        layout = find_layout(name)
    if names is None and layout.classes is None:
        layout.classes = tuple(classes)
    found = _label_map(layout, names, label_rule, id_map, name)
    strange = [word for word in found.classes if word not in classes]
    if strange:
        raise InputError(f"{name} has classes that the model has not: {', '.join(strange)}. It knows {list(classes)}.")
    place = {label: list(classes).index(word) for label, word in enumerate(found.classes)}
    if found.id_map is not None:
        numbers = {number: place.get(label, IGNORE_LABEL) for number, label in found.id_map.items()}
    else:
        first = 1 if found.rule == "zero_ignored" else 0
        numbers = {label + first: new for label, new in place.items()} | {IGNORE_LABEL: IGNORE_LABEL}
        numbers |= {0: IGNORE_LABEL} if first else {}
    labels = LabelMap(tuple(classes), "plain", numbers)
    report = DataReport(on_bad)
    sound = _checked(layout.pairs.get("val") or layout.pairs["train"], "val", labels, report, check)
    if not sound:
        raise InputError(f"{name}: no image can be used.\n{report.summary()}")
    split = DenseDataset(MaskSource(sound, labels, channels))
    return SegmentationData(name, tuple(classes), split, split, IGNORE_LABEL, report)
