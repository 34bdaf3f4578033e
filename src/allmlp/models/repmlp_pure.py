"""The small network of RepMLP's first paper: RepMLP blocks and 1x1 convolutions, for images of 32 pixels.

Paper: Ding et al., "RepMLP: Re-parameterizing Convolutions into Fully-connected Layers for Image Recognition",
    arXiv 2105.01883, section 4.1.
Source: none was released; written from the text.
Differs: how many blocks a stage has, and where the 1x1 convolutions stand, follow from the text's multiply-adds
    (docs/deviations.md). `repmlp_v1_nano` has one group a channel, where the paper's network has 2 groups.
Shapes: b batch, c channels in and d out, H x W a map in and h x w out.
"""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from allmlp.layers import ConvNorm
from allmlp.models._base import Size, records_arguments, to_size
from allmlp.models._registry import register
from allmlp.models._repmlp_host import RepMlpV1Host, by_stage
from allmlp.models.repmlp_v1 import RepMlpV1Block


class PureUnit(nn.Module):
    """relu(rep_mlp(x)), then a 1x1 convolution with norm and ReLU: no kernel is larger than 1 but to be folded."""

    def __init__(self, rep_mlp: RepMlpV1Block, folded: bool) -> None:
        super().__init__()
        self.rep_mlp = rep_mlp
        self.mix = ConvNorm(rep_mlp.out_chans, rep_mlp.out_chans, 1, relu=True, folded=folded)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Mix cells, then channels."""
        return self.mix(F.relu(self.rep_mlp(x)))


class PoolingDownsample(ConvNorm):
    """2x2 max pooling, then a 1x1 convolution to the next stage's channels with norm and ReLU."""

    def forward(self, x: Float[Tensor, "b c H W"]) -> Float[Tensor, "b d h w"]:
        """Halve the sides, rounding down."""
        return super().forward(F.max_pool2d(x, 2))


class RepMlpPure(RepMlpV1Host):
    """The paper's network for images of 32 pixels: RepMLP blocks and 1x1 convolutions in turn, max pooling between.

    The paper's text gives three stages of 16, 32 and 64 channels, partitions of 8 x 8, 2 groups and 52.8 M
    multiply-adds; two units a stage come to 52.5 M when folded. With one group a channel it is small.

    Args:
        img_size: image height and width in pixels (or one number); the fully-connected layers belong to it.
        in_chans: image channels.
        num_classes: classes of the head; 0 for none.
        channels: of each stage. The first works at the image's resolution, each further one at half the sides.
        depths: units of each stage.
        partition: (height, width) of a partition in cells; default the last stage's map.
        reparam_kernels: odd kernel sizes of the parallel convolutions.
        reduction: a global perceptron's hidden width is its input width divided by this.
        groups: of the RepMLP blocks, one number or one a stage.
        drop_rate: dropout before the head.
        global_pool: "avg", or "" to keep the map.
        folded: build the inference form (see `allmlp.fold`).

    Raises:
        InputError: lists of different lengths, or partitions that do not divide a stage's map.

    Source: arXiv 2105.01883, section 4.1.
    """

    @records_arguments
    def __init__(
        self,
        img_size: int | Sequence[int] = 32,
        in_chans: int = 3,
        num_classes: int = 10,
        channels: Sequence[int] = (16, 32, 64),
        depths: Sequence[int] = (2, 2, 2),
        partition: int | Sequence[int] | None = None,
        reparam_kernels: Sequence[int] = (1, 3, 5),
        reduction: float = 1,
        groups: int | Sequence[int] = 2,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
        folded: bool = False,
    ) -> None:
        super().__init__()
        self.check_pool(global_pool)
        self._describe(num_classes, in_chans, channels[-1], global_pool, folded)
        self._describe_stages(channels, [2**i for i in range(len(channels))])
        self.mixed_stages = range(len(channels))
        maps = self.map_sizes(to_size(img_size))
        self.partition_size = maps[-1] if partition is None else to_size(partition)
        group_counts = by_stage("groups", groups, self.mixed_stages)
        by_stage("depths", depths, self.mixed_stages)

        def unit(stage: int) -> PureUnit:
            settings = (self.partition_size, reparam_kernels, reduction, group_counts[stage], folded)
            return PureUnit(RepMlpV1Block(channels[stage], channels[stage], *maps[stage], *settings), folded)

        self.stem = ConvNorm(in_chans, channels[0], 1, relu=True, folded=folded)
        self.stages = nn.ModuleList(
            nn.Sequential(*[unit(stage) for _ in range(depth)]) for stage, depth in enumerate(depths)
        )
        self.downsamples = nn.ModuleList(
            PoolingDownsample(wide, wider, 1, relu=True, folded=folded) for wide, wider in pairwise(channels)
        )
        self.norm = nn.Identity()
        self.head_drop = nn.Dropout(drop_rate)
        self.head = self.make_head(num_classes)

    def map_sizes(self, size: Size) -> list[Size]:
        """Each stage's map: pooling halves the sides, rounding down."""
        return [(size[0] // r, size[1] // r) for r in (info["reduction"] for info in self.feature_info)]


register(
    RepMlpPure,
    {"repmlp_v1_nano": {"groups": (16, 32, 64)}},
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    licence="mit",
    url="https://github.com/DingXiaoH/RepMLP",
)
