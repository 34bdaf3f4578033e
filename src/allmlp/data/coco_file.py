"""Read and check one COCO JSON file: every annotation is either sound or listed in the report.

Format: https://cocodataset.org/#format-data (object detection). Boxes are x, y, width, height in pixels; segmentations
are polygons or run lengths; `iscrowd` marks a region of many objects that scoring ignores.
"""

import json
import math
import os
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, TypeGuard

from allmlp.data.data_report import DataReport
from allmlp.data.dense_files import decodes_all, in_threads, seen_size
from allmlp.data.packed import PackedList
from allmlp.data.rle import mask_area, segmentation_fault
from allmlp.errors import InputError

_NOTICED_CLIP = 0.5  # pixels: annotation tools round, and half a pixel is not worth a line


@dataclass(frozen=True, slots=True)
class CocoAnnotation:
    """One object: `bbox` x, y, width, height as in the file, and `box` x0, y0, x1, y1 clipped to the image.

    `label` counts from 0; `segmentation` is as in the file, None where masks are not read.
    """

    id: int
    label: int
    bbox: tuple[float, float, float, float]
    box: tuple[float, float, float, float]
    area: float
    iscrowd: bool
    segmentation: Any = None


@dataclass(frozen=True, slots=True)
class CocoImage:
    """One image: the file's own id, its path, its size in pixels and its objects."""

    id: int
    path: str
    height: int
    width: int
    annotations: tuple[CocoAnnotation, ...]


@dataclass(frozen=True)
class CocoFile:
    """A file that was read: classes in the order of their ids, and the images that exist.

    `category_ids[label]` is the file's own id of a class.
    """

    path: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: PackedList[CocoImage]
    has_masks: bool


def load_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A COCO file's dictionary with `images`, `annotations` and `categories`, each a list of dictionaries.

    Raises:
        InputError: the file is missing, is not JSON, or is not of that form.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            content = json.load(file)
    except OSError as error:
        raise InputError(f"Cannot read the annotations {path}: {error.strerror or error}.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"The annotations {path} are not a text file in UTF-8: {error}.") from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"The annotations {path} are broken JSON: {error.msg} at line {error.lineno}, column {error.colno} "
            "(cut short while copying?)."
        ) from None
    except RecursionError:
        raise InputError(f"The annotations {path} are nested too deeply to be COCO's.") from None
    wanted = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in wanted):
        have = f"the keys {sorted(content)}" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise InputError(
            f"{path} is not a COCO file of objects: wanted the lists images, annotations and categories; got {have}."
        )
    for key in wanted:
        for number, entry in enumerate(content[key]):
            if not isinstance(entry, dict):
                raise InputError(f"{path}: {key}[{number}] is {entry!r}; wanted a dictionary.")
    return content


def has_segmentations(content: dict[str, Any]) -> bool:
    """Whether any annotation has a segmentation."""
    return any(annotation.get("segmentation") for annotation in content["annotations"])


