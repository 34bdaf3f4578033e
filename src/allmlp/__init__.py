"""All-MLP vision models: exact, trainable, deployable.

Importing this package loads neither torch nor timm; each public name loads its module on first use.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from allmlp._version import __version__

if TYPE_CHECKING:
    from allmlp.models import create_model, list_models, load_official

_WHERE = {
    "list_models": "allmlp.models",
    "create_model": "allmlp.models",
    "load_official": "allmlp.models",
    "fold": "allmlp.folding",
    "create_backbone": "allmlp.dense",
    "create_detector": "allmlp.dense",
    "create_segmenter": "allmlp.dense",
    "train": "allmlp.verbs",
    "evaluate": "allmlp.verbs",
    "predict": "allmlp.verbs",
    "export": "allmlp.verbs",
    "benchmark": "allmlp.verbs",
    "compare": "allmlp.verbs",
}

__all__ = ["__version__", "create_model", "list_models", "load_official"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'allmlp' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})


class _Root(ModuleType):
    """Python binds an imported subpackage to its parent's attribute of that name; `allmlp.export` stays the verb."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _WHERE and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Root
