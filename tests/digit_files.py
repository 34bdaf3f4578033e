"""Real pictures on disk: scikit-learn's handwritten digits as image files, one folder a class."""

import functools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


@functools.cache
def digits() -> dict[int, list[np.ndarray]]:
    """The images (8, 8) uint8 of each digit."""
    data = load_digits()
    return {digit: [np.uint8(image * 15) for image in data.images[data.target == digit]] for digit in range(10)}


def save_digits(folder: Path, per_class: int = 6, classes: Iterable[int] = (0, 1, 2), first: int = 0) -> Path:
    """Write `folder/DIGIT/NUMBER.png`, `per_class` images of each digit from its number `first` on."""
    for digit in classes:
        (folder / str(digit)).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + per_class):
            Image.fromarray(digits()[digit][number]).save(folder / str(digit) / f"{number}.png")
    return folder
