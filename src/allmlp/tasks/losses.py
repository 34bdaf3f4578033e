"""Classification losses on soft targets. Shapes: B batch, K classes."""

import torch
from torch import Tensor
from torch.nn import functional as F


def soft_targets(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """Labels int64 (B,) to targets float32 (B, K): 1 - s + s / K for the label, s / K for all others."""
    targets = torch.full((len(labels), classes), smoothing / classes, device=labels.device)
    return targets.scatter_(1, labels[:, None], 1 - smoothing + smoothing / classes)


def softmax_loss(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy per image (B,), of labels (B,) smoothed by `smoothing`, or of soft targets (B, K) as they are."""
    if targets.ndim == 1:
        return F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
    return F.cross_entropy(logits, targets, reduction="none")


def sigmoid_loss(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy per image (B,), summed over classes: each class is a yes-or-no question.

    The sum, not the mean, is what the Mixer authors' ImageNet-1k training minimises; its gradient norm, which clipping
    looks at, is K times the mean's.
    """
    if targets.ndim == 1:
        targets = soft_targets(targets, logits.shape[1], smoothing)
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none").sum(1)


def probabilities(logits: Tensor) -> Tensor:
    """What a classifier's logits say, (B, K), rows summing to 1: the softmax, also of one trained by sigmoid loss."""
    return torch.softmax(logits.float(), dim=1)
