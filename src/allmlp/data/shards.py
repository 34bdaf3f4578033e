"""WebDataset tar shards on disk, read in any order.

A shard is a plain tar file in which the members of a sample share a name up to the first dot: `0001.jpg`, `0001.cls`.
Shards are usually streamed; here their headers are read once and every image is then found by its place in the file.
That makes them a source like any other: shuffled over the whole set, and resumed exactly. No package is needed.
"""

import glob
import io
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from allmlp.data.collection import Collection
from allmlp.data.image_file import check_stream, decode_image
from allmlp.data.listing import SUFFIXES, natural_key, nearest_sibling
from allmlp.data.source import ImageSource, PackedStrings, Size
from allmlp.data.split import TRAIN_NAMES, VAL_NAMES
from allmlp.data.table import number_classes
from allmlp.errors import InputError

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class Place:
    """Where an image lies: the member's name, its first byte and its length in a shard, and the label's text."""

    name: str
    offset: int
    size: int
    label: str


class TarSource(ImageSource):
    """Images inside tar files.

    Args:
        shards: Paths of the tar files.
        shard, offset, size: For each image the number of its file, its first byte and its length, int64 (N,).
        names: The members' names.
        labels, on_bad_image: See `ImageSource`.
    """

    def __init__(
        self,
        shards: Sequence[str],
        shard: np.ndarray,
        offset: np.ndarray,
        size: np.ndarray,
        names: Sequence[str],
        labels: Sequence[int] | np.ndarray,
        on_bad_image: str = "skip",
    ):
        super().__init__(labels, on_bad_image)
        self.shards, self.shard, self.offset, self.size = list(shards), shard, offset, size
        self._names = PackedStrings(names)

    def path(self, index: int) -> str:
        return f"{self.shards[self.shard[index]]}:{self._names[index]}"

    def name_of(self, index: int) -> str:
        return self._names[index]

    def load(self, index: int, channels: int = 3, at_least: Size | None = None) -> Image.Image | np.ndarray:
        return decode_image(self._bytes(index), self.path(index), channels, at_least)

    def check(self, index: int) -> str | None:
        return check_stream(self._bytes(index), self.path(index))

    def select(self, indices: np.ndarray, labels: np.ndarray | None = None) -> "TarSource":
        return TarSource(
            self.shards,
            self.shard[indices],
            self.offset[indices],
            self.size[indices],
            [self._names[index] for index in indices],
            self.labels[indices] if labels is None else labels,
            self.on_bad_image,
        )

    def _bytes(self, index: int) -> io.BytesIO:
        with open(self.shards[self.shard[index]], "rb") as file:
            file.seek(self.offset[index])
            return io.BytesIO(file.read(self.size[index]))


def open_shards(
    where: str, root: Path | None = None, classes: Sequence[str] | None = None, on_bad_image: str = "skip"
) -> Collection:
    """Find the samples of a folder of .tar files, of one .tar file, or of a pattern such as `train-{0000..0099}.tar`.

    In a folder, `_info.json` (as timm and the Hugging Face hub write it) names the shards of each split; without it,
    shards lie in train/ and val/ or carry the split in their names, or else belong to one undivided set. Labels are the
    text or number in `.cls`, or `label` in `.json`. Class names are those, or the lines of `classes.txt` in the folder.

    Raises:
        InputError: No shards there, an address of the web, a broken or compressed tar file, samples without label.
    """
    if "://" in where:
        raise InputError(f"Shards are read from disk; got the address {where}. Download them and type their folder.")
    path = (root or Path()) / Path(where).expanduser()
    if not path.exists() and root is not None and root.is_dir() and not _expand(str(path)):
        path = root
    splits = _splits(path)
    if classes is None and (path / "classes.txt").is_file():
        classes = (path / "classes.txt").read_text(encoding="utf-8").split("\n")
        classes = [name.strip() for name in classes if name.strip()]
    shards: list[str] = []
    found: list[tuple[int, bool, Place]] = []
    for split, files in splits.items():
        for file in files:
            found += [(len(shards), split == "val", place) for place in read_index(file)]
            shards.append(file)
    if not found:
        raise InputError(f"Wanted images with labels (.jpg and .cls members) in the shards at {path}; there are none.")
    number, offset, size = np.array([(shard, place.offset, place.size) for shard, _, place in found]).T
    names, labels = number_classes([place.label for _, _, place in found], classes, str(path))
    members = [place.name for _, _, place in found]
    source = TarSource(shards, number, offset, size, members, labels, on_bad_image)
    is_val = np.array([val for _, val, _ in found]) if "val" in splits else None
    return Collection("shards", names, source, is_val, members)


