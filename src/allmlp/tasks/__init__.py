"""Training by Lightning: one module a task, what all share, and the callbacks. Importing this loads no lightning.

A task named X is three modules: `X` holds its `Task`, for training; `X_evaluation` a function `evaluate_saved` and
`X_prediction` a function `predict_files`, which work on a `SavedModel` and need no lightning.
"""

import importlib
import importlib.util
from types import ModuleType
from typing import TYPE_CHECKING

from allmlp.errors import InputError

if TYPE_CHECKING:
    from allmlp.tasks.task import Task

# The recipe's `task` -> where its `Task` is.
TASKS = {
    "classify": ("allmlp.tasks.classify", "ClassifyTask"),
    "detect": ("allmlp.tasks.detect", "DetectTask"),
    "segment": ("allmlp.tasks.segment", "SegmentTask"),
}


def task_class(name: str) -> "type[Task]":
    """The `Task` of a name.

    Raises:
        InputError: there is none.
    """
    if name not in TASKS or importlib.util.find_spec(TASKS[name][0]) is None:
        known = [task for task, (module, _) in TASKS.items() if importlib.util.find_spec(module) is not None]
        raise InputError(f"task: wanted one of {', '.join(known)}; got {name!r}.")
    module, attribute = TASKS[name]
    return getattr(importlib.import_module(module), attribute)


def task_part(name: str, part: str) -> ModuleType:
    """The module "evaluation" or "prediction" of a task.

    Raises:
        InputError: the task has none.
    """
    module = f"{__name__}.{name}_{part}"
    if importlib.util.find_spec(module) is None:
        raise InputError(f"Wanted a model whose task has {part}; this one's task is {name!r}.")
    return importlib.import_module(module)
