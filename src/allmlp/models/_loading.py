"""Put a checkpoint into a model: recognise its layout, rename, fit its size, check every key, report every tensor."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from timm.models import adapt_input_conv
from torch import Tensor

from allmlp.convert import Conversion, read_checkpoint
from allmlp.convert.checkpoint import unwrap
from allmlp.errors import InputError

OWN_LAYOUT = "allmlp"


@dataclass
class LoadReport:
    """What became of every tensor. Lists hold this package's keys; `unexpected` holds the file's."""

    layout: str
    copied: list[str] = field(default_factory=list)
    transposed: list[str] = field(default_factory=list)
    merged: list[str] = field(default_factory=list)
    resampled: list[str] = field(default_factory=list)
    reinitialised: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        groups = ("copied", "transposed", "merged", "resampled", "reinitialised", "unexpected")
        lines = [f"layout: {self.layout}"]
        for group in groups:
            keys = getattr(self, group)
            if keys:
                shown = ", ".join(keys[:4]) + (f", ... ({len(keys)} in all)" if len(keys) > 4 else "")
                lines.append(f"{group.replace('reinit', 're-init')}: {len(keys)}" + f" ({shown})")
        return "\n".join(lines + [f"note: {note}" for note in self.notes])


def load_official(
    model: Any,
    source: str | Path | Mapping[str, Any],
    reinit: Sequence[str] = (),
) -> LoadReport:
    """Load any official checkpoint of the model's architecture; its layout and size are found out.

    Also loads this package's own files, and timm's where timm has the architecture. Strict: every key of the file and
    of the model must be accounted for.

    Args:
        model: a model of `allmlp.models`, or a detector, segmenter or backbone made of one.
        source: a file, a run folder, or a state dict (wrapped or not).
        reinit: shell patterns of this package's keys whose tensors keep the model's own values, such as "head.*"; a
            key of the file that matches one is passed over.

    Returns:
        A report of every tensor.

    Raises:
        InputError: unreadable file, unknown layout, another architecture, or keys that do not match (all are listed).
    """
    state = unwrap(source) if isinstance(source, Mapping) else read_checkpoint(source)
    conversion = match_checkpoint(model, state)
    current = model.state_dict()
    _fit_stem(model, conversion, current)
    report = LoadReport(conversion.layout, notes=conversion.notes)

    def allowed(key: str) -> bool:
        return any(fnmatch.fnmatch(key, pattern) for pattern in reinit)

    tensors = {key: value for key, value in conversion.tensors.items() if not (allowed(key) and key in current)}
    report.reinitialised = [key for key in current if key not in tensors and allowed(key)]
    missing = [key for key in current if key not in tensors and not allowed(key)]
    strange = [key for key in tensors if key not in current]
    report.unexpected = conversion.unexpected + [conversion.origin[key][0] for key in strange]
    refused = [conversion.origin[key][0] for key in strange if not allowed(key)]
    refused += [key for key in conversion.unexpected if not allowed(key)]
    misshapen = [
        f"{key}: file {tuple(tensors[key].shape)}, model {tuple(current[key].shape)}"
        for key in tensors
        if key in current and tensors[key].shape != current[key].shape
    ]
    if missing or refused or misshapen:
        raise InputError(_mismatch(model, conversion, missing, refused, misshapen))
    model.load_state_dict({key: value for key, value in tensors.items() if key in current}, strict=False)
    if conversion.arguments:
        model.adopt_arguments(conversion.arguments)
    groups = {"copied": report.copied, "transposed": report.transposed, "merged": report.merged}
    groups["reinitialised"] = report.reinitialised
    for key in tensors:
        if key in current:
            how = conversion.origin[key][1]
            groups.get(how, report.resampled if how in ("resampled", "tiled") else report.transposed).append(key)
    return report


def match_checkpoint(model: Any, state: dict[str, Tensor]) -> Conversion:
    """A checkpoint's tensors under the model's keys, at the model's image size.

    A model whose hidden widths depend on the size that it was first built for takes over those of a file of another.

    Raises:
        InputError: the layout is none of the architecture's, or the file is folded and the model is not.
    """
    conversion = _convert(model, state)
    name = type(model).__name__
    if conversion.folded and not model.folded:
        raise InputError(
            f"The file holds {name}'s inference form ({conversion.layout}), which loads only into a folded model. "
            "Load it into allmlp.fold(model)."
        )
    if model.folded and not conversion.folded:
        raise InputError(
            f"The file holds {name}'s training form ({conversion.layout}) and the model is folded. "
            "Load it into the unfolded model, then call allmlp.fold(model)."
        )
    try:
        old = model.size_from_state(conversion.tensors)
    except KeyError:  # the tensor that tells is not there, which the comparison of keys will say
        old = None
    new = model.arguments.get("img_size")
    if old is not None and old != new:
        method = model.loading_method(conversion.tensors, old, new)
        resized = model.resize_state(conversion.tensors, old, new, method)
        for key, value in resized.items():
            if value is not conversion.tensors[key]:
                how = "tiled" if method == "tile" else "resampled"
                conversion.origin[key] = (conversion.origin[key][0], how)
        conversion.tensors = resized
        adopt = getattr(model, "adopt_widths", None)
        if adopt is not None:  # hidden widths that depend on the image size that a model was first built for
            adopt(resized)
        conversion.notes.append(
            f"the file is for {old[0]} x {old[1]} pixels, the model for {new[0]} x {new[1]}: "
            f"token weights were {method}d"
        )
    for key, value in model.fit_image_channels(conversion.tensors).items():
        conversion.tensors[key] = value
        conversion.origin[key] = (conversion.origin[key][0], "resampled")
    return conversion


@dataclass(frozen=True)
class FileForm:
    """What a checkpoint says of the model it is for; None where it leaves no trace."""

    num_classes: int | None
    in_chans: int | None
    img_size: tuple[int, int] | None
    folded: bool


def form_of(model: Any, state: Mapping[str, Tensor]) -> FileForm:
    """What a model must be like to take a checkpoint of its architecture as it is.

    Raises:
        InputError: the layout is none of the architecture's.
    """
    conversion = _convert(model, dict(state))
    head, stem = (conversion.tensors.get(f"{name}.weight") for name in ("head", model.first_conv))
    return FileForm(
        None if head is None else head.shape[0],
        None if stem is None or stem.ndim != 4 else stem.shape[1],
        model.size_from_state(conversion.tensors),
        conversion.folded,
    )


def _convert(model: Any, state: dict[str, Tensor]) -> Conversion:
    shared = model.state_dict().keys() & state.keys()
    if len(shared) <= len(state) // 2:
        for layout in model.layouts:
            if layout.detect(state):
                return layout.convert(state)
    from allmlp.models import architecture_of

    other = architecture_of(state)
    # A folded model may share few keys with its own training form, whose mark then tells.
    if len(shared) > len(state) // 2 or (other is None and model.train_only_key in state):
        conversion = Conversion(OWN_LAYOUT, folded=model.train_only_key not in state)
        for key, tensor in state.items():
            conversion.put(key, tensor, key)
        return conversion
    known = ", ".join([*(layout.name for layout in model.layouts), "this package's own"])
    looks = f"it looks like {other}" if other else f"its keys begin {', '.join(list(state)[:4])}"
    raise InputError(
        f"Wanted a checkpoint of {type(model).__name__} (layouts: {known}); {looks}. "
        + ("Build that architecture instead." if other else "Check that the file belongs to this architecture.")
    )


def _fit_stem(model: Any, conversion: Conversion, current: Mapping[str, Tensor]) -> None:
    """Sum or repeat the first convolution's weights over image channels, as timm does."""
    key = f"{model.first_conv}.weight"
    if key not in conversion.tensors or key not in current:
        return
    weight, wanted = conversion.tensors[key], current[key].shape[1]
    if weight.shape[1] == wanted or weight.ndim != 4:
        return
    if weight.shape[1] == 3:
        fitted = adapt_input_conv(wanted, weight)
    else:
        repeats = -(-wanted // weight.shape[1])
        fitted = weight.repeat(1, repeats, 1, 1)[:, :wanted] * (weight.shape[1] / wanted)
    conversion.tensors[key] = torch.as_tensor(fitted)
    conversion.origin[key] = (conversion.origin[key][0], "resampled")
    conversion.notes.append(f"{key}: the file's {weight.shape[1]} image channels were fitted to {wanted}")


def _mismatch(model: Any, conversion: Conversion, missing: list[str], refused: list[str], misshapen: list[str]) -> str:
    lines = [f"The file ({conversion.layout} layout) does not fit this {type(model).__name__}:"]
    for title, keys in (
        ("in the model but not in the file", missing),
        ("in the file but not in the model", refused),
        ("of another shape", misshapen),
    ):
        if keys:
            lines.append(f"  {title} ({len(keys)}): " + "; ".join(keys))
    if all(line.startswith("head.") for line in [*missing, *misshapen]) and not refused:
        lines.append("For another number of classes pass reinit=('head.*',).")
    else:
        lines.append("Build the model with the file's sizes, or pass reinit=(patterns) for what may start anew.")
    return "\n".join(lines)
