"""RepMLPNet's unit: mixing over the cells of partitions, then over channels.

Paper: Ding et al., "RepMLPNet: Hierarchical Vision MLP with Re-parameterized Locality", arXiv 2112.11081, Figure 2.
Source: DingXiaoH/RepMLP @ 3eff13f, repmlpnet.py (MIT).
Differs: see repmlpnet.py.
Shapes: b batch, c channels, h x w a map or partition, s sets of channels, r partitions of all images, q = r * (c / s)
    rows, which hold one channel of every set, n cells of a partition.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from allmlp.layers import ConvNorm, GroupedLinear
from allmlp.models._base import Size
from allmlp.ops.partition import partition, unpartition

torch.fx.wrap("partition")  # they read sizes, so symbolic tracing keeps each as one node
torch.fx.wrap("unpartition")


class ChannelAffine(nn.Module):
    """weight * x + bias, one of each a channel: what is left of a batch norm that no linear map can take in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Scale and shift every channel."""
        return torch.addcmul(self.bias[:, None, None], x, self.weight[:, None, None])


class GlobalPerceptron(nn.Module):
    """A gate per channel from the mean of the whole map: sigmoid(W2 relu(W1 mean(x) + b1) + b2)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 1 1"]:
        """Values between 0 and 1."""
        gate = torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean(dim=(2, 3))))))
        return gate[:, :, None, None]


class LocalPerceptron(ConvNorm):
    """A depthwise convolution with one kernel a set, then a norm with one entry a set.

    The convolution runs over all channels with the kernels repeated: of few channels over many images it is slow on a
    CPU.
    """

    def __init__(self, channels: int, num_sets: int, kernel_size: int) -> None:
        super().__init__(num_sets, num_sets, kernel_size, padding=kernel_size // 2, groups=num_sets)
        self.channels, self.num_sets = channels, num_sets

    def forward(self, parts: Float[Tensor, "r c h w"]) -> Float[Tensor, "q s h w"]:
        """Partitions to rows."""
        kernels = self.conv.weight.repeat(self.channels // self.num_sets, 1, 1, 1)
        y = F.conv2d(parts, kernels, padding=self.conv.padding, groups=self.channels)
        return self.norm(y.unflatten(1, (-1, self.num_sets)).flatten(0, 1))


class RepMlpBlock(nn.Module):
    """(norm(fc(P)) + sum over k of norm_k(conv_k(P))) * gate, P the partitions of x.

    Channel c is mixed over the cells of its partition by the matrix of set c mod s; the convolutions have one kernel
    a set and see zeros around a partition. Folded, all of them are one matrix and one bias a set.
    """

    def __init__(
        self,
        channels: int,
        num_sets: int,
        map_size: Size,
        partition_size: Size,
        kernels: Sequence[int],
        gate_reduction: int,
        order: str,
        folded: bool,
    ) -> None:
        super().__init__()
        self.channels, self.num_sets, self.order = channels, num_sets, order
        self.map_size, self.partition_size = map_size, partition_size
        features = num_sets * math.prod(partition_size)
        self.global_perceptron = GlobalPerceptron(channels, channels // gate_reduction)
        self.fc = GroupedLinear(features, features, groups=num_sets, bias=folded)
        self.norm = nn.Identity() if folded else nn.BatchNorm1d(num_sets)
        self.local = nn.ModuleDict({str(k): LocalPerceptron(channels, num_sets, k) for k in kernels if not folded})

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Mix the cells of every partition, then gate the channels."""
        parts = partition(x, self.partition_size)
        rows = parts.flatten(2).unflatten(1, (-1, self.num_sets)).flatten(0, 1)
        y = self.norm(self.fc(rows)).unflatten(2, self.partition_size)
        for local in self.local.values():
            y = y + local(parts)
        return unpartition(y, self.map_size, self.channels, self.order) * self.global_perceptron(x)

    def extra_repr(self) -> str:
        return f"partition_size={self.partition_size}, num_sets={self.num_sets}, order={self.order!r}"


class ChannelMixing(nn.Module):
    """The MLP over channels, shared by all cells, a norm after either map: norm(W2 gelu(norm(W1 x)))."""

    def __init__(self, channels: int, hidden: int, folded: bool) -> None:
        super().__init__()
        self.fc1 = ConvNorm(channels, hidden, 1, folded=folded)
        self.act = nn.GELU()
        self.fc2 = ConvNorm(hidden, channels, 1, folded=folded)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Mix each cell's channels."""
        return self.fc2(self.act(self.fc1(x)))


class RepMlpNetUnit(nn.Module):
    """y = x + rep_mlp(norm1(x)); z = y + ffn(norm2(y))."""

    def __init__(self, rep_mlp: RepMlpBlock, folded: bool) -> None:
        super().__init__()
        channels = rep_mlp.channels
        self.norm1: nn.Module = nn.BatchNorm2d(channels)
        self.norm2: nn.Module = nn.BatchNorm2d(channels)
        if folded:
            self.norm1 = nn.Identity() if rep_mlp.num_sets == channels else ChannelAffine(channels)
            self.norm2 = nn.Identity()
        self.rep_mlp = rep_mlp
        self.ffn = ChannelMixing(channels, 4 * channels, folded)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """One unit of the paper's Figure 2."""
        x = x + self.rep_mlp(self.norm1(x))
        return x + self.ffn(self.norm2(x))
