"""What a person does: one file a verb, one function of the same name in it.

`allmlp.verbs.train` is the function, whatever was imported before; its module is `sys.modules["allmlp.verbs.train"]`.
Importing this package loads neither torch nor lightning; a verb's module loads when the verb is first used.

A verb's module holds, beside its function:

- a docstring whose first line is the help of the command line: what it does, a colon, examples in backquotes;
- `show(result)`, optional: what the command line prints on standard output of what the function returned: text, or
  anything that rich can draw; None for nothing;
- `status(result)`, optional: the exit status, default 0;
- `COMMAND`, optional: another function to take the words of the command line, where its arguments differ.

Adding a verb is adding its file. Files that begin with an underscore are no verbs.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from allmlp.verbs.evaluate import evaluate
    from allmlp.verbs.predict import predict
    from allmlp.verbs.train import train

__all__ = ["evaluate", "predict", "train", "verbs"]

# The order of `allmlp --help`; verbs that are not named here follow.
_ORDER = (
    "list", "info", "train", "evaluate", "predict", "fold", "export", "benchmark", "compare", "figures", "convert",
    "data", "demo", "doctor",
)  # fmt: skip


def verbs() -> list[str]:
    """The verbs that there are, in the order of a person's work."""
    found = {path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_")}
    return [name for name in _ORDER if name in found] + sorted(found - set(_ORDER))


def verb_help(name: str) -> tuple[str, str]:
    """What a verb does, a sentence, and examples: the first line of its file, read without importing it."""
    with open(Path(__file__).with_name(f"{name}.py"), encoding="utf-8") as file:
        sentence, _, examples = file.readline().strip().strip('"').rstrip(".").partition(": ")
    return f"{sentence}.", f"For example: {examples.replace('`', '')}"


def verb_module(name: str) -> ModuleType:
    """A verb's module."""
    importlib.import_module(f"{__name__}.{name}")
    return sys.modules[f"{__name__}.{name}"]


class _Verbs(ModuleType):
    """Python binds an imported submodule to its package's attribute of that name; here the function takes its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and value.__name__ == f"{__name__}.{name}" and hasattr(value, name):
            value = getattr(value, name)
        super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if name.startswith("_") or name not in verbs():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(verb_module(name), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *verbs()})


sys.modules[__name__].__class__ = _Verbs
