"""RepMLPNet (RepMLP v2): the network. Its unit is in repmlpnet_unit.py.

Paper: Ding et al., "RepMLPNet: Hierarchical Vision MLP with Re-parameterized Locality", arXiv 2112.11081, Table 2.
Source: DingXiaoH/RepMLP @ 3eff13f, repmlpnet.py (MIT).
Differs: nothing at the authors' sizes (tests/models/test_repmlpnet.py, golden numbers). Where a map holds several
    partitions and a set several channels, the authors' code puts partitions back in other places than it took them
    from; here they return to their own unless `partition_order="authors"` (docs/deviations.md).
Shapes: b batch, c channels, h x w a map; the units' are in repmlpnet_unit.py.
"""

import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

from allmlp.errors import InputError
from allmlp.layers import ConvNorm
from allmlp.models._base import Size, State, records_arguments, to_size
from allmlp.models._hierarchical import HierarchicalModel
from allmlp.models._registry import register
from allmlp.models._repmlpnet_folding import LAYOUTS, merge_norms
from allmlp.models.repmlpnet_unit import ChannelAffine, RepMlpBlock, RepMlpNetUnit
from allmlp.ops.partition import ORDERS, fit_partition, partition_grid, rectangle_of
from allmlp.ops.token_grid import resample_inputs, resample_outputs
from allmlp.reparam.state_dict import in_float64


