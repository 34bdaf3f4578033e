"""Data sets that timm knows by name: `torch/cifar10`, `hfds/owner/name`, through `timm.data.create_dataset`."""

import difflib
import importlib.util
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from allmlp.data.collection import Collection
from allmlp.data.image_file import UnreadableImageError, as_seen, decode_image
from allmlp.data.source import FileSource, ImageSource, Size
from allmlp.data.table import number_classes
from allmlp.errors import InputError

TORCH_NAMES = (
    "cifar10 cifar100 mnist kmnist fashion_mnist qmnist imagenet inaturalist places365 image_folder".split()  # noqa: SIM905
)
_VAL_SPLITS = ("validation", "val", "test")


class TimmSource(ImageSource):
    """One split of a data set that gives (picture, label) by number.

    Args:
        name: Stands before the number in `path`.
        dataset: From `timm.data.create_dataset`.
        labels, on_bad_image: See `ImageSource`.
        numbers: The images' numbers in `dataset`; all of them by default.
    """

    def __init__(
        self,
        name: str,
        dataset: Any,
        labels: np.ndarray,
        on_bad_image: str = "skip",
        numbers: np.ndarray | None = None,
    ):
        super().__init__(labels, on_bad_image)
        self.name, self.dataset = name, dataset
        self.numbers = np.arange(len(labels)) if numbers is None else numbers

    def path(self, index: int) -> str:
        return f"{self.name}/{int(self.numbers[index])}"

    def load(self, index: int, channels: int = 3, at_least: Size | None = None) -> Image.Image | np.ndarray:
        number = int(self.numbers[index])
        reader = getattr(self.dataset, "reader", None)
        if reader is None and channels not in (1, 3):
            raise InputError(f"The images of {self.name} are grey or RGB; got a wish for {channels} channels.")
        try:
            if reader is None:
                return as_seen(self.dataset[number][0], "RGB" if channels == 3 else "L")
            with reader[number][0] as file:  # timm's own: bytes, not yet decoded
                content = io.BytesIO(file.read())
        except Exception as error:
            raise UnreadableImageError(self.path(index), f"{type(error).__name__} {error}".rstrip(". ")) from None
        return decode_image(content, self.path(index), channels, at_least)

    def select(self, indices: np.ndarray, labels: np.ndarray | None = None) -> "TimmSource":
        labels = self.labels[indices] if labels is None else labels
        return TimmSource(self.name, self.dataset, labels, self.on_bad_image, self.numbers[indices])


def open_timm(
    name: str,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    on_bad_image: str = "skip",
    options: Mapping[str, Any] | None = None,
) -> tuple[Collection, Collection | None]:
    """The training part of a named data set, and its validation part if it has one.

    Args:
        name: `torch/NAME` or `hfds/NAME`.
        root: Folder that holds (or will hold) the data; by default a folder of the user's cache.
        download: Fetch what is not there yet (torch/; hfds/ decides by itself).
        on_bad_image: See `ImageSource`.
        options: Passed on, e.g. input_key and target_key of hfds/; also train_split, and val_split (None: the training
            part is to be divided).

    Raises:
        InputError: An unknown or absent data set, a missing package, a kind that can only be streamed, labels that are
            not the numbers of classes.
    """
    prefix, _, rest = name.partition("/")
    if prefix in ("tfds", "hfids"):
        raise InputError(
            f"{prefix}/ data sets can only be streamed, and a stream cannot be resumed exactly. "
            "Wanted hfds/ or torch/ names, shards on disk as wds/FOLDER, or a folder of images."
        )
    if prefix == "torch" and rest.lower() not in (*TORCH_NAMES, "folder", "inat"):
        near = difflib.get_close_matches(rest.lower(), TORCH_NAMES, n=1)
        hint = f"Did you mean torch/{near[0]}?" if near else f"Known are {', '.join(TORCH_NAMES)}."
        raise InputError(f"There is no data set torch/{rest}. {hint}")
    if prefix == "hfds" and importlib.util.find_spec("datasets") is None:
        raise InputError(f"{name} wants the package datasets; type pip install datasets.")
    settings = dict(options or {})
    split, wanted = settings.pop("train_split", "train"), settings.pop("val_split", "")
    folder = Path(root).expanduser() if root is not None else default_root() / prefix
    train = _create(name, folder, split, download, settings)
    found = _collection(f"{name}/{split}", train, on_bad_image)
    for val_split in _val_splits(name, train) if wanted == "" else () if wanted is None else (wanted,):
        val = _create(name, folder, val_split, download, settings)
        if not (hasattr(val, "samples") and val.root == str(folder)):  # image_folder without a folder of that name
            return found, _collection(f"{name}/{val_split}", val, on_bad_image)
    if wanted:
        raise InputError(f"{name} has no part {wanted} in {folder}. Type data.options.val_split=NAME of one it has.")
    return found, None


