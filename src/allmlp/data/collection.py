"""Labelled images as they were found, before unreadable ones are set aside and validation images are chosen."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from allmlp.data.image_file import BadImage
from allmlp.data.source import ImageSource
from allmlp.data.split import stratified_split
from allmlp.errors import InputError

CHECKED_FILES = 100_000  # beyond this, checking first would take minutes; loading finds bad files all the same


@dataclass
class Collection:
    """Images with classes.

    Args:
        kind: "digits", "folder", "table", "shards" or "timm".
        classes: Class names; a label is a place in this list.
        source: All images, of training and validation.
        is_val: Which are for validation, bool (N,); None if they are not divided yet.
        names: What tells the images apart when dividing them, wherever the data set lies; by default `source.path`.
        notes: Things worth telling the person.
    """

    kind: str
    classes: list[str]
    source: ImageSource
    is_val: np.ndarray | None = None
    names: Sequence[str] | None = None
    notes: list[str] = field(default_factory=list)

    def without_unreadable(self, check: bool | None) -> tuple["Collection", list[BadImage]]:
        """The collection less the files that a quick look shows to be unreadable, and a list of these.

        Args:
            check: Whether to look; None looks unless there are more than 100,000 files.

        Raises:
            InputError: There are such files and the source says "stop", or nothing else is left.
        """
        count = len(self.source)
        if not (count <= CHECKED_FILES if check is None else check):
            self.notes.append(f"The {count} files were not checked beforehand.")
            return self, []
        with ThreadPoolExecutor(8) as pool:
            reasons = list(pool.map(self.source.check, range(count)))
        bad = [BadImage(self.source.path(i), reason) for i, reason in enumerate(reasons) if reason is not None]
        if not bad:
            return self, []
        listed = "; ".join(f"{image.path}: {image.reason}" for image in bad[:5])
        if self.source.on_bad_image == "stop":
            raise InputError(
                f"{len(bad)} of {count} images cannot be read: {listed}. "
                "Mend or remove them, or type data.on_bad_image=skip to leave them out."
            )
        if len(bad) == count:
            raise InputError(f"None of the {count} images can be read: {listed}.")
        good = np.array([reason is None for reason in reasons])
        kept = Collection(
            self.kind,
            self.classes,
            self.source.select(np.flatnonzero(good)),
            None if self.is_val is None else self.is_val[good],
            None if self.names is None else [name for name, keep in zip(self.names, good) if keep],
            self.notes,
        )
        return kept, bad

    def divide(self, val_fraction: float, seed: int) -> tuple[ImageSource, ImageSource]:
        """The training and the validation source.

        The division that came with the data holds; without one, or with an empty validation part, the training images
        are split by `stratified_split`.

        Raises:
            InputError: Fewer than two classes, a class without training images, classes only in the validation part.
        """
        labels = self.source.labels
        is_val = np.zeros(len(labels), dtype=bool) if self.is_val is None else self.is_val
        train, val = np.flatnonzero(~is_val), np.flatnonzero(is_val)
        if len(train) == 0:
            raise InputError(f"Wanted training images; all {len(val)} images here are for validation.")
        self._check_classes(labels[train], labels[val])
        if len(val) == 0:
            names = self.names or [self.source.path(index) for index in range(len(labels))]
            parts = stratified_split([names[i] for i in train], labels[train], self.classes, val_fraction, seed)
            train, val = train[parts[0]], train[parts[1]]
        return self.source.select(train), self.source.select(val)

    def _check_classes(self, train: np.ndarray, val: np.ndarray) -> None:
        per_class = np.bincount(train, minlength=len(self.classes))
        in_val = np.bincount(val, minlength=len(self.classes))
        if only_val := _listed(self.classes, (per_class == 0) & (in_val > 0)):
            raise InputError(
                f"Validation has images of classes that training has none of: {only_val}. "
                "Add training images of them or remove them; names must agree letter by letter."
            )
        if empty := _listed(self.classes, per_class == 0):
            raise InputError(f"Wanted images of every class; none that can be read of: {empty}.")
        if len(self.classes) < 2:
            raise InputError(f"Wanted at least two classes; got one: {self.classes[0]!r}.")
        if len(val) and (unseen := _listed(self.classes, in_val == 0)):
            self.notes.append(f"Validation has no image of: {unseen}.")


def _listed(classes: Sequence[str], chosen: np.ndarray) -> str:
    names = [repr(classes[index]) for index in np.flatnonzero(chosen)]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
