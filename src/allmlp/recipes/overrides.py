"""`key=value` words and nested arguments to one tree of recipe keys, and errors that name the nearest key."""

import difflib
import os
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from pydantic import ValidationError

from allmlp.errors import InputError
from allmlp.recipes.schema import Group, Recipe

# Words that mean the same everywhere, and where they stand in the recipe.
SHORTHANDS = {"data": "data.name", "model": "model.name", "lr": "optim.lr", "img_size": "model.img_size"}


def known_keys(group: type[Group] = Recipe, prefix: str = "") -> dict[str, Any]:
    """Every dotted key of the schema with its annotation, such as "optim.lr"."""
    keys: dict[str, Any] = {}
    for name, field in group.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Group):
            keys.update(known_keys(field.annotation, f"{prefix}{name}."))
        else:
            keys[prefix + name] = field.annotation
    return keys


def to_tree(items: Mapping[str, Any]) -> dict[str, Any]:
    """Nest dotted keys and expand shorthands.

    A string value keeps its spelling for the schema to convert, unless it is a list, a mapping, or a value inside a
    free-form mapping (`model.args.depth=4`): those are read as YAML. "none" and "null" mean nothing where the key can
    be without a value; elsewhere ("progress=none") they are words like others.

    Example:
        `{"data": "digits", "optim.lr": "1e-3", "model": {"args": {"depth": 4}}}` gives
        `{"data": {"name": "digits"}, "optim": {"lr": "1e-3"}, "model": {"args": {"depth": 4}}}`.
    """
    keys = known_keys()
    tree: dict[str, Any] = {}
    for key, value in items.items():
        if key in SHORTHANDS and not isinstance(value, Mapping):
            key = SHORTHANDS[key]
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if isinstance(value, Mapping) and keys.get(key) is None:
            flat = {f"{key}.{name}": item for name, item in value.items()}
            merge(tree, to_tree(flat))
            continue
        free = any(key.startswith(f"{name}.") and _is_free_form(kind) for name, kind in keys.items())
        nothing = value in ("null", "none", "None", "") and type(None) in typing.get_args(keys.get(key))
        if isinstance(value, str) and (free or nothing or value[:1] in ("[", "{")):
            value = read_value(value)
        _put(tree, key.split("."), value)
    return tree


def read_value(text: str) -> Any:
    """One YAML value; `1e-3` is a number and `none` is null, as people type them."""
    if text in ("none", "None"):
        return None
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"Wanted one value such as 3, 0.1, name or [1, 2]; got {text!r}, which is no YAML.") from error
    if isinstance(value, str):
        try:
            return float(value) if any(digit.isdigit() for digit in value) else value
        except ValueError:
            return value
    return value


def merge(tree: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `other` over `tree`, group by group, in place."""
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            merge(tree[key], value)
        else:
            tree[key] = dict(value) if isinstance(value, Mapping) else value
    return tree


def validate(tree: Mapping[str, Any], where: str = "the command") -> Recipe:
    """A checked recipe.

    Raises:
        InputError: unknown keys (the nearest known one is named) or values of a wrong type or range, all of them.
    """
    try:
        return Recipe.model_validate(dict(tree))
    except ValidationError as error:
        problems = [explain(issue["loc"], issue["type"], issue["msg"], issue.get("input")) for issue in error.errors()]
        unique = list(dict.fromkeys(problems))
        raise InputError(f"In {where}: " + " ".join(unique)) from None


def explain(location: Iterable[Any], kind: str, message: str, value: Any) -> str:
    """One sentence about one wrong key."""
    parts = [part for part in location if isinstance(part, str) and "[" not in part]
    keys = known_keys()
    # pydantic appends the branch of a union that failed; the key ends where the schema does.
    while len(parts) > 1 and kind != "extra_forbidden" and ".".join(parts) not in keys:
        parts.pop()
    key = ".".join(parts)
    if kind == "extra_forbidden":
        return unknown_key(key, [*SHORTHANDS, *keys])
    message = message.removeprefix("Value error, ").removeprefix("Input should be ").rstrip(".")
    if not key:
        return f"{message}."
    if kind in ("model_type", "dict_type"):
        inside = [name for name in keys if name.startswith(f"{key}.")]
        message = f"keys inside it ({', '.join(inside[:3])} ...)" if inside else "a mapping such as {depth: 4}"
    for theirs, ours in _PLAIN.items():
        if message.startswith(theirs):
            message = ours
    shown = "nothing" if value is None else "keys inside it" if isinstance(value, Mapping) else repr(value)
    return f"{key}: wanted {message.removeprefix('wanted ')}; got {shown}."


# How pydantic's messages begin, and what a person calls it.
_PLAIN = {
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "a word",
    "a valid list": "a list such as [1, 2]",
    "a valid tuple": "a list such as [1, 2]",
}


def unknown_key(key: str, known: Iterable[str]) -> str:
    """A sentence that names the nearest known keys."""
    known = list(known)
    last = key.rpartition(".")[2]
    same = [name for name in known if name.rpartition(".")[2] == last and name != key]
    near = same or difflib.get_close_matches(key, known, n=2, cutoff=0.6)
    if not near:
        ends = {name.rpartition(".")[2]: name for name in known}
        near = [ends[end] for end in difflib.get_close_matches(last, ends, n=2, cutoff=0.6)]
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(known)}."
    return f"Unknown key {key!r}. {hint}"


def _is_free_form(annotation: Any) -> bool:
    return typing.get_origin(annotation) is dict


def _put(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        inner = tree.setdefault(part, {})
        if not isinstance(inner, dict):
            raise InputError(f"{'.'.join(path)}: {part} already has the value {inner!r}; give one or the other.")
        tree = inner
    if isinstance(tree.get(path[-1]), dict) and not isinstance(value, Mapping):
        raise InputError(f"Wanted keys inside {path[-1]!r}; got the value {value!r}.")
    tree[path[-1]] = value
