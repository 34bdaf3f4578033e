"""Find the pairs of image and mask files of a segmentation data set, by the layouts people use."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from allmlp.data.label_map import CITYSCAPES_CLASSES, CITYSCAPES_IDS, VOC_CLASSES, read_ade_classes, read_classes
from allmlp.data.listing import find_images, nearest_sibling
from allmlp.errors import InputError

SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "test")}
IMAGE_FOLDERS = ("images", "image", "imgs", "img")
MASK_FOLDERS = ("masks", "mask", "labels", "annotations", "segmentation")

Pairs = list[tuple[str, str | None]]
"""(image path, mask path or None where there is none)."""


@dataclass
class Layout:
    """What was found: pairs by split ("train", and "val" if the data are split), and what the layout says of classes.

    `kind` is "folders", "ade20k", "voc" or "cityscapes".
    """

    kind: str
    pairs: dict[str, Pairs]
    classes: tuple[str, ...] | None = None
    rule: str = "plain"
    id_map: dict[int, int] | None = None
    notes: list[str] = field(default_factory=list)


def find_layout(data: str | os.PathLike[str]) -> Layout:
    """The layout of a data set on disk.

    Known: IMAGES/SPLIT + MASKS/SPLIT and SPLIT/IMAGES + SPLIT/MASKS and IMAGES + MASKS without splits, where IMAGES is
    one of `IMAGE_FOLDERS`, MASKS one of `MASK_FOLDERS` and SPLIT one of `SPLITS`; ADE20K (images/training,
    annotations/training: 0 is ignored); Pascal VOC (JPEGImages, SegmentationClass, ImageSets/Segmentation); Cityscapes
    (leftImg8bit, gtFine with labelIds). A mask has its image's name, with any ending.

    Raises:
        InputError: there is nothing, or nothing known.
    """
    root = Path(data).expanduser()
    if not root.is_dir():
        raise InputError(f"There is no folder at {root}.{nearest_sibling(root)}")
    layout = _voc(root) or _cityscapes(root) or _folders(root)
    if layout is None:
        inside = ", ".join(sorted(entry.name for entry in root.iterdir())[:12]) or "nothing"
        raise InputError(
            f"Wanted images and masks in {root}: images/train, masks/train, images/val, masks/val (or ADE20K's, VOC's "
            f"or Cityscapes' folders); found {inside}. Name the folders with data.train_images= data.train_masks= "
            "data.val_images= data.val_masks=."
        )
    listed = [root / name for name in ("classes.txt", "classes.json") if (root / name).is_file()]
    if listed:
        layout.classes = read_classes(listed[0])
    return layout


def pair_folders(images: str | os.PathLike[str], masks: str | os.PathLike[str]) -> Pairs:
    """Images of a folder, each with the mask of the same relative path but for the ending, or None.

    Raises:
        InputError: a folder does not exist or holds no image, or two masks have one name.
    """
    for folder in (images, masks):
        if not Path(folder).is_dir():
            raise InputError(f"There is no folder {folder}.{nearest_sibling(Path(folder))}")
    mask_of: dict[str, str] = {}
    for name in find_images(masks)[0]:
        stem = os.path.splitext(name)[0]
        if stem in mask_of:
            raise InputError(f"Two masks have the name {stem} in {masks}: {mask_of[stem]} and {name}.")
        mask_of[stem] = name
    names = find_images(images)[0]
    if not names:
        raise InputError(f"Wanted images in {images}; there are none.")
    pairs: Pairs = []
    for name in names:
        mask = mask_of.get(os.path.splitext(name)[0])
        pairs.append((os.path.join(images, name), None if mask is None else os.path.join(masks, mask)))
    return pairs


def _folders(root: Path) -> Layout | None:
    pairs: dict[str, Pairs] = {}
    rule, kind, classes = "plain", "folders", None
    for split, words in SPLITS.items():
        tried = [(root / i / word, root / m / word) for word in words for i in IMAGE_FOLDERS for m in MASK_FOLDERS]
        tried += [(root / word / i, root / word / m) for word in words for i in IMAGE_FOLDERS for m in MASK_FOLDERS]
        for images, masks in tried:
            if images.is_dir() and masks.is_dir():
                pairs[split] = pair_folders(images, masks)
                if split == "train" and (images, masks) == (root / "images/training", root / "annotations/training"):
                    rule, kind = "zero_ignored", "ade20k"
                break
    if "train" not in pairs:
        both = [
            (root / i, root / m)
            for i in IMAGE_FOLDERS
            for m in MASK_FOLDERS
            if (root / i).is_dir() and (root / m).is_dir()
        ]
        if pairs or not both:
            return None
        pairs["train"] = pair_folders(*both[0])
    if kind == "ade20k" and (root / "objectInfo150.txt").is_file():
        classes = read_ade_classes(root / "objectInfo150.txt")
    return Layout(kind, pairs, classes, rule)


def _voc(root: Path) -> Layout | None:
    images, masks, sets = root / "JPEGImages", root / "SegmentationClass", root / "ImageSets" / "Segmentation"
    if not (images.is_dir() and masks.is_dir()):
        return None
    pairs: dict[str, Pairs] = {}
    for split in SPLITS:
        listed = sets / f"{split}.txt"
        if listed.is_file():
            names = [name.strip() for name in listed.read_text(encoding="utf-8").splitlines() if name.strip()]
            pairs[split] = [(str(images / f"{name}.jpg"), str(masks / f"{name}.png")) for name in names]
    if "train" not in pairs:
        raise InputError(f"{root} has Pascal VOC's folders, but no list {sets / 'train.txt'} of image names.")
    return Layout("voc", pairs, tuple(VOC_CLASSES))


def _cityscapes(root: Path) -> Layout | None:
    images, masks = root / "leftImg8bit", root / "gtFine"
    if not (images.is_dir() and masks.is_dir()):
        return None
    pairs: dict[str, Pairs] = {}
    for split in SPLITS:
        if not (images / split).is_dir():
            continue
        names = find_images(images / split)[0]
        ending = "_leftImg8bit.png"
        pairs[split] = [
            (str(images / split / name), str(masks / split / name.replace(ending, "_gtFine_labelIds.png")))
            for name in names
            if name.endswith(ending)
        ]
    if not pairs.get("train"):
        raise InputError(f"{root} has Cityscapes' folders, but no image leftImg8bit/train/CITY/*_leftImg8bit.png.")
    return Layout("cityscapes", pairs, tuple(CITYSCAPES_CLASSES), id_map=dict(CITYSCAPES_IDS))
