"""One process at a time works in a run folder; the lock dies with its process."""

import os
import socket
from pathlib import Path
from types import TracebackType

from allmlp.errors import InputError
from allmlp.runs.files import remove_leftovers

NAME = ".lock"


class FolderLock:
    """Holds a run folder while entered, by an operating-system lock on `.lock` in it.

    Entering also removes files in the making that a killed process left.

    Raises:
        InputError: another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / NAME
        self._descriptor = -1

    def __enter__(self) -> "FolderLock":
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT)
            if not _try_lock(descriptor):
                owner = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
                os.close(descriptor)
                raise InputError(
                    f"Wanted a run folder that nobody works in; {self.folder} is in use by {owner}. Wait for it or "
                    "stop it, or take another folder: out=..."
                )
            if self._still_there(descriptor):
                break
            os.close(descriptor)  # its last owner removed the file between our opening and locking it
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        self._descriptor = descriptor
        remove_leftovers(self.folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.name != "nt":
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _still_there(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False


def _try_lock(descriptor: int) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
