"""Read and write recipes: shipped ones by name, a person's own by path, overrides on top."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from allmlp.errors import InputError
from allmlp.recipes.overrides import merge, to_tree, validate
from allmlp.recipes.schema import Recipe

SHIPPED = Path(__file__).parent
# What a task trains with when no recipe is named.
DEFAULTS = {"classify": "small", "detect": "small_detect", "segment": "small_segment"}


def shipped() -> dict[str, Path]:
    """The recipes that come with the package: name -> file."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}


def load_recipe(source: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """A checked recipe from a file or a shipped name, with overrides laid over it.

    Args:
        source: a YAML file, a run folder (its recipe), the name of a shipped recipe, or None for the task's default.
        overrides: dotted keys, shorthands or nested groups, as `to_tree` takes them.

    Raises:
        InputError: no such recipe, broken YAML, unknown keys, or values of a wrong type or range.
    """
    changes = to_tree(overrides or {})
    if source is None:
        task = changes.get("task", "classify")
        if task not in DEFAULTS:
            raise InputError(f"task: wanted one of {', '.join(DEFAULTS)}; got {task!r}.")
        source = DEFAULTS[task]
    path = find_recipe(source)
    tree = to_tree(read_yaml(path))
    if changes:
        # Checked alone first, so that a wrong file is told apart from a wrong word on the command line.
        validate(tree, str(path))
    return validate(merge(tree, changes), "the command" if changes else str(path))


def find_recipe(source: str | Path) -> Path:
    """The file that a recipe's name or path means."""
    path = Path(source)
    if path.is_dir():
        path = path / "recipe.yaml"
    if path.is_file():
        return path
    known = shipped()
    if str(source) in known:
        return known[str(source)]
    hint = f" Images to train on are given as data={source}." if Path(source).exists() else ""
    raise InputError(f"Wanted a recipe: a YAML file, or one of {', '.join(known)}; got {str(source)!r}.{hint}")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file."""
    try:
        contents = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = str(error).strip().replace("\n", " ")
        raise InputError(f"Wanted a recipe in YAML; {path} cannot be read: {where}.") from error
    if contents is None:
        return {}
    if not isinstance(contents, dict):
        raise InputError(f"Wanted keys and values in {path}; got {type(contents).__name__}.")
    return {str(key): value for key, value in contents.items()}


def dump_recipe(recipe: Recipe, header: str = "") -> str:
    """YAML of every key, defaults written out, so that a later version with other defaults trains the same."""
    comment = "".join(f"# {line}\n" for line in header.splitlines())
    return comment + yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice, which is nearly always a slip."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)
