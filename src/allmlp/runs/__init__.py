"""Run folders, and the way from a recipe to a network and from a folder back to one.

Names load on first use: importing this package imports neither torch nor timm, so that a run folder can appear before
they are loaded.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from allmlp.runs.environment import best_device, describe_environment
    from allmlp.runs.files import replacing, write_json, write_text
    from allmlp.runs.folder import RunFolder, create_run, discard_if_unused, is_writer, open_run, scratch_run
    from allmlp.runs.lock import FolderLock
    from allmlp.runs.network import create_network, image_spec, model_config, start_from
    from allmlp.runs.saved import SavedModel, load_model, not_finite, report_as_json, save_weights

_WHERE = {
    "FolderLock": "lock",
    "RunFolder": "folder",
    "SavedModel": "saved",
    "best_device": "environment",
    "create_network": "network",
    "create_run": "folder",
    "describe_environment": "environment",
    "discard_if_unused": "folder",
    "image_spec": "network",
    "is_writer": "folder",
    "load_model": "saved",
    "model_config": "network",
    "not_finite": "saved",
    "open_run": "folder",
    "replacing": "files",
    "report_as_json": "saved",
    "save_weights": "saved",
    "scratch_run": "folder",
    "start_from": "network",
    "write_json": "files",
    "write_text": "files",
}

__all__ = [
    "FolderLock",
    "RunFolder",
    "SavedModel",
    "best_device",
    "create_network",
    "create_run",
    "describe_environment",
    "discard_if_unused",
    "image_spec",
    "is_writer",
    "load_model",
    "model_config",
    "not_finite",
    "open_run",
    "replacing",
    "report_as_json",
    "save_weights",
    "scratch_run",
    "start_from",
    "write_json",
    "write_text",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'allmlp.runs' has no attribute {name!r}")
    return getattr(importlib.import_module(f"allmlp.runs.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
