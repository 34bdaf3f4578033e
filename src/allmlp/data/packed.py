"""A list that workers can share."""

import pickle
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

import numpy as np

Item = TypeVar("Item")


class PackedList(Generic[Item]):
    """A read-only list kept as two arrays: the items' pickled bytes and where each ends.

    A list of many Python objects costs several times its content, and worker processes copy it bit by bit, because
    looking at an object writes its reference count. Reading an item unpickles a new one.
    """

    def __init__(self, items: Iterable[Item]):
        packed = [pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL) for item in items]
        self._ends = np.cumsum([len(item) for item in packed], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(packed), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Item:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        start = self._ends[index - 1] if index else 0
        return pickle.loads(self._bytes[start : self._ends[index]].tobytes())

    def __iter__(self) -> Iterator[Item]:
        return (self[index] for index in range(len(self)))