def read_coco(
    content: dict[str, Any],
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    split: str,
    report: DataReport,
    masks: bool,
    check: str = "auto",
    keep: set[int] | None = None,
    like: CocoFile | None = None,
) -> CocoFile:
    """Check a file's content and put its annotations to their images.

    Args:
        content: what `load_json` gave for `path`.
        folder: of the images; `file_name` is relative to it.
        split: "train" or "val", for the report.
        masks: read segmentations; an annotation without a sound one is skipped.
        check: "headers": open every image file and compare its size. "full": decode it too. "auto": see `decodes_all`.
        keep: ids of the images to read; None for all.
        like: a file whose classes are to be used, matched by name; None for this file's own, by ascending id.
    Raises:
        InputError: ids or names are not unique, a class is not in `like`, or no image is left.
    """
    classes, category_ids = _categories(content["categories"], path)
    if like is not None:
        classes, category_ids = _matched(classes, category_ids, like, path)
    label_of = {category: label for label, category in enumerate(category_ids)}
    known = image_entries(content, path)
    entries = {image: entry for image, entry in known.items() if keep is None or image in keep}
    files = {image: os.path.join(folder, entry["file_name"]) for image, entry in entries.items()}
    decode = decodes_all(check, files.values())
    sizes = in_threads(lambda file: seen_size(file, decode), list(files.values()))
    sound: dict[int, tuple[int, int]] = {}
    for (image, entry), found in zip(entries.items(), sizes, strict=True):
        if isinstance(found, str):
            report.add(split, files[image], "cannot read the image", found)
        elif (said := _said_size(entry)) is not None and said != found:
            report.add(split, files[image], "the image has another size than the annotations say", _sizes(said, found))
        else:
            sound[image] = found
    if entries and not sound:
        example = report.skipped(split)[-1]
        raise InputError(
            f"{path}: none of its {len(entries)} images can be used; the last one is {example.where}: {example.reason} "
            f"({example.detail}). If they lie in another folder, name it with data.{split}_images=FOLDER."
        )

    objects: dict[int, list[CocoAnnotation]] = {image: [] for image in sound}
    for number, entry in enumerate(content["annotations"]):
        image = entry.get("image_id")
        where = f"{path}: annotation {entry.get('id', f'number {number}')}"
        if not _is_id(image) or image not in known:
            if split == "train" or keep is None:  # a file that is split is read twice
                report.add(split, where, "no such image", f"image_id {image!r}")
        elif image in sound:
            annotation = _annotation(
                entry, number, label_of, sound[image], masks, report, split, f"{where} of {files[image]}"
            )
            if annotation is not None:
                objects[image].append(annotation)
    if content["annotations"] and keep is None and not any(objects.values()):
        last = next(reversed(report.skipped(split)), None)
        raise InputError(
            f"{path}: none of its {len(content['annotations'])} annotations can be used"
            + (f"; the last one: {last.where}: {last.reason} ({last.detail})." if last else ".")
        )
    images = PackedList(
        CocoImage(image, files[image], *size, annotations=tuple(objects[image])) for image, size in sound.items()
    )
    return CocoFile(os.fspath(path), classes, category_ids, images, masks)


def _annotation(
    entry: dict[str, Any],
    number: int,
    label_of: dict[int, int],
    size: tuple[int, int],
    masks: bool,
    report: DataReport,
    split: str,
    where: str,
) -> CocoAnnotation | None:
    """One sound annotation, or None after a line in the report."""
    height, width = size
    category, bbox = entry.get("category_id"), entry.get("bbox")
    if not _is_id(category) or category not in label_of:
        report.add(split, where, "the category is not in the list of categories", f"category_id {category!r}")
        return None
    if not isinstance(bbox, list | tuple) or len(bbox) != 4 or not all(_is_number(value) for value in bbox):
        report.add(split, where, "the box is not four finite numbers", f"bbox {bbox!r}"[:80])
        return None
    if entry.get("iscrowd", 0) not in (0, 1):
        report.add(split, where, "iscrowd is neither 0 nor 1", f"iscrowd {entry['iscrowd']!r}"[:80])
        return None
    x, y, w, h = (float(value) for value in bbox)
    box = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
    if w <= 0 or h <= 0:
        report.add(split, where, "the box has no area", f"bbox {bbox}")
        return None
    if box[2] <= box[0] or box[3] <= box[1]:
        report.add(split, where, "the box lies outside the image", f"bbox {bbox}, image {width} x {height}")
        return None
    segmentation = entry.get("segmentation") if masks else None
    if masks:
        fault = "it has none" if not segmentation else segmentation_fault(segmentation, height, width)
        if fault is not None:
            report.add(split, where, "the segmentation cannot be used", fault)
            return None
    if max(box[0] - x, box[1] - y, x + w - box[2], y + h - box[3]) > _NOTICED_CLIP:
        report.add(split, where, "the box sticks out of the image", f"bbox {bbox}, image {width} x {height}", "clipped")
    area = entry.get("area")
    if not _is_number(area) or area < 0:
        area = mask_area(segmentation, height, width) if masks else w * h
    identity = entry.get("id")
    return CocoAnnotation(
        id=identity if _is_id(identity) else number,
        label=label_of[category],
        bbox=(x, y, w, h),
        box=box,
        area=float(area),
        iscrowd=bool(entry.get("iscrowd", 0)),
        segmentation=segmentation,
    )


