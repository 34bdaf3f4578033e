"""Detectors: a backbone, a feature pyramid, region proposals, and heads in one stage or three.

Papers: Faster R-CNN arXiv 1506.01497, FPN 1612.03144, Mask R-CNN 1703.06870, Cascade R-CNN 1906.09756; with AS-MLP:
    Lian et al., arXiv 2107.08391, section 4.2.
Source: svip-lab/AS-MLP-Object-Detection @ f80ff38, configs/asmlp (Apache-2.0).
Differs: nothing in size="paper"; the same layers with other numbers in size="small".
Shapes: b images, i image channels, h x w pixels of the padded batch, g objects of an image.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from allmlp.convert import Layout
from allmlp.convert.mmdet import detector_layouts
from allmlp.dense.backbone import Backbone, create_backbone
from allmlp.dense.base import DenseModel
from allmlp.dense.boxes import as_sizes, has_area
from allmlp.dense.conv import initialise
from allmlp.dense.detector_settings import DetectorSettings, settings_for
from allmlp.dense.postprocess import Detections, to_lists
from allmlp.dense.roi_heads import RoiHeads, Target
from allmlp.dense.rpn import RpnHead, RpnOutput
from allmlp.errors import InputError

_DIVISOR = 32  # padded sizes are multiples of the coarsest stride, as in the authors' pipelines


class Detector(DenseModel):
    """A two-stage detector.

    Args:
        backbone: images to four maps.
        num_classes: without background.
        settings: see `DetectorSettings`.
        folded: build the heads' inference form.
    """

    class_layers = (
        "roi_heads.box_heads.*.cls.*",
        "roi_heads.box_heads.*.reg.*",
        "roi_heads.mask_heads.*.logits.*",
    )  # patterns of what depends on the classes

    def __init__(self, backbone: Backbone, num_classes: int, settings: DetectorSettings, folded: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self.settings = settings
        self.fpn = FeaturePyramidNetwork(list(backbone.channels), settings.channels, LastLevelMaxPool())
        initialise((m for m in self.fpn.modules() if isinstance(m, nn.Conv2d)), nn.init.xavier_uniform_)
        strides = (*backbone.strides, 2 * backbone.strides[-1])
        self.rpn = RpnHead(settings.channels, strides, settings.rpn)
        self.roi_heads = RoiHeads(settings.channels, backbone.strides, num_classes, settings.roi, folded)

    @property
    def layouts(self) -> tuple[Layout, ...]:  # type: ignore[override]
        """Official checkpoint layouts."""
        return detector_layouts(self.backbone.layouts)

    # ---- parts

    def pyramid(self, images: Float[Tensor, "b i h w"]) -> list[Tensor]:
        """Padded images to five maps of equal width, strides 4 to 64."""
        maps = self.backbone(images)
        return list(self.fpn({str(level): features for level, features in enumerate(maps)}).values())

    def detect(self, images: Float[Tensor, "b i _h _w"], image_sizes: Any = None, trim: bool = False) -> Detections:
        """Detections of a batch in fixed shapes: what is exported. Arguments as in `forward`.

        trim: see `RoiHeads.detect`.
        """
        sizes = as_sizes(image_sizes, images)
        maps = self.pyramid(self.pad(images, _DIVISOR))
        proposals = self.rpn.propose(self.rpn(maps), sizes, training=False)
        return self.roi_heads.detect(maps[:-1], proposals, sizes, trim)

    def losses(
        self, images: Float[Tensor, "b i _h _w"], image_sizes: Any, targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """The weighted losses of a batch; their sum is what training minimises. Arguments as in `forward`."""
        self._check_targets(images, targets)
        sizes = as_sizes(image_sizes, images)
        maps = self.pyramid(self.pad(images, _DIVISOR))
        output: RpnOutput = self.rpn(maps)
        objects = [target["boxes"].to(output.anchors[0]) for target in targets]
        losses = self.rpn.losses(output, sizes, objects)
        proposals = self.rpn.propose(output, sizes, training=True)
        boxes = [box[valid] for box, valid in zip(proposals.boxes, proposals.valid)]
        return losses | self.roi_heads.losses(maps[:-1], boxes, sizes, targets)

    def forward(
        self,
        images: Float[Tensor, "b i _h _w"],
        image_sizes: Tensor | Sequence[tuple[int, int]] | None = None,
        targets: Sequence[Target] | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses if there are targets, else detections.

        Args:
            images: a batch, normalised, each image at the top left and zeros around it.
            image_sizes: (height, width) of each image without its padding; None: nothing is padding.
            targets: for each image a dictionary of boxes (g, 4), labels (g) from 0, and masks (g, h, w) of 0 and 1.

        Returns:
            A dictionary of weighted losses, or for each image a dictionary of boxes (n, 4) in pixels of the batch,
            scores (n), labels (n), and mask_probs (n, m, m), which `paste_mask` brings into the image.

        Raises:
            InputError: in training without targets; a target without area, outside the classes, or without masks.
        """
        if targets is not None:
            return self.losses(images, image_sizes, targets)
        if self.training:
            raise InputError("Wanted targets, as the detector is in training mode; call .eval() to detect.")
        return to_lists(self.detect(images, image_sizes, trim=True))

    def _check_targets(self, images: Tensor, targets: Sequence[Target]) -> None:
        wanted = {"boxes", "labels"} | ({"masks"} if self.settings.roi.masks else set())
        if len(targets) != len(images):
            raise InputError(f"Wanted targets for {len(images)} images; got {len(targets)}.")
        for index, target in enumerate(targets):
            if not wanted <= target.keys():
                raise InputError(f"Target {index}: wanted {sorted(wanted)}; got {sorted(target)}.")
            boxes, labels = target["boxes"], target["labels"]
            if boxes.shape != (len(labels), 4) or any(len(target[key]) != len(labels) for key in wanted):
                raise InputError(
                    f"Target {index}: wanted as many boxes (n, 4), labels and masks; got boxes {tuple(boxes.shape)}, "
                    f"{len(labels)} labels."
                )
            if len(labels) and not bool(has_area(boxes).all()):
                raise InputError(f"Target {index}: a box has no area; wanted x1 < x2 and y1 < y2.")
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
                raise InputError(
                    f"Target {index}: wanted labels from 0 to {self.num_classes - 1}; got {labels.tolist()}."
                )

    def probe(self, images: Float[Tensor, "b i _h _w"]) -> Float[Tensor, "n"]:
        """All that does not hang on which regions are chosen: the pyramid, scores and deltas of anchors, and the heads'
        answers for regions cut from the finest map; for comparing two forms of one detector."""
        maps = self.pyramid(self.pad(images, _DIVISOR))
        output = self.rpn(maps)
        roi = self.settings.roi
        parts = [*maps, *output.logits, *output.deltas]
        for head in self.roi_heads.box_heads:
            parts += head(F.adaptive_avg_pool2d(maps[0], roi.box_side))
        parts += [head(F.adaptive_avg_pool2d(maps[0], roi.mask_side)) for head in self.roi_heads.mask_heads]
        return torch.cat([part.flatten() for part in parts])

    def for_counting(self, images: Tensor, box_regions: int = 1000, mask_regions: int = 100) -> None:
        """Run every layer once on these numbers of regions, as papers count multiply-adds; works on the meta device."""
        maps = self.pyramid(self.pad(images, _DIVISOR))
        self.rpn(maps)
        roi, heads = self.settings.roi, self.roi_heads
        for head in heads.box_heads:
            head(maps[0].new_zeros(box_regions, self.settings.channels, roi.box_side, roi.box_side))
        for head in heads.mask_heads:
            head(maps[0].new_zeros(mask_regions, self.settings.channels, roi.mask_side, roi.mask_side))


