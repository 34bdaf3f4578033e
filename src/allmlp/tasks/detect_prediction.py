"""Find objects in image files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import batched_nms
from torchvision.transforms.v2 import functional as F

from allmlp.data import BadImage, ImageSpec, UnreadableImageError
from allmlp.data.dense_batches import pad_images
from allmlp.data.dense_transforms import View, build_view_transform
from allmlp.data.rle import encode_mask
from allmlp.errors import InputError
from allmlp.runs import SavedModel, replacing, write_json
from allmlp.runs.dense import view_of
from allmlp.tasks.classify_prediction import targets_of
from allmlp.tasks.detect_evaluation import in_original_pixels
from allmlp.tasks.pictures import Picture, open_pictures

if TYPE_CHECKING:
    from rich.console import RenderableType

MOST_SHRUNK = 4.0
"""A picture that would be shrunk more than this is also seen in windows that are shrunk by just this."""

_EDGE = 1.5  # pixels of the file: a box this near to the inner edge of a window is cut by it
_MOST = 300  # objects a picture


@dataclass(frozen=True)
class ObjectPrediction:
    """The objects of one image, the surest first.

    size: (height, width) in pixels of the file. boxes: (n, 4) x0, y0, x1, y1 in these pixels. labels: n class names.
    scores: n in [0, 1]. masks: n COCO run lengths, or None. category_ids: n, 1 for the first class.
    """

    path: str
    size: tuple[int, int]
    boxes: list[list[float]]
    labels: list[str]
    scores: list[float]
    category_ids: list[int]
    masks: list[dict[str, Any]] | None = None

    def to_dict(self) -> dict[str, Any]:
        """What a line of JSON says."""
        height, width = self.size
        objects = [{"class": name, **found} for name, found in zip(self.labels, self.coco(0), strict=True)]
        for item in objects:
            del item["image_id"]
        return {"path": self.path, "height": height, "width": width, "objects": objects}

    def coco(self, image_id: int) -> list[dict[str, Any]]:
        """The objects in COCO's results format: bbox is x, y, width, height."""
        results = []
        for place, (x0, y0, x1, y1) in enumerate(self.boxes):
            result = {
                "image_id": image_id,
                "category_id": self.category_ids[place],
                "bbox": [round(value, 3) for value in (x0, y0, x1 - x0, y1 - y0)],
                "score": round(self.scores[place], 6),
            }
            results.append(result | ({} if self.masks is None else {"segmentation": self.masks[place]}))
        return results


@dataclass
class ObjectPredictions:
    """Predictions in the order of the images, and the files that could not be read."""

    items: list[ObjectPrediction] = field(default_factory=list)
    bad: list[BadImage] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[ObjectPrediction]:
        return iter(self.items)

    def __getitem__(self, place: int) -> ObjectPrediction:
        return self.items[place]

    def table(self) -> "RenderableType":
        """What the command line prints."""
        from rich.table import Table

        table = Table("file", "objects", box=None, pad_edge=False)
        for item in self.items:
            found = ", ".join(f"{name} {score:.0%}" for name, score in zip(item.labels[:8], item.scores))
            more = f" and {len(item.labels) - 8} more" if len(item.labels) > 8 else ""
            table.add_row(item.path, (found or "none") + more)
        return table


def predict_files(
    saved: SavedModel,
    inputs: Sequence[Any],
    out: Path | None = None,
    device: str = "cpu",
    batch_size: int = 32,
    begin: Callable[[int], Callable[[int], None]] | None = None,
    score: float = 0.3,
    window: int | None = None,
) -> ObjectPredictions:
    """Detect objects in files, folders, globs and pictures in memory; results in pixels of the files.

    Args:
        inputs: paths, or Pillow images and arrays (h, w) or (h, w, c) of uint8.
        out: a folder for annotated copies, named like their files, and detections.json in COCO's results format
            (image_id counts the files from 1); None writes none.
        batch_size: windows at a time.
        begin: called with the number of images; returns what to call with the number of each batch.
        score: least score of an object.
        window: side in pixels of the file of windows in which a large picture is looked through, beside the whole; 0
            for the whole alone. Default: where the whole would be shrunk more than `MOST_SHRUNK` times, windows that
            are shrunk as much.

    Raises:
        InputError: nothing there, or a number out of range.
    """
    if not 0 <= score < 1 or (window is not None and window < 0):
        raise InputError(f"Wanted score in [0, 1) and a window of at least 0 pixels; got {score} and {window}.")
    names, load = open_pictures(inputs, saved.spec.channels)
    step = begin(len(names)) if begin is not None else None
    view, network = view_of(saved.config), saved.network.to(device).eval()
    predictions, results = ObjectPredictions(), []
    targets = targets_of(names, out) if out is not None else {}
    for place, name in enumerate(names):
        try:
            picture = load(place)
        except UnreadableImageError as error:
            predictions.bad.append(BadImage(error.path, error.reason))
            continue
        image = to_image(picture)
        found = detect_image(network, image, saved.spec, view, score, window, batch_size, device)
        item, masks = _prediction(name, image, found, saved.classes)
        predictions.items.append(item)
        if out is not None:
            results += [{**result, "file_name": name} for result in item.coco(place + 1)]
            _draw(picture, found, masks, saved.classes, targets[name])
        if step is not None:
            step(1)
    if out is not None:
        write_json(out / "detections.json", results)
    return predictions


