"""Find image files on disk, in an order that no file system decides."""

import difflib
import glob
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from allmlp.errors import InputError

SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp", ".avif"]
    + [".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".tga", ".npy"]
)


def natural_key(text: str) -> tuple[Any, ...]:
    """Sort key by which image 2 comes before image 10; case counts only between equals."""
    parts = re.split(r"([0-9]+)", text.casefold())
    return tuple(int(part) if odd % 2 else part for odd, part in enumerate(parts)), text


def find_images(folder: str | os.PathLike[str]) -> tuple[list[str], Counter[str]]:
    """Image files below a folder, as relative paths with "/" between, in natural order; and the suffixes of others.

    Hidden files and folders are passed over; links are followed, each folder once.
    """
    found: list[str] = []
    others: Counter[str] = Counter()
    seen: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not _is_hidden(name)]
        below = os.path.relpath(here, folder).replace(os.sep, "/")
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if _is_hidden(name):
                continue
            if suffix in SUFFIXES:
                found.append(name if below == "." else f"{below}/{name}")
            else:
                others[suffix or "(none)"] += 1
    return sorted(found, key=natural_key), others


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def list_images(inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Files, folders (with all below) and globs as a list of image files, each once; natural order within each.

    A file that is named is listed whatever its suffix.

    Raises:
        InputError: Something named does not exist, or a folder or glob holds no image.
    """
    listed: dict[Path, None] = {}
    for entry in [inputs] if isinstance(inputs, (str, os.PathLike)) else inputs:
        path = Path(entry).expanduser()
        if path.is_dir():
            found, others = find_images(path)
            if not found:
                raise InputError(f"Wanted images in the folder {path}; {nothing_found(others)}.")
            listed.update((path / name, None) for name in found)
        elif path.exists():
            listed[path] = None
        else:
            listed.update((match, None) for match in _glob(path))
    if not listed:
        raise InputError("Wanted image files, folders or globs; got none.")
    return list(listed)


def _glob(path: Path) -> list[Path]:
    matches = [match for match in glob.glob(str(path), recursive=True) if os.path.isfile(match)]
    images = [match for match in matches if os.path.splitext(match)[1].lower() in SUFFIXES]
    if images:
        return [Path(match) for match in sorted(images, key=natural_key)]
    if glob.has_magic(str(path)):
        raise InputError(f"Wanted images that match {path}; {'none of its matches is one' if matches else 'none do'}.")
    raise InputError(f"Wanted an image file or folder; there is none at {path}.{nearest_sibling(path)}")


def nearest_sibling(path: Path) -> str:
    """ " Did you mean X?" for a missing path, from what lies beside it, or an empty text."""
    parent = path.parent
    names = sorted(name for name in os.listdir(parent) if not _is_hidden(name)) if parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1)
    return f" Did you mean {parent / near[0]}?" if near else ""


def nothing_found(others: Counter[str]) -> str:
    """What lies there instead of images, in words."""
    if not others:
        return "it holds no files"
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(4))
    return f"it holds only other files ({kinds}); images end in .jpg, .png, .tif, .webp and the like"
