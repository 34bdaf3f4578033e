"""Write a data set as files on disk: `allmlp data digits out=DIR`, `allmlp data digit_scenes out=DIR`."""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from allmlp.errors import InputError
from allmlp.recipes.overrides import unknown_key
from allmlp.verbs._console import counting, make_console
from allmlp.verbs._words import convert

if TYPE_CHECKING:
    from allmlp.data import ImageSource

_SCENE_OPTIONS = ("train", "val", "size", "seed")


@dataclass(frozen=True)
class Written:
    """A data set on disk: its folder, and images by part."""

    folder: Path
    images: dict[str, int]


def data(name: str, *, out: str | Path, progress: str = "auto", **options: int | str) -> Written:
    """Write a data set in the form of a person's own, to look at it or to try commands on it.

    Args:
        name: `digits`, or any classification data set that training takes: `train/` and `val/` with a folder of PNG
            files a class. `digit_scenes`: COCO JSON with images, and mask PNGs.
        out: the folder to make; it appears when everything is in it.
        options: of `digit_scenes`: `train` and `val`, numbers of scenes, `size` in pixels, `seed`.

    Raises:
        InputError: `out` exists, an unknown or impossible option, or the data cannot be read.
    """
    folder = Path(out)
    if folder.exists():
        raise InputError(f"Wanted a new folder for the data; {folder} exists. Name another: out=...")
    making = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        if name == "digit_scenes":
            from allmlp.data.digit_scenes import write_digit_scenes

            write_digit_scenes(making, **_numbers(options, _SCENE_OPTIONS))
            images = {part: len(list((making / "images" / part).iterdir())) for part in ("train", "val")}
        else:
            _numbers(options, ())
            images = _write_classes(name, making, progress)
        making.rename(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return Written(folder, images)


def _numbers(options: Mapping[str, int | str], known: Sequence[str]) -> dict[str, int]:
    for key in options:
        if key not in known:
            raise InputError(unknown_key(key, ("out", "progress", *known)))
    return {key: int(convert(key, str(value), int)) for key, value in options.items()}


def _write_classes(name: str, folder: Path, progress: str) -> dict[str, int]:
    from allmlp.data import open_classification

    found = open_classification(name)
    parts: dict[str, ImageSource] = {"train": found.train, "val": found.val}
    with counting(make_console(progress), "writing") as begin:
        step = begin(len(found.train) + len(found.val))
        for part, source in parts.items():
            places = [folder / part / _file_name(label) for label in found.classes]
            for place in places:
                place.mkdir(parents=True)
            for index, label in enumerate(source.labels.tolist()):
                stem = _file_name(Path(source.path(index)).stem)
                stem = f"{int(stem):04d}" if stem.isdigit() else stem
                target = places[label] / f"{stem}.png"
                if target.exists():
                    target = places[label] / f"{stem}-{index}.png"
                source.load(index).save(target)  # type: ignore[union-attr]
                step(1)
    return {part: len(source) for part, source in parts.items()}


def _file_name(text: str) -> str:
    return re.sub(r"[^\w .-]+", "-", text).strip(". ") or "-"


def show(result: Written) -> str:
    """What the command line prints."""
    return f"{result.folder}: " + ", ".join(f"{count:,} {part} images" for part, count in result.images.items())
