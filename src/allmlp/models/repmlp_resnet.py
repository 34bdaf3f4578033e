"""ResNet-50 with blocks of RepMLP's first version.

Paper: Ding et al., "RepMLP: Re-parameterizing Convolutions into Fully-connected Layers for Image Recognition",
    arXiv 2105.01883, section 4.2.
Source: DingXiaoH/RepMLP @ 4b3e347, repmlp_blocks.py and repmlp_resnet.py (MIT).
Differs: nothing in the networks that the authors' code can build (tests/models/test_repmlp_v1.py, golden numbers).
    Which stages hold RepMLP blocks, and groups by stage, are arguments here, as the paper's tables need.
    `repmlp_resnet50_light` has the released code's 4 groups, where the paper's has 8 (docs/deviations.md).
Shapes: b batch, i image channels, c channels in and d out, H x W a map in and h x w out.
"""

from collections import OrderedDict
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from allmlp.convert.repmlp import V1_HOST_LAYOUTS
from allmlp.errors import InputError
from allmlp.layers import ConvNorm
from allmlp.models._base import Size, records_arguments, to_size
from allmlp.models._registry import register
from allmlp.models._repmlp_host import RepMlpV1Host, by_stage
from allmlp.models.repmlp_v1 import RepMlpV1Block


class Stem(ConvNorm):
    """A 7x7 convolution of stride 2 with norm and ReLU, then 3x3 max pooling of stride 2."""

    def __init__(self, in_chans: int, channels: int, folded: bool) -> None:
        super().__init__(in_chans, channels, 7, stride=2, padding=3, relu=True, folded=folded)

    def forward(self, x: Float[Tensor, "b i H W"]) -> Float[Tensor, "b c h w"]:
        """Images to a map of a quarter of their sides, rounded up."""
        return F.max_pool2d(super().forward(x), 3, stride=2, padding=1)


class ResidualBlock(nn.Module):
    """relu(shortcut(x) + expand(body(reduce(x)))), `reduce` and `expand` 1x1 convolutions with norms.

    The body is a 3x3 convolution ("base"), a RepMLP block ("light"), or one between two 3x3 convolutions
    ("bottleneck"); a ReLU follows each.
    """

    def __init__(self, channels: int, out_chans: int, inner: int, body: nn.Module, stride: int, folded: bool) -> None:
        super().__init__()
        self.reduce = ConvNorm(channels, inner, 1, relu=True, folded=folded)
        self.body = body
        self.expand = ConvNorm(inner, out_chans, 1, folded=folded)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out_chans:
            self.shortcut = ConvNorm(channels, out_chans, 1, stride=stride, folded=folded)

    def forward(self, x: Float[Tensor, "b c H W"]) -> Float[Tensor, "b d h w"]:
        """One residual block."""
        return F.relu(self.shortcut(x) + self.expand(self.body(self.reduce(x))))