def read_index(shard: str) -> Iterator[Place]:
    """The images of a tar file that have a label, in their order.

    Raises:
        InputError: It is not a plain tar file, or a sample has an image but no label.
    """
    try:
        with tarfile.open(shard, "r:") as tar:
            key, image, label = "", None, None
            for member in tar:
                if not member.isfile():
                    continue
                folder, _, base = member.name.rpartition("/")
                stem, _, extension = base.partition(".")
                if (sample := f"{folder}/{stem}") != key:
                    yield from _sample(shard, image, label)
                    key, image, label = sample, None, None
                extension = "." + extension.lower()
                if extension in SUFFIXES:
                    image = member
                elif extension == ".cls":
                    label = _content(tar, member)
                elif extension == ".json" and label is None:
                    fields = json.loads(_content(tar, member))
                    label = str(fields["label"]) if isinstance(fields, dict) and "label" in fields else None
            yield from _sample(shard, image, label)
    except (tarfile.TarError, UnicodeDecodeError, json.JSONDecodeError, OSError) as error:
        raise InputError(f"Cannot read the shard {shard}: {error}. Wanted an uncompressed tar file.") from None


def _sample(shard: str, image: tarfile.TarInfo | None, label: str | None) -> Iterator[Place]:
    if image is None:
        return
    if label is None:
        raise InputError(f"Wanted a label (.cls, or label in .json) for {image.name} in {shard}; it has none.")
    yield Place(image.name, image.offset_data, image.size, label)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member)
    return "" if file is None else file.read().decode("utf-8").strip()


def _splits(path: Path) -> dict[str, list[str]]:
    """Shard files of "train" and "val", or of "all"."""
    if not path.is_dir():
        files = _expand(str(path))
        if not files:
            raise InputError(f"Wanted tar shards; there are none at {path}.{nearest_sibling(path)}")
        return {"all": files}
    for name in ("_info.json", "info.json"):
        if (path / name).is_file():
            try:
                listed = json.loads((path / name).read_text(encoding="utf-8"))["splits"]
                named = {split: [str(path / file) for file in entry["filenames"]] for split, entry in listed.items()}
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise InputError(
                    f'Cannot read {path / name}: {error!r}. Wanted {{"splits": {{"train": {{"filenames": [...]}}}}}}.'
                ) from None
            return _two_parts(named, path)
    below = {entry.name: sorted(map(str, entry.glob("*.tar")), key=natural_key) for entry in path.iterdir()}
    if any(below.get(name) for name in TRAIN_NAMES):
        return _two_parts({name: files for name, files in below.items() if files}, path)
    files = sorted(map(str, path.glob("*.tar")), key=natural_key)
    if not files:
        raise InputError(f"Wanted tar shards in the folder {path}; it holds none.")
    by_split: dict[str, list[str]] = {}
    for file in files:
        words = re.split(r"[^a-z]+", os.path.basename(file).lower())
        split = next((word for word in (*TRAIN_NAMES, *VAL_NAMES) if word in words), "all")
        by_split.setdefault(split, []).append(file)
    return {"all": files} if "all" in by_split else _two_parts(by_split, path)


def _two_parts(named: dict[str, list[str]], path: Path) -> dict[str, list[str]]:
    train = next((named[name] for name in TRAIN_NAMES if name in named), None)
    val = next((named[name] for name in VAL_NAMES if name in named), None)
    if train is None and val is None:
        raise InputError(f"Wanted a split named train in {path}; got {', '.join(named) or 'none'}.")
    return {key: files for key, files in (("train", train), ("val", val)) if files}


def _expand(pattern: str) -> list[str]:
    """Files that match a pattern with {first..last} ranges and globs, in natural order."""
    match = _BRACES.search(pattern)
    if match is None:
        return sorted((name for name in glob.glob(pattern) if os.path.isfile(name)), key=natural_key)
    first, last = match.groups()
    numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    return [name for number in numbers for name in _expand(pattern[: match.start()] + number + pattern[match.end() :])]
