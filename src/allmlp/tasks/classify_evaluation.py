"""Run a classifier over a source of images, judge it, and write the details down."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from allmlp.data import (
    ClassificationDataset,
    EpochBatchSampler,
    ImageSource,
    ImageSpec,
    build_transform,
    make_loader,
    open_classification,
    open_evaluation,
)
from allmlp.errors import InputError
from allmlp.metrics.classification import classification_metrics, confusion_matrix
from allmlp.recipes.schema import DataGroup
from allmlp.runs import SavedModel, replacing, write_json, write_text
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
    all_labels, shares, all_indices = (np.concatenate(parts) for parts in zip(*found))
    # An unreadable image is replaced by the next readable one, which then comes twice.
    unique, first = np.unique(all_indices, return_index=True)
    return all_labels[first], shares[first], unique


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


def evaluate_saved(
    saved: SavedModel,
    data: DataGroup,
    own: bool,
    folder: Path,
    device: str = "cpu",
    batch_size: int = 64,
    workers: int | None = None,
    begin: Any = None,
) -> dict[str, Any]:
    """Judge a saved classifier; metrics.json, data.json and figures go into `folder` beside `evaluate_source`'s files.

    Args:
        own: judge on the evaluation split of the data set that the model was trained on, else on the validation part
            of `data`, or all of it if it is undivided.
        begin: called with the number of images; returns what to call with the number of each batch.

    Raises:
        InputError: data that cannot be read, or with classes that the model does not know.
    """
    options = {"root": data.root, "download": data.download, "options": data.options or None}
    if own:
        found = open_classification(
            data.name,
            val_fraction=data.val_fraction,
            seed=data.split_seed,
            on_bad_image=data.on_bad_image,
            **options,  # type: ignore[arg-type]
        )
        if found.classes != saved.config["allmlp"]["classes"]:
            raise InputError(
                f"Wanted the classes that {saved.folder} was trained on; {data.name} now has others. Name labelled "
                f"images that have them: allmlp evaluate {saved.folder} data=..."
            )
    else:
        found = open_evaluation(data.name, saved.classes, on_bad_image=data.on_bad_image, **options)  # type: ignore[arg-type]
    if not len(found.val):
        raise InputError(f"Wanted labelled images to evaluate on; {data.name} has none.")
    progress = begin(len(found.val)) if begin is not None else None
    metrics = evaluate_source(
        saved.network, found.val, saved.spec, saved.classes, folder, device, batch_size, workers, progress
    )
    metrics["skipped"] = len(found.skipped)
    write_json(folder / "data.json", found.describe())
    write_json(folder / "metrics.json", metrics)
    _draw(folder)
    return metrics


def _draw(folder: Path) -> None:
    from allmlp.figures.evaluation import draw_evaluation

    draw_evaluation(folder)


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
