"""Labelled images as they were found, before unreadable ones are set aside and validation images are chosen."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

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
        is_val: Which are for validation, bool (N,), at least one of them; None if they are not divided yet.
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
        kept = replace(
            self,
            source=self.source.select(np.flatnonzero(good)),
            is_val=None if self.is_val is None else self.is_val[good],
            names=None if self.names is None else [name for name, keep in zip(self.names, good) if keep],
        )
        return kept, bad

    def divide(self, val_fraction: float, seed: int) -> tuple[ImageSource, ImageSource]:
        """The training and the validation source, as the data came divided or else by `stratified_split`.

        Raises:
            InputError: A part without images, and what `check_classes` raises.
        """
        labels = self.source.labels
        if self.is_val is None:
            self.check_classes(labels)
            names = self.names or [self.source.path(index) for index in range(len(labels))]
            train, val = stratified_split(names, labels, self.classes, val_fraction, seed)
        else:
            train, val = np.flatnonzero(~self.is_val), np.flatnonzero(self.is_val)
            for part, images, other in (("training", train, "validation"), ("validation", val, "training")):
                if len(images) == 0:
                    raise InputError(f"Wanted {part} images; all {len(labels)} that can be read here are for {other}.")
            self.check_classes(labels[train], labels[val])
        return self.source.select(train), self.source.select(val)

    def relabelled(self, classes: Sequence[str], chosen: np.ndarray | None = None) -> ImageSource:
        """The images of these numbers (all by default), their labels places in `classes`, matched by name.

        Raises:
            InputError: One of them is of another class.
        """
        chosen = np.arange(len(self.source)) if chosen is None else chosen
        labels = self.source.labels[chosen]
        if unknown := [self.classes[label] for label in np.unique(labels) if self.classes[label] not in classes]:
            raise InputError(
                f"There are images of unknown classes: {some_of(unknown)}. Known are {some_of(classes)}; "
                "names must agree letter by letter."
            )
        place = {name: label for label, name in enumerate(classes)}
        numbers = np.array([place.get(name, -1) for name in self.classes])
        return self.source.select(chosen, numbers[labels])

    def check_classes(self, train: np.ndarray, val: np.ndarray | None = None) -> None:
        """Look at the labels of the training images and, if they came apart, of the validation images.

        Raises:
            InputError: Fewer than two classes, a class without training images.
        """
        val = train if val is None else val
        per_class = np.bincount(train, minlength=len(self.classes))
        in_val = np.bincount(val, minlength=len(self.classes))
        if only_val := _listed(self.classes, (per_class == 0) & (in_val > 0)):
            raise InputError(
                f"Validation has images of classes that training has none of: {only_val}. "
                "Add training images of them or remove them; names must agree letter by letter."
            )
        if empty := _listed(self.classes, per_class == 0):
            raise InputError(
                f"Wanted images of every class; none that can be read of: {empty}. Add images or remove the class."
            )
        if len(self.classes) < 2:
            hint = " ".join(["Add images of another.", *self.notes])
            raise InputError(f"Wanted at least two classes; got one: {self.classes[0]!r}. {hint}")
        if unseen := _listed(self.classes, in_val == 0):
            self.notes.append(f"Validation has no image of: {unseen}.")


def _listed(classes: Sequence[str], chosen: np.ndarray) -> str:
    return some_of([classes[index] for index in np.flatnonzero(chosen).tolist()])


def some_of(names: Sequence[str]) -> str:
    """The first ten names, and how many more there are."""
    names = [repr(name) for name in names]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
