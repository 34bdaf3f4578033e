"""Classification metrics from labels and probabilities, in NumPy. N images, K classes.

`labels` int (N,), every one in [0, K); `probabilities` float (N, K), rows that sum to 1. Results are fractions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from allmlp.errors import InputError


def check(labels: np.ndarray, probabilities: np.ndarray) -> None:
    """Raise unless labels and probabilities belong together.

    Raises:
        InputError: no image, other shapes, or labels outside [0, K).
    """
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or not len(labels):
        raise InputError(
            f"Wanted labels (N,) and probabilities (N, K) of at least one image; got {labels.shape} and "
            f"{probabilities.shape}."
        )
    classes = probabilities.shape[1]
    outside = (labels < 0) | (labels >= classes)
    if outside.any():
        wrong = sorted(set(labels[outside].tolist()))
        raise InputError(f"Wanted labels from 0 to {classes - 1}; got {wrong[:8]} in {int(outside.sum())} images.")


def top_k_accuracy(labels: np.ndarray, probabilities: np.ndarray, k: int) -> float:
    """Share of images whose label is among the k most probable classes; 1.0 if there are at most k classes.

    Among equally probable classes the one with the lower number comes first.
    """
    own = probabilities[np.arange(len(labels)), labels][:, None]
    ahead = (probabilities > own).sum(1)
    ties_before = ((probabilities == own) & (np.arange(probabilities.shape[1]) < labels[:, None])).sum(1)
    return float(np.mean(ahead + ties_before < k))


def cross_entropy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean of -log(probability of the label), in nats; probabilities below the smallest float32 count as that."""
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(own, np.finfo(np.float32).tiny)).mean())


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Counts int64 (K, K): row = true class, column = predicted class."""
    return np.bincount(labels * classes + predictions, minlength=classes * classes).reshape(classes, classes)


def per_class(confusion: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """One entry a class: name, count of its images, precision, recall; None where the divisor is 0."""
    hits, count, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    return [
        {
            "name": name,
            "count": int(count[index]),
            "precision": float(hits[index] / predicted[index]) if predicted[index] else None,
            "recall": float(hits[index] / count[index]) if count[index] else None,
        }
        for index, name in enumerate(names)
    ]


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> float:
    """How far confidence and accuracy lie apart: sum over bins of (share of images) x |accuracy - mean confidence|.

    Confidence is the largest probability; bins are equally wide on (0, 1], right ends included (Guo et al., 2017,
    arXiv 1706.04599, equation 3).
    """
    confidence = probabilities.max(1).astype(np.float64)
    correct = probabilities.argmax(1) == labels
    edges = np.linspace(0, 1, bins + 1)
    which = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    total = 0.0
    for index in range(bins):
        inside = which == index
        if inside.any():
            total += abs(correct[inside].mean() - confidence[inside].mean()) * inside.mean()
    return float(total)


def classification_metrics(labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """top1, top5, loss, ece, images and the per-class table.

    Raises:
        InputError: labels and probabilities do not belong together.
    """
    check(labels, probabilities)
    confusion = confusion_matrix(labels, probabilities.argmax(1), probabilities.shape[1])
    return {
        "top1": top_k_accuracy(labels, probabilities, 1),
        "top5": top_k_accuracy(labels, probabilities, 5),
        "loss": cross_entropy(labels, probabilities),
        "ece": expected_calibration_error(labels, probabilities),
        "images": len(labels),
        "per_class": per_class(confusion, names),
    }
