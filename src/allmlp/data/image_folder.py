"""A folder of images: one folder a class, whole or divided into train/ and val/."""

import os
from collections import Counter
from pathlib import Path

import numpy as np

from allmlp.data.collection import Collection
from allmlp.data.listing import SUFFIXES, find_images, natural_key, nothing_found
from allmlp.data.source import FileSource
from allmlp.data.split import TRAIN_NAMES, VAL_NAMES
from allmlp.data.table import SUFFIXES as TABLE_SUFFIXES
from allmlp.errors import InputError

_WANTED = "Wanted one folder of images for each class, or train/ and val/ with such folders in them"


def open_folder(root: Path, on_bad_image: str = "skip") -> Collection:
    """Find the classes and images below a folder.

    Layouts: `root/CLASS/**/image`, or `root/train/CLASS/**/image` with `root/val/...` (or valid, validation, test) or
    without. Class names are the folders' names, in natural order (2 before 10); hidden ones are passed over.

    Raises:
        InputError: No images, images without class folders, a class folder without images, classes that only the
            validation part has.
    """
    notes: list[str] = []
    others: Counter[str] = Counter()
    parts = _parts(root, notes)
    found = {part: _classes_of(root / part, is_val, others, notes) for part, is_val in parts.items()}
    classes = sorted({name for part in found.values() for name in part}, key=natural_key)
    for part, is_val in parts.items():
        if not is_val and (surplus := [name for name in classes if name not in found[part]]):
            raise InputError(
                f"The validation part of {root} has classes that {root / part} has not: "
                f"{', '.join(map(repr, surplus))}. "
                "Add training images of them or remove them; names must agree letter by letter."
            )
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
        notes.append(f"Files that are not images by their names were left out: {kinds}.")
    if len(classes) == 1 and (inner := _folders(root / next(iter(parts)) / classes[0])):
        notes.append(f"If {', '.join(inner[:3])} are the classes, type {root / next(iter(parts)) / classes[0]}.")
    number = {name: label for label, name in enumerate(classes)}
    rows = [
        (file if part == "." else f"{part}/{file}", number[name], is_val)
        for part, is_val in parts.items()
        for name, files in found[part].items()
        for file in files
    ]
    paths = [path for path, _, _ in rows]
    source = FileSource(root, paths, [label for _, label, _ in rows], on_bad_image)
    held_out = np.array([is_val for _, _, is_val in rows]) if any(parts.values()) else None
    return Collection("folder", classes, source, held_out, paths, notes)


def _parts(root: Path, notes: list[str]) -> dict[str, bool]:
    """The folders below `root` that hold class folders, "." for itself, and whether they are for validation."""
    names = _folders(root)
    by_name = {name.lower(): name for name in reversed(names)}
    train = next((by_name[name] for name in TRAIN_NAMES if name in by_name), None)
    vals = [by_name[name] for name in VAL_NAMES if name in by_name]
    if train is not None and (vals or _holds_classes(root / train)):
        if vals[1:] or (vals and vals[0].lower() == "test"):
            aside = f"; {', '.join(vals[1:])} is left aside" if vals[1:] else ""
            notes.append(f"{vals[0]}/ is taken for validation{aside}.")
        return {train: False, **dict.fromkeys(vals[:1], True)}
    if train is None and vals and len(vals) == len(names) and _holds_classes(root / vals[0]):
        return {vals[0]: True}
    return {".": False}


def _classes_of(folder: Path, is_val: bool, others: Counter[str], notes: list[str]) -> dict[str, list[str]]:
    """The image files of each class folder, as CLASS/FILE; adds to `others` and `notes`."""
    names = _folders(folder)
    if not names:
        raise InputError(f"{_WANTED}, at {folder}; {_instead(folder)}")
    found: dict[str, list[str]] = {}
    empty: list[str] = []
    for name in names:
        files, elsewise = find_images(folder / name)
        others.update(elsewise)
        if files:
            found[name] = [f"{name}/{file}" for file in files]
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
    if loose := sum(map(_is_image, os.listdir(folder))):
        notes.append(f"{loose} images that lie directly in {folder} belong to no class and were left out.")
    return found


def _instead(folder: Path) -> str:
    """What a folder without folders holds, and what to do."""
    files = sorted(os.listdir(folder))
    suffixes = [os.path.splitext(name)[1].lower() for name in files]
    if images := sum(map(_is_image, files)):
        return f"it holds {images} images and no folders. Make a folder for each class and move the images there."
    if ".tar" in suffixes:
        return f"it holds tar shards. Type wds/{folder}."
    for name, suffix in zip(files, suffixes):
        if suffix in TABLE_SUFFIXES:
            return f"it holds a table. Type {folder / name}."
    return f"{nothing_found(Counter(suffix or '(none)' for suffix in suffixes))}."


def _holds_classes(folder: Path) -> bool:
    """Whether images lie in folders below, and none beside these."""
    return bool(_folders(folder)) and not any(map(_is_image, os.listdir(folder)))


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _folders(folder: Path) -> list[str]:
    names = [
        entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith((".", "__MACOSX"))
    ]
    return sorted(names, key=natural_key)
