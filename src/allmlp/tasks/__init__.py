"""Training by Lightning: one module a task, what all share, and the callbacks. Importing this loads no lightning."""

import importlib
import importlib.util
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