def _val_splits(name: str, train: Any) -> tuple[str, ...]:
    """What the validation part may be called; only image_folder can be asked for one that is not there."""
    if name.startswith("hfds/"):
        return tuple(split for split in _VAL_SPLITS if split in (train.reader.dataset.info.splits or ()))[:1]
    return _VAL_SPLITS if name.endswith("folder") else ("validation",)


def default_root() -> Path:
    """Where named data sets lie unless told otherwise."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "allmlp" / "data"


def _create(name: str, root: Path, split: str, download: bool, settings: Mapping[str, Any]) -> Any:
    from timm.data import create_dataset

    try:
        return create_dataset(name, root=str(root), split=split, download=download, **settings)
    except Exception as error:  # each library has its own kinds for "not there"
        hint = "" if download or not name.startswith("torch/") else " Type data.download=true to fetch it."
        hint += " data.root=FOLDER says where it lies."
        if split in _VAL_SPLITS:
            hint += " data.options.val_split=null divides the training part instead."
        raise InputError(f"Cannot open the data set {name} (split {split}) in {root}: {error}.{hint}") from error


def _collection(name: str, dataset: Any, on_bad_image: str) -> Collection:
    labels = _labels(dataset, name)
    if labels and isinstance(labels[0], str):
        classes, labels = number_classes(labels, None, name)
    else:
        classes = _class_names(dataset) or [str(number) for number in range(max(labels, default=0) + 1)]
    for number, label in enumerate(labels):
        if not 0 <= label < len(classes):
            raise InputError(
                f"Labels lie in 0 to {len(classes) - 1}; image {number} of {name} has {label}. A part whose labels are "
                "kept secret has -1: type data.options.val_split=NAME, or =null to divide the training part."
            )
    if samples := getattr(dataset, "samples", None):  # files in class folders
        paths = [os.path.relpath(path, dataset.root) for path, _ in samples]
        source: ImageSource = FileSource(dataset.root, paths, labels, on_bad_image)
    else:
        source = TimmSource(name, dataset, np.array(labels), on_bad_image)
    return Collection("timm", classes, source, names=[f"{name}/{number}" for number in range(len(source))])


def _labels(dataset: Any, name: str) -> list[Any]:
    """The label of every image, whole numbers or texts, without decoding the images."""
    try:
        if (reader := getattr(dataset, "reader", None)) is not None:
            labels = list(reader.iter_targets())
        elif hasattr(dataset, "targets"):
            labels = np.asarray(dataset.targets).tolist()
        else:
            labels = [label for label, _ in dataset.index]  # inaturalist
    except KeyError as error:
        raise InputError(f"{name} has no column {error}. Type data.options.target_key=COLUMN.") from None
    if labels and isinstance(labels[0], list):  # qmnist: the class and seven other numbers
        labels = [row[0] for row in labels]
    if odd := [label for label in labels if not isinstance(label, (int, str))]:
        raise InputError(
            f"Wanted labels that are whole numbers or texts in {name}; got {odd[0]!r}. "
            "Type data.options.target_key=COLUMN."
        )
    return labels


def _class_names(dataset: Any) -> list[str] | None:
    if (reader := getattr(dataset, "reader", None)) is not None:
        numbers = getattr(reader, "class_to_idx", None) or {}
        return [str(name) for name in sorted(numbers, key=numbers.__getitem__)] or None
    names = getattr(dataset, "classes", None) or getattr(dataset, "all_categories", None)
    return [", ".join(name) if isinstance(name, tuple) else str(name) for name in names] if names else None
