"""Region proposal network: where in the pyramid something may be.

Paper: Ren et al., "Faster R-CNN", arXiv 1506.01497, section 3; on a pyramid: Lin et al., arXiv 1612.03144, section 4.1.
Source: mmdetection 2.11 as forked by svip-lab/AS-MLP-Object-Detection @ f80ff38 (Apache-2.0).
Differs: proposals without area are never kept. tests/dense/test_detector_official.py and test_heads.py hold a
    slow version of every rule.
Shapes: b images, c channels, level l of h_l x w_l cells, n anchors over all levels, p proposals an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from allmlp.dense.anchors import grid_anchors
from allmlp.dense.assign import assign, sample
from allmlp.dense.boxes import Stds, at_least_float32, clip_boxes, decode_boxes, encode_boxes, has_area
from allmlp.dense.conv import initialise
from allmlp.dense.postprocess import nms_mask, take_rows

_STDS: Stds = (1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class RpnSettings:
    """Everything about the network that is a number; defaults are AS-MLP's Mask R-CNN.

    scale: anchors are squares of scale * stride and rectangles of that area with these height / width `ratios`.
    keep_border_anchors: train anchors that reach over the image's edge too.
    beta: where the box loss turns from square to linear; 0 is L1.
    train_per_level, test_per_level: best anchors taken from each level before suppression.
    train_proposals, test_proposals: proposals kept an image.
    """

    scale: float = 8.0
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    positive_iou: float = 0.7
    negative_iou: float = 0.3
    low_quality_iou: float = 0.3
    samples: int = 256
    positive_fraction: float = 0.5
    keep_border_anchors: bool = True
    beta: float = 0.0
    nms_iou: float = 0.7
    train_per_level: int = 2000
    train_proposals: int = 1000
    test_per_level: int = 1000
    test_proposals: int = 1000


class Proposals(NamedTuple):
    """Proposals of a batch, best first, in fixed shapes: rows that are not `valid` mean nothing."""

    boxes: Float[Tensor, "b p 4"]
    scores: Float[Tensor, "b p"]
    valid: Bool[Tensor, "b p"]


class RpnOutput(NamedTuple):
    """A level each: objectness before the sigmoid (b, n_l), deltas (b, n_l, 4) and anchors (n_l, 4)."""

    logits: list[Tensor]
    deltas: list[Tensor]
    anchors: list[Tensor]


class RpnHead(nn.Module):
    """A 3x3 convolution with ReLU, then 1x1 convolutions to an objectness and four deltas for each anchor.

    Args:
        channels: of the pyramid.
        strides: of its levels, in pixels.
        settings: see `RpnSettings`.
    """

    def __init__(self, channels: int, strides: Sequence[int], settings: RpnSettings) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.settings = settings
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, len(settings.ratios), 1)
        self.deltas = nn.Conv2d(channels, 4 * len(settings.ratios), 1)
        initialise([self.conv, self.objectness, self.deltas], nn.init.normal_, std=0.01)

    def forward(self, maps: Sequence[Float[Tensor, "b c _h _w"]]) -> RpnOutput:
        """Score and refine every anchor of every level."""
        output = RpnOutput([], [], [])
        for features, stride in zip(maps, self.strides, strict=True):
            hidden = F.relu(self.conv(features))
            output.logits.append(at_least_float32(self.objectness(hidden)).permute(0, 2, 3, 1).flatten(1))
            output.deltas.append(
                at_least_float32(self.deltas(hidden)).permute(0, 2, 3, 1).reshape(features.shape[0], -1, 4)
            )
            size = (features.shape[-2], features.shape[-1])
            precision = output.logits[0].dtype
            output.anchors.append(
                grid_anchors(size, stride, self.settings.scale, self.settings.ratios, features.device, precision)
            )
        return output

    def propose(self, output: RpnOutput, sizes: Float[Tensor, "b 2"], training: bool) -> Proposals:
        """The best boxes of each image, suppressed level by level, clipped to the image inside its padding."""
        settings = self.settings
        per_level = settings.train_per_level if training else settings.test_per_level
        wanted = settings.train_proposals if training else settings.test_proposals
        levels = [
            _best_of_level(logits.detach(), deltas.detach(), anchors, sizes, per_level, settings.nms_iou)
            for logits, deltas, anchors in zip(*output)
        ]
        boxes, logits = (torch.cat(parts, dim=1) for parts in zip(*levels))
        best, order = logits.topk(min(wanted, logits.shape[1]))
        return Proposals(take_rows(boxes, order), best.sigmoid(), best.isfinite())

    def losses(
        self, output: RpnOutput, sizes: Float[Tensor, "b 2"], objects: Sequence[Float[Tensor, "_g 4"]]
    ) -> dict[str, Tensor]:
        """Binary cross entropy of objectness, and the distance of positive anchors' deltas, both over all drawn.

        objects: the true boxes of each image.
        """
        anchors = torch.cat(output.anchors)
        logits, deltas = torch.cat(output.logits, dim=1), torch.cat(output.deltas, dim=1)
        class_loss, box_loss, drawn = logits.sum() * 0, deltas.sum() * 0, 0
        for image, boxes in enumerate(objects):
            positive, negative, targets = self._targets(anchors, output, sizes[image], boxes)
            chosen = torch.cat([positive, negative])
            truth = torch.zeros_like(logits[image, chosen])
            truth[: len(positive)] = 1
            class_loss = class_loss + F.binary_cross_entropy_with_logits(logits[image, chosen], truth, reduction="sum")
            box_loss = box_loss + _distance(deltas[image, positive], targets, self.settings.beta)
            drawn += max(len(positive), 1) + max(len(negative), 1)
        return {"loss_rpn_cls": class_loss / drawn, "loss_rpn_box": box_loss / drawn}

    def _targets(
        self, anchors: Tensor, output: RpnOutput, size: Tensor, boxes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Positive and negative anchors drawn for one image, and the deltas the positive ones should give."""
        settings = self.settings
        usable = torch.nonzero(self._usable(anchors, output, size)).flatten()
        assigned = assign(
            anchors[usable], boxes, settings.positive_iou, settings.negative_iou, settings.low_quality_iou
        )
        positive, negative = sample(assigned, settings.samples, settings.positive_fraction)
        truth = boxes[assigned[positive]]
        positive, negative = usable[positive], usable[negative]
        return positive, negative, encode_boxes(anchors[positive], truth, _STDS)

    def _usable(self, anchors: Tensor, output: RpnOutput, size: Tensor) -> Tensor:
        """Anchors of cells on the image (padded to a multiple of 32), and, if told so, wholly inside it."""
        if not self.settings.keep_border_anchors:
            height, width = size
            return (anchors[:, :2] >= 0).all(1) & (anchors[:, 2] < width) & (anchors[:, 3] < height)
        canvas = torch.ceil(size / 32) * 32
        levels = []
        for level, stride in zip(output.anchors, self.strides):
            cells = ((level[:, :2] + level[:, 2:]) / (2 * stride)).round()
            levels.append((cells < torch.ceil(canvas.flip(0) / stride)).all(dim=1))
        return torch.cat(levels)


def _best_of_level(
    logits: Tensor, deltas: Tensor, anchors: Tensor, sizes: Tensor, count: int, nms_iou: float
) -> tuple[Tensor, Tensor]:
    """The best `count` boxes of a level of each image, and their logits, -inf where suppressed or without area.

    Ranked before the sigmoid, which makes one number of all that are sure: their order, and with it which one of two
    boxes stays, would differ between runtimes.
    """
    best, index = logits.topk(min(count, len(anchors)))
    boxes = clip_boxes(decode_boxes(anchors[index], take_rows(deltas, index), _STDS), sizes[:, None])
    best = torch.where(has_area(boxes), best, -torch.inf)
    return boxes, torch.where(nms_mask(boxes, best, nms_iou), best, -torch.inf)


def _distance(deltas: Tensor, targets: Tensor, beta: float) -> Tensor:
    """Summed smooth L1 loss, or L1 for beta 0."""
    return F.smooth_l1_loss(deltas, targets, reduction="sum", beta=beta)