class RepMlpNet(HierarchicalModel):
    """RepMLPNet: patches, stages of units with strided convolutions between them, norm, mean, head.

    Args:
        img_size: image height and width in pixels (or one number); the fully-connected layers belong to it.
        in_chans: image channels.
        num_classes: classes of the head; 0 for none.
        channels: of each stage. Stage i works at 1 / (4 * 2^i) of the image's sides, rounded down.
        depths: units of each stage.
        partition_sizes: (height, width), in cells, of each stage's partitions; default the stage's full map. A layer
            holds height^2 * width^2 weights a set, so for large images keep the partitions of a smaller one.
        num_sharesets: sets of channels of each stage; the channels of a set share one matrix.
        reparam_kernels: odd kernel sizes of the parallel convolutions; folding merges them.
        gate_reduction: the global perceptron's hidden width is the channels divided by this, rounded down.
        partition_order: "aligned", where a partition's result returns to its place, or "authors", where it returns to
            where the authors' code puts it; they differ if a map has several partitions and a set several channels.
        drop_rate: dropout before the head.
        global_pool: "avg", or "" to keep the map.
        folded: build the inference form (see `allmlp.fold`).

    Raises:
        InputError: lists of different lengths, sets that do not divide the channels, partitions that do not divide the
            map, a gate without hidden units, even kernels, an unknown order, or an image too small for so many stages.

    Source: arXiv 2112.11081, section 3.
    """

    layouts = LAYOUTS
    first_conv: ClassVar[str] = "stem.conv"
    train_only_key: ClassVar[str] = "stem.norm.weight"
    partition_argument: ClassVar[str] = "partition_sizes"

    @records_arguments
    def __init__(
        self,
        img_size: int | Sequence[int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        channels: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 2, 6, 2),
        partition_sizes: Sequence[int | Sequence[int]] | None = None,
        num_sharesets: Sequence[int] = (1, 4, 16, 128),
        reparam_kernels: Sequence[int] = (1, 3),
        gate_reduction: int = 4,
        partition_order: str = "aligned",
        drop_rate: float = 0.0,
        global_pool: str = "avg",
        folded: bool = False,
    ) -> None:
        super().__init__()
        self.check_pool(global_pool)
        self._describe(num_classes, in_chans, channels[-1], global_pool, folded)
        self._describe_stages(channels, [4 * 2**i for i in range(len(channels))])
        maps = self.map_sizes(to_size(img_size))
        self.partition_sizes = maps if partition_sizes is None else [to_size(size) for size in partition_sizes]
        _check_stages(channels, depths, num_sharesets, maps, self.partition_sizes)
        if min(channels) < gate_reduction:
            raise InputError(f"Wanted a gate_reduction of at most {min(channels)} channels; got {gate_reduction}.")
        if any(k % 2 == 0 for k in reparam_kernels):
            raise InputError(f"Wanted odd reparam_kernels; got {list(reparam_kernels)}.")
        if partition_order not in ORDERS:
            raise InputError(f"Wanted partition_order 'aligned' or 'authors'; got {partition_order!r}.")

        def unit(stage: int) -> RepMlpNetUnit:
            rep_mlp = RepMlpBlock(
                channels[stage],
                num_sharesets[stage],
                maps[stage],
                self.partition_sizes[stage],
                reparam_kernels,
                gate_reduction,
                partition_order,
                folded,
            )
            return RepMlpNetUnit(rep_mlp, folded)

        self.stem = ConvNorm(in_chans, channels[0], 4, stride=4, relu=True, folded=folded)
        self.stages = nn.ModuleList(nn.Sequential(*[unit(i) for _ in range(depth)]) for i, depth in enumerate(depths))
        self.downsamples = nn.ModuleList(
            ConvNorm(wide, wider, 2, stride=2, relu=True, folded=folded) for wide, wider in pairwise(channels)
        )
        self.norm: nn.Module = nn.BatchNorm2d(channels[-1])
        if folded:
            self.norm = nn.Identity() if num_classes else ChannelAffine(channels[-1])
        self.head_drop = nn.Dropout(drop_rate)
        self.head = self.make_head(num_classes)

    def init_head(self, head: nn.Linear) -> None:
        """PyTorch's own initialisation, as everywhere in the authors' code."""
        head.reset_parameters()

    def blocks(self) -> Iterator[tuple[int, RepMlpBlock]]:
        """(stage, block) of every unit."""
        for stage, units in enumerate(self.stages):
            for module in units.modules():
                if isinstance(module, RepMlpBlock):
                    yield stage, module

    def token_maps(self) -> dict[str, Tensor]:
        """What each cell of each set's partitions reads: (sets * n, h, w) a unit."""
        return {
            f"unit {i + 1} (stage {stage + 1})": block.fc.weight.unflatten(1, self.partition_sizes[stage])
            for i, (stage, block) in enumerate(self.blocks())
        }

    # ---- image size

    def map_sizes(self, size: Size) -> list[Size]:
        """Each stage's map for images of this size.

        Raises:
            InputError: the last stage's map would be empty.
        """
        least = self.feature_info[-1]["reduction"]
        if min(size) < least:
            raise InputError(f"Wanted images of at least {least} x {least} pixels; got {size[0]} x {size[1]}.")
        return [(size[0] // info["reduction"], size[1] // info["reduction"]) for info in self.feature_info]

    def _fitted(self, size: Size) -> list[Size]:
        """Each stage's partition size at another image size."""
        maps = zip(self.map_sizes(self.arguments["img_size"]), self.partition_sizes, self.map_sizes(size))
        return [(fit_partition(o[0], p[0], n[0]), fit_partition(o[1], p[1], n[1])) for o, p, n in maps]

    def _set_size(self, size: Size) -> None:
        self.partition_sizes = self._fitted(size)
        self.arguments["partition_sizes"] = self.partition_sizes
        super()._set_size(size)
        maps = self.map_sizes(size)
        for stage, block in self.blocks():
            block.map_size, block.partition_size = maps[stage], self.partition_sizes[stage]

    def resize_method(self, state: State, old: Size, new: Size, method: str | None) -> str:
        """Partitions are kept where they divide the new map ("tile" insists on it), and resampled elsewhere."""
        if method == "tile" and self._fitted(new) != self.partition_sizes:
            raise InputError(
                f"Tiling needs maps that the partitions {self.partition_sizes} divide; an image of {new[0]} x {new[1]} "
                f"has {self.map_sizes(new)}. Take a whole multiple of {old[0]} x {old[1]}, or method='resample'."
            )
        return method if method == "tile" else super().resize_method(state, old, new, method)

    def _partition_sizes_in(self, state: State) -> list[Size]:
        """Each stage's partition size in a state dict: this model's, else a square or of the same shape."""
        weights = [state.get(f"stages.{i}.0.rep_mlp.fc.weight") for i in range(len(self.partition_sizes))]
        return [
            own if weight is None else rectangle_of(weight.shape[1], own)
            for weight, own in zip(weights, self.partition_sizes)
        ]

    def size_from_state(self, state: State) -> Size:
        """This model's own size if its partitions are the file's; else, taking those for full maps, the file's."""
        sizes = self._partition_sizes_in(state)
        if sizes == self.partition_sizes:
            return self.arguments["img_size"]
        return 4 * sizes[0][0], 4 * sizes[0][1]

    def resize_state(self, state: State, old: Size, new: Size, method: str) -> dict[str, Tensor]:
        """Fully-connected layers at other partitions: rows and columns resampled as images, row sums kept."""
        held = self._partition_sizes_in(state)
        wanted = self.partition_sizes if new == self.arguments["img_size"] else self._fitted(new)
        resized = dict(state)
        for key, value in state.items():
            match = re.fullmatch(r"stages\.(\d+)\.\d+\.rep_mlp\.fc\.(weight|bias)", key)
            if match is None or held[int(match[1])] == wanted[int(match[1])]:
                continue
            sizes = held[int(match[1])], wanted[int(match[1])]
            value = resample_outputs(value.unflatten(0, (-1, math.prod(sizes[0]))), *sizes, dim=1).flatten(0, 1)
            resized[key] = resample_inputs(value, *sizes) if match[2] == "weight" else value
        return resized

    # ---- folding

    def folded_state(self) -> dict[str, Tensor]:
        """See `merge_norms`."""
        return in_float64(self.state_dict(), lambda state: merge_norms(state, self.partition_sizes))


def _check_stages(
    channels: Sequence[int], depths: Sequence[int], sets: Sequence[int], maps: list[Size], partitions: list[Size]
) -> None:
    lengths = {"channels": len(channels), "depths": len(depths), "num_sharesets": len(sets)}
    lengths["partition_sizes"] = len(partitions)
    if len(set(lengths.values())) > 1:
        raise InputError(f"Wanted one number a stage in each list; got {lengths}.")
    for width, count in zip(channels, sets):
        if width % count:
            raise InputError(f"Wanted num_sharesets that divide the channels; got {count} sets of {width} channels.")
    for map_size, partition_size in zip(maps, partitions):
        partition_grid(map_size, partition_size)


def _size(
    channels: Sequence[int], depths: Sequence[int], num_sharesets: Sequence[int], img_size: int
) -> dict[str, Sequence[int] | int]:
    return {"channels": channels, "depths": depths, "num_sharesets": num_sharesets, "img_size": img_size}


_T, _B, _D = (64, 128, 256, 512), (96, 192, 384, 768), (80, 160, 320, 640)

register(
    RepMlpNet,
    {
        "repmlpnet_t224": _size(_T, (2, 2, 6, 2), (1, 4, 16, 128), 224),
        "repmlpnet_t256": _size(_T, (2, 2, 6, 2), (1, 4, 16, 128), 256),
        "repmlpnet_b224": _size(_B, (2, 2, 12, 2), (1, 4, 32, 128), 224),
        "repmlpnet_b256": _size(_B, (2, 2, 12, 2), (1, 4, 32, 128), 256),
        "repmlpnet_d256": _size(_D, (2, 2, 18, 2), (1, 4, 16, 128), 256),
        "repmlpnet_l256": _size(_B, (2, 2, 18, 2), (1, 4, 32, 256), 256),
        "repmlpnet_nano": _size((48, 96, 144, 192), (2, 2, 2, 1), (8, 16, 48, 64), 32),
    },
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    interpolation="bilinear",
    crop_pct=1.0,
    licence="mit",
    url="https://github.com/DingXiaoH/RepMLP",
    out_indices=4,
)
