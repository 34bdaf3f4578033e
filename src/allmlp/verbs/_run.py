"""Run one verb for the command line: bind its words, call it, print what it returned, put errors in a paragraph."""

import os
import sys
from collections.abc import Sequence
from typing import Any

from allmlp.errors import InputError


def run_verb(name: str, words: Sequence[str]) -> int:
    """Call a verb; returns the exit status: 0, 2 for bad input, 128 + the signal's number if it was interrupted."""
    from allmlp.verbs import verb_module
    from allmlp.verbs._words import bind

    try:
        module = verb_module(name)
        function = getattr(module, "COMMAND", None) or getattr(module, name)
        arguments, keywords = bind(function, words)
        result = function(*arguments, **keywords)
        show = getattr(module, "show", None)
        if show is not None:
            _print(show(result))
        status = getattr(module, "status", None)
        return int(status(result)) if status is not None else 0
    except InputError as error:
        sys.stderr.write(f"allmlp {name}: {error}\n")
        return 2
    except ModuleNotFoundError as error:
        extra = _extra_of(error.name or "")
        if extra is None:
            raise
        sys.stderr.write(
            f"allmlp {name}: this needs {error.name}, which is not installed. Type: pip install 'allmlp[{extra}]'\n"
        )
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"allmlp {name}: interrupted.\n")
        return 130
    except BrokenPipeError:
        # The reader of our output went away (`| head`); Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


_EXTRAS = {
    "train": (
        "lightning",
        "torchmetrics",
        "matplotlib",
        "tensorboard",
        "pandas",
        "pyarrow",
        "faster_coco_eval",
        "psutil",
    ),
    "export": ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf"),
    "demo": ("fastapi", "uvicorn", "multipart"),
}


def _extra_of(module: str) -> str | None:
    root = module.partition(".")[0]
    return next((extra for extra, modules in _EXTRAS.items() if root in modules), None)


def _print(output: Any) -> None:
    if output is None:
        return
    if isinstance(output, str):
        sys.stdout.write(output if output.endswith("\n") or not output else output + "\n")
    else:
        from rich.console import Console

        Console(width=None if sys.stdout.isatty() else 160).print(output)
    sys.stdout.flush()
