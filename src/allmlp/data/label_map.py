"""From the numbers in a mask file to class labels 0 .. k-1, with 255 for pixels that do not count.

Shapes: h height and w width in pixels, k classes.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from allmlp.errors import InputError

IGNORE_LABEL = 255

RULES = ("plain", "zero_ignored")

VOC_CLASSES = [
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]
"""Pascal VOC's 21 classes in the order of its palette."""

CITYSCAPES_CLASSES = [
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
] + ["sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
CITYSCAPES_IDS = {
    number: label
    for label, number in enumerate([7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33])
} | dict.fromkeys([-1, 0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30], IGNORE_LABEL)
"""Cityscapes' label ids -> its 19 evaluated classes, all others ignored."""


@dataclass(frozen=True)
class LabelMap:
    """How numbers in mask files become labels.

    Args:
        classes: names in label order.
        rule: "plain": a number is a label, 255 is ignored. "zero_ignored": 0 and 255 are ignored, any other number is
            the label plus one (ADE20K).
        id_map: in place of the rule: the label, or 255, of each number that a file may hold.
    """

    classes: tuple[str, ...]
    rule: str = "plain"
    id_map: dict[int, int] | None = None

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise InputError(f"label_rule is one of {', '.join(RULES)}; got {self.rule!r}.")
        if len(self.classes) > IGNORE_LABEL:
            raise InputError(
                f"A mask of 8 bits holds at most 255 classes beside the ignored one; got {len(self.classes)}."
            )
        for number, label in (self.id_map or {}).items():
            if label != IGNORE_LABEL and not 0 <= label < len(self.classes):
                raise InputError(
                    f"id_map sends {number} to {label}; there are {len(self.classes)} classes (0 to "
                    f"{len(self.classes) - 1}), and {IGNORE_LABEL} for ignored."
                )

    def labels(self, numbers: np.ndarray, path: str) -> UInt8[np.ndarray, "h w"]:
        """Labels of a mask file's numbers.

        Raises:
            InputError: a number stands for no class; `path` names the file in the message.
        """
        small = numbers.dtype in (np.uint8, np.uint16)  # counting is ten times faster than sorting
        present = np.flatnonzero(np.bincount(numbers.ravel())) if small else np.unique(numbers)
        labels = [self._label(number) for number in present.tolist()]
        strange = [number for number, label in zip(present.tolist(), labels, strict=True) if label is None]
        if strange:
            raise InputError(
                f"{path} holds {_listed(strange)}, which {'is' if len(strange) == 1 else 'are'} {self._beyond()}"
            )
        values = np.array(labels, dtype=np.uint8)
        if not small:
            return values[np.searchsorted(present, numbers)]
        table = np.zeros(int(present[-1]) + 1, dtype=np.uint8)
        table[present] = values
        return table[numbers]

    def _label(self, number: int) -> int | None:
        if self.id_map is not None:
            return self.id_map.get(number)
        if self.rule == "zero_ignored":
            return IGNORE_LABEL if number in (0, IGNORE_LABEL) else self._if_class(number - 1)
        return IGNORE_LABEL if number == IGNORE_LABEL else self._if_class(number)

    def _if_class(self, label: int) -> int | None:
        return label if 0 <= label < len(self.classes) else None

    def _beyond(self) -> str:
        k = len(self.classes)
        if self.id_map is not None:
            return "not in the id map; add each number with its label, or with 255 to ignore it."
        held = (
            f"0 and {IGNORE_LABEL} (ignored) and 1 to {k}"
            if self.rule == "zero_ignored"
            else f"0 to {k - 1} and {IGNORE_LABEL} (ignored)"
        )
        return (
            f"beyond the list of {k} classes: wanted {held}. Add the missing names to classes.txt, or map the numbers "
            "with data.id_map=FILE.json ({number: label, or 255 to ignore})."
        )


def read_mask(path: str | os.PathLike[str]) -> np.ndarray:
    """The numbers of a mask file (h, w): palette indices, 8-bit or 16-bit grey, or 1 bit.

    Raises:
        InputError: it cannot be read, or it is a colour picture, whose colours are no numbers.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("L", "P", "1", "I", "I;16", "I;16B", "I;16L"):
                raise InputError(
                    f"The mask {path} is a colour picture ({image.mode}); wanted one number a pixel: a grey or palette "
                    "PNG whose values are class numbers."
                )
            return np.asarray(image.convert("L") if image.mode == "1" else image) // (255 if image.mode == "1" else 1)
    except InputError:
        raise
    except Exception as error:  # decoders raise almost anything on broken files
        raise InputError(f"Cannot read the mask {path}: {getattr(error, 'strerror', None) or error}.") from None


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names, one a line of a text file, or a list or {"label": "name"} in a JSON file.

    Raises:
        InputError: the file cannot be read, is empty, or a name comes twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        content: Any = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read the list of classes {path}: {error}.") from None
    if isinstance(content, dict) and all(key.isdecimal() for key in content):
        numbers = sorted(map(int, content))
        if numbers != list(range(len(numbers))):
            raise InputError(f"{path} names the labels {numbers}; wanted 0 to {len(numbers) - 1} without gaps.")
        content = [content[str(number)] for number in numbers]
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise InputError(f'{path}: wanted a list of names, or {{"0": "name", ...}}.')
    return check_names([name.strip() for name in content if name.strip()], str(path))


def read_ade_classes(path: Path) -> tuple[str, ...]:
    """Class names of ADE20K's objectInfo150.txt: tab-separated, a header line, the last column a list of synonyms."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()[1:]
    return check_names(
        [line.split("\t")[-1].split(",")[0].strip() for line in lines if line.strip()], str(path), unique=False
    )


def check_names(names: list[str], source: str, unique: bool = True) -> tuple[str, ...]:
    """The names as a tuple; `InputError` if there is none, or one comes twice (where names must be unique)."""
    if not names:
        raise InputError(f"{source} names no class.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice and unique:
        raise InputError(f"{source} names {twice[0]!r} twice.")
    return tuple(f"{name} {place}" if names.count(name) > 1 else name for place, name in enumerate(names))


def read_id_map(given: dict[Any, Any] | str | os.PathLike[str]) -> dict[int, int]:
    """{number in the file: label}, from such a dictionary or a JSON file that holds one.

    Raises:
        InputError: the file cannot be read, or a key or value is not a whole number.
    """
    content: Any = given
    if not isinstance(given, dict):
        try:
            content = json.loads(Path(given).read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            raise InputError(f"Cannot read the id map {given}: {error}.") from None
    try:
        return {int(number): int(label) for number, label in content.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"An id map sends whole numbers to whole numbers, {{number: label}}: {error}.") from None


def _listed(numbers: list[int], most: int = 8) -> str:
    return ", ".join(map(str, numbers[:most])) + (f" and {len(numbers) - most} more" if len(numbers) > most else "")
