"""Run a segmenter over a split, judge it, and write the details down."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from allmlp.data import ImageSpec
from allmlp.data.dense_batches import EvaluationBatches, SegmentationCollate, evaluation_batch
from allmlp.data.dense_dataset import DenseDataset
from allmlp.data.dense_loader import make_dense_loader
from allmlp.data.dense_transforms import View, build_view_transform
from allmlp.data.mask_folder import SegmentationData, open_segmentation_evaluation
from allmlp.dense.inference import labels_at, multi_scale
from allmlp.errors import InputError
from allmlp.metrics.segmentation import ConfusionMatrix
from allmlp.recipes.schema import DataGroup, InferenceGroup
from allmlp.runs import SavedModel, write_json
from allmlp.runs.dense import view_of
from allmlp.runs.dense_data import folder_of, open_label_maps


def sees_more(inference: InferenceGroup) -> bool:
    """Whether an image is seen at more than its one usual size."""
    return inference.flip or list(inference.scales) != [1.0]


def label_image(network: Any, image: Tensor, view: View, inference: InferenceGroup) -> Tensor:
    """Labels (h, w) of an image (c, h, w), normalised, at its own size, averaged over scales and mirror images."""
    scores = multi_scale(
        network,
        image[None],
        (view.short_side, view.long_side),
        inference.scales,
        inference.flip,
        align_corners=network.align_corners,
    )
    return scores.argmax(dim=1)[0]


def segment_split(
    network: Any,
    split: DenseDataset,
    spec: ImageSpec,
    view: View,
    inference: InferenceGroup,
    device: str = "cpu",
    batch_size: int = 1,
    workers: int = 0,
) -> Iterator[tuple[Tensor, Tensor, dict[str, Any]]]:
    """(labels, truth, target) of every image of a split, in order, at the size of its label map."""
    several = sees_more(inference)
    # Several sizes are made from the image at its own size; otherwise it is resized once, to the size that is seen.
    dataset = split.with_transform(build_view_transform(spec, None if several else view))
    sampler = EvaluationBatches(len(dataset), 1 if several else evaluation_batch(split, batch_size))
    canvas = None if several else network.canvas
    network = network.to(device).eval()
    for batch in make_dense_loader(dataset, sampler, SegmentationCollate(1, canvas), workers):
        images = batch.images.to(device)
        with torch.inference_mode():
            if several:
                found = [label_image(network, image, view, inference) for image in images]
            else:
                found = [
                    labels_at(row[None, :, :height, :width], (mask.shape[-2], mask.shape[-1]))[0]
                    for row, (height, width), mask in zip(network(images), batch.sizes, batch.masks, strict=True)
                ]
        for labels, mask, target in zip(found, batch.masks, batch.targets, strict=True):
            yield labels.cpu(), mask, target


def evaluate_source(
    network: nn.Module,
    data: SegmentationData,
    spec: ImageSpec,
    view: View,
    inference: InferenceGroup,
    folder: Path,
    device: str = "cpu",
    batch_size: int = 1,
    workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Numbers of a segmenter on a data set's `val`; confusion.json, images.json and labels/*.png go into `folder`.

    Args:
        progress: called with the number of images of each step.
    """
    source: Any = data.val.source
    whole = ConfusionMatrix(data.classes, data.ignore_label)
    images = []
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    for labels, mask, target in segment_split(network, data.val, spec, view, inference, device, batch_size, workers):
        own = ConfusionMatrix(data.classes, data.ignore_label)
        own.add(labels, mask)
        whole.merge(own)
        quality = own.compute().miou if int(own.counts.sum()) else None  # everything in it may be ignored
        images.append({"index": target["index"], "path": source.path(target["index"]), "quality": quality})
        Image.fromarray(labels.numpy().astype(np.uint8)).save(folder / "labels" / f"{target['index']:06d}.png")
        if progress is not None:
            progress(1)
    scores = whole.compute()
    write_json(folder / "confusion.json", {"labels": list(data.classes), "matrix": scores.confusion.tolist()})
    write_json(folder / "images.json", images)
    rows = [
        {"name": row["class"], "count": row["pixels"], "accuracy": row["accuracy"], "iou": row["iou"]}
        for row in scores.per_class()
    ]
    return {"images": len(images), **scores.metrics(), "per_class": rows}


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
    """Judge a saved segmenter; metrics.json, data.json and figures go into `folder` beside `evaluate_source`'s files.

    Args:
        own: judge on the evaluation split of the data set that the model was trained on, else on the validation part
            of `data`, or all of it if it is undivided.
        begin: called with the number of images; returns what to call with the number of each batch.

    Raises:
        InputError: data that cannot be read, or with classes that the model does not know.
    """
    if own:
        found = open_label_maps(data, saved.spec.channels)
        if list(found.classes) != saved.config["allmlp"]["classes"]:
            raise InputError(
                f"Wanted the classes that {saved.folder} was trained on; {data.name} now has others. Name images that "
                f"have them: allmlp evaluate {saved.folder} data=..."
            )
    else:
        found = open_segmentation_evaluation(
            folder_of(data),
            saved.classes,
            images=data.val_images or data.train_images,
            masks=data.val_masks or data.train_masks,
            names=data.classes,
            label_rule=data.label_rule,
            id_map=data.id_map,
            channels=saved.spec.channels,
            on_bad=data.on_bad_image,
            check=data.check,
        )
    progress = begin(len(found.val)) if begin is not None else None
    inference = InferenceGroup(**saved.config["allmlp"]["inference"])
    metrics = evaluate_source(
        saved.network,
        found,
        saved.spec,
        view_of(saved.config, data),
        inference,
        folder,
        device,
        batch_size,
        workers or 0,
        progress,
    )
    metrics["skipped"] = len(found.report.skipped("val"))
    write_json(folder / "data.json", found.report.to_dict())
    write_json(folder / "metrics.json", metrics)
    _draw(folder, found)
    return metrics


def _draw(folder: Path, data: SegmentationData) -> None:
    from allmlp.figures.segmentation import draw_evaluation

    draw_evaluation(folder, data.val)
