"""UPerNet: a pyramid of features, with the whole image pooled in at its top, fused into one map.

Paper: Xiao et al., "Unified Perceptual Parsing for Scene Understanding", arXiv 1807.10221, section 3.1; pooling:
    Zhao et al., arXiv 1612.01105; auxiliary head: Long et al., arXiv 1411.4038.
Source: svip-lab/AS-MLP-Semantic-Segmentation @ c9838f9 (mmsegmentation 0.11), configs/_base_/models/upernet_swin.py
    (Apache-2.0), whose names of tensors are kept.
Differs: nothing (tests/dense/test_segmenter.py computes the head again in plain operations).
Shapes: b images, n classes, c_l channels and h_l x w_l cells of level l, c channels of the head.
"""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from allmlp.dense.conv import conv_relu, initialise
from allmlp.dense.pooling import average_pool

POOLS = (1, 2, 3, 6)


def resize(x: Float[Tensor, "b c _h _w"], like: Tensor) -> Float[Tensor, "b c h w"]:
    """Bilinear, half-pixel centres, to the size of another map."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def classifier(channels: int, num_classes: int) -> nn.Conv2d:
    """A 1x1 convolution to class logits, normal with sd 0.01."""
    layer = nn.Conv2d(channels, num_classes, 1)
    initialise([layer], nn.init.normal_, std=0.01)
    return layer


class UPerHead(nn.Module):
    """Pyramid pooling on the last map, a top-down pyramid, and their fusion at stride 4.

    Args:
        in_channels: of the backbone's maps, finest first.
        num_classes: classes.
        channels: of every layer of the head.
        drop_rate: share of channels dropped before the classifier, in training.
        norm: batch norm in every layer.
        folded: build the inference form.
        finer: logits at this many times the finest map's resolution, by a classifier that speaks for each part of a
            cell (pixel shuffle, arXiv 1609.05158); the papers' is 1.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        channels: int = 512,
        drop_rate: float = 0.1,
        norm: bool = True,
        folded: bool = False,
        finer: int = 1,
    ) -> None:
        super().__init__()
        self.finer = finer
        *lower, last = in_channels
        layer = partial(conv_relu, norm=norm, folded=folded)
        # The first of each pair is the pooling, which holds no weights.
        self.psp_modules = nn.ModuleList([nn.Sequential(nn.Identity(), layer(last, channels, 1)) for _ in POOLS])
        self.bottleneck = layer(last + len(POOLS) * channels, channels, 3)
        self.lateral_convs = nn.ModuleList([layer(c, channels, 1) for c in lower])
        self.fpn_convs = nn.ModuleList([layer(channels, channels, 3) for _ in lower])
        self.fpn_bottleneck = layer(len(in_channels) * channels, channels, 3)
        self.dropout = nn.Dropout2d(drop_rate)
        self.conv_seg = classifier(channels, num_classes * finer**2)

    def pool(self, x: Float[Tensor, "b c_l h_l w_l"]) -> Float[Tensor, "b c h_l w_l"]:
        """The last map with its averages over 1, 4, 9 and 36 parts of the image."""
        parts = [resize(conv(average_pool(x, count)), x) for count, conv in zip(POOLS, self.psp_modules)]
        return self.bottleneck(torch.cat([x, *parts], dim=1))

    def forward(self, maps: Sequence[Tensor]) -> Float[Tensor, "b n h w"]:
        """Logits at the finest map's resolution, or `finer` times that."""
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, maps)]
        laterals.append(self.pool(maps[-1]))
        for level in range(len(laterals) - 1, 0, -1):
            laterals[level - 1] = laterals[level - 1] + resize(laterals[level], laterals[level - 1])
        outputs = [conv(x) for conv, x in zip(self.fpn_convs, laterals)] + laterals[-1:]
        fused = self.fpn_bottleneck(torch.cat([resize(x, outputs[0]) for x in outputs], dim=1))
        logits = self.conv_seg(self.dropout(fused))
        return F.pixel_shuffle(logits, self.finer) if self.finer > 1 else logits


class FcnHead(nn.Module):
    """The auxiliary head on one map: a 3x3 convolution, with batch norm if `norm`, then the classifier."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: int = 256,
        drop_rate: float = 0.1,
        norm: bool = True,
        folded: bool = False,
    ) -> None:
        super().__init__()
        self.convs = nn.Sequential(conv_relu(in_channels, channels, 3, norm, folded))
        self.dropout = nn.Dropout2d(drop_rate)
        self.conv_seg = classifier(channels, num_classes)

    def forward(self, x: Float[Tensor, "b c_l h_l w_l"]) -> Float[Tensor, "b n h_l w_l"]:
        """Logits at the map's resolution."""
        return self.conv_seg(self.dropout(self.convs(x)))