def to_image(picture: Picture) -> tv_tensors.Image:
    """A picture as uint8 (channels, height, width)."""
    if isinstance(picture, np.ndarray):
        array = picture if picture.ndim == 3 else picture[..., None]
        return tv_tensors.Image(torch.from_numpy(np.ascontiguousarray(array)).movedim(-1, 0))
    return tv_tensors.Image(F.pil_to_tensor(picture))


def window_side(size: tuple[int, int], view: View, window: int | None) -> int:
    """The side of the windows for a picture of a size, in its pixels; 0 for none."""
    if window is None:
        shrunk = min(size) / min(view.size(*size))
        window = round(MOST_SHRUNK * view.short_side) if shrunk > MOST_SHRUNK else 0
    return 0 if window >= max(size) else window


def starts(length: int, window: int) -> list[int]:
    """Where windows that overlap by a third or more begin along a side."""
    count = max(1, -(-(length - window) // max(1, window * 2 // 3)) + 1) if length > window else 1
    return [round(index * (length - window) / max(1, count - 1)) if length > window else 0 for index in range(count)]


def detect_image(
    network: Any,
    image: tv_tensors.Image,
    spec: ImageSpec,
    view: View,
    score: float = 0.0,
    window: int | None = None,
    batch_size: int = 8,
    device: str = "cpu",
) -> dict[str, Any]:
    """Boxes, scores, labels and, on demand, masks of one image, in its own pixels, the surest first.

    Arguments as in `predict_files`. What a window's inner edge cuts is left to its neighbour or to the whole image.
    """
    height, width = image.shape[-2:]
    transform = build_view_transform(spec, view)
    corners = [(0, 0, height, width)]
    side = window_side((height, width), view, window)
    if side:
        h, w = min(side, height), min(side, width)
        corners += [(top, left, h, w) for top in starts(height, h) for left in starts(width, w)]
    parts: list[dict[str, Tensor]] = []
    for begin in range(0, len(corners), batch_size):
        chosen = corners[begin : begin + batch_size]
        seen = [transform(F.crop(image, *corner), {})[0].as_subclass(Tensor) for corner in chosen]
        sizes = [(int(part.shape[-2]), int(part.shape[-1])) for part in seen]
        for group in ([place] for place in range(len(seen))) if len(set(sizes)) > 1 else [list(range(len(seen)))]:
            batch = pad_images([seen[place] for place in group], 32, network.canvas).to(device)
            with torch.inference_mode():
                found = network(batch, [sizes[place] for place in group])
            parts += [
                _placed(result, sizes[place], chosen[place], (height, width)) for place, result in zip(group, found)
            ]
    joined = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    kept = joined["scores"] >= score
    joined = {key: value[kept] for key, value in joined.items()}
    order = batched_nms(joined["boxes"].float(), joined["scores"].float(), joined["labels"], 0.5)[:_MOST]
    joined = {key: value[order] for key, value in joined.items()}
    return in_original_pixels(joined, (height, width), (height, width))


def _placed(
    result: dict[str, Tensor], seen: tuple[int, int], corner: tuple[int, int, int, int], size: tuple[int, int]
) -> dict[str, Tensor]:
    """A window's objects in pixels of the whole image, without those that an inner edge of the window cuts."""
    top, left, height, width = corner
    boxes = in_original_pixels(result, seen, (height, width))["boxes"] + torch.tensor([left, top, left, top])
    inside = torch.ones(len(boxes), dtype=torch.bool)
    for axis, near, far, whole in ((0, left, left + width, size[1]), (1, top, top + height, size[0])):
        inside &= (boxes[:, axis] > near + _EDGE) | (near == 0)
        inside &= (boxes[:, axis + 2] < far - _EDGE) | (far == whole)
    return {key: value.cpu()[inside] for key, value in (result | {"boxes": boxes}).items()}


def _prediction(
    name: str, image: tv_tensors.Image, found: dict[str, Any], classes: Sequence[str]
) -> tuple[ObjectPrediction, list[np.ndarray] | None]:
    labels = found["labels"].tolist()
    masks = [np.asarray(mask) for mask in found["masks"]] if "masks" in found else None
    prediction = ObjectPrediction(
        path=name,
        size=(int(image.shape[-2]), int(image.shape[-1])),
        boxes=found["boxes"].tolist(),
        labels=[classes[label] for label in labels],
        scores=found["scores"].tolist(),
        category_ids=[1 + label for label in labels],
        masks=None if masks is None else [encode_mask(mask) for mask in masks],
    )
    return prediction, masks


def _draw(
    picture: Picture, found: dict[str, Any], masks: list[np.ndarray] | None, classes: Sequence[str], path: Path
) -> None:
    from allmlp.figures.colours import draw_objects

    path.parent.mkdir(parents=True, exist_ok=True)
    labels, scores = found["labels"].tolist(), found["scores"].tolist()
    drawn = draw_objects(picture, found["boxes"].tolist(), labels, classes, scores, masks)
    with replacing(path) as temporary:
        drawn.save(temporary, format="PNG")
