"""The numbers of every detector: the papers', and a small set for a laptop.

Source: svip-lab/AS-MLP-Object-Detection @ f80ff38, configs/_base_/models and configs/asmlp (Apache-2.0); the cascade's
base file is missing there and is Swin's.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from allmlp.dense.roi_heads import RoiSettings, Stage
from allmlp.dense.rpn import RpnSettings
from allmlp.errors import InputError

T = TypeVar("T", RpnSettings, RoiSettings, Stage)

CASCADE_STAGES = (
    Stage(0.5, (0.1, 0.1, 0.2, 0.2), 1.0),
    Stage(0.6, (0.05, 0.05, 0.1, 0.1), 0.5),
    Stage(0.7, (0.033, 0.033, 0.067, 0.067), 0.25),
)

# What differs between detectors, in both sizes.
_CASCADE_RPN: dict[str, Any] = {"keep_border_anchors": False, "beta": 1 / 9, "train_proposals": 2000}
_CASCADE_ROI: dict[str, Any] = {
    "stages": CASCADE_STAGES,
    "low_quality": False,
    "box_convs": 4,
    "box_fcs": 1,
    "box_loss": "giou",
}
_DETECTORS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "faster_rcnn": ({}, {"masks": False}),
    "mask_rcnn": ({}, {}),
    "cascade_rcnn": (_CASCADE_RPN, {**_CASCADE_ROI, "masks": False}),
    "cascade_mask_rcnn": (_CASCADE_RPN, _CASCADE_ROI),
}

# What size="small" changes: objects of 8 to 128 pixels on a canvas of 128 to 160, and far fewer regions and channels.
_SMALL_RPN: dict[str, Any] = {
    "scale": 4.0,
    "samples": 64,
    "train_per_level": 200,
    "train_proposals": 100,
    "test_per_level": 200,
    "test_proposals": 100,
}
_SMALL_ROI: dict[str, Any] = {
    "samples": 32,
    "finest": 28.0,
    "bin_samples": 1,
    "box_hidden": 256,
    "mask_side": 14,
    "mask_convs": 1,
    "detections": 30,
    "candidates": 1000,
}


@dataclass(frozen=True)
class DetectorSettings:
    """Channels of the feature pyramid, and the settings of proposals and heads."""

    channels: int = 256
    rpn: RpnSettings = field(default_factory=RpnSettings)
    roi: RoiSettings = field(default_factory=RoiSettings)


def settings_for(
    name: str,
    size: str,
    channels: int | None = None,
    class_agnostic: bool = False,
    rpn: Mapping[str, Any] | None = None,
    roi: Mapping[str, Any] | None = None,
) -> DetectorSettings:
    """The settings of a detector by name and size, with changes.

    Raises:
        InputError: unknown name, size or setting.
    """
    if name not in _DETECTORS:
        raise InputError(f"Wanted a detector out of {', '.join(_DETECTORS)}; got {name!r}.")
    if size not in ("paper", "small"):
        raise InputError(f"Wanted size 'paper' or 'small'; got {size!r}.")
    own_rpn, own_roi = _DETECTORS[name]
    small_rpn, small_roi = (_SMALL_RPN, _SMALL_ROI) if size == "small" else ({}, {})
    return DetectorSettings(
        channels or (64 if size == "small" else 256),
        changed(RpnSettings(), {**own_rpn, **small_rpn, **(rpn or {})}, "rpn"),
        changed(RoiSettings(), {**own_roi, **small_roi, "class_agnostic": class_agnostic, **(roi or {})}, "roi"),
    )


def changed(settings: T, changes: Mapping[str, Any], where: str) -> T:
    """Settings with some fields replaced; lists become tuples, and stages may be given as dictionaries.

    Raises:
        InputError: a field that does not exist; the nearest is named.
    """
    known = {f.name for f in dataclasses.fields(settings)}
    values: dict[str, Any] = {}
    for key, value in changes.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(sorted(known))}."
            raise InputError(f"{where}.{key}: no such setting. {hint}")
        if key == "stages":
            value = tuple(changed(Stage(), stage, "stages") if isinstance(stage, Mapping) else stage for stage in value)
        values[key] = tuple(value) if isinstance(value, list) else value
    return dataclasses.replace(settings, **values)
