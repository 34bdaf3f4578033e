"""Make a run folder of an official checkpoint: `allmlp convert FILE model=NAME out=DIR`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allmlp.errors import InputError
from allmlp.recipes.overrides import to_tree, validate

if TYPE_CHECKING:
    from allmlp.models import LoadReport

_IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Converted:
    """A converted checkpoint: its run folder, and what became of every tensor."""

    run: Path
    report: "LoadReport"


def convert(
    file: str | Path, model: str, *, out: str | Path, classes: str | Path | None = None, **nested: Any
) -> Converted:
    """Load an official checkpoint, whatever its layout, and write it as a run folder that every verb takes.

    Args:
        file: .npz, .pth, .pt, .bin, .tar or .safetensors; layout, classes, image size and channels are found in it.
        model: a name of `allmlp list`.
        out: the new folder.
        classes: a text file with a class name a line; default: ImageNet's names for 1000 classes, else numbers.
        nested: other keys of the recipe's model group, such as `img_size=384` (default: the file's) or
            `args.shift_size=3`.

    Raises:
        InputError: unreadable file, another architecture, tensors that do not fit (all are listed), or `out` exists.
    """
    from allmlp.convert import read_checkpoint
    from allmlp.folding import fold
    from allmlp.models import load_official
    from allmlp.models._base import AllMlpModel
    from allmlp.models._loading import form_of
    from allmlp.recipes.schema import DataGroup
    from allmlp.runs import create_network, image_spec, model_config, report_as_json, save_weights, write_json

    folder = Path(out)
    if folder.exists():
        raise InputError(f"Wanted a new folder for the model; {folder} exists. Name another: out=...")
    tree = to_tree({f"model.{key}": value for key, value in nested.items()})
    group = validate({"model": {"name": model, **tree.get("model", {})}}).model
    state = read_checkpoint(file)
    network: Any = create_network(group)
    if not isinstance(network, AllMlpModel):
        raise InputError(f"Wanted one of this package's architectures; {model} is not. `allmlp list` shows them.")
    form = form_of(network, state)
    found = {key: getattr(form, key) for key in ("num_classes", "in_chans", "img_size")}
    group = group.model_copy(update={k: v for k, v in found.items() if v is not None and getattr(group, k) is None})
    network = create_network(group)
    if form.folded:
        network = fold(network)
    report = load_official(network, state)
    names, note = _class_names(classes, network.num_classes)
    if note:
        report.notes.append(note)
    config = model_config(network, group, image_spec(network, group, DataGroup()), names, "classify")
    folder.mkdir(parents=True)
    write_json(folder / "config.json", config)
    save_weights(folder / "model.safetensors", network.state_dict())
    write_json(folder / "init.json", report_as_json(report, str(file)))
    return Converted(folder, report)


def _class_names(file: str | Path | None, count: int) -> tuple[list[str], str]:
    if file is not None:
        try:
            lines = Path(file).read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"classes: wanted a text file with a class name a line; {file}: {error}.") from error
        names = [name.strip() for name in lines if name.strip()]
        if len(names) != count:
            raise InputError(f"Wanted {count} class names, one a line; {file} has {len(names)}.")
        return names, ""
    if count == _IMAGENET_CLASSES:
        from timm.data import ImageNetInfo

        info = ImageNetInfo("imagenet-1k")
        return [info.index_to_description(i) for i in range(count)], "1000 classes: taken to be ImageNet-1k's, in order"
    return [f"class {index}" for index in range(count)], f"{count} classes, named by number; classes=FILE names them"


def show(result: Converted) -> str:
    """What the command line prints: the report of every tensor."""
    return f"{result.report}\n{result.run}"
