"""Segmenters: a backbone and a head that gives each pixel a class.

Papers: UPerNet arXiv 1807.10221 with AS-MLP, arXiv 2107.08391, section 4.3; EANet arXiv 2105.02358, section 4.2.
Source: svip-lab/AS-MLP-Semantic-Segmentation @ c9838f9 (Apache-2.0); MenghaoGuo/EANet @ 59c03cb (facts only).
Differs: nothing in size="paper"; narrower layers in size="small", in UPerNet without batch norm and with logits at the
    images' own resolution instead of a quarter of it.
Shapes: b images, i image channels, n classes, h x w pixels.
"""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from allmlp.convert import Layout
from allmlp.convert.eanet import LAYOUTS as EANET_LAYOUTS
from allmlp.convert.mmseg import segmenter_layouts
from allmlp.dense.backbone import Backbone, create_backbone
from allmlp.dense.base import DenseModel
from allmlp.dense.eanet import RESNETS, DilatedResNet, EaHead
from allmlp.dense.upernet import FcnHead, UPerHead
from allmlp.errors import InputError

IGNORED_LABEL = 255


class Segmenter(DenseModel):
    """Base of both: pads as the backbone needs it, resizes logits to the images, computes losses.

    align_corners: how logits are resized bilinearly; the two authors differ.
    """

    backbone: Backbone
    num_classes: int
    align_corners: bool = False
    class_layers = ("*.conv_seg.*", "head.fc2.*")  # patterns of what depends on the classes

    def logits(self, images: Float[Tensor, "b i h w"]) -> list[Tensor]:
        """Logits of the head, then those of auxiliary heads (in training only), each at its own resolution."""
        raise NotImplementedError

    @property
    def loss_names(self) -> dict[str, float]:
        """Name and weight of the loss of each of `logits`."""
        raise NotImplementedError

    def forward(
        self, images: Float[Tensor, "b i h w"], targets: Int[Tensor, "b h w"] | None = None
    ) -> dict[str, Tensor] | Float[Tensor, "b n h w"]:
        """Losses if there are targets, else logits at the images' resolution.

        Args:
            images: a batch, normalised.
            targets: class of each pixel from 0; 255 is ignored.

        Returns:
            A dictionary of weighted losses, their sum is what training minimises; or logits.

        Raises:
            InputError: in training without targets; targets of another size; images larger than the canvas.
        """
        if targets is None and self.training:
            raise InputError("Wanted targets, as the segmenter is in training mode; call .eval() to segment.")
        if targets is not None and targets.shape != (images.shape[0], *images.shape[-2:]):
            raise InputError(
                f"Wanted one label a pixel, {(images.shape[0], *images.shape[-2:])}; got {tuple(targets.shape)}."
            )
        padded = self.pad(images, self.backbone.multiple)
        found = [
            self.upsample(logits, padded)[..., : images.shape[-2], : images.shape[-1]] for logits in self.logits(padded)
        ]
        if targets is None:
            return found[0]
        return {
            name: weight * pixel_loss(logits, targets) for (name, weight), logits in zip(self.loss_names.items(), found)
        }

    def upsample(self, logits: Tensor, like: Tensor) -> Tensor:
        """Logits bilinearly at the resolution of other images."""
        return F.interpolate(logits, size=like.shape[-2:], mode="bilinear", align_corners=self.align_corners)


def pixel_loss(logits: Float[Tensor, "b n h w"], targets: Int[Tensor, "b h w"]) -> Float[Tensor, ""]:
    """Cross entropy averaged over all pixels, where ignored ones count as 0 (both authors do so)."""
    return F.cross_entropy(logits, targets.long(), ignore_index=IGNORED_LABEL, reduction="none").mean()


