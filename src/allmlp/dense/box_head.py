"""What a region is, and its exact box: the classifier and regressor of a region's features.

Paper: Fast R-CNN, arXiv 1504.08083 (two fully connected layers); the form with four convolutions: arXiv 1803.08494.
Source: mmdetection 2.11 as forked by svip-lab/AS-MLP-Object-Detection @ f80ff38 (Apache-2.0).
Differs: nothing. The background is the last class, and only real classes have box deltas.
Shapes: k regions, c channels, s pooled side, n classes without background; j = n, or 1 if class-agnostic.
"""

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from allmlp.dense.boxes import Stds, at_least_float32, decode_boxes, encode_boxes
from allmlp.dense.conv import ConvBnRelu, initialise


class BoxHead(nn.Module):
    """Optional convolutions, fully connected layers with ReLU, then class logits and box deltas.

    Args:
        channels: of the pooled features, and of the convolutions.
        side: of the pooled square.
        num_classes: without background.
        convs: how many 3x3 convolutions with batch norm come first.
        fcs, hidden: how many fully connected layers, and their width.
        class_agnostic: predict one box for all classes instead of one each.
        folded: build the convolutions' inference form.
    """

    def __init__(
        self,
        channels: int,
        side: int,
        num_classes: int,
        convs: int = 0,
        fcs: int = 2,
        hidden: int = 1024,
        class_agnostic: bool = False,
        folded: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.convs = nn.Sequential(*[ConvBnRelu(channels, channels, 3, folded) for _ in range(convs)])
        widths = [channels * side * side] + [hidden] * fcs
        self.fcs = nn.ModuleList([nn.Linear(i, o) for i, o in itertools.pairwise(widths)])
        self.cls = nn.Linear(widths[-1], num_classes + 1)
        self.reg = nn.Linear(widths[-1], 4 * (1 if class_agnostic else num_classes))
        initialise(self.fcs, nn.init.xavier_uniform_)
        initialise([self.cls], nn.init.normal_, std=0.01)
        initialise([self.reg], nn.init.normal_, std=0.001)

    def forward(self, x: Float[Tensor, "k c s s"]) -> tuple[Float[Tensor, "k n+1"], Float[Tensor, "k j 4"]]:
        """Class logits, background last, and box deltas."""
        x = self.convs(x).flatten(1)
        for layer in self.fcs:
            x = F.relu(layer(x))
        return at_least_float32(self.cls(x)), at_least_float32(self.reg(x)).unflatten(1, (-1, 4))


def take_class(per_class: Float[Tensor, "k j *r"], labels: Int[Tensor, "k"]) -> Float[Tensor, "k *r"]:
    """Row by row the entry of the row's label, or the only entry there is."""
    if per_class.shape[1] == 1:
        return per_class[:, 0]
    return per_class[torch.arange(labels.shape[0], device=labels.device), labels]


def box_losses(
    logits: Float[Tensor, "k n+1"],
    deltas: Float[Tensor, "k j 4"],
    boxes: Float[Tensor, "k 4"],
    labels: Int[Tensor, "k"],
    truth: Float[Tensor, "k 4"],
    stds: Stds,
    kind: str,
) -> dict[str, Tensor]:
    """Cross entropy of the classes and the box loss of positive regions, both divided by the number of regions.

    Args:
        boxes, labels: the regions drawn and their classes, n for background.
        truth: the true box of each region; unread for background.
        kind: "l1": distance of deltas in units of `stds`; "giou": 10 times 1 - generalized IoU of decoded boxes.
    """
    background = logits.shape[1] - 1
    positive = torch.nonzero(labels < background).flatten()
    count = max(len(labels), 1)
    class_loss = F.cross_entropy(logits, labels, reduction="sum") / count
    predicted = take_class(deltas[positive], labels[positive])
    if kind == "giou":
        decoded = decode_boxes(boxes[positive], predicted, stds)
        box_loss = 10.0 * generalized_box_iou_loss(decoded, truth[positive], reduction="sum")
    else:
        box_loss = (predicted - encode_boxes(boxes[positive], truth[positive], stds)).abs().sum()
    return {"loss_cls": class_loss, "loss_box": box_loss / count + deltas.sum() * 0}


def average(logits: Sequence[Tensor]) -> Tensor:
    """The mean of the stages' logits, in the order of the stages."""
    return sum(logits[1:], logits[0]) / len(logits)
