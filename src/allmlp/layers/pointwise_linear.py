"""A linear layer over the channels of maps: what others write as a 1x1 convolution.

Shapes: b batch, i channels in, o channels out, h x w a map.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class PointwiseLinear(nn.Linear):
    """y[b, :, h, w] = weight x[b, :, h, w] + bias, for maps whose channels are last in memory.

    Holds `weight` (o, i) and `bias` (o) like `nn.Linear`. It runs as a matrix product, which on a CPU is quicker than
    PyTorch's convolution (docs/performance.md); in exported graphs it is a 1x1 convolution, since runtimes fuse what
    stands around that into it and choose its layout themselves.
    """

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        """Map every cell's channels."""
        if torch.compiler.is_exporting():
            return F.conv2d(x, self.weight[:, :, None, None], self.bias)
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
