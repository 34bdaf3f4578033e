"""Run a classifier over a source of images, judge it, and write the details down."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from allmlp.data import ClassificationDataset, EpochBatchSampler, ImageSource, ImageSpec, build_transform, make_loader
from allmlp.metrics.classification import classification_metrics, confusion_matrix
from allmlp.runs import replacing, write_json, write_text
from allmlp.tasks.losses import probabilities


def classify_source(
    network: nn.Module,
    source: ImageSource,
    spec: ImageSpec,
    device: str = "cpu",
    batch_size: int = 64,
    workers: int | None = None,
    progress: Any = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels int64 (N,), probabilities float32 (N, K) and indices int64 (N,) of a source's readable images, in order.

    Args:
        progress: called with the number of images of each batch that is done.
    """
    dataset = ClassificationDataset(source, build_transform(spec))
    sampler = EpochBatchSampler(len(dataset), min(batch_size, len(dataset)), shuffle=False)
    loader = make_loader(dataset, sampler, workers)
    network = network.to(device).eval()
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    with torch.inference_mode():
        for images, labels, indices in loader:
            logits = network(images.to(device))
            found.append((labels.numpy(), probabilities(logits).cpu().numpy(), indices.numpy()))
            if progress is not None:
                progress(len(images))
    labels, shares, indices = (np.concatenate(parts) for parts in zip(*found))
    # An unreadable image is replaced by the next readable one, which then comes twice.
    indices, first = np.unique(indices, return_index=True)
    return labels[first], shares[first], indices


def evaluate_source(
    network: nn.Module,
    source: ImageSource,
    spec: ImageSpec,
    names: Sequence[str],
    folder: Path,
    device: str = "cpu",
    batch_size: int = 64,
    workers: int | None = None,
    progress: Any = None,
) -> dict[str, Any]:
    """Metrics of a classifier on a source; predictions.npz, predictions.csv and confusion.json go into `folder`.

    Raises:
        InputError: labels outside the classes, or the disk is full.
    """
    labels, shares, indices = classify_source(network, source, spec, device, batch_size, workers, progress)
    known = [*names, *(f"class {index}" for index in range(len(names), shares.shape[1]))]
    metrics = classification_metrics(labels, shares, known)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "predictions.npz") as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, labels=labels, probabilities=shares.astype(np.float32), indices=indices)
    write_text(folder / "predictions.csv", _table(source, labels, shares, indices, known))
    matrix = confusion_matrix(labels, shares.argmax(1), shares.shape[1])
    write_json(folder / "confusion.json", {"labels": known, "matrix": matrix})
    return metrics


def _table(
    source: ImageSource, labels: np.ndarray, shares: np.ndarray, indices: np.ndarray, names: Sequence[str]
) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", "prediction", "confidence"])
    for label, row, index in zip(labels, shares, indices):
        best = int(row.argmax())
        path = source.path(int(index)).encode(errors="replace").decode()
        writer.writerow([path, names[label], names[best], f"{row[best]:.6f}"])
    return text.getvalue()
