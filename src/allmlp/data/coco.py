"""Objects with boxes and masks: COCO files, a folder that holds them, or the embedded digit scenes.

data = open_detection("digit_scenes")  # or a folder with annotations/*train*.json and *val*.json, or a JSON file
train = data.train.with_transform(build_detection_transform(spec, augment, training=True), seed=0)
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

from allmlp.data.coco_file import (
    CocoFile,
    CocoImage,
    find_folder,
    has_segmentations,
    image_entries,
    load_json,
    read_coco,
)
from allmlp.data.data_report import DataReport
from allmlp.data.dense_dataset import DenseDataset, Target, check_channels, read_picture
from allmlp.data.digit_scenes import DEFAULT_SIZE, DEFAULT_TRAIN, DEFAULT_VAL, cached_digit_scenes
from allmlp.data.listing import nearest_sibling
from allmlp.data.packed import PackedList
from allmlp.data.randomness import sample_generator
from allmlp.data.rle import decode_segmentation
from allmlp.errors import InputError

_SPLIT = 3  # keeps this permutation's seed apart from the samplers'


class CocoSource:
    """The images of a COCO file as (image, target).

    A target holds boxes (n, 4) as `tv_tensors.BoundingBoxes` x0, y0, x1, y1 in pixels, clipped to the image; labels (n)
    int64 in 0 .. k-1; iscrowd (n) bool; area (n) float32 as the file says; masks (n, height, width) as
    `tv_tensors.Mask` uint8, if masks are read; image_id, the file's own.
    """

    def __init__(self, file: CocoFile, images: PackedList[CocoImage], channels: int = 3):
        self.file, self.images, self.channels = file, images, channels
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
        """Image uint8 (c, h, w) and its target; `InputError` if the file can no longer be read."""
        record = self.images[index]
        image = read_picture(record.path, self.channels, (record.height, record.width))
        return image, self.target(index)

    def target(self, index: int) -> Target:
        """The target alone, in pixels of the file."""
        record = self.images[index]
        height, width = record.height, record.width
        objects = record.annotations
        target: Target = {
            "boxes": tv_tensors.BoundingBoxes(
                torch.tensor([a.box for a in objects], dtype=torch.float32).reshape(-1, 4),
                format="XYXY",
                canvas_size=(height, width),
            ),
            "labels": torch.tensor([a.label for a in objects], dtype=torch.int64),
            "iscrowd": torch.tensor([a.iscrowd for a in objects], dtype=torch.bool),
            "area": torch.tensor([a.area for a in objects], dtype=torch.float32),
            "image_id": record.id,
        }
        if self.file.has_masks:
            masks = np.zeros((len(objects), height, width), dtype=np.uint8)
            for mask, annotation in zip(masks, objects, strict=True):
                mask[:] = decode_segmentation(annotation.segmentation, height, width)
            target["masks"] = tv_tensors.Mask(torch.from_numpy(masks))
        return target

    def ground_truth(self) -> dict[str, Any]:
        """What detections are scored against: a COCO dictionary of these images, boxes and areas as the file has them.

        Categories stand in label order.
        """
        annotations = [
            {
                "id": annotation.id,
                "image_id": image.id,
                "category_id": self.file.category_ids[annotation.label],
                "bbox": list(annotation.bbox),
                "area": annotation.area,
                "iscrowd": int(annotation.iscrowd),
                **({"segmentation": annotation.segmentation} if self.file.has_masks else {}),
            }
            for image in self.images
            for annotation in image.annotations
        ]
        names = zip(self.file.category_ids, self.file.classes, strict=True)
        return {
            "images": [
                {
                    "id": image.id,
                    "file_name": os.path.basename(image.path),
                    "height": image.height,
                    "width": image.width,
                }
                for image in self.images
            ],
            "annotations": annotations,
            "categories": [{"id": category, "name": name} for category, name in names],
        }


@dataclass(frozen=True)
class DetectionData:
    """A data set for detection.

    Attributes:
        name: as it was asked for.
        classes: names in label order.
        train, val: items (image, target) as the files have them; give them a transform with `with_transform`.
        has_masks: whether targets hold masks.
        report: what was skipped, clipped or not used.
    """

    name: str
    classes: tuple[str, ...]
    train: DenseDataset
    val: DenseDataset
    has_masks: bool
    report: DataReport


def open_detection(
    data: str | os.PathLike[str] | None = None,
    *,
    train_json: str | os.PathLike[str] | None = None,
    train_images: str | os.PathLike[str] | None = None,
    val_json: str | os.PathLike[str] | None = None,
    val_images: str | os.PathLike[str] | None = None,
    masks: bool | None = None,
    keep_empty: bool = False,
    val_fraction: float = 0.2,
    seed: int = 0,
    channels: int = 3,
    on_bad: str = "skip",
    check: str = "auto",
    train_scenes: int = DEFAULT_TRAIN,
    val_scenes: int = DEFAULT_VAL,
    scene_size: int = DEFAULT_SIZE,
) -> DetectionData:
    """Open images with boxes, and masks if there are any.

    Args:
        data: "digit_scenes"; a folder with `annotations/*train*.json` and `annotations/*val*.json` (or JSON files in
            `train/` and `val/` or `valid/` beside the images); or one JSON file, which is split. None if the files are
            named below.
        train_json, val_json: annotation files, in place of those found.
        train_images, val_images: image folders, in place of those found (`find_folder` says where is looked).
        masks: read masks; None: if the training file has any.
        keep_empty: train on images without an object too. The COCO recipes leave them out.
        val_fraction: part of the images, drawn with `seed`, that is held out where there is only one file.
        channels: 1 to read images in grey, 3 in colour.
        on_bad: "skip" lists what cannot be used in the report; "stop" raises at the first.
        check: "headers" opens every image file, "full" decodes it, "auto" decodes small data sets only.
        train_scenes, val_scenes, scene_size: of "digit_scenes": how many, and the side in pixels. `seed` draws them;
            they are written once to a cache (`cached_digit_scenes`) and read like any other data.
    Raises:
        InputError: nothing there, several files that could be meant, or nothing in them that can be used.
    """
    check_channels(channels)
    name = os.fspath(data) if data is not None else os.fspath(train_json or "")
    if data is not None and os.fspath(data) == "digit_scenes":
        data = cached_digit_scenes(train_scenes, val_scenes, scene_size, seed)
    report = DataReport(on_bad)
    given = {split: Path(path) for split, path in (("train", train_json), ("val", val_json)) if path}
    root, found = _find_jsons(data, given) if data is not None else (None, given)
    train_file, val_file = found.get("train"), found.get("val")
    if train_file is None:
        raise InputError(
            "Wanted a data set: a folder with annotations/*train*.json, a JSON file, or data.train_json=FILE."
        )
    content = load_json(train_file)
    with_masks = has_segmentations(content) if masks is None else masks
    folder = (
        Path(train_images) if train_images else find_folder(content, train_file, root or train_file.parent, "train")
    )

    def read(
        split: str, content: dict[str, Any], path: Path, folder: Path, keep: Any = None, like: Any = None
    ) -> CocoFile:
        return read_coco(content, path, folder, split, report, with_masks, check, keep, like)

    if val_file is None:
        keep = _draw_split(list(image_entries(content, train_file)), val_fraction, seed)
        train = read("train", content, train_file, folder, keep=keep["train"])
        val = read("val", content, train_file, folder, keep=keep["val"])
        report.notes.append(
            f"{train_file} is the only file: {len(val.images)} of its images are held out for evaluation."
        )
    else:
        train = read("train", content, train_file, folder)
        held_out = load_json(val_file)
        folder = Path(val_images) if val_images else find_folder(held_out, val_file, root or val_file.parent, "val")
        val = read("val", held_out, val_file, folder, like=train)
    usable = train.images if keep_empty else _with_objects(train.images, report)
    if not len(usable):
        raise InputError(f"{train.path}: no image for training is left.\n{report.summary()}")
    return DetectionData(
        name=name,
        classes=train.classes,
        train=DenseDataset(CocoSource(train, usable, channels)),
        val=DenseDataset(CocoSource(val, val.images, channels)),
        has_masks=with_masks,
        report=report,
    )


def _find_jsons(data: str | os.PathLike[str], given: dict[str, Path]) -> tuple[Path, dict[str, Path]]:
    """(root folder, {"train": file, "val": file}) of a data set on disk; what is `given` is not looked for."""
    path = Path(data).expanduser()
    if path.is_file():
        return path.parent, {"train": path, **given}
    if not path.is_dir():
        raise InputError(f"There is no data set at {path}.{nearest_sibling(path)}")
    found = dict(given)
    for split, words in (("train", ("train",)), ("val", ("val", "valid", "validation"))):
        if split in given:
            continue
        patterns = [f"annotations/*{word}*.json" for word in words] + [f"{word}/*.json" for word in words]
        patterns += [f"*{word}*.json" for word in words]
        for pattern in patterns:
            matches = sorted(path.glob(pattern))
            # COCO's own folder holds captions_ and person_keypoints_ beside instances_
            matches = [match for match in matches if match.name.startswith("instances")] or matches
            if len(matches) > 1:
                names = ", ".join(match.name for match in matches)
                raise InputError(
                    f"{path} has several files for {split}: {names}. Choose one with data.{split}_json=FILE."
                )
            if matches:
                found[split] = matches[0]
                break
    if "train" not in found:
        alone = sorted([*path.glob("annotations/*.json"), *path.glob("*.json")])
        if len(alone) != 1:
            raise InputError(
                f"Wanted a COCO data set in {path}: annotations/*train*.json and annotations/*val*.json, or one JSON "
                f"file; found {', '.join(str(file.relative_to(path)) for file in alone) or 'no JSON file'}. "
                "Name them with data.train_json=FILE data.val_json=FILE."
            )
        found["train"] = alone[0]
    return path, found


def _draw_split(ids: list[int], val_fraction: float, seed: int) -> dict[str, set[int]]:
    """Ids of the images to train on and to hold out."""
    if not 0 < val_fraction < 1:
        raise InputError(f"val_fraction lies between 0 and 1; got {val_fraction}.")
    if len(ids) < 2:
        raise InputError(f"{len(ids)} image cannot be split into training and evaluation; name data.val_json=FILE.")
    order = torch.randperm(len(ids), generator=sample_generator(seed, _SPLIT)).tolist()
    held_out = min(len(ids) - 1, max(1, round(val_fraction * len(ids))))
    return {"val": {ids[place] for place in order[:held_out]}, "train": {ids[place] for place in order[held_out:]}}


def _with_objects(images: PackedList[CocoImage], report: DataReport) -> PackedList[CocoImage]:
    """The images with an object that is not a crowd; the others are noted."""
    kept = []
    for image in images:
        if any(not annotation.iscrowd for annotation in image.annotations):
            kept.append(image)
        else:
            report.add(
                "train", image.path, "an image without an object (data.keep_empty=true trains on it)", "", "unused"
            )
    return PackedList(kept)


def class_counts(dataset: DenseDataset, classes: Sequence[str]) -> dict[str, int]:
    """How many objects of each class a split of a `DetectionData` holds, crowds left out."""
    counts = dict.fromkeys(classes, 0)
    for image in dataset.source.images:  # type: ignore[attr-defined]
        for annotation in image.annotations:
            counts[classes[annotation.label]] += not annotation.iscrowd
    return counts


def open_detection_evaluation(
    data: str | os.PathLike[str] | None,
    classes: Sequence[str],
    *,
    json_file: str | os.PathLike[str] | None = None,
    images: str | os.PathLike[str] | None = None,
    masks: bool | None = None,
    channels: int = 3,
    on_bad: str = "skip",
    check: str = "auto",
) -> DetectionData:
    """Open images with boxes to judge a model that knows `classes`: the val part of a folder, or all that there is.

    The result's `train` is its `val`. Classes are matched by name. Other arguments as in `open_detection`.

    Raises:
        InputError: nothing there, or a class that the model does not know.
    """
    check_channels(channels)
    given = {"val": Path(json_file)} if json_file else {}
    root, found = _find_jsons(data, given) if data is not None and not given else (None, given)
    path = found.get("val") or found["train"]
    content = load_json(path)
    with_masks = has_segmentations(content) if masks is None else masks
    folder = Path(images) if images else find_folder(content, path, root or path.parent, "val")
    report = DataReport(on_bad)
    model = CocoFile("the model", tuple(classes), tuple(range(1, len(classes) + 1)), PackedList([]), with_masks)
    file = read_coco(content, path, folder, "val", report, with_masks, check, like=model)
    split = DenseDataset(CocoSource(file, file.images, channels))
    return DetectionData(os.fspath(data or path), file.classes, split, split, with_masks, report)