def _categories(entries: list[dict[str, Any]], path: str | os.PathLike[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    if not entries:
        raise InputError(f"{path}: its list of categories is empty.")
    for number, entry in enumerate(entries):
        if not _is_id(entry.get("id")) or not isinstance(entry.get("name"), str):
            raise InputError(f"{path}: categories[{number}] wants a whole number `id` and a text `name`; got {entry}.")
    ordered = sorted(entries, key=lambda entry: entry["id"])
    for key in ("id", "name"):
        values = [entry[key] for entry in ordered]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise InputError(f"{path}: two categories have the {key} {twice[0]!r}; give each its own.")
    return tuple(entry["name"] for entry in ordered), tuple(entry["id"] for entry in ordered)


def _matched(
    classes: tuple[str, ...], category_ids: tuple[int, ...], like: CocoFile, path: str | os.PathLike[str]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The classes of `like`, with this file's ids; a class that is absent here gets an id that is free."""
    id_of = dict(zip(classes, category_ids, strict=True))
    strange = [name for name in classes if name not in like.classes]
    if strange:
        raise InputError(
            f"{path} has categories that {like.path} has not: {', '.join(strange)}. Both want the same categories."
        )
    taken = {*category_ids, *like.category_ids}
    ids = []
    for name, theirs in zip(like.classes, like.category_ids, strict=True):
        if name not in id_of:
            id_of[name] = theirs if theirs not in category_ids else max(taken) + 1
            taken.add(id_of[name])
        ids.append(id_of[name])
    return like.classes, tuple(ids)


def image_entries(content: dict[str, Any], path: str | os.PathLike[str]) -> dict[int, dict[str, Any]]:
    """A file's images by id; `InputError` if an entry has no id or no name, or an id comes twice."""
    entries: dict[int, dict[str, Any]] = {}
    for number, entry in enumerate(content["images"]):
        if not _is_id(entry.get("id")) or not isinstance(entry.get("file_name"), str) or not entry["file_name"]:
            raise InputError(f"{path}: images[{number}] wants a whole number `id` and a text `file_name`; got {entry}.")
        if entry["id"] in entries:
            raise InputError(f"{path}: two images have the id {entry['id']}; their annotations cannot be told apart.")
        entries[entry["id"]] = entry
    if not entries:
        raise InputError(f"{path}: its list of images is empty.")
    return entries


def _said_size(entry: dict[str, Any]) -> tuple[int, int] | None:
    height, width = entry.get("height"), entry.get("width")
    return (int(height), int(width)) if _is_number(height) and _is_number(width) else None


def _sizes(said: tuple[int, int], found: tuple[int, int]) -> str:
    turned = ", turned upright as its EXIF data say" if said == found[::-1] else ""
    return f"said {said[1]} x {said[0]}, found {found[1]} x {found[0]}{turned}"


def _is_id(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def find_folder(content: dict[str, Any], json_path: Path, root: Path, split: str) -> Path:
    """The folder that holds the images of a COCO file, by looking for them.

    Tried in order, NAME being the split's part of the file name ("train2017" of instances_train2017.json): ROOT/NAME,
    ROOT/images/NAME, the same with the plain split's name, ROOT/images, ROOT, and the folder of the JSON file.

    Raises:
        InputError: none of them holds any of the images; all that were tried are named.
    """
    names = [word for word in (_split_word(json_path.stem, split), split) if word]
    # A file that is named alone lies in ROOT/annotations as often as in ROOT.
    roots = dict.fromkeys([root, json_path.parent.parent] if json_path.parent.name == "annotations" else [root])
    tried = [base / folder / name for base in roots for name in dict.fromkeys(names) for folder in ("", "images")]
    tried += [base / folder for base in roots for folder in ("images", "")]
    tried = list(dict.fromkeys([*tried, json_path.parent]))
    entries = content["images"]
    sample = entries[:: max(1, len(entries) // 20)][:20]
    for folder in tried:
        if any(isinstance(e.get("file_name"), str) and (folder / e["file_name"]).is_file() for e in sample):
            return folder
    looked = ", ".join(str(folder) for folder in tried)
    example = sample[0].get("file_name") if sample else None
    raise InputError(
        f"Cannot find the images of {json_path} ({example!r} and others); looked in {looked}. "
        f"Name their folder with data.{split}_images=FOLDER."
    )


def _split_word(stem: str, split: str) -> str:
    """ "train2017" of "instances_train2017"."""
    words = [word for word in stem.replace("-", "_").replace(".", "_").split("_") if word.startswith(split)]
    return words[-1] if words else ""
