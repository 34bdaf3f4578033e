"""Mixup and CutMix on a batch, through timm."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from allmlp.errors import InputError


@dataclass(frozen=True)
class MixSettings:
    """How the images of a batch are mixed with each other.

    Args:
        mixup: Parameter of the Beta distribution of mixup's shares (Zhang et al., arXiv 1710.09412); 0 is off.
        cutmix: The same for CutMix (Yun et al., arXiv 1905.04899); 0 is off.
        probability: Of mixing a batch (or element) at all.
        switch: Probability of CutMix where both are on.
        mode: One draw for each "batch", "pair" or "elem".
        label_smoothing: Spread over all classes in the mixed targets.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0
    switch: float = 0.5
    mode: str = "batch"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.mode not in ("batch", "pair", "elem"):
            raise InputError(f"The mode of mixing is batch, pair or elem; got {self.mode!r}.")
        if min(self.mixup, self.cutmix) < 0:
            raise InputError(f"mixup and cutmix are at least 0; got {self.mixup} and {self.cutmix}.")
        for name in ("probability", "switch", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} of mixing lies in [0, 1]; got {getattr(self, name)}.")


def make_mixup(settings: MixSettings, num_classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """A function (images (B, C, H, W), labels (B,)) -> (mixed images, targets (B, num_classes)); None if both are off.

    The images are changed in place. Draws come from NumPy's global generator, which the training step seeds. timm mixes
    image i with image B - 1 - i and wants an even B; of an odd batch the last image stays as it is.
    """
    if settings.mixup == 0 and settings.cutmix == 0:
        return None
    from timm.data import Mixup
    from timm.data.mixup import mixup_target

    mixup = Mixup(
        mixup_alpha=settings.mixup,
        cutmix_alpha=settings.cutmix,
        prob=settings.probability,
        switch_prob=settings.switch,
        mode=settings.mode,
        label_smoothing=settings.label_smoothing,
        num_classes=num_classes,
    )

    def mix(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        even = len(images) - len(images) % 2
        if even == len(images):
            return mixup(images, labels)
        alone = mixup_target(labels[even:], num_classes, 1.0, settings.label_smoothing)
        if even == 0:
            return images, alone
        _, targets = mixup(images[:even], labels[:even])  # a view: mixed in place
        return images, torch.cat([targets, alone])

    return mix
