"""From scored boxes to detections: suppression, the best few, and their place in the original image.

Pure functions. Everything up to `Detections` has fixed shapes, padded, with the number of real entries beside, so
that it can be exported; the lists and pasted masks that people want come after.
Source: Mask R-CNN, arXiv 1703.06870, section 3.1; settings of mmdet 2.11.
Shapes: b images, n candidates, k classes, j = k or 1, d detections kept, m side of a mask prediction.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import nms


class Detections(NamedTuple):
    """The detections of a batch, best first; row i of image j is real if i < counts[j], else zeros.

    masks: probabilities on a grid over each box, not yet pasted into the image; None if the detector has no masks.
    """

    boxes: Float[Tensor, "b d 4"]
    scores: Float[Tensor, "b d"]
    labels: Int[Tensor, "b d"]
    counts: Int[Tensor, "b"]
    masks: Float[Tensor, "b d m m"] | None = None


@torch.library.custom_op("allmlp::nms_mask", mutates_args=())
def nms_mask(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    """Which boxes of each image stay when each, best first, removes those that overlap it more than `iou`.

    boxes (b, n, 4), scores (b, n); the result is bool (b, n). One operator, so that a batch of any size can be
    exported: every exporter puts its own suppression in its place.
    """
    if boxes.dtype != torch.float64:
        boxes, scores = boxes.float(), scores.float()
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for image, (box, score) in enumerate(zip(boxes, scores)):
        kept[image, nms(box, score, iou)] = True
    return kept


@nms_mask.register_fake
def _(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


NMS_OPERATOR = torch.ops.allmlp.nms_mask.default
"""`nms_mask` as it stands in exported programs."""


def take_rows(values: Float[Tensor, "b n 4"], index: Int[Tensor, "b m"]) -> Float[Tensor, "b m 4"]:
    """The boxes of each image at these places."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def best_detections(
    boxes: Float[Tensor, "b n j 4"],
    scores: Float[Tensor, "b n k"],
    score_threshold: float = 0.05,
    nms_iou: float = 0.5,
    count: int = 100,
    candidates: int = 10_000,
) -> tuple[Float[Tensor, "b d 4"], Float[Tensor, "b d"], Int[Tensor, "b d"], Int[Tensor, "b"]]:
    """The detections of each image, in fixed shapes.

    Args:
        boxes: a box for each class (j = k), or one for all (j = 1).
        scores: of the foreground classes; 0 removes a candidate.
        score_threshold: candidates must score more.
        nms_iou: overlap above which the better one of two boxes of a class removes the other.
        count: detections kept at most.
        candidates: how many of the n * k box-class pairs, best first, take part in suppression. It bounds time and
            memory; results change only if more than that score above the threshold.

    Returns:
        boxes, scores and labels of min(count, n * k) rows, zeros after the last detection, and their number.
    """
    places, classes = scores.shape[1:]
    score, index = scores.flatten(1).topk(min(candidates, places * classes))
    label = index % classes
    box = take_rows(boxes.flatten(1, 2), index if boxes.shape[2] > 1 else index // classes)
    # Boxes of different classes are moved apart, so that one suppression serves all classes.
    apart = box + label[..., None] * (box.amax(dim=(1, 2), keepdim=True) + 1)
    kept = nms_mask(apart, score, nms_iou) & (score > score_threshold)
    score, order = torch.where(kept, score, 0.0).topk(min(count, score.shape[1]))
    real = score > 0
    return (
        torch.where(real[..., None], take_rows(box, order), 0.0),
        score,
        torch.where(real, label.gather(1, order), 0),
        real.sum(dim=1),
    )


def to_lists(detections: Detections) -> list[dict[str, Tensor]]:
    """One dictionary an image, real entries only: boxes (n, 4), scores (n), labels (n), and mask_probs (n, m, m)."""
    lists = []
    for image, count in enumerate(detections.counts.tolist()):
        result = {
            "boxes": detections.boxes[image, :count],
            "scores": detections.scores[image, :count],
            "labels": detections.labels[image, :count],
        }
        if detections.masks is not None:
            result["mask_probs"] = detections.masks[image, :count]
        lists.append(result)
    return lists


def rescale_boxes(boxes: Float[Tensor, "n 4"], old: tuple[int, int], new: tuple[int, int]) -> Float[Tensor, "n 4"]:
    """Boxes in an image of size `old` (height, width), for the same image at size `new`."""
    y, x = new[0] / old[0], new[1] / old[1]
    return boxes * boxes.new_tensor([x, y, x, y])


def paste_mask(
    probs: Float[Tensor, "m m"],
    box: Float[Tensor, "4"] | Sequence[float],
    size: tuple[int, int],
    threshold: float = 0.5,
) -> Bool[Tensor, "h w"]:
    """One mask in its image of `size` (height, width): the grid stretched over the box, cut at `threshold`.

    Bilinear between the grid's cell centres, sampled at pixel centres, 0 beyond the grid. Only pixels near the box
    are computed.
    """
    x1, y1, x2, y2 = (float(v) for v in box)
    mask = torch.zeros(size, dtype=torch.bool, device=probs.device)
    left, top = max(int(x1) - 1, 0), max(int(y1) - 1, 0)
    right, bottom = min(int(x2) + 2, size[1]), min(int(y2) + 2, size[0])
    if x2 <= x1 or y2 <= y1 or right <= left or bottom <= top:
        return mask
    x = torch.arange(left, right, device=probs.device, dtype=torch.float32) + 0.5
    y = torch.arange(top, bottom, device=probs.device, dtype=torch.float32) + 0.5
    x, y = (x - x1) / (x2 - x1) * 2 - 1, (y - y1) / (y2 - y1) * 2 - 1
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)
    values = F.grid_sample(probs.float()[None, None], grid[None], align_corners=False)
    mask[top:bottom, left:right] = values[0, 0] >= threshold
    return mask


def paste_masks(
    probs: Float[Tensor, "n m m"], boxes: Float[Tensor, "n 4"], size: tuple[int, int], threshold: float = 0.5
) -> Bool[Tensor, "n h w"]:
    """All masks of an image, one after another; for large images paste and encode one at a time instead."""
    masks = torch.zeros(len(probs), *size, dtype=torch.bool, device=probs.device)
    for index, (prob, box) in enumerate(zip(probs, boxes.tolist())):
        masks[index] = paste_mask(prob, box, size, threshold)
    return masks