def create_detector(
    name: str,
    backbone: str | None = None,
    num_classes: int = 80,
    size: str = "paper",
    *,
    img_size: int | Sequence[int] | None = None,
    folded: bool = False,
    class_agnostic: bool = False,
    channels: int | None = None,
    rpn: Mapping[str, Any] | None = None,
    roi: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> Detector:
    """Build a detector with new weights.

    Args:
        name: "faster_rcnn" (boxes), "mask_rcnn", "cascade_rcnn" (boxes) or "cascade_mask_rcnn".
        backbone: a name for `create_backbone`; default "as_mlp_t", and "as_mlp_nano" for size "small".
        num_classes: without background.
        size: "paper", AS-MLP's settings for COCO, or "small", which a laptop trains on images of 128 to 160 pixels.
        img_size: the canvas of backbones that have only one size; default: see `create_backbone`.
        folded: build the inference form (see `allmlp.fold`).
        class_agnostic: one box for all classes in every box head.
        channels: of the feature pyramid; default by `size`.
        rpn, roi: changes of `RpnSettings` and `RoiSettings`, by name.
        overrides: constructor arguments of the backbone's model, such as `drop_path_rate`.

    Raises:
        InputError: an unknown name, size or setting (the nearest is named), or what `create_backbone` raises.
    """
    settings = settings_for(name, size, channels=channels, class_agnostic=class_agnostic, rpn=rpn, roi=roi)
    backbone = backbone or ("as_mlp_t" if size == "paper" else "as_mlp_nano")
    if num_classes < 1:
        raise InputError(f"Wanted at least one class; got num_classes={num_classes}.")
    body = create_backbone(backbone, img_size, folded, **overrides)
    detector = Detector(body, num_classes, settings, folded)
    changes = {
        "channels": channels,
        "class_agnostic": class_agnostic,
        "rpn": rpn and dict(rpn),
        "roi": roi and dict(roi),
    }
    changes = {key: value for key, value in changes.items() if value}
    detector.describe(name=name, backbone=backbone, num_classes=num_classes, size=size, **changes, **overrides)
    return detector
