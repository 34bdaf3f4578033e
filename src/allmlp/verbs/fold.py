"""Merge what algebra allows of a trained model, for inference: `allmlp fold RUN out=DIR`."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from allmlp.errors import InputError

if TYPE_CHECKING:
    from rich.console import RenderableType

# The model's own description and what it was made from go along; what was measured of the unfolded form does not.
_KEPT = ("recipe.yaml", "environment.json", "data.json")


@dataclass(frozen=True)
class Folded:
    """A folded run: its folder, the largest difference of logits in standard deviations, and costs before and after."""

    run: Path
    difference: float
    parameters: tuple[int, int]
    macs: tuple[int, int]


def fold(run: str | Path, *, out: str | Path | None = None) -> Folded:
    """Write a run's inference form into a new run folder; the run is left as it is.

    Args:
        run: a run folder.
        out: the new folder; default RUN-folded.

    Raises:
        InputError: no trained model there, one that cannot fold or is folded already, or `out` exists.
    """
    import torch

    from allmlp.folding import fold as fold_module
    from allmlp.metrics.cost import count_macs, count_parameters
    from allmlp.runs import load_model, save_weights, write_json

    saved = load_model(run)
    network = saved.network
    if getattr(network, "folded", False):
        raise InputError(f"{saved.folder} is folded already.")
    path = saved.folder.path
    folder = Path(out) if out is not None else path.with_name(f"{path.resolve().name}-folded")
    if folder.exists():
        raise InputError(f"Wanted a new folder for the folded run; {folder} exists. Name another: out=...")
    small = fold_module(network)
    size = (saved.spec.channels, *saved.spec.size)
    images = torch.randn(8, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        # A detector's result hangs on which regions are chosen; its `probe` does not.
        wanted, got = (getattr(model, "probe", model)(images) for model in (network, small))
    difference = float((got - wanted).abs().max() / wanted.std())
    config = dict(saved.config)
    config["model_args"] = {**config["model_args"], **getattr(small, "arguments", {})}
    folder.mkdir(parents=True)
    for name in _KEPT:
        if (path / name).is_file():
            shutil.copyfile(path / name, folder / name)
    write_json(folder / "config.json", config)
    save_weights(folder / "model.safetensors", small.state_dict())
    return Folded(
        folder,
        difference,
        (count_parameters(network), count_parameters(small)),
        (count_macs(network, size), count_macs(small, size)),
    )


def show(result: Folded) -> "RenderableType":
    """What the command line prints."""
    from rich.console import Group
    from rich.table import Table

    table = Table("", box=None, pad_edge=False)
    for title in ("before", "after"):
        table.add_column(title, justify="right")
    table.add_row("parameters", *(f"{number:,}" for number in result.parameters))
    table.add_row("MACs an image", *(f"{number:,}" for number in result.macs))
    told = f"largest difference: {result.difference:.1e} standard deviations of the logits"
    return Group(table, told, str(result.run))
