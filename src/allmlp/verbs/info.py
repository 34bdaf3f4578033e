"""Show what a model costs, block by block: `allmlp info MODEL img_size=384`, `allmlp info RUN`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allmlp.recipes.overrides import to_tree, validate

if TYPE_CHECKING:
    from rich.console import RenderableType

    from allmlp.metrics.cost import Part


@dataclass(frozen=True)
class ModelInfo:
    """A model's size and cost for one image.

    input_size: (channels, height, width). parameters: buffers not counted. macs: multiply-accumulates of matrix
    products and convolutions. parts: the same by block. arguments: of the constructor.
    """

    name: str
    family: str
    input_size: tuple[int, int, int]
    parameters: int
    macs: int
    parts: "list[Part]"
    arguments: dict[str, Any] = field(default_factory=dict)


def info(model: str | Path, **nested: Any) -> ModelInfo:
    """Parameters and MACs of a model.

    Args:
        model: a name of `allmlp list`, `timm/NAME`, or a run folder.
        nested: keys of the recipe's model group: `img_size=384`, `num_classes=10`, `in_chans=1`, `args={...}`; for
            names only. Any other key is taken as a constructor argument, such as `depth=4`.

    Raises:
        InputError: unknown name or argument, or a size that the architecture cannot take.
    """
    from allmlp.errors import InputError
    from allmlp.metrics.cost import cost_table, count_macs, count_parameters
    from allmlp.recipes.schema import ModelGroup
    from allmlp.runs import create_network, load_model
    from allmlp.runs.network import input_size

    folder = Path(model).expanduser()
    if folder.is_dir():
        if nested:
            raise InputError(f"{folder} is a run, whose model is as it is; leave out {', '.join(nested)}.")
        saved = load_model(folder)
        network, name = saved.network, saved.name
        size = (saved.spec.channels, *saved.spec.size)
    else:
        known = ModelGroup.model_fields
        group = {key: value for key, value in nested.items() if key.partition(".")[0] in known}
        more = {f"args.{key}": value for key, value in nested.items() if key not in group}
        tree = to_tree({f"model.{key}": value for key, value in {**group, **more}.items()})
        settings = validate({"model": {"name": str(model), **tree.get("model", {})}}).model
        network, name = create_network(settings).eval(), str(model)
        size = input_size(network, settings)
    return ModelInfo(
        name,
        type(network).__name__,
        size,
        count_parameters(network),
        count_macs(network, size),
        cost_table(network, size),
        dict(getattr(network, "arguments", {})),
    )


def show(result: ModelInfo) -> "RenderableType":
    """What the command line prints."""
    from rich.console import Group
    from rich.table import Table

    channels, height, width = result.input_size
    head = Table(box=None, show_header=False, pad_edge=False)
    head.add_row("model", f"{result.name} ({result.family})")
    head.add_row("image", f"{height} x {width} pixels, {channels} channels")
    head.add_row("parameters", f"{result.parameters:,}")
    head.add_row("MACs", f"{result.macs:,} an image (half of the FLOPs of matrix products and convolutions)")
    if result.arguments:
        head.add_row("arguments", ", ".join(f"{key}={value}" for key, value in result.arguments.items()))
    table = Table("part", "kind", box=None, pad_edge=False)
    for title in ("parameters", "MACs", "share of MACs"):
        table.add_column(title, justify="right")
    for part in result.parts:
        share = f"{100 * part.macs / max(result.macs, 1):.1f} %"
        table.add_row(part.name, part.kind, f"{part.parameters:,}", f"{part.macs:,}", share)
    return Group(head, "", table)
