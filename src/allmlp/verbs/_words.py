"""Words of the command line to the arguments of a verb's function."""

import inspect
import re
import typing
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from allmlp.errors import InputError
from allmlp.recipes.overrides import read_value, unknown_key

_OVERRIDE = re.compile(r"^[a-z][a-z0-9_.]*=")


def split_words(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Subjects, and `key=value` overrides; the last of a key that is given twice counts."""
    subjects: list[str] = []
    overrides: dict[str, str] = {}
    for word in words:
        if _OVERRIDE.match(word):
            key, _, value = word.partition("=")
            overrides[key] = value
        else:
            subjects.append(word)
    return subjects, overrides


def bind(function: Callable[..., Any], words: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """Arguments and keyword arguments for a call of `function`, converted to its annotations.

    Subjects fill the positional parameters in order, a `*parameter` takes all that are left. Overrides fill keyword
    parameters; a `**parameter` takes the others as text, whatever their key.

    Raises:
        InputError: an unknown key (the nearest is named), a missing or superfluous subject, a value of a wrong type.
    """
    subjects, overrides = split_words(words)
    hints = typing.get_type_hints(function)
    parameters = inspect.signature(function).parameters
    positional = [p for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    rest = next((p for p in parameters.values() if p.kind is p.VAR_POSITIONAL), None)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {name: p for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    keywords: dict[str, Any] = {}
    for key, text in overrides.items():
        if key in named:
            keywords[key] = convert(key, text, hints.get(key, Any))
        elif open_ended:
            keywords[key] = text
        else:
            raise InputError(unknown_key(key, named))
    free = [parameter for parameter in positional if parameter.name not in keywords]
    arguments = [convert(p.name, word, hints.get(p.name, Any)) for p, word in zip(free, subjects)]
    left = subjects[len(free) :]
    if left and rest is None:
        raise InputError(f"Wanted at most {len(free)} subjects; {left[0]!r} is one more. Keys are written key=value.")
    missing = [p.name for p in free[len(subjects) :] if p.default is p.empty]
    if missing:
        raise InputError(f"Wanted {' '.join(name.upper() for name in missing)}; got nothing for it.")
    if left and len(free) < len(positional):
        raise InputError(f"{left[0]!r} is given beside {positional[0].name}=...; give one or the other.")
    arguments += left
    if len(free) < len(positional):  # a positional parameter was given as key=value: all go by name
        keywords |= {p.name: value for p, value in zip(free, arguments)}
        arguments = []
    return arguments, keywords


def convert(key: str, text: str, annotation: Any) -> Any:
    """One word as the type that a parameter wants.

    Raises:
        InputError: it is none.
    """
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    wanted = getattr(annotation, "__name__", None) or str(annotation).replace("typing.", "")
    takes_list = any(name in str(annotation) for name in ("list", "tuple", "Sequence"))
    attempts: list[Any] = [text.split(",")] if takes_list and not text.startswith("[") else []
    attempts += [text] if not text.startswith(("[", "{")) else []
    attempts.append(read_value(text))
    for value in attempts:
        try:
            return adapter.validate_python(value)
        except ValidationError:
            continue
    raise InputError(f"{key}: wanted {wanted}; got {text!r}.")