class RepMlpResNet(RepMlpV1Host):
    """ResNet whose blocks of stride 1 hold RepMLP blocks in some stages.

    Args:
        img_size: image height and width in pixels (or one number); the fully-connected layers belong to it.
        in_chans: image channels.
        num_classes: classes of the head; 0 for none.
        depths: blocks of each of the four stages; the first of a stage is always ResNet's own.
        block_type: "light": RepMLP at an eighth of a stage's channels. "bottleneck": at a quarter divided by the
            stage's `bottleneck_reduction`, between two 3x3 convolutions.
        partition: (height, width) of a partition in cells; default the last stage's map, which is 7 x 7 for images of
            224 pixels.
        reparam_kernels: odd kernel sizes of the parallel convolutions.
        reduction: a global perceptron's hidden width is its input width divided by this.
        bottleneck_reduction: one number for each of `mixed_stages`; "light" blocks have none.
        groups: of the RepMLP blocks, one number or one for each of `mixed_stages`.
        mixed_stages: the stages, counted from 0, that hold RepMLP blocks; the authors' are the second and the third.
        drop_rate: dropout before the head.
        global_pool: "avg", or "" to keep the map.
        folded: build the inference form (see `allmlp.fold`).

    Raises:
        InputError: an unknown block_type, lists of another length than `mixed_stages`, or partitions that do not
            divide a stage's map.

    Source: arXiv 2105.01883, section 4.2 and Figures 4 and 6.
    """

    layouts = V1_HOST_LAYOUTS

    @records_arguments
    def __init__(
        self,
        img_size: int | Sequence[int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        depths: Sequence[int] = (3, 4, 6, 3),
        block_type: str = "light",
        partition: int | Sequence[int] | None = None,
        reparam_kernels: Sequence[int] = (1, 3, 5),
        reduction: float = 1,
        bottleneck_reduction: int | Sequence[int] = (2, 4),
        groups: int | Sequence[int] = 4,
        mixed_stages: Sequence[int] = (1, 2),
        drop_rate: float = 0.0,
        global_pool: str = "avg",
        folded: bool = False,
    ) -> None:
        super().__init__()
        if block_type not in ("light", "bottleneck"):
            raise InputError(f"Wanted block_type 'light' or 'bottleneck'; got {block_type!r}.")
        self.check_pool(global_pool)
        widths = [256 * 2**i for i in range(len(depths))]
        self._describe(num_classes, in_chans, widths[-1], global_pool, folded)
        self._describe_stages(widths, [4 * 2**i for i in range(len(depths))])
        self.mixed_stages = mixed_stages
        maps = self.map_sizes(to_size(img_size))
        self.partition_size = maps[-1] if partition is None else to_size(partition)
        reductions = by_stage("bottleneck_reduction", bottleneck_reduction, mixed_stages)
        group_counts = by_stage("groups", groups, mixed_stages)

        def conv(channels: int, out_chans: int, stride: int = 1) -> ConvNorm:
            return ConvNorm(channels, out_chans, 3, stride=stride, padding=1, relu=True, folded=folded)

        def block(stage: int, index: int) -> ResidualBlock:
            out, inner = widths[stage], widths[stage] // 4
            if index == 0 or stage not in mixed_stages:
                stride = 2 if index == 0 and stage > 0 else 1
                channels = out if index else widths[stage - 1] if stage else 64
                body = nn.Sequential(OrderedDict(conv=conv(inner, inner, stride)))
                return ResidualBlock(channels, out, inner, body, stride, folded)
            narrow = inner // 2 if block_type == "light" else inner // reductions[stage]
            settings = (self.partition_size, reparam_kernels, reduction, group_counts[stage], folded)
            rep_mlp = RepMlpV1Block(narrow, narrow, *maps[stage], *settings)
            if block_type == "light":
                body = nn.Sequential(OrderedDict(rep_mlp=rep_mlp, act=nn.ReLU()))
                return ResidualBlock(out, out, narrow, body, 1, folded)
            body = nn.Sequential(
                OrderedDict(narrow=conv(inner, narrow), rep_mlp=rep_mlp, act=nn.ReLU(), widen=conv(narrow, inner))
            )
            return ResidualBlock(out, out, inner, body, 1, folded)

        self.stem = Stem(in_chans, 64, folded)
        self.stages = nn.ModuleList(
            nn.Sequential(*[block(stage, index) for index in range(depth)]) for stage, depth in enumerate(depths)
        )
        self.downsamples = nn.ModuleList(nn.Identity() for _ in depths[1:])
        self.norm = nn.Identity()
        self.head_drop = nn.Dropout(drop_rate)
        self.head = self.make_head(num_classes)

    def map_sizes(self, size: Size) -> list[Size]:
        """Each stage's map: every stride of 2 halves the sides, rounded up."""
        return [(-(-size[0] // r), -(-size[1] // r)) for r in (info["reduction"] for info in self.feature_info)]


register(
    RepMlpResNet,
    {
        "repmlp_resnet50": {"block_type": "bottleneck", "groups": 8},
        "repmlp_resnet50_light": {"block_type": "light", "groups": 4},
    },
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    interpolation="bilinear",
    licence="mit",
    url="https://github.com/DingXiaoH/RepMLP",
    out_indices=4,
)
