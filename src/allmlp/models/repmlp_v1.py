"""RepMLP's first version: a block that stands in for a convolution.

Paper: Ding et al., "RepMLP: Re-parameterizing Convolutions into Fully-connected Layers for Image Recognition",
    arXiv 2105.01883, Figure 1.
Source: DingXiaoH/RepMLP @ 4b3e347, repmlp.py (MIT).
Differs: nothing in training form (tests/models/test_repmlp_v1.py, golden numbers). The authors' conversion is wrong
    where out_chans is not in_chans; folding here is not (docs/deviations.md).
Shapes: b batch, c in_chans, o out_chans, H x W the map, h x w a partition, r rows (images and partitions).
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from allmlp.convert.repmlp import V1_BLOCK_LAYOUTS
from allmlp.errors import InputError
from allmlp.layers import ConvNorm, GroupedLinear
from allmlp.models._base import AllMlpModule, Size, records_arguments, to_size
from allmlp.ops.partition import partition, partition_grid, unpartition
from allmlp.ops.token_grid import resample_inputs, resample_outputs
from allmlp.reparam.conv_to_fc import merge_parallel_convs
from allmlp.reparam.state_dict import MutableState, in_float64, merge_affine_into, merge_conv_norms, pop_batch_norm

torch.fx.wrap("partition")  # they read sizes, so symbolic tracing keeps each as one node
torch.fx.wrap("unpartition")


@torch.fx.wrap
def check_map(x: Tensor, channels: int, map_size: Size) -> Tensor:
    """Return x if it is (b, channels, *map_size), else raise."""
    if x.shape[1:] != (channels, *map_size):
        raise InputError(
            f"Wanted maps of {channels} channels and {map_size[0]} x {map_size[1]} cells, which this block's weights "
            f"are for; got {tuple(x.shape[1:])}. Build it with in_chans, height and width of the map."
        )
    return x


class GlobalPerceptron(nn.Module):
    """x + W2 relu(W1 norm(mean of each partition) + b1) + b2: partitions of all channels mixed, added to their cells.

    W1 reads and W2 writes vectors in the order channel, partition row, partition column.
    """

    def __init__(self, channels: int, grid: Size, partition_size: Size, reduction: float, folded: bool) -> None:
        super().__init__()
        self.channels, self.grid, self.partition_size = channels, grid, partition_size
        features = channels * grid[0] * grid[1]
        hidden = max(1, int(features / reduction + 1e-6))
        self.norm = nn.Identity() if folded else nn.BatchNorm2d(channels)
        self.fc1 = nn.Linear(features, hidden)
        self.fc2 = nn.Linear(hidden, features)

    def forward(self, x: Float[Tensor, "b c H W"]) -> Float[Tensor, "b c H W"]:
        """Add one number to each partition of each channel."""
        (rows, columns), (height, width) = self.grid, self.partition_size
        means = self.norm(F.avg_pool2d(x, self.partition_size))
        added = self.fc2(F.relu(self.fc1(means.flatten(1)))).unflatten(1, (self.channels, rows, 1, columns, 1))
        return (x.unflatten(3, (columns, width)).unflatten(2, (rows, height)) + added).flatten(4, 5).flatten(2, 3)


class RepMlpV1Block(AllMlpModule):
    """norm(fc(P)) + sum over k of norm_k(conv_k(P)), P the partitions of the global perceptron's output.

    `fc` reads all channels and cells of a partition and has a batch norm of its own for every output; the convolutions
    see zeros around a partition. Folded, all of them are one grouped fully-connected layer. No activation follows.

    Args:
        in_chans, out_chans: channels of the map that goes in and of the one that comes out.
        height, width: the map's sides, in cells.
        partition: (height, width) of a partition, in cells. If it is the whole map there is no global perceptron.
        reparam_kernels: odd kernel sizes of the parallel convolutions.
        reduction: the global perceptron's hidden width is its input width divided by this.
        groups: of `fc` and of the convolutions.
        folded: build the inference form (see `allmlp.fold`).

    Raises:
        InputError: partitions that do not divide the map, groups that do not divide the channels, or even kernels.

    Source: arXiv 2105.01883, section 3.
    """

    layouts = V1_BLOCK_LAYOUTS
    train_only_key: ClassVar[str] = "norm.weight"

    @records_arguments
    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        height: int,
        width: int,
        partition: int | Sequence[int] = (7, 7),
        reparam_kernels: Sequence[int] = (1, 3, 5),
        reduction: float = 1,
        groups: int = 1,
        folded: bool = False,
    ) -> None:
        super().__init__()
        if in_chans % groups or out_chans % groups:
            raise InputError(f"Wanted groups that divide {in_chans} and {out_chans} channels; got {groups}.")
        if any(k % 2 == 0 for k in reparam_kernels):
            raise InputError(f"Wanted odd reparam_kernels; got {list(reparam_kernels)}.")
        self.folded = folded
        self.in_chans, self.out_chans = in_chans, out_chans
        self.place((height, width), to_size(partition))
        cells = self.partition_size[0] * self.partition_size[1]
        self.global_perceptron: nn.Module = nn.Identity()
        if self.grid != (1, 1):
            self.global_perceptron = GlobalPerceptron(in_chans, self.grid, self.partition_size, reduction, folded)
        self.fc = GroupedLinear(in_chans * cells, out_chans * cells, groups, bias=folded)
        self.norm = nn.Identity() if folded else nn.BatchNorm1d(out_chans * cells)
        kernels = () if folded else reparam_kernels
        self.local = nn.ModuleDict(
            {str(k): ConvNorm(in_chans, out_chans, k, padding=k // 2, groups=groups) for k in kernels}
        )
        if not folded:
            nn.init.orthogonal_(self.fc.weight)

    def place(self, map_size: Size, partition_size: Size) -> None:
        """Take over the sizes of a map and its partitions; the weights are not touched."""
        self.map_size, self.partition_size = map_size, partition_size
        self.grid = partition_grid(map_size, partition_size)
        perceptron = getattr(self, "global_perceptron", None)
        if isinstance(perceptron, GlobalPerceptron):
            perceptron.grid, perceptron.partition_size = self.grid, partition_size

    def add_global_perceptron(self) -> None:
        """Give a map of one partition a global perceptron that adds 0, before the map gets more partitions."""
        weight = self.fc.weight
        perceptron = GlobalPerceptron(
            self.in_chans, self.grid, self.partition_size, self.arguments["reduction"], self.folded
        )
        nn.init.zeros_(perceptron.fc2.weight)
        nn.init.zeros_(perceptron.fc2.bias)
        self.global_perceptron = perceptron.to(weight).train(self.training).requires_grad_(weight.requires_grad)

    def forward(self, x: Float[Tensor, "b c H W"]) -> Float[Tensor, "b o H W"]:
        """A map to one of the same sides."""
        x = self.global_perceptron(check_map(x, self.in_chans, self.map_size))
        parts = partition(x, self.partition_size)
        y = self.fc(parts.flatten(1).unflatten(1, (self.fc.groups, -1))).flatten(1)
        y = self.norm(y).unflatten(1, (self.out_chans, *self.partition_size))
        for conv in self.local.values():
            y = y + conv(parts)
        return unpartition(y, self.map_size, self.out_chans)

    def folded_state(self) -> dict[str, Tensor]:
        """One grouped fully-connected layer with a bias; the norm of the means goes into the global perceptron."""
        return in_float64(self.state_dict(), lambda state: self.merge_norms(state, ""))

    def merge_norms(self, state: MutableState, prefix: str) -> None:
        """Fold this block in place in a state dict with its tensors at `prefix`, and every convolution with a norm."""
        merge_conv_norms(state)
        merge_parallel_convs(state, prefix, self.partition_size)
        perceptron = prefix + "global_perceptron."
        if perceptron + "norm.weight" in state:
            cells = self.grid[0] * self.grid[1]
            scale, shift = (v.repeat_interleave(cells) for v in pop_batch_norm(state, perceptron + "norm"))
            merge_affine_into(state, perceptron + "fc1", scale, shift)


def resample_block(key: str, value: Tensor, sizes: tuple[Size, Size], grids: tuple[Size, Size]) -> Tensor:
    """One tensor of a block for another partition size and grid of partitions, each given as (old, new).

    Rows and columns are resampled as images over the cells of a partition or over the grid, sums over inputs kept. The
    global perceptron's hidden units keep their number.

    Args:
        key: inside the block.
    """
    if key == "global_perceptron.fc1.weight":
        return _resample(value, grids, 1)
    if key.startswith("global_perceptron.fc2."):
        return _resample(value, grids, 0)
    if key.startswith(("fc.", "norm.")) and value.ndim:
        value = _resample(value, sizes, 0)
        return _resample(value, sizes, 1) if key == "fc.weight" else value
    return value


def _resample(value: Tensor, sizes: tuple[Size, Size], dim: int) -> Tensor:
    """Resample an axis of (channels, cells) flattened: one that writes (0) or reads (1)."""
    if sizes[0] == sizes[1]:
        return value
    value = value.unflatten(dim, (-1, sizes[0][0] * sizes[0][1]))
    resample = resample_inputs if dim else resample_outputs
    return resample(value, *sizes, dim=dim + 1).flatten(dim, dim + 1)
