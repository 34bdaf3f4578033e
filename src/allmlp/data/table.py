"""A CSV or Parquet file with the columns path and label, and perhaps split."""

import csv
import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from allmlp.data.collection import Collection, some_of
from allmlp.data.listing import SUFFIXES as IMAGE_SUFFIXES
from allmlp.data.listing import natural_key
from allmlp.data.source import FileSource
from allmlp.data.split import TRAIN_NAMES, VAL_NAMES
from allmlp.errors import InputError

SUFFIXES = (".csv", ".tsv", ".parquet", ".pq")
_INTEGER = re.compile(r"[+-]?(0|[1-9]\d*)(\.0+)?")  # 007 is a name
_HEADER = "Wanted a table with the columns path and label (and perhaps split), named in its first line"


def open_table(
    path: Path,
    classes: Sequence[str] | None = None,
    on_bad_image: str = "skip",
    root: str | os.PathLike[str] | None = None,
) -> Collection:
    """Read a table of images.

    Columns: `path`, absolute or from `root`; `label`, class names or numbers; `split` if there is one:
    train, or val, valid, validation, test (if both val and test occur, val is taken).

    Args:
        path: A .csv, .tsv or .parquet file.
        classes: Class names that integer labels are places in. None: the labels themselves are the names, numbers in
            numerical order.
        root: Where relative paths start; by default the table's folder.

    Raises:
        InputError: Missing columns, empty cells, negative or too large labels, unknown names, one path with two labels,
            none of the files there.
    """
    rows = _read_parquet(path) if path.suffix.lower() in (".parquet", ".pq") else _read_csv(path)
    if not rows["path"]:
        raise InputError(f"Wanted rows with a path and a label in {path}; it has none.")
    for column in ("path", "label"):
        for number, value in enumerate(rows[column]):
            if value == "":
                raise InputError(f"Wanted a {column} in every row of {path}; row {number + 1} has none.")
    paths = [_local(name) for name in rows["path"]]
    folder = path.parent if root is None else Path(root).expanduser()
    if not any((folder / name).exists() for name in paths):
        raise InputError(
            f"None of the {len(paths)} files that {path} names is there; the first would be {folder / paths[0]}. "
            f"Relative paths start from {folder}; type data.root=FOLDER for another."
        )
    names, labels = number_classes(rows["label"], classes, str(path))
    notes: list[str] = []
    is_val, chosen = _division(rows.get("split"), path, len(paths), notes)
    chosen = _without_repeats(paths, labels, chosen, path, notes)
    paths, labels = [paths[row] for row in chosen], [labels[row] for row in chosen]
    source = FileSource(folder, paths, labels, on_bad_image)
    return Collection("table", names, source, None if is_val is None else is_val[chosen], paths, notes)


def _read_csv(path: Path) -> dict[str, list[str]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            delimiter = "\t" if "\t" in header else ";" if ";" in header and "," not in header else ","
            rows = [row for row in csv.reader(file, delimiter=delimiter) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"Cannot read the table {path}: {error}. Wanted a CSV file in UTF-8.") from None
    columns = [name.strip().lower() for name in rows[0]] if rows else []
    places = _places(columns, path)
    width = max(places.values()) + 1
    for number, row in enumerate(rows[1:], start=1):
        if len(row) < width:
            raise InputError(f"Row {number} of {path} has {len(row)} cells; its header has {len(columns)}.")
    return {name: [row[place].strip() for row in rows[1:]] for name, place in places.items()}


def _read_parquet(path: Path) -> dict[str, list[str]]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ModuleNotFoundError:
        raise InputError(f"Reading {path} wants the package pyarrow; type pip install 'allmlp[train]'.") from None
    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"Cannot read the table {path}: {error}. Wanted a Parquet file.") from None
    places = _places([name.strip().lower() for name in table.column_names], path)
    return {name: [_text(value) for value in table.column(place).to_pylist()] for name, place in places.items()}


def _text(value: Any) -> str:
    if value is None or value != value:  # NaN is unequal to itself
        return ""
    return str(value).strip()


def _places(columns: list[str], path: Path) -> dict[str, int]:
    missing = [name for name in ("path", "label") if name not in columns]
    if missing:
        near = [match for name in missing for match in difflib.get_close_matches(name, columns, n=1)]
        hint = f" Rename {near[0]}?" if near else " Rename the columns." if columns else ""
        if any(os.path.splitext(name)[1] in IMAGE_SUFFIXES for name in columns):
            hint = " Put the line path,label before the first row."
        raise InputError(f"{_HEADER}; {path} has {', '.join(columns) or 'nothing'}.{hint}")
    return {name: columns.index(name) for name in ("path", "label", "split") if name in columns}


def _local(name: str) -> str:
    """A path written on Windows reads well elsewhere too."""
    return name.replace("\\", "/") if os.sep == "/" and "/" not in name else name


def number_classes(values: list[str], classes: Sequence[str] | None, path: str) -> tuple[list[str], list[int]]:
    """Class names and each value's place among them, from label texts and perhaps known names; see `open_table`."""
    integers = all(_INTEGER.fullmatch(value) for value in values)
    if integers:
        numbers = [int(float(value)) for value in values]
        values = [str(number) for number in numbers]
        for row, number in enumerate(numbers, start=1):
            if number < 0:
                raise InputError(f"Labels are at least 0; row {row} of {path} has {number}.")
    if classes is None:
        names = sorted(set(values), key=int if integers else natural_key)
    else:
        names = list(classes)
        if integers and not set(values) <= set(names):
            for row, number in enumerate(numbers, start=1):
                if number >= len(names):
                    raise InputError(f"Labels lie in 0 to {len(names) - 1}; row {row} of {path} has {number}.")
            return names, numbers
    place = {name: label for label, name in enumerate(names)}
    for row, value in enumerate(values, start=1):
        if value not in place:
            near = difflib.get_close_matches(value, names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InputError(f"Row {row} of {path} has the label {value!r}; the classes are {some_of(names)}.{hint}")
    return names, [place[value] for value in values]


def _division(
    splits: list[str] | None, path: Path, count: int, notes: list[str]
) -> tuple[np.ndarray | None, list[int]]:
    """Which rows are for validation, and which rows are used at all."""
    if splits is None:
        return None, list(range(count))
    values = [value.lower() for value in splits]
    for row, value in enumerate(values, start=1):
        if value not in TRAIN_NAMES + VAL_NAMES:
            raise InputError(f"The column split holds train or val; row {row} of {path} has {splits[row - 1]!r}.")
    present = [name for name in VAL_NAMES if name in values]
    if present[1:]:
        notes.append(f"Rows of the split {present[0]!r} are taken for validation; {some_of(present[1:])} left aside.")
    used = [row for row, value in enumerate(values) if value in (*TRAIN_NAMES, *present[:1])]
    return np.array([value in VAL_NAMES for value in values]) if present else None, used


def _without_repeats(paths: list[str], labels: list[int], rows: list[int], path: Path, notes: list[str]) -> list[int]:
    first: dict[str, int] = {}
    for row in rows:
        earlier = first.setdefault(paths[row], row)
        if labels[earlier] != labels[row]:
            raise InputError(
                f"Wanted one label for each image; {paths[row]} has two in {path}, in rows {earlier + 1} and {row + 1}."
            )
    if len(first) < len(rows):
        notes.append(f"{len(rows) - len(first)} rows that repeat a path were left out.")
    return list(first.values())
