"""What happens to proposals: in stages, regions are classified and their boxes refined, then outlined.

A Cascade R-CNN has three stages, each trained on boxes that overlap objects more than the last; a Mask R-CNN is a
cascade of one stage, a Faster R-CNN one without masks.

Paper: Cai and Vasconcelos, "Cascade R-CNN", arXiv 1712.00726, 1906.09756; He et al., arXiv 1703.06870.
Source: mmdetection 2.11 as forked by svip-lab/AS-MLP-Object-Detection @ f80ff38 (Apache-2.0).
Differs: nothing that changes a result (tests/dense/test_detector_official.py holds slow versions); shapes are fixed in
    evaluation, so proposals that are not valid are carried along with score 0.
Shapes: b images, p proposals, d detections, k regions, g objects of an image, n classes, m mask side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from allmlp.dense.assign import assign, sample
from allmlp.dense.box_head import BoxHead, average, box_losses, take_class
from allmlp.dense.boxes import Stds, clip_boxes, decode_boxes
from allmlp.dense.mask_head import MaskHead, mask_loss, mask_targets
from allmlp.dense.postprocess import Detections, best_detections
from allmlp.dense.rois import pool_regions, to_regions
from allmlp.dense.rpn import Proposals

Target = Mapping[str, Tensor]


@dataclass(frozen=True)
class Stage:
    """One stage: the overlap that makes a region positive, the units of its deltas, the weight of its losses."""

    iou: float = 0.5
    stds: Stds = (0.1, 0.1, 0.2, 0.2)
    weight: float = 1.0


@dataclass(frozen=True)
class RoiSettings:
    """Everything about the heads that is a number; defaults are AS-MLP's Mask R-CNN.

    low_quality: an object's best proposals become its own if they overlap it by the stage's `iou`.
    samples, positive_fraction: regions drawn an image, true boxes among the candidates.
    finest: side in pixels that the finest pyramid level is meant for, half of the largest it takes.
    bin_samples: points along each side of a pooling bin; 0: as many as the bin has cells.
    box_convs, box_fcs, box_hidden, class_agnostic, box_loss: see `BoxHead` and `box_losses`.
    masks, mask_convs, class_agnostic_masks: see `MaskHead`.
    score_threshold, nms_iou, detections, candidates: see `best_detections`.
    """

    stages: tuple[Stage, ...] = (Stage(),)
    low_quality: bool = True
    samples: int = 512
    positive_fraction: float = 0.25
    finest: float = 56.0
    bin_samples: int = 0
    box_side: int = 7
    box_convs: int = 0
    box_fcs: int = 2
    box_hidden: int = 1024
    box_loss: str = "l1"
    class_agnostic: bool = False
    masks: bool = True
    mask_side: int = 14
    mask_convs: int = 4
    class_agnostic_masks: bool = False
    score_threshold: float = 0.05
    nms_iou: float = 0.5
    detections: int = 100
    candidates: int = 10_000


@dataclass
class Drawn:
    """Regions of one image drawn for a step, positive ones first.

    labels: class of each, n for background. which: the object of each positive one.
    truth: the true box of each (zeros for background). is_truth: whether the region is a true box itself.
    """

    boxes: Tensor
    labels: Tensor
    which: Tensor
    truth: Tensor
    is_truth: Tensor


class RoiHeads(nn.Module):
    """Box heads and mask heads, one of each a stage.

    Args:
        channels: of the pyramid.
        strides: of the levels that regions are pooled from.
        num_classes: without background.
        settings: see `RoiSettings`.
        folded: build the heads' inference form.
    """

    def __init__(
        self, channels: int, strides: Sequence[int], num_classes: int, settings: RoiSettings, folded: bool = False
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.num_classes = num_classes
        self.settings = settings
        stages = range(len(settings.stages))
        self.box_heads = nn.ModuleList(
            [
                BoxHead(
                    channels,
                    settings.box_side,
                    num_classes,
                    settings.box_convs,
                    settings.box_fcs,
                    settings.box_hidden,
                    settings.class_agnostic,
                    folded,
                )
                for _ in stages
            ]
        )
        self.mask_heads = nn.ModuleList(
            [
                MaskHead(channels, num_classes, settings.mask_convs, settings.class_agnostic_masks)
                for _ in (stages if settings.masks else ())
            ]
        )

    def _pool(
        self, maps: Sequence[Tensor], boxes: Sequence[Tensor] | Tensor, side: int, fixed_shapes: bool = False
    ) -> Tensor:
        regions, settings = to_regions(boxes), self.settings
        return pool_regions(maps, self.strides, regions, side, settings.finest, settings.bin_samples, fixed_shapes)

    # ---- training

    def losses(
        self,
        maps: Sequence[Tensor],
        proposals: Sequence[Float[Tensor, "_p 4"]],
        sizes: Float[Tensor, "b 2"],
        targets: Sequence[Target],
    ) -> dict[str, Tensor]:
        """The weighted losses of every stage: `loss_cls`, `loss_box`, `loss_mask`, with `stage0_` before in cascades.

        targets: boxes (g, 4), labels (g) and, if there are masks, masks (g, height, width) of each image.
        """
        losses: dict[str, Tensor] = {}
        for index, stage in enumerate(self.settings.stages):
            drawn = [self._draw(boxes, target, stage) for boxes, target in zip(proposals, targets)]
            boxes = torch.cat([d.boxes for d in drawn])
            labels = torch.cat([d.labels for d in drawn])
            truth = torch.cat([d.truth for d in drawn])
            logits, deltas = self.box_heads[index](self._pool(maps, [d.boxes for d in drawn], self.settings.box_side))
            parts = box_losses(logits, deltas, boxes, labels, truth, stage.stds, self.settings.box_loss)
            if self.settings.masks:
                parts["loss_mask"] = self._mask_loss(index, maps, drawn, targets)
            prefix = f"stage{index}_" if len(self.settings.stages) > 1 else ""
            losses |= {prefix + name: value * stage.weight for name, value in parts.items()}
            if index + 1 < len(self.settings.stages):
                proposals = self._refine_drawn(drawn, logits.detach(), deltas.detach(), sizes, stage)
        return losses

    @torch.no_grad()
    def _draw(self, proposals: Tensor, target: Target, stage: Stage) -> Drawn:
        """Assign one image's proposals, add the true boxes as their own, and draw."""
        objects, settings = target["boxes"].to(proposals), self.settings
        assigned = assign(proposals, objects, stage.iou, stage.iou, stage.iou if settings.low_quality else None)
        own = torch.arange(len(objects), device=assigned.device)
        boxes, assigned = torch.cat([objects, proposals]), torch.cat([own, assigned])
        positive, negative = sample(assigned, settings.samples, settings.positive_fraction)
        chosen, which = torch.cat([positive, negative]), assigned[positive]
        labels = torch.full((len(chosen),), self.num_classes, device=chosen.device)
        labels[: len(positive)] = target["labels"].to(labels)[which]
        truth = torch.zeros_like(boxes[chosen])
        truth[: len(positive)] = objects[which]
        return Drawn(boxes[chosen], labels, which, truth, chosen < len(objects))

    def _mask_loss(self, index: int, maps: Sequence[Tensor], drawn: list[Drawn], targets: Sequence[Target]) -> Tensor:
        positive = [d.boxes[: len(d.which)] for d in drawn]
        labels = torch.cat([d.labels[: len(d.which)] for d in drawn])
        logits = self.mask_heads[index](self._pool(maps, positive, self.settings.mask_side))
        truth = [
            mask_targets(target["masks"], boxes, d.which, 2 * self.settings.mask_side)
            for target, boxes, d in zip(targets, positive, drawn)
        ]
        return mask_loss(logits, labels, torch.cat(truth).to(logits))

    @torch.no_grad()
    def _refine_drawn(
        self, drawn: list[Drawn], logits: Tensor, deltas: Tensor, sizes: Tensor, stage: Stage
    ) -> list[Tensor]:
        """The next stage's proposals: positive regions moved as their true class, others as their likeliest one."""
        likeliest = logits[:, :-1].argmax(dim=1)
        labels = torch.cat([d.labels for d in drawn])
        labels = torch.where(labels == self.num_classes, likeliest, labels)
        boxes = decode_boxes(torch.cat([d.boxes for d in drawn]), take_class(deltas, labels), stage.stds)
        parts = boxes.split([len(d.boxes) for d in drawn])
        return [clip_boxes(part, size)[~d.is_truth] for part, size, d in zip(parts, sizes, drawn)]

    # ---- evaluation

    def detect(
        self, maps: Sequence[Tensor], proposals: Proposals, sizes: Float[Tensor, "b 2"], trim: bool = False
    ) -> Detections:
        """Detections in fixed shapes; the stages' logits and the stages' mask probabilities are averaged.

        trim: cut the result to the largest number of detections in the batch before masks are predicted, and let each
            level pool its own regions. This saves work but makes shapes depend on the data, so it is not for export.
        """
        settings, (images, count) = self.settings, proposals.valid.shape
        boxes, stage_logits = proposals.boxes, []
        for index, stage in enumerate(settings.stages):
            logits, deltas = self.box_heads[index](self._pool(maps, boxes, settings.box_side, not trim))
            stage_logits.append(logits)
            if index + 1 < len(settings.stages):
                deltas = take_class(deltas, logits[:, :-1].argmax(dim=1)).view(images, count, 4)
                boxes = clip_boxes(decode_boxes(boxes, deltas, stage.stds), sizes[:, None])
        deltas = deltas.view(images, count, -1, 4)
        refined = clip_boxes(decode_boxes(boxes[:, :, None], deltas, settings.stages[-1].stds), sizes[:, None, None])
        scores = average(stage_logits).softmax(dim=1)[:, :-1].view(images, count, -1) * proposals.valid[:, :, None]
        result = Detections(
            *best_detections(
                refined, scores, settings.score_threshold, settings.nms_iou, settings.detections, settings.candidates
            )
        )
        if trim:
            most = int(result.counts.max())
            result = Detections(result.boxes[:, :most], result.scores[:, :most], result.labels[:, :most], result.counts)
        return result._replace(masks=self._masks(maps, result, not trim)) if settings.masks else result

    def _masks(self, maps: Sequence[Tensor], found: Detections, fixed_shapes: bool) -> Tensor:
        """Mask probabilities (b, d, m, m) of every detection, of its class."""
        features = self._pool(maps, found.boxes, self.settings.mask_side, fixed_shapes)
        probs = average([take_class(head(features), found.labels.flatten()).sigmoid() for head in self.mask_heads])
        return probs.unflatten(0, found.labels.shape)