class UPerNet(Segmenter):
    """A backbone with UPerNet's head, and an auxiliary head on its third map while training."""

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        channels: int = 512,
        auxiliary_channels: int = 256,
        norm: bool = True,
        folded: bool = False,
        finer: int = 1,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self.decode_head = UPerHead(backbone.channels, num_classes, channels, norm=norm, folded=folded, finer=finer)
        self.auxiliary_head = FcnHead(backbone.channels[2], num_classes, auxiliary_channels, norm=norm, folded=folded)

    @property
    def layouts(self) -> tuple[Layout, ...]:  # type: ignore[override]
        """Official checkpoint layouts."""
        return segmenter_layouts(self.backbone.layouts)

    @property
    def loss_names(self) -> dict[str, float]:
        """The head's loss, and 0.4 of the auxiliary head's."""
        return {"loss_decode": 1.0, "loss_aux": 0.4}

    def logits(self, images: Float[Tensor, "b i h w"]) -> list[Tensor]:
        """At stride 4, and in training at stride 16."""
        maps = self.backbone(images)
        return [self.decode_head(maps)] + ([self.auxiliary_head(maps[2])] if self.training else [])


class EaNet(Segmenter):
    """A dilated ResNet, or the strides 8 to 32 of another backbone, with the external attention head."""

    align_corners = True

    def __init__(
        self, backbone: Backbone, num_classes: int, channels: int = 512, memory_size: int = 64, folded: bool = False
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self.taken = len(backbone.channels) - sum(stride >= 8 for stride in backbone.strides)
        self.head = EaHead(backbone.channels[self.taken :], num_classes, channels, memory_size, folded)
        self.layouts = EANET_LAYOUTS if isinstance(backbone, DilatedResNet) else ()

    @property
    def loss_names(self) -> dict[str, float]:
        """The only loss."""
        return {"loss_decode": 1.0}

    def logits(self, images: Float[Tensor, "b i h w"]) -> list[Tensor]:
        """At stride 8."""
        return [self.head(self.backbone(images)[self.taken :])]


def create_segmenter(
    name: str,
    backbone: str | None = None,
    num_classes: int = 150,
    size: str = "paper",
    *,
    img_size: int | Sequence[int] | None = None,
    folded: bool = False,
    **overrides: Any,
) -> Segmenter:
    """Build a segmenter with new weights.

    Args:
        name: "upernet" or "eanet".
        backbone: a name for `create_backbone`, or for "eanet" also "resnet50", "resnet101" or "resnet152" (dilated).
            Default: "as_mlp_t", for "eanet" "resnet101"; for size "small" "as_mlp_nano".
        num_classes: classes, without the ignored label 255.
        size: "paper", the published widths, or "small", which a laptop trains on images of 128 to 160 pixels.
        img_size: the canvas of backbones that have only one size; default: see `create_backbone`.
        folded: build the inference form (see `allmlp.fold`).
        overrides: constructor arguments of the backbone's model, such as `drop_path_rate`.

    Raises:
        InputError: an unknown name or size, or what `create_backbone` raises.
    """
    if name not in ("upernet", "eanet"):
        raise InputError(f"Wanted a segmenter out of upernet, eanet; got {name!r}.")
    if size not in ("paper", "small"):
        raise InputError(f"Wanted size 'paper' or 'small'; got {size!r}.")
    if num_classes < 1:
        raise InputError(f"Wanted at least one class; got num_classes={num_classes}.")
    small = size == "small"
    backbone = backbone or ("as_mlp_nano" if small else "as_mlp_t" if name == "upernet" else "resnet101")
    dilated = backbone.removeprefix("timm/")
    if name == "eanet" and dilated in RESNETS:
        body: Backbone = DilatedResNet(dilated, **overrides)
    else:
        body = create_backbone(backbone, img_size, folded, **overrides)
    segmenter: Segmenter
    if name == "eanet":
        segmenter = EaNet(body, num_classes, *((128, 32) if small else (512, 64)), folded)
    else:
        widths = (64, 32) if small else (512, 256)
        segmenter = UPerNet(body, num_classes, *widths, norm=not small, folded=folded, finer=4 if small else 1)
    segmenter.describe(name=name, backbone=backbone, num_classes=num_classes, size=size, **overrides)
    return segmenter
