"""Read a weight file, whatever its container, without ever running code from it."""

import argparse
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allmlp.errors import InputError

# In order of preference: averaged weights are what the authors evaluated.
_STATE_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.")


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a `.npz`, `.safetensors`, `.pth`, `.pt`, `.bin` or `.tar` file, wrappers and prefixes stripped.

    Pickled files are read with `weights_only=True`: tensors and plain containers only.

    Raises:
        InputError: no such file; truncated or unknown file; a pickle that asks for code; no tensors in it.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        raise InputError(f"Wanted a checkpoint file; there is none at {path}. Check the path.")
    try:
        if path.suffix == ".npz":
            # Opened here, since NumPy leaves a truncated file open.
            with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
                contents: Any = {key: torch.from_numpy(file[key]) for key in file.files}
        elif path.suffix == ".safetensors":
            from safetensors.torch import load_file

            contents = load_file(path)
        else:
            with torch.serialization.safe_globals(
                # The authors' configuration objects are dictionaries, and torch fills no other kind of dictionary.
                [argparse.Namespace, (OrderedDict, "yacs.config.CfgNode"), *_numpy_scalars()]
            ):
                contents = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).rpartition("WeightsUnpickler error:")[2].strip().splitlines()[0]
        raise InputError(
            f"Wanted weights only; {path} holds a pickle that asks to run code or is not a checkpoint, so it was not "
            f"opened ({reason}). Save it again as a plain state dict, or as .safetensors."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile, _safetensors_error()) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"Wanted a whole checkpoint file; {path} ({path.stat().st_size:,} bytes) is truncated or of an unknown "
            f"kind ({reason}). Copy or download it again; .npz, .safetensors, .pth, .pt, .bin and .tar are read."
        ) from error
    state = unwrap(contents)
    if not state:
        raise InputError(f"Wanted weights; {path} holds no tensors. Name the file that holds the state dict.")
    return state


def unwrap(contents: Any) -> dict[str, Tensor]:
    """The state dict inside a checkpoint's dictionaries, without the prefixes that wrappers add to its keys.

    Looks for `state_dict_ema`, `model_ema`, `state_dict`, `model`, `net`, in this order, and strips `module.` and
    `_orig_mod.`. Entries that are not tensors are dropped.
    """
    while isinstance(contents, Mapping):
        inner = next((contents[key] for key in _STATE_KEYS if isinstance(contents.get(key), Mapping)), None)
        if inner is None:
            break
        contents = inner
    if not isinstance(contents, Mapping):
        return {}
    state = {str(key): value for key, value in contents.items() if isinstance(value, Tensor)}
    changed = True
    while changed:
        changed = False
        for prefix in _PREFIXES:
            if state and all(key.startswith(prefix) for key in state):
                state = {key.removeprefix(prefix): value for key, value in state.items()}
                changed = True
    return state


def _numpy_scalars() -> list[Any]:
    """The harmless constructors that a pickled NumPy number needs."""
    scalar = np.float64(0).__reduce__()[0]
    return [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        type(np.dtype(np.float64)),
        type(np.dtype(np.float32)),
        type(np.dtype(np.int64)),
    ]


def _safetensors_error() -> type[Exception]:
    from safetensors import SafetensorError

    return SafetensorError
