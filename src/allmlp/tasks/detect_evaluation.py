"""Run a detector over a split, judge it, and write the details down."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from allmlp.data import ImageSpec
from allmlp.data.coco import DetectionData, open_detection_evaluation
from allmlp.data.dense_batches import DetectionCollate, EvaluationBatches, evaluation_batch
from allmlp.data.dense_dataset import DenseDataset
from allmlp.data.dense_loader import make_dense_loader
from allmlp.data.dense_transforms import View, build_view_transform
from allmlp.dense import paste_mask, rescale_boxes
from allmlp.errors import InputError
from allmlp.metrics.detection import DetectionMetric, DetectionScores
from allmlp.recipes.schema import DataGroup
from allmlp.runs import SavedModel, write_json
from allmlp.runs.dense import view_of
from allmlp.runs.dense_data import folder_of, open_objects

_SURE = 0.5  # score from which a detection counts in an image's own quality


class PastedMasks(Sequence[Tensor]):
    """Mask predictions in pixels of the image, each pasted when it is asked for: all at once may not fit in memory."""

    def __init__(self, probs: Tensor, boxes: Tensor, size: tuple[int, int]) -> None:
        self.probs, self.boxes, self.size = probs, boxes, size

    def __len__(self) -> int:
        return len(self.probs)

    def __getitem__(self, index: Any) -> Any:
        """The mask (height, width), boolean, of one detection."""
        return paste_mask(self.probs[index], self.boxes[index].tolist(), self.size)


def in_original_pixels(
    result: Mapping[str, Tensor], seen: tuple[int, int], original: tuple[int, int]
) -> dict[str, Any]:
    """A detector's result for an image seen at a size (height, width), in pixels of the file; masks on demand."""
    boxes = rescale_boxes(result["boxes"], seen, original).cpu()
    found: dict[str, Any] = {"boxes": boxes, "scores": result["scores"].cpu(), "labels": result["labels"].cpu()}
    if "mask_probs" in result:
        found["masks"] = PastedMasks(result["mask_probs"].cpu(), boxes, original)
    return found


