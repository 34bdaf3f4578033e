"""What networks with `RepMlpV1Block`s inside share: other image sizes and folding."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import ClassVar

from torch import Tensor, nn

from allmlp.errors import InputError
from allmlp.models._base import Size, State, to_size
from allmlp.models._hierarchical import HierarchicalModel
from allmlp.models.repmlp_v1 import GlobalPerceptron, RepMlpV1Block, resample_block
from allmlp.ops.partition import partition_grid, rectangle_of
from allmlp.reparam.state_dict import MutableState, in_float64, merge_conv_norms


class RepMlpV1Host(HierarchicalModel):
    """A hierarchical model with RepMLP blocks of the first version.

    A subclass has the arguments `partition` and `reduction`, and sets `mixed_stages`, the stages that hold such blocks,
    and `partition_size`.
    """

    first_conv: ClassVar[str] = "stem.conv"
    train_only_key: ClassVar[str] = "stem.norm.weight"
    partition_argument: ClassVar[str] = "partition"
    mixed_stages: Sequence[int]
    partition_size: Size

    def map_sizes(self, size: Size) -> list[Size]:
        """Each stage's map for images of this size."""
        raise NotImplementedError

    def init_head(self, head: nn.Linear) -> None:
        """PyTorch's own initialisation."""
        head.reset_parameters()

    def blocks(self) -> Iterator[tuple[str, int, RepMlpV1Block]]:
        """(path, stage, block) of every RepMLP block."""
        for path, module in self.named_modules():
            if isinstance(module, RepMlpV1Block):
                yield path, int(path.split(".")[1]), module

    # ---- image size

    def _fit(self, size: Size) -> tuple[Size, float]:
        """The partition size and the reduction at another image size.

        Along each axis the partition is kept if it divides the new maps, else the number of partitions. Hidden widths
        stay: the reduction grows with the number of partitions.

        Raises:
            InputError: neither is possible, or a map of several partitions would keep one, without a global perceptron.
        """
        own = self.arguments["img_size"]
        old, new = ([self.map_sizes(s)[i] for i in self.mixed_stages] for s in (own, size))
        held = self.partition_size
        if not old:
            return held, self.arguments["reduction"]
        before = [_count(map_size, held) for map_size in old]
        heights, widths = ((held[axis], held[axis] * new[0][axis] // old[0][axis]) for axis in (0, 1))
        for partition in itertools.product(heights, widths):
            after = [_count(map_size, partition) for map_size in new]
            ratios = {now / was for now, was in zip(after, before)}
            if 0 not in after and len(ratios) == 1 and all(was == 1 or now > 1 for now, was in zip(after, before)):
                return partition, self.arguments["reduction"] * ratios.pop()
        near = " x ".join(str(max(1, round(side / base)) * base) for side, base in zip(size, own))
        raise InputError(
            f"Wanted an image size whose maps can be cut into partitions of {held[0]} x {held[1]} cells, or into as "
            f"many as now; got {size[0]} x {size[1]}, with maps {new}. The nearest multiple of the present size, which "
            f"works, is {near}."
        )

    def set_input_size(self, img_size: int | Sequence[int], method: str | None = None) -> None:
        """See the base class. Where a map of one partition gets more, a global perceptron comes that adds 0 as yet."""
        size = to_size(img_size)
        partition, _ = self._fit(size)
        self.resize_method({}, self.arguments["img_size"], size, method)  # raises before anything changes
        for _, stage, block in self.blocks():
            if block.grid == (1, 1) and self.map_sizes(size)[stage] != partition:
                block.add_global_perceptron()
        super().set_input_size(size, method)

    def _set_size(self, size: Size) -> None:
        self.partition_size, reduction = self._fit(size)
        self.arguments.update(partition=self.partition_size, reduction=reduction)
        super()._set_size(size)
        for _, stage, block in self.blocks():
            height, width = self.map_sizes(size)[stage]
            block.place((height, width), self.partition_size)
            block.arguments.update(height=height, width=width, partition=self.partition_size, reduction=reduction)

    def _held(self, state: State, path: str, block: RepMlpV1Block) -> tuple[Size, Size]:
        """Partition size and grid of a block in a state dict."""
        weight = state.get(f"{path}.fc.weight")
        bias = state.get(f"{path}.global_perceptron.fc2.bias")
        cells = math.prod(block.partition_size) if weight is None else weight.shape[0] // block.out_chans
        count = 1 if bias is None else bias.shape[0] // block.in_chans
        return rectangle_of(cells, block.partition_size), rectangle_of(count, block.grid)

    def size_from_state(self, state: State) -> Size | None:
        """This model's own size if its partitions are the file's, else the file's; None without RepMLP blocks."""
        size = None
        for path, stage, block in self.blocks():
            held, grid = self._held(state, path, block)
            if (held, grid) != (block.partition_size, block.grid):
                reduction = self.feature_info[stage]["reduction"]
                return held[0] * grid[0] * reduction, held[1] * grid[1] * reduction
            size = self.arguments["img_size"]
        return size

    def resize_state(self, state: State, old: Size, new: Size, method: str) -> dict[str, Tensor]:
        """RepMLP blocks at other partitions; see `resample_block`.

        Raises:
            InputError: a file's global perceptron has another hidden width than this model's.
        """
        wanted = self.partition_size if new == self.arguments["img_size"] else self._fit(new)[0]
        resized = dict(state)
        for path, stage, block in self.blocks():
            held, grid = self._held(state, path, block)
            sizes, grids = (held, wanted), (grid, partition_grid(self.map_sizes(new)[stage], wanted))
            for key in [key for key in state if key.startswith(path + ".")]:
                resized[key] = resample_block(key.removeprefix(path + "."), state[key], sizes, grids)
            self._check_hidden(resized, path, block)
        return resized

    def _check_hidden(self, state: State, path: str, block: RepMlpV1Block) -> None:
        key, perceptron = f"{path}.global_perceptron.fc1.bias", block.global_perceptron
        if key in state and isinstance(perceptron, GlobalPerceptron):
            theirs, own = state[key].shape[0], perceptron.fc1.bias.shape[0]
            if theirs != own:
                raise InputError(
                    f"The file's global perceptrons have {theirs} hidden units where this model's have {own} ({path}). "
                    f"Build the model with reduction={self.arguments['reduction'] * own / theirs:g}."
                )

    # ---- folding

    def folded_state(self) -> dict[str, Tensor]:
        """Every norm goes into the layer before it, the norms of the global perceptrons' means into the one after."""

        def merge(state: MutableState) -> None:
            merge_conv_norms(state)
            for path, _, block in self.blocks():
                block.merge_norms(state, path + ".")

        return in_float64(self.state_dict(), merge)


def _count(map_size: Size, partition: Size) -> int:
    """How many partitions a map holds; 0 if they do not fill it."""
    if min(partition) < 1 or map_size[0] % partition[0] or map_size[1] % partition[1]:
        return 0
    return (map_size[0] // partition[0]) * (map_size[1] // partition[1])


def by_stage(name: str, values: int | Sequence[int], stages: Sequence[int]) -> dict[int, int]:
    """One value for each of these stages, from one for all or a list of as many."""
    listed = [values] * len(stages) if isinstance(values, int) else list(values)
    if len(listed) != len(stages):
        raise InputError(f"Wanted {name} with one number for each of {len(stages)} stages; got {listed}.")
    return dict(zip(stages, listed))
