"""Open a classification data set by its name or its place on disk."""

import difflib
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from allmlp.data.collection import Collection
from allmlp.data.digits import open_digits
from allmlp.data.image_file import BadImage
from allmlp.data.image_folder import open_folder
from allmlp.data.listing import SUFFIXES as IMAGE_SUFFIXES
from allmlp.data.listing import nearest_sibling
from allmlp.data.shards import open_shards
from allmlp.data.source import ImageSource
from allmlp.data.table import SUFFIXES as TABLE_SUFFIXES
from allmlp.data.table import open_table
from allmlp.data.timm_sets import TORCH_NAMES, open_timm
from allmlp.errors import InputError

EMBEDDED = ("digits",)
PREFIXES = ("torch", "hfds", "wds", "tfds", "hfids")
_WANTED = (
    "Wanted digits, a folder with one folder of images a class, a .csv or .parquet file, or torch/, hfds/, wds/ NAME"
)


@dataclass
class ClassificationData:
    """Images in classes, divided into a training and a validation part.

    Attributes:
        name: As it was asked for. kind: "digits", "folder", "table", "shards" or "timm".
        classes: Class names; a label is a place in this list.
        train, val: The images. `train` is empty after `open_evaluation`.
        unreadable: Files that were left out on opening.
        notes: Sentences worth telling the person.
    """

    name: str
    kind: str
    classes: list[str]
    train: ImageSource
    val: ImageSource
    unreadable: list[BadImage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def skipped(self) -> list[BadImage]:
        """All images left out so far, on opening or when loading came to them."""
        return [*self.unreadable, *self.train.bad, *self.val.bad]

    def describe(self) -> dict[str, Any]:
        """What a report says of the data: counts by class and part, what was skipped, notes, a fingerprint.

        The fingerprint is a hash of the classes and of every image's name and label, in order; a run that is resumed
        with another fingerprint sees other images.
        """
        parts = {"train": self.train, "val": self.val}
        counts = {part: np.bincount(source.labels, minlength=len(self.classes)) for part, source in parts.items()}
        return {
            "name": self.name,
            "kind": self.kind,
            "classes": list(self.classes),
            **{
                part: {"images": len(source), "per_class": dict(zip(self.classes, counts[part].tolist()))}
                for part, source in parts.items()
            },
            "skipped": [{"path": image.path, "reason": image.reason} for image in self.skipped],
            "notes": list(self.notes),
            "fingerprint": self.fingerprint(),
        }

    def fingerprint(self) -> str:
        """16 hexadecimal digits; see `describe`. Paths count from the data set's own folder, contents do not count."""
        digest = hashlib.blake2b(digest_size=8)
        digest.update("\n".join(self.classes).encode(errors="surrogateescape"))
        for source in (self.train, self.val):
            digest.update(f"\n\n{len(source)}\n".encode())
            digest.update(source.labels.astype("<i8").tobytes())
            for index in range(len(source)):
                digest.update(source.name_of(index).encode(errors="surrogateescape") + b"\n")
        return digest.hexdigest()


def open_classification(
    name_or_path: str | os.PathLike[str],
    *,
    val_fraction: float = 0.2,
    seed: int = 0,
    on_bad_image: str = "skip",
    check_images: bool | None = None,
    classes: Sequence[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    options: Mapping[str, Any] | None = None,
) -> ClassificationData:
    """Open a data set for training.

    Args:
        name_or_path: `digits` (embedded); a folder (see `open_folder`); a .csv, .tsv or .parquet file (`open_table`);
            `torch/NAME` or `hfds/NAME` (`open_timm`); `wds/FOLDER`, or a .tar file (`open_shards`).
        val_fraction, seed: For data that comes undivided: the share of validation images and the seed of the division
            (`stratified_split`). `digits` has its own fixed division.
        on_bad_image: "skip" lists images that cannot be read and goes on without them, "stop" raises at the first.
        check_images: Look at every file's header first. None: unless there are more than 100,000.
        classes: Names that integer labels of tables and shards stand for.
        root: Folder of a named set (`open_timm`), or the one that a table's relative paths start from.
        download, options: For named sets; see `open_timm`.

    Raises:
        InputError: Nothing there, or not what was wanted; fewer than two classes; a class without images.
    """
    found, val = _find(name_or_path, on_bad_image, classes, root, download, options)
    found, unreadable = found.without_unreadable(check_images)
    if val is None:
        train_source, val_source = found.divide(val_fraction, seed)
    else:
        val, more = val.without_unreadable(check_images)
        unreadable += more
        train_source, val_source = found.source, val.relabelled(found.classes)
        found.check_classes(train_source.labels, val_source.labels)
    return ClassificationData(
        os.fspath(name_or_path), found.kind, found.classes, train_source, val_source, unreadable, found.notes
    )


def open_evaluation(
    name_or_path: str | os.PathLike[str],
    classes: Sequence[str],
    *,
    on_bad_image: str = "skip",
    check_images: bool | None = None,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    options: Mapping[str, Any] | None = None,
) -> ClassificationData:
    """Open a data set to evaluate a model on that knows `classes`: its validation part, or all of it if undivided.

    Labels are places in `classes`; the data may lack some of them. `train` of the result is empty. Arguments as in
    `open_classification`.

    Raises:
        InputError: As `open_classification`, or the data has a class that the model does not know.
    """
    found, val = _find(name_or_path, on_bad_image, classes, root, download, options)
    used, unreadable = (val or found).without_unreadable(check_images)
    source = used.relabelled(classes, None if used.is_val is None else np.flatnonzero(used.is_val))
    if len(source) == 0:
        raise InputError(f"Wanted images to evaluate on; none of the validation part of {name_or_path} can be read.")
    nothing = used.source.select(np.arange(0))
    return ClassificationData(
        os.fspath(name_or_path), used.kind, list(classes), nothing, source, unreadable, used.notes
    )


def _find(
    name_or_path: str | os.PathLike[str],
    on_bad_image: str,
    classes: Sequence[str] | None,
    root: str | os.PathLike[str] | None,
    download: bool,
    options: Mapping[str, Any] | None,
) -> tuple[Collection, Collection | None]:
    """The collection of that name; a second one where validation images come apart."""
    name = os.fspath(name_or_path)
    if not name:
        raise InputError(f"{_WANTED}; got no name.")
    if name == "digits":
        return open_digits(), None
    prefix, slash, rest = name.partition("/")
    if slash and prefix.lower() in PREFIXES and rest and not os.path.exists(name):
        if prefix.lower() == "wds":
            return open_shards(rest, None if root is None else Path(root), classes, on_bad_image), None
        return open_timm(f"{prefix.lower()}/{rest}", root, download, on_bad_image, options)
    path = Path(name).expanduser()
    suffix = path.suffix.lower()
    if path.is_dir():
        return open_folder(path, on_bad_image), None
    if path.is_file() and suffix in TABLE_SUFFIXES:
        return open_table(path, classes, on_bad_image, root), None
    if path.is_file() and suffix == ".tar":
        return open_shards(name, None, classes, on_bad_image), None
    raise InputError(_not_there(name, path))


def _not_there(name: str, path: Path) -> str:
    if path.is_file():
        if path.suffix.lower() in (".zip", ".gz", ".tgz", ".7z", ".rar"):
            return f"{_WANTED}; {name} is an archive: unpack it and type its folder."
        one = "one image" if path.suffix.lower() in IMAGE_SUFFIXES else "some other file"
        return f"{_WANTED}; {name} is {one}."
    prefix, slash, rest = name.partition("/")
    if near := _near(name, EMBEDDED):
        hint = f" Did you mean {near}?"
    elif sibling := nearest_sibling(path):
        hint = sibling
    elif slash and (near := _near(prefix, PREFIXES)):
        hint = f" Did you mean {near}/{rest}?"
    else:
        near = _near(name, TORCH_NAMES)
        hint = f" Did you mean torch/{near}?" if near else ""
    return f"{_WANTED}; there is no {name}.{hint}"


def _near(word: str, known: Sequence[str]) -> str | None:
    return next(iter(difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)), None)
