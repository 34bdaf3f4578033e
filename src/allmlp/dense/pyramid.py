"""A feature pyramid from one map, for networks that keep one resolution from the first block to the last.

Paper: Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection" (ViTDet), arXiv 2203.16527,
    section 3, figure 2 (c).
Source: none; written from the paper.
Differs: the widths halve with each doubling, as in the authors' code, and 1x1 and 3x3 convolutions to a common width
    are left to the pyramid network of the head that follows. A stride that is no power of 2 is resampled first.
Shapes: b images, c channels, h x w the map.
"""

import math
from collections.abc import Sequence

from jaxtyping import Float
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

STRIDES = (4, 8, 16, 32)


class SimplePyramid(nn.Module):
    """Maps at strides 4, 8, 16 and 32 from one map: transposed convolutions upwards, max pooling downwards.

    Args:
        channels: of the map.
        stride: of the map, in pixels; one that is no power of 2 is taken for the nearest one and resampled to it.

    `channels` of the result: the map's own at its stride and below, halved with each doubling of the resolution.
    """

    def __init__(self, channels: int, stride: float) -> None:
        super().__init__()
        self.stride = stride
        self.nearest = 2 ** round(math.log2(stride))
        scales = [int(math.log2(self.nearest // s)) if s < self.nearest else 0 for s in STRIDES]
        self.channels = tuple(max(channels >> scale, 1) for scale in scales)
        self.ups = nn.ModuleList([_doublings(channels, scale) for scale in scales])
        self.norms = nn.ModuleList([LayerNorm2d(c) for c in self.channels])

    def forward(self, x: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The map at four resolutions, each normed over channels."""
        if self.nearest != self.stride:
            height, width = (round(side * self.stride / self.nearest) for side in x.shape[-2:])
            x = F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)
        maps = []
        for stride, up, norm in zip(STRIDES, self.ups, self.norms):
            shrink = stride // self.nearest
            y = F.max_pool2d(x, shrink, ceil_mode=True) if shrink > 1 else up(x)
            maps.append(norm(y))
        return maps


def _doublings(channels: int, count: int) -> nn.Sequential:
    """`count` transposed convolutions of stride 2, each halving the channels; norm and GELU between them."""
    layers: list[nn.Module] = []
    for step in range(count):
        wide, narrow = max(channels >> step, 1), max(channels >> (step + 1), 1)
        layers.append(nn.ConvTranspose2d(wide, narrow, 2, stride=2))
        if step + 1 < count:
            layers += [LayerNorm2d(narrow), nn.GELU()]
    return nn.Sequential(*layers)


def pick_strides(reductions: Sequence[float]) -> list[int] | None:
    """The places of strides 4, 8, 16 and 32 among a network's feature maps (the last of equals), or None."""
    places = {reduction: index for index, reduction in enumerate(reductions)}
    return [places[stride] for stride in STRIDES] if all(stride in places for stride in STRIDES) else None
