"""A folder of images: one folder a class, whole or divided into train/ and val/."""

import os
from collections import Counter
from pathlib import Path

import numpy as np

from allmlp.data.collection import Collection
from allmlp.data.listing import SUFFIXES, find_images, natural_key, nothing_found
from allmlp.data.source import FileSource
from allmlp.errors import InputError

TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation", "test")  # the first that is there is taken
_WANTED = "Wanted one folder of images for each class, or train/ and val/ with such folders in them"


def open_folder(root: Path, on_bad_image: str = "skip") -> Collection:
    """Find the classes and images below a folder.

    Layouts: `root/CLASS/**/image`, or `root/train/CLASS/**/image` with `root/val/...` (or valid, validation, test) or
    without. Class names are the folders' names, in natural order (2 before 10); hidden ones are passed over.

    Raises:
        InputError: No images, images without class folders, a class folder without images, classes that only the
            validation part has.
    """
    names = _folders(root)
    by_name = {name.lower(): name for name in reversed(names)}
    train = next((by_name[name] for name in TRAIN_NAMES if name in by_name), None)
    vals = [by_name[name] for name in VAL_NAMES if name in by_name]
    others: Counter[str] = Counter()
    notes: list[str] = []
    if train is not None and (vals or _holds_classes(root / train)):
        parts = {train: False, **dict.fromkeys(vals[:1], True)}
        if vals[1:]:
            notes.append(f"{vals[0]}/ is taken for validation; {', '.join(vals[1:])} is left aside.")
    elif train is None and vals and len(vals) == len(names) and _holds_classes(root / vals[0]):
        parts = {vals[0]: True}
    else:
        parts = {".": False}
    found = {part: _classes_of(root, part, is_val, others, notes) for part, is_val in parts.items()}
    classes = sorted({name for part in found.values() for name in part}, key=natural_key)
    if train in found:
        surplus = [name for name in classes if name not in found[train]]  # type: ignore[index]
        if surplus:
            raise InputError(
                f"{root / vals[0]} has classes that {root / train} has not: {', '.join(map(repr, surplus))}. "  # type: ignore[operator]
                "Add training images of them or remove them; names must agree letter by letter."
            )
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
        notes.append(f"Files that are not images by their names were left out: {kinds}.")
    number = {name: label for label, name in enumerate(classes)}
    paths, labels, is_val = [], [], []
    for part, per_class in found.items():
        for name, files in per_class.items():
            paths += [name_in(part, name, file) for file in files]
            labels += [number[name]] * len(files)
            is_val += [parts[part]] * len(files)
    source = FileSource(root, paths, labels, on_bad_image)
    return Collection(
        "folder", classes, source, np.array(is_val) if len(parts) > 1 or any(is_val) else None, paths, notes
    )


def name_in(part: str, name: str, file: str) -> str:
    """The path below the root, with "/" between."""
    return f"{name}/{file}" if part == "." else f"{part}/{name}/{file}"


def _classes_of(root: Path, part: str, is_val: bool, others: Counter[str], notes: list[str]) -> dict[str, list[str]]:
    """The image files of each class folder, relative to it; adds to `others` and `notes`."""
    folder = root / part
    names = _folders(folder)
    loose = sum(os.path.splitext(name)[1].lower() in SUFFIXES for name in os.listdir(folder))
    if not names:
        what = (
            f"it holds {loose} images and no folders"
            if loose
            else "it is empty"
            if not os.listdir(folder)
            else ("it holds no folders")
        )
        raise InputError(f"{_WANTED}, at {folder}; {what}.")
    found: dict[str, list[str]] = {}
    empty: list[str] = []
    for name in names:
        files, elsewise = find_images(folder / name)
        others.update(elsewise)
        if files:
            found[name] = files
        else:
            empty.append(f"{name!r}: {nothing_found(elsewise)}")
    if not found:
        raise InputError(f"{_WANTED}, at {folder}; there is no image in its folders. {'; '.join(empty[:5])}.")
    if empty and is_val:
        notes.append(f"Class folders without images in {folder}: {', '.join(empty)}.")
    elif empty:
        raise InputError(
            f"Wanted images in every class folder of {folder}; none in {'; '.join(empty[:5])}. "
            "Add images or remove the folder."
        )
    if loose:
        notes.append(f"{loose} images that lie directly in {folder} belong to no class and were left out.")
    return found


def _holds_classes(folder: Path) -> bool:
    """Whether images lie in folders below, and none beside these."""
    entries = os.listdir(folder)
    return bool(_folders(folder)) and not any(os.path.splitext(name)[1].lower() in SUFFIXES for name in entries)


def _folders(folder: Path) -> list[str]:
    names = [
        entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith((".", "__MACOSX"))
    ]
    return sorted(names, key=natural_key)