def detect_split(
    network: Any,
    split: DenseDataset,
    spec: ImageSpec,
    view: View,
    device: str = "cpu",
    batch_size: int = 1,
    workers: int = 0,
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(detections in pixels of the file, target) of every image of a split, in order."""
    dataset = split.with_transform(build_view_transform(spec, view))
    sampler = EvaluationBatches(len(dataset), evaluation_batch(split, batch_size))
    network = network.to(device).eval()
    for batch in make_dense_loader(dataset, sampler, DetectionCollate(32, network.canvas), workers):
        with torch.inference_mode():
            results = network(batch.images.to(device), batch.sizes)
        for result, seen, target in zip(results, batch.sizes, batch.targets, strict=True):
            yield in_original_pixels(result, seen, target["original_size"]), target


def evaluate_source(
    network: nn.Module,
    data: DetectionData,
    spec: ImageSpec,
    view: View,
    folder: Path,
    device: str = "cpu",
    batch_size: int = 1,
    workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """COCO's numbers of a detector on a data set's `val`; detections.json, curves.json, images.json go into `folder`.

    Args:
        progress: called with the number of images of each step.
    """
    source: Any = data.val.source
    metric = DetectionMetric(source.ground_truth(), data.has_masks)
    images = []
    for found, target in detect_split(network, data.val, spec, view, device, batch_size, workers):
        metric.add(target["image_id"], found)
        index = target["index"]
        images.append({"index": index, "path": source.path(index), "quality": quality(found, target)})
        if progress is not None:
            progress(1)
    scores = metric.compute()
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "detections.json", metric.results())
    write_json(folder / "curves.json", {kind: _curves(kind_scores) for kind, kind_scores in scores.items()})
    write_json(folder / "images.json", images)
    metrics: dict[str, Any] = {"images": len(images)}
    for kind in scores.values():
        metrics |= kind.metrics()
    return metrics | {"per_class": _per_class(scores)}


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
    """Judge a saved detector; metrics.json, data.json and figures go into `folder` beside `evaluate_source`'s files.

    Args:
        own: judge on the evaluation split of the data set that the model was trained on, else on the validation part
            of `data`, or all of it if it is undivided.
        begin: called with the number of images; returns what to call with the number of each batch.

    Raises:
        InputError: data that cannot be read, or with classes that the model does not know.
    """
    masks = "mask" in saved.config["model_args"]["name"]
    if own:
        found = open_objects(data, masks, saved.spec.channels)
        if list(found.classes) != saved.config["allmlp"]["classes"]:
            raise InputError(
                f"Wanted the classes that {saved.folder} was trained on; {data.name} now has others. Name images that "
                f"have them: allmlp evaluate {saved.folder} data=..."
            )
    else:
        found = open_detection_evaluation(
            folder_of(data),
            saved.classes,
            json_file=data.val_json or data.train_json,
            images=data.val_images or data.train_images,
            masks=None if masks else False,
            channels=saved.spec.channels,
            on_bad=data.on_bad_image,
            check=data.check,
        )
    progress = begin(len(found.val)) if begin is not None else None
    metrics = evaluate_source(
        saved.network,
        found,
        saved.spec,
        view_of(saved.config, data),
        folder,
        device,
        batch_size,
        workers or 0,
        progress,
    )
    metrics["skipped"] = len(found.report.skipped("val"))
    write_json(folder / "data.json", found.report.to_dict())
    write_json(folder / "metrics.json", metrics)
    _draw(folder, found, saved.classes)
    return metrics


def _draw(folder: Path, data: DetectionData, classes: Sequence[str]) -> None:
    from allmlp.figures.detection import draw_evaluation

    draw_evaluation(folder, data.val, classes)


def quality(found: Mapping[str, Any], target: Mapping[str, Any], iou: float = 0.5) -> float:
    """F1 of one image: detections of score 0.5 and more, best first, each matched to a free object of its class.

    1 where there is nothing and nothing was found.
    """
    truth = ~target["iscrowd"]
    boxes, labels = target["boxes"][truth], target["labels"][truth]
    sure = found["scores"] >= _SURE
    overlaps = box_iou(found["boxes"][sure], boxes) * (found["labels"][sure][:, None] == labels[None, :])
    hits = 0
    for row in overlaps:
        if len(boxes) and float(row.max()) >= iou:
            hits += 1
            overlaps[:, int(row.argmax())] = 0
    total = int(sure.sum()) + len(boxes)
    return 2 * hits / total if total else 1.0


def _curves(scores: DetectionScores) -> dict[str, Any]:
    """What the precision-recall figure needs: the mean over classes at IoU .50, .75 and .90; each class at .50."""
    present = [bool((column == column).any()) for column in scores.precision[0].T]
    return {
        "recall": scores.recall.tolist(),
        **{f"iou{round(100 * iou)}": _numbers(scores.curve(iou)) for iou in (0.5, 0.75, 0.9)},
        "classes": {
            name: _numbers(scores.precision[0][:, label]) for label, name in enumerate(scores.classes) if present[label]
        },
    }


def _numbers(values: np.ndarray) -> list[float | None]:
    """For JSON, which has no NaN."""
    return [None if value != value else float(value) for value in values]


def _per_class(scores: Mapping[str, DetectionScores]) -> list[dict[str, Any]]:
    """A row a class: name, count of true objects, AP and AP50 of each kind."""
    rows: list[dict[str, Any]] = []
    for kind, found in scores.items():
        for place, row in enumerate(found.per_class()):
            if len(rows) <= place:
                rows.append({"name": row["class"], "count": row["instances"]})
            rows[place] |= {f"{kind}_ap50": row["ap50"], f"{kind}_ap": row["ap"]}
    return rows
