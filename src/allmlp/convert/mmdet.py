"""Checkpoints of AS-MLP's detection fork (mmdetection 2.11's names), and of backbones in general.

Source: svip-lab/AS-MLP-Object-Detection @ f80ff38: mmdet/models/backbones/asmlp.py, configs/asmlp (Apache-2.0). The
background is the last class and the first fully connected layer reads (channels, rows, columns), as here, so tensors
are renamed and nothing else.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence

from torch import Tensor

from allmlp.convert.layout import Conversion, Layout, State

HeadKey = Callable[[str], str | None]  # a file's key of a neck or head to ours, or None if it has no place

_BACKBONE = "backbone."
_NORM = re.compile(r"norm(\d+)\.(weight|bias)")

_RULES = tuple(
    (re.compile(pattern), target)
    for pattern, target in (
        (r"neck\.lateral_convs\.(\d+)\.conv\.(.+)", r"fpn.inner_blocks.\1.0.\2"),
        (r"neck\.fpn_convs\.(\d+)\.conv\.(.+)", r"fpn.layer_blocks.\1.0.\2"),
        (r"rpn_head\.rpn_conv\.(.+)", r"rpn.conv.\1"),
        (r"rpn_head\.rpn_cls\.(.+)", r"rpn.objectness.\1"),
        (r"rpn_head\.rpn_reg\.(.+)", r"rpn.deltas.\1"),
        (r"roi_head\.bbox_head\.(\d+)\.shared_(convs|fcs)\.(.+)", r"roi_heads.box_heads.\1.\2.\3"),
        (r"roi_head\.bbox_head\.(\d+)\.fc_(cls|reg)\.(.+)", r"roi_heads.box_heads.\1.\2.\3"),
        (r"roi_head\.mask_head\.(\d+)\.convs\.(\d+)\.conv\.(.+)", r"roi_heads.mask_heads.\1.convs.\2.\3"),
        (r"roi_head\.mask_head\.(\d+)\.upsample\.(.+)", r"roi_heads.mask_heads.\1.upsample.\2"),
        (r"roi_head\.mask_head\.(\d+)\.conv_logits\.(.+)", r"roi_heads.mask_heads.\1.logits.\2"),
    )
)


def _head_key(key: str) -> str | None:
    """Our name of a neck's or head's tensor. A detector without stages is a cascade of one."""
    key = re.sub(r"^(roi_head\.(?:bbox|mask)_head)\.(?!\d)", r"\1.0.", key)
    for pattern, target in _RULES:
        if match := pattern.fullmatch(key):
            return match.expand(target)
    return None


def backbone_layouts(
    layouts: Sequence[Layout], own: Collection[str], fresh: Mapping[str, Tensor]
) -> tuple[Layout, ...]:
    """What loads into a dense backbone: official dense files (alone or in a whole model), and classification files.

    Args:
        layouts: of the classification model inside.
        own: keys of the model inside, without classifier.
        fresh: tensors of the backbone that a classification file has not, at their initial values.
    """
    classifier = Layout("allmlp", lambda state: _is_own(state, own), lambda state: _copied("allmlp", state))
    found: list[Layout] = []
    for layout in (*layouts, classifier):
        found += [_dense(layout), _classification(layout, own, fresh)]
    return tuple(found)


def _is_own(state: State, own: Collection[str]) -> bool:
    return 2 * len(set(own) & state.keys()) > len(state)


def _copied(name: str, state: State) -> Conversion:
    conversion = Conversion(name)
    for key, tensor in state.items():
        conversion.put(key, tensor, key)
    return conversion


def _dense(layout: Layout) -> Layout:
    """The layout of a dense model with this backbone: norms `norm0` on its maps, perhaps `backbone.` before all."""

    def split(state: State) -> tuple[dict[str, Tensor], dict[str, Tensor], str]:
        prefix = _BACKBONE if any(key.startswith(_BACKBONE) for key in state) else ""
        part = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        norms = {key: value for key, value in part.items() if _NORM.fullmatch(key)}
        return {key: value for key, value in part.items() if key not in norms}, norms, prefix

    def detect(state: State) -> bool:
        inner, norms, _ = split(state)
        return bool(norms) and layout.detect(inner)

    def convert(state: State) -> Conversion:
        inner, norms, prefix = split(state)
        result = _inside(layout.convert(inner), f"{layout.name}, dense backbone", prefix)
        for key, tensor in norms.items():
            result.put(_NORM.sub(r"norms.\1.\2", key), tensor, prefix + key)
        left = sum(not key.startswith(prefix) for key in state)
        if left:
            result.notes.append(f"the file is a whole dense model: the {left} tensors of its heads were left out")
        return result

    return Layout(f"{layout.name}, dense backbone", detect, convert)


def _classification(layout: Layout, own: Collection[str], fresh: Mapping[str, Tensor]) -> Layout:
    """The layout of a classification file: its classifier is left out, and what it has not starts anew."""

    def convert(state: State) -> Conversion:
        inner = layout.convert(state)
        dropped = [key for key in inner.tensors if key not in own and key.split(".")[0] in ("norm", "head")]
        for key in dropped:
            del inner.tensors[key], inner.origin[key]
        result = _inside(inner, f"{layout.name}, classification", "")
        for key, tensor in fresh.items():
            result.put(key, tensor, "(new)", "reinitialised")
        if dropped:
            result.notes.append(f"the file is a classifier: {', '.join(dropped)} were left out")
        if fresh:
            result.notes.append(
                f"a classifier has no {', '.join(sorted({k.split('.')[0] for k in fresh}))}: new weights"
            )
        return result

    return Layout(f"{layout.name}, classification", layout.detect, convert)


def _inside(inner: Conversion, name: str, prefix: str) -> Conversion:
    """A conversion of the model inside, seen from the backbone around it."""
    result = Conversion(name, arguments=inner.arguments, notes=inner.notes, folded=inner.folded)
    result.unexpected = [prefix + key for key in inner.unexpected]
    for key, tensor in inner.tensors.items():
        source, how = inner.origin[key]
        result.put(f"model.{key}", tensor, prefix + source, how)
    return result


def detector_layouts(backbone: Sequence[Layout]) -> tuple[Layout, ...]:
    """Mask R-CNN, Cascade Mask R-CNN and Faster R-CNN files, for a backbone with these layouts."""
    return (whole_model("mmdet", backbone, _head_key, "rpn_head."),)


def whole_model(name: str, backbone: Sequence[Layout], head_key: HeadKey, sign: str) -> Layout:
    """The layout of a whole dense model: its backbone by the backbone's own layouts, everything else by `head_key`.

    sign: the beginning of a key that only this kind of model has.
    """

    def layout_of(state: State) -> Layout | None:
        part = {key: value for key, value in state.items() if key.startswith(_BACKBONE)}
        return next((layout for layout in backbone if layout.detect(part)), None) if part else None

    def detect(state: State) -> bool:
        return any(key.startswith(sign) for key in state) and layout_of(state) is not None

    def convert(state: State) -> Conversion:
        part = {key: value for key, value in state.items() if key.startswith(_BACKBONE)}
        layout = layout_of(state)
        if layout is None:
            raise KeyError("no layout of the backbone fits")
        inner = layout.convert(part)
        result = Conversion(name, arguments=inner.arguments, notes=inner.notes, unexpected=list(inner.unexpected))
        for key, tensor in inner.tensors.items():
            result.put(_BACKBONE + key, tensor, *inner.origin[key])
        for key, tensor in state.items():
            if key in part:
                continue
            target = head_key(key)
            if target is None:
                result.unexpected.append(key)
            else:
                result.put(target, tensor, key)
        return result

    return Layout(name, detect, convert)
