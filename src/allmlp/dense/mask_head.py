"""The outline of a region: a small mask for each class.

Paper: He et al., "Mask R-CNN", arXiv 1703.06870, section 3 and figure 4 (right).
Source: mmdetection 2.11 as forked by svip-lab/AS-MLP-Object-Detection @ f80ff38 (Apache-2.0).
Differs: nothing (tests/dense/test_heads.py computes targets and loss by loops).
Shapes: k regions, c channels, s pooled side, m = 2 s mask side, n classes; j = n, or 1 if class-agnostic.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from allmlp.dense.box_head import take_class
from allmlp.dense.boxes import at_least_float32
from allmlp.dense.conv import he_normal, initialise


class MaskHead(nn.Module):
    """3x3 convolutions with ReLU, a transposed convolution that doubles the size, and a 1x1 one to the class masks.

    Args:
        channels: of the pooled features and all layers.
        num_classes: without background; masks have no background class.
        convs: how many 3x3 convolutions.
        class_agnostic: predict one mask for all classes.
    """

    def __init__(self, channels: int, num_classes: int, convs: int = 4, class_agnostic: bool = False) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(channels, channels, 3, padding=1) for _ in range(convs)])
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.logits = nn.Conv2d(channels, 1 if class_agnostic else num_classes, 1)
        initialise([*self.convs, self.upsample, self.logits], he_normal)

    def forward(self, x: Float[Tensor, "k c s s"]) -> Float[Tensor, "k j m m"]:
        """Mask logits."""
        for conv in self.convs:
            x = F.relu(conv(x))
        return at_least_float32(self.logits(F.relu(self.upsample(x))))


def mask_targets(
    masks: Tensor, boxes: Float[Tensor, "k 4"], which: Int[Tensor, "k"], side: int
) -> Float[Tensor, "k m m"]:
    """The part of an object's mask that lies under a region, at `side` x `side`, as 0 and 1.

    Args:
        masks: (g, height, width) of one image's objects, bool or 0 and 1.
        boxes: regions in that image.
        which: the object of each region.
    """
    targets = boxes.new_zeros(len(boxes), side, side)
    for index in torch.unique(which).tolist():  # one mask at a time as numbers: a large image has many
        rows = torch.nonzero(which == index).flatten()
        mask = masks[index].to(boxes)[None, None]
        regions = torch.cat([boxes.new_zeros(len(rows), 1), boxes[rows]], dim=1)
        targets[rows] = roi_align(mask, regions, side, sampling_ratio=0, aligned=True)[:, 0]
    return (targets >= 0.5).to(boxes.dtype)


def mask_loss(
    logits: Float[Tensor, "k j m m"], labels: Int[Tensor, "k"], targets: Float[Tensor, "k m m"]
) -> Float[Tensor, ""]:
    """Binary cross entropy of the true class's mask, averaged over all pixels; 0 without regions."""
    if not len(logits):
        return logits.sum() * 0
    return F.binary_cross_entropy_with_logits(take_class(logits, labels), targets)
