"""Files that are there whole or not at all."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from allmlp.errors import InputError

TEMPORARY = ".tmp"  # the end of the names of files in the making; what a killed process left may be removed


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to; at the end of the block it is synced and takes the place of `path`.

    If the block raises, `path` stays as it was and nothing is left behind.

    Raises:
        InputError: the operating system refused, for example because the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        try:
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.parent)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
    except OSError as error:
        raise InputError(_refusal(path, error)) from error


def write_text(path: str | Path, text: str) -> Path:
    """Write text as UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")
    return Path(path)


def write_json(path: str | Path, value: Any) -> Path:
    """Write JSON of dictionaries, lists, numbers (NumPy's too), texts and paths, whole or not at all."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=_plain) + "\n")


def remove_leftovers(folder: Path) -> None:
    """Remove files in the making that a killed process left in a folder and in its checkpoints."""
    for place in (folder, folder / "checkpoints"):
        for path in place.glob(f".*{TEMPORARY}"):
            path.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows syncs no folders
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refusal(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(path.parent).free
        return (
            f"Wanted to write {path}; the disk is full ({free:,} bytes free). What was there before is untouched. "
            "Make room, then go on where it stopped."
        )
    return f"Wanted to write {path}; the system refused: {error.strerror or error}."
