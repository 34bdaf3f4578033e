"""Where images come from: a numbered collection of images with labels, cheap to send to worker processes."""

import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image

from allmlp.data.image_file import BadImage, check_image, read_image
from allmlp.data.listing import list_images
from allmlp.errors import InputError

Size = tuple[int, int]


class ImageSource:
    """Images numbered from 0, each with a label; subclasses say where the pixels are.

    Args:
        labels: Class numbers, int64 (N,); -1 where there is none.
        on_bad_image: "skip" or "stop": what a dataset does when `load` raises.

    Attributes:
        bad: The images that could not be read so far, each once.
    """

    def __init__(self, labels: Iterable[int] | np.ndarray, on_bad_image: str = "skip"):
        if on_bad_image not in ("skip", "stop"):
            raise InputError(f'on_bad_image is "skip" or "stop"; got {on_bad_image!r}.')
        self.labels = np.asarray(labels if isinstance(labels, np.ndarray) else list(labels), dtype=np.int64)
        self.on_bad_image = on_bad_image
        self.bad: list[BadImage] = []

    def __len__(self) -> int:
        return len(self.labels)

    def label(self, index: int) -> int:
        """The class number of an image, -1 if it has none."""
        return int(self.labels[index])

    def path(self, index: int) -> str:
        """Where the image lies; a name such as digits/7 for one that is not a file."""
        raise NotImplementedError

    def name_of(self, index: int) -> str:
        """What tells the image from the others of its set, wherever the set lies."""
        return self.path(index)

    def load(self, index: int, channels: int = 3, at_least: Size | None = None) -> Image.Image | np.ndarray:
        """The image as `read_image` gives it: RGB (`channels` 3), grey (1), or an array (H, W, channels).

        Raises:
            UnreadableImageError: An `InputError` that names the path and the reason.
        """
        raise NotImplementedError

    def check(self, index: int) -> str | None:
        """Why the image is certainly unreadable, found out cheaply, or None."""
        return None

    def select(self, indices: np.ndarray, labels: np.ndarray | None = None) -> "ImageSource":
        """The images of these numbers, in this order, as a source of their own; `labels` replace their labels."""
        raise NotImplementedError

    def note_bad(self, images: Iterable[BadImage]) -> None:
        """Remember images that could not be read."""
        known = {image.path for image in self.bad}
        for image in images:
            if image.path not in known:
                known.add(image.path)
                self.bad.append(image)


class FileSource(ImageSource):
    """Image files below a folder.

    Args:
        root: The folder that relative paths start from.
        paths: Relative or absolute paths.
        labels: A class number for each; None for none at all.
        on_bad_image: See `ImageSource`.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        paths: Sequence[str],
        labels: Iterable[int] | None = None,
        on_bad_image: str = "skip",
    ):
        super().__init__(np.full(len(paths), -1) if labels is None else labels, on_bad_image)
        self.root = os.fspath(root)
        self._paths = PackedStrings(paths)

    def path(self, index: int) -> str:
        return os.path.join(self.root, self._paths[index])

    def name_of(self, index: int) -> str:
        return self._paths[index]

    def load(self, index: int, channels: int = 3, at_least: Size | None = None) -> Image.Image | np.ndarray:
        return read_image(self.path(index), channels, at_least)

    def check(self, index: int) -> str | None:
        return check_image(self.path(index))

    def select(self, indices: np.ndarray, labels: np.ndarray | None = None) -> "FileSource":
        labels = self.labels[indices] if labels is None else labels
        return FileSource(self.root, [self._paths[index] for index in indices], labels, self.on_bad_image)


class ArraySource(ImageSource):
    """Grey or RGB images held in memory.

    Args:
        name: Stands before the number in `path`.
        images: uint8, (N, height, width) or (N, height, width, 3).
        labels, on_bad_image: See `ImageSource`.
        numbers: What to call the images in `path`; their places by default.
    """

    def __init__(
        self,
        name: str,
        images: np.ndarray,
        labels: Iterable[int],
        numbers: np.ndarray | None = None,
        on_bad_image: str = "skip",
    ):
        super().__init__(labels, on_bad_image)
        self.name, self.images = name, images
        self.numbers = np.arange(len(images)) if numbers is None else numbers

    def path(self, index: int) -> str:
        return f"{self.name}/{int(self.numbers[index])}"

    def load(self, index: int, channels: int = 3, at_least: Size | None = None) -> Image.Image | np.ndarray:
        if channels not in (1, 3):
            raise InputError(f"The images of {self.name} are grey or RGB; got a wish for {channels} channels.")
        image = Image.fromarray(self.images[index])
        return image.convert("RGB" if channels == 3 else "L")

    def select(self, indices: np.ndarray, labels: np.ndarray | None = None) -> "ArraySource":
        labels = self.labels[indices] if labels is None else labels
        return ArraySource(self.name, self.images[indices], labels, self.numbers[indices], self.on_bad_image)


class PackedStrings(Sequence[str]):
    """A read-only list of strings in one block of bytes.

    A million Python strings cost a forked worker their memory again as soon as it counts references to them; two
    arrays do not.
    """

    def __init__(self, strings: Iterable[str]):
        encoded = [os.fsencode(string) for string in strings]
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends = np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        return os.fsdecode(self._bytes[self._ends[place] : self._ends[place + 1]].tobytes())

    def __iter__(self) -> Iterator[str]:
        return (self[place] for place in range(len(self)))


def open_images(
    inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], on_bad_image: str = "skip"
) -> FileSource:
    """Images without labels, for prediction: files, folders and globs, in the order of `list_images`.

    Raises:
        InputError: Something named does not exist, or a folder or glob holds no image.
    """
    return FileSource("", [os.fspath(path) for path in list_images(inputs)], on_bad_image=on_bad_image)
