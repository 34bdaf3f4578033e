"""Networks as what is exported: tensors in, a flat list of tensors out, every array with a name.

Shapes: b images, c channels, h x w pixels, n classes, d detections, m mask side.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Form(nn.Module):
    """Base: `input_names` and `output_names` name the arrays of `forward`."""

    input_names: tuple[str, ...] = ("images",)
    output_names: tuple[str, ...] = ("logits",)

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        """Normalised images float32 (b, c, h, w) to logits: (b, n) of a classifier, (b, n, h, w) of a segmenter."""
        return self.network(self.in_its_precision(images)).float()

    def in_its_precision(self, images: Tensor) -> Tensor:
        """Images in the precision of the network's weights."""
        return images.to(next(self.network.parameters()).dtype)


class DetectorForm(Form):
    """A detector with its post-processing in fixed shapes: see `allmlp.dense.Detections`.

    boxes (b, d, 4) x0, y0, x1, y1 in pixels of the canvas, scores (b, d), labels (b, d), counts (b), and, if there are
    masks, their probabilities (b, d, m, m) on a grid over each box; of image i the first counts[i] rows are real, the
    others 0.
    """

    input_names = ("images", "sizes")

    def __init__(self, network: Any) -> None:
        super().__init__(network)
        names = ("boxes", "scores", "labels", "counts", "masks")
        self.output_names = names if network.settings.roi.masks else names[:-1]

    def forward(self, images: Tensor, sizes: Tensor) -> Any:  # type: ignore[override]
        """Normalised images (b, c, h, w), each at the top left of its canvas, and their sizes float32 (b, 2) there."""
        return tuple(part for part in self.network.detect(self.in_its_precision(images), sizes) if part is not None)


class RawForm(nn.Module):
    """A form that takes pixels, uint8 (b, h, w, c), and gives what a person asks for.

    Of a classifier `probabilities` (b, n), of a segmenter `labels` uint8 (b, h, w), of a detector what it always gives.
    """

    def __init__(self, form: Form, task: str, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.form, self.task = form, task
        self.input_names = form.input_names
        self.output_names = {"classify": ("probabilities",), "segment": ("labels",)}.get(task, form.output_names)
        average, deviation = torch.tensor(mean), torch.tensor(std)
        self.register_buffer("factor", (1 / (255 * deviation))[:, None, None])
        self.register_buffer("offset", (average / deviation)[:, None, None])

    @property
    def network(self) -> Any:
        """The network inside."""
        return self.form.network

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> Any:
        """Pixels to results; detectors take the images' sizes too. Padding is to have the mean colour."""
        return self.results(images.permute(0, 3, 1, 2).float(), sizes)

    def results(self, pixels: Tensor, sizes: Tensor | None = None) -> Any:
        """From pixels as float32 (b, c, h, w)."""
        x = pixels * self.factor - self.offset  # type: ignore[operator]
        found = self.form(x) if sizes is None else self.form(x, sizes)
        if self.task == "classify":
            return found.float().softmax(dim=1)
        return found.argmax(dim=1).to(torch.uint8) if self.task == "segment" else found


def form_of(network: nn.Module, task: str) -> Form:
    """The form of a network of a task: "classify", "segment" or "detect"."""
    return DetectorForm(network) if task == "detect" else Form(network)
