"""List the models: `allmlp list`, `allmlp list PATTERN`."""

import builtins
from dataclasses import dataclass
from typing import TYPE_CHECKING

from allmlp.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Listed:
    """One model: its name, class, image size, parameters with its own head, and whether a paper has the size."""

    name: str
    family: str
    img_size: tuple[int, int]
    parameters: int
    published: bool


def list(pattern: str = "*") -> builtins.list[Listed]:
    """The models whose names match a shell pattern, in the order of the papers.

    Raises:
        InputError: none matches.
    """
    from allmlp.metrics.cost import count_parameters
    from allmlp.models import create_model, list_models
    from allmlp.models._registry import entry

    names = list_models(pattern) or list_models(f"*{pattern}*")
    if not names:
        raise InputError(f"Wanted a pattern that matches a model, such as 'mixer*'; {pattern!r} matches none.")
    found = []
    for name in names:
        known = entry(name)
        parameters = count_parameters(create_model(name, device="meta"))
        found.append(Listed(name, known.model_class.__name__, known.img_size, parameters, known.published))
    return found


def show(models: builtins.list[Listed]) -> "Table":
    """What the command line prints."""
    from rich.table import Table

    table = Table("name", "class", "image", box=None, pad_edge=False)
    table.add_column("parameters", justify="right")
    table.add_column("size")
    for model in models:
        image = f"{model.img_size[0]} x {model.img_size[1]}"
        table.add_row(
            model.name, model.family, image, f"{model.parameters:,}", "published" if model.published else "ours, small"
        )
    return table
