"""Give each pixel of image files a class."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from allmlp.data import BadImage, ImageSpec, UnreadableImageError
from allmlp.data.dense_transforms import View, build_view_transform
from allmlp.dense.inference import labels_at, sliding_window
from allmlp.errors import InputError
from allmlp.recipes.schema import InferenceGroup
from allmlp.runs import SavedModel, replacing
from allmlp.runs.dense import view_of
from allmlp.tasks.classify_prediction import targets_of
from allmlp.tasks.detect_prediction import to_image, window_side
from allmlp.tasks.pictures import Picture, open_pictures
from allmlp.tasks.segment_evaluation import label_image, sees_more

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class LabelPrediction:
    """What an image is made of: its label map uint8 (height, width) in pixels of the file, and each class's share."""

    path: str
    labels: np.ndarray
    shares: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """What a line of JSON says: shares of the pixels, the largest first."""
        height, width = self.labels.shape
        shares = {name: round(share, 6) for name, share in self.shares.items()}
        return {"path": self.path, "height": height, "width": width, "shares": shares}


@dataclass
class LabelPredictions:
    """Predictions in the order of the images, and the files that could not be read."""

    items: list[LabelPrediction] = field(default_factory=list)
    bad: list[BadImage] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[LabelPrediction]:
        return iter(self.items)

    def __getitem__(self, place: int) -> LabelPrediction:
        return self.items[place]

    def table(self) -> "RenderableType":
        """What the command line prints."""
        from rich.table import Table

        table = Table("file", "share of the pixels", box=None, pad_edge=False)
        for item in self.items:
            table.add_row(item.path, ", ".join(f"{name} {share:.1%}" for name, share in list(item.shares.items())[:8]))
        return table


def predict_files(
    saved: SavedModel,
    inputs: Sequence[Any],
    out: Path | None = None,
    device: str = "cpu",
    batch_size: int = 32,
    begin: Callable[[int], Callable[[int], None]] | None = None,
    window: int | None = None,
) -> LabelPredictions:
    """Segment files, folders, globs and pictures in memory, in pixels of the files.

    Args:
        inputs: paths, or Pillow images and arrays (h, w) or (h, w, c) of uint8.
        out: a folder for pictures under their label map, named like their files, and NAME.mask.png with the class
            numbers (and a palette to look at); None writes none.
        begin: called with the number of images; returns what to call with the number of each batch.
        window: side in pixels of the file of windows that slide over larger pictures; 0 for none. Default: where the
            picture would be shrunk more than four times, windows that are shrunk as much.

    Raises:
        InputError: nothing there, or a number out of range.
    """
    if window is not None and window < 0:
        raise InputError(f"Wanted a window of at least 0 pixels; got {window}.")
    names, load = open_pictures(inputs, saved.spec.channels)
    step = begin(len(names)) if begin is not None else None
    view, network = view_of(saved.config), saved.network.to(device).eval()
    inference = InferenceGroup(**saved.config["allmlp"]["inference"])
    predictions = LabelPredictions()
    targets = targets_of(names, out) if out is not None else {}
    for place, name in enumerate(names):
        try:
            picture = load(place)
        except UnreadableImageError as error:
            predictions.bad.append(BadImage(error.path, error.reason))
            continue
        labels = segment_image(network, to_image(picture), saved.spec, view, inference, window, device)
        counts = np.bincount(labels.ravel(), minlength=len(saved.classes)) / labels.size
        order = [label for label in np.argsort(-counts, kind="stable").tolist() if counts[label]]
        shares = {saved.classes[label]: float(counts[label]) for label in order}
        predictions.items.append(LabelPrediction(name, labels, shares))
        if out is not None:
            _draw(picture, labels, saved.classes, targets[name])
        if step is not None:
            step(1)
    return predictions


def segment_image(
    network: Any,
    image: tv_tensors.Image,
    spec: ImageSpec,
    view: View,
    inference: InferenceGroup,
    window: int | None = None,
    device: str = "cpu",
) -> np.ndarray:
    """Class numbers uint8 (h, w) of one image. Arguments as in `predict_files`."""
    height, width = image.shape[-2:]
    side = window_side((height, width), view, window)
    with torch.inference_mode():
        if side:
            # Seen so large that a window is as large as what the network usually sees.
            factor = view.short_side / side
            size = max(1, round(height * factor)), max(1, round(width * factor))
            seen = build_view_transform(spec, View(min(size), max(size), view.antialias))(image, {})[0]
            # With windows, images of several sizes would add little; one size is seen.
            scores = sliding_window(
                network, seen.as_subclass(Tensor)[None].to(device), (view.short_side, view.short_side)
            )
            labels = labels_at(scores, (height, width))[0]
        elif sees_more(inference):
            seen = build_view_transform(spec, None)(image, {})[0].as_subclass(Tensor).to(device)
            labels = label_image(network, seen, view, inference)
        else:
            seen = build_view_transform(spec, view)(image, {})[0].as_subclass(Tensor).to(device)
            labels = labels_at(network(seen[None]), (height, width))[0]
    return labels.cpu().numpy().astype(np.uint8)


def _draw(picture: Picture, labels: np.ndarray, classes: Sequence[str], path: Path) -> None:
    from allmlp.figures.colours import draw_labels, draw_legend, palette, under

    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = draw_labels(picture, labels)
    legend = draw_legend({label: classes[label] for label in np.unique(labels).tolist()}, max(drawn.width, 160))
    with replacing(path) as temporary:
        under(drawn, legend).save(temporary, format="PNG")
    mask = Image.fromarray(labels, mode="P")
    mask.putpalette(palette(len(classes)))
    with replacing(path.with_suffix(".mask.png")) as temporary:
        mask.save(temporary, format="PNG")
