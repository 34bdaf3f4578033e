"""Divide labelled images into a training and a validation part, class by class."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np

from allmlp.errors import InputError

# What the parts are called in folders, tables and shards; the first that is there is taken.
TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation", "test")


def stratified_split(
    names: Sequence[str], labels: np.ndarray, classes: Sequence[str], fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training and of the validation images, both in the order given.

    Of each class with n images, round(fraction * n) are for validation: those whose hash of seed and name comes first.
    So the split follows from the names alone, in whatever order a file system lists them, and an added or removed file
    moves at most one other of its class from one part to the other.

    Args:
        names: What tells the images apart, e.g. relative paths.
        labels: Class numbers (N,).
        classes: Class names, for messages.
        fraction: Share of validation images, between 0 and 1.
        seed: Another seed, another split.

    Raises:
        InputError: The fraction leaves a class no image on one side.
    """
    if not 0 < fraction < 1:
        raise InputError(f"val_fraction lies between 0 and 1; got {fraction}. Type for example data.val_fraction=0.2.")
    digests = np.array([_digest(seed, name) for name in names], dtype="S16")
    chosen = np.zeros(len(names), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = int(np.floor(fraction * len(members) + 0.5))
        if count in (0, len(members)):
            raise InputError(_too_few(classes[label], len(members), fraction, count))
        chosen[members[np.argsort(digests[members], kind="stable")[:count]]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _digest(seed: int, name: str) -> bytes:
    text = f"{seed}/{name}".encode(errors="surrogateescape")
    return hashlib.blake2b(text, digest_size=8).hexdigest().encode()


def _too_few(name: str, images: int, fraction: float, count: int) -> str:
    side = "validation" if count == 0 else "training"
    counted = f"{images} image{'s' if images > 1 else ''}"
    message = f"The class {name!r} has {counted}; val_fraction={fraction} leaves none for {side}."
    if images < 2:
        return f"{message} Wanted at least 2 images a class: add some, or remove the class."
    if count == 0:
        mend = f"{math.ceil(500 / images) / 1000} or more"
    else:
        mend = f"{(math.ceil(1000 - 500 / images) - 1) / 1000} or less"
    return f"{message} Type data.val_fraction={mend}, or add images of this class."
