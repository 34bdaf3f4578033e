"""How Lightning's checkpoints reach the disk: whole, finite, synced, or not at all."""

import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from allmlp.errors import InputError
from allmlp.runs import not_finite, replacing, save_weights


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes beside the old file, syncs, then replaces it. Refuses weights that are not finite.

    `best`: weights to write into `best_path` with the next checkpoint, and before it: a checkpoint that knows of a best
    epoch must find its weights, while best weights of an epoch that no checkpoint knows of are made again to the bit.

    With several processes only one writes, so a failure is kept in `failure` for the caller to share before raising.
    """

    def __init__(self, best_path: Path) -> None:
        self.best_path = best_path
        self.best: dict[str, Tensor] | None = None
        self.failure: InputError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.failure = None
        try:
            if self.best is not None:
                save_weights(self.best_path, self.best)
                self.best = None
            self._save(checkpoint, Path(path))
        except InputError as error:
            self.failure = error

    def _save(self, checkpoint: dict[str, Any], path: Path) -> None:
        states = [checkpoint["state_dict"], checkpoint.get("allmlp", {}).get("average", {})]
        broken = [key for state in states for key in not_finite(state)]
        if broken:
            raise InputError(f"Wanted finite weights to save; {len(broken)} tensors are not, {broken[0]} among them.")
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            recorder: Any = _Recorder(file)
            try:
                torch.save(checkpoint, recorder)
            except RuntimeError as error:
                # torch's zip writer hides what the operating system said.
                raise recorder.error or error from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        return read_training_state(Path(path))


def read_training_state(path: Path) -> dict[str, Any]:
    """A checkpoint as a dictionary of tensors and plain values; never runs code from it.

    Raises:
        InputError: it is missing, truncated, or not one of ours.
    """
    if not path.is_file():
        raise InputError(f"Wanted a checkpoint to go on from; there is none at {path}.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        if "allmlp" not in checkpoint:
            raise KeyError("allmlp")
    except (RuntimeError, EOFError, OSError, KeyError, TypeError, pickle.UnpicklingError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"Wanted a whole checkpoint of a run; {path} ({path.stat().st_size:,} bytes) is truncated or not one "
            f"({reason}). Remove it to train that run again from its beginning."
        ) from error
    return checkpoint


class _Recorder:
    """A file that remembers the operating system's refusal, which torch.save turns into something vaguer."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is not None:
            return 0
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()
