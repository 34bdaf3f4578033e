"""The size and normalisation that a model wants of its images."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from allmlp.errors import InputError

CROP_MODES = ("center", "squash", "border")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


@dataclass(frozen=True)
class ImageSpec:
    """How an image becomes a model's input.

    Args:
        height, width: Size of the input in pixels.
        channels: 1 grey, 3 RGB, or the number of bands of multi-band files.
        mean, std: Subtracted and divided by after scaling values to [0, 1]; one number a channel. A single number is
            repeated; three numbers for one channel become their average, so that RGB defaults fit grey images.
        interpolation: One of `INTERPOLATIONS`; used when evaluating, and in training unless the augmentation has one.
        crop_pct: The part of the resized image's side that the central crop keeps when evaluating, in (0, 1].
        crop_mode: "center" resizes the short side to size / crop_pct and crops the centre; "squash" resizes both sides
            whatever their ratio, then crops; "border" fits the long side and fills the rest with the mean colour.
    """

    height: int
    width: int
    channels: int = 3
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    crop_mode: str = "center"

    def __post_init__(self) -> None:
        for name in ("height", "width", "channels"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"An image spec wants a whole {name} of at least 1; got {value!r}.")
        object.__setattr__(self, "mean", _per_channel("mean", self.mean, self.channels))
        object.__setattr__(self, "std", _per_channel("std", self.std, self.channels))
        if min(self.std) <= 0:
            raise InputError(f"An image spec wants a positive std; got {self.std}.")
        if self.interpolation not in INTERPOLATIONS:
            raise InputError(f"interpolation is one of {', '.join(INTERPOLATIONS)}; got {self.interpolation!r}.")
        if self.crop_mode not in CROP_MODES:
            raise InputError(f"crop_mode is one of {', '.join(CROP_MODES)}; got {self.crop_mode!r}.")
        if not 0 < self.crop_pct <= 1:
            raise InputError(f"crop_pct lies in (0, 1]; got {self.crop_pct}.")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width

    @classmethod
    def from_pretrained_cfg(cls, cfg: Mapping[str, Any], **changes: Any) -> "ImageSpec":
        """The spec of a timm `pretrained_cfg` (a mapping with input_size (C, H, W), mean, std, ...), `changes` on top.

        Keys that are absent or None take this class's defaults. Also reads what `to_dict` wrote.
        """
        found = {key: cfg[key] for key in ("mean", "std", "interpolation", "crop_pct", "crop_mode") if cfg.get(key)}
        if cfg.get("input_size"):
            found["channels"], found["height"], found["width"] = cfg["input_size"]
        found.update(changes)
        if "height" not in found or "width" not in found:
            raise InputError("A pretrained_cfg wants input_size (channels, height, width); it has none.")
        if found.get("interpolation") == "random":  # a training setting that some of timm's configurations carry
            found["interpolation"] = "bicubic"
        for key in ("mean", "std"):
            if key in found and not isinstance(found[key], (int, float)):
                found[key] = tuple(found[key])
        return cls(**found)

    def to_dict(self) -> dict[str, Any]:
        """The keys of a timm `pretrained_cfg`; `from_pretrained_cfg` gives the same spec back."""
        entries = asdict(self)
        size = [entries.pop(key) for key in ("channels", "height", "width")]
        return {"input_size": size, **entries, "mean": list(self.mean), "std": list(self.std)}

    def replace(self, **changes: Any) -> "ImageSpec":
        """A copy with some fields changed; the normalisation follows a changed `channels` where it can."""
        return replace(self, **changes)


def _per_channel(name: str, values: Any, channels: int) -> tuple[float, ...]:
    given = (float(values),) if isinstance(values, (int, float)) else tuple(float(value) for value in values)
    if len(given) == channels:
        return given
    if len(set(given)) == 1:
        return given[:1] * channels
    if channels == 1 and len(given) == 3:
        return (sum(given) / 3,)
    raise InputError(
        f"{name} wants one number for each of {channels} channels; got {len(given)}: {given}. "
        f"Give {channels} numbers, or one for all."
    )
