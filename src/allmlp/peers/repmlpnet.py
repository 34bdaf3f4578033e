"""RepMLPNet as the authors write it: fully-connected layers as grouped 1x1 convolutions of 1x1 maps.

Source: DingXiaoH/RepMLP @ 3eff13f, repmlpnet.py (MIT); their names.
Shapes: b batch, c channels, H W a map, h w a partition, s sets, q rows that hold one channel of every set.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from allmlp.reparam.batch_norm import batch_norm_affine
from allmlp.reparam.conv_to_fc import conv_to_fc


class _ConvNorm(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, pad: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, pad, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Float[Tensor, "b i H W"]) -> Float[Tensor, "b o h w"]:
        return self.bn(self.conv(x))


class _Gate(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Float[Tensor, "b c H W"]) -> Float[Tensor, "b c 1 1"]:
        return torch.sigmoid(self.fc2(torch.relu(self.fc1(self.pool(x)))))


class _Block(nn.Module):
    def __init__(self, channels: int, sets: int, size: tuple[int, int], kernels: list[int], hidden: int) -> None:
        super().__init__()
        self.size, self.sets = size, sets
        width = sets * size[0] * size[1]
        self.gp = _Gate(channels, hidden)
        self.fc3 = nn.Conv2d(width, width, 1, groups=sets, bias=False)
        self.fc3_bn: Any = nn.BatchNorm2d(sets)
        self.kernels = list(kernels)
        for k in kernels:
            setattr(self, f"repconv{k}", _ConvNorm(sets, sets, k, groups=sets, pad=k // 2))

    def forward(self, x: Float[Tensor, "b c H W"]) -> Float[Tensor, "b c H W"]:
        (batch, channels, rows, columns), (height, width) = x.shape, self.size
        parts = x.reshape(batch, channels, rows // height, height, columns // width, width).permute(0, 2, 4, 1, 3, 5)
        rows_of_sets = parts.reshape(-1, self.sets, height, width)
        y = self.fc3(rows_of_sets.reshape(-1, self.sets * height * width, 1, 1))
        y = self.fc3_bn(y.reshape(-1, self.sets, height, width))
        for k in self.kernels:
            y = y + getattr(self, f"repconv{k}")(rows_of_sets)
        y = y.reshape(batch, rows // height, columns // width, channels, height, width)
        return y.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, rows, columns) * self.gp(x)

    def inject(self) -> None:
        """Merge norm and convolutions into `fc3`, which gets a bias: the authors' locality injection."""
        cells = self.size[0] * self.size[1]
        scale, shift = (part.repeat_interleave(cells) for part in batch_norm_affine(self.fc3_bn))
        weight, bias = self.fc3.weight.flatten(1) * scale[:, None], shift
        for k in self.kernels:
            pair: Any = self.get_submodule(f"repconv{k}")
            scale, shift = batch_norm_affine(pair.bn)
            weight = weight + conv_to_fc(pair.conv.weight * scale[:, None, None, None], self.size)
            bias = bias + shift.repeat_interleave(cells)
            delattr(self, f"repconv{k}")
        self.kernels = []
        self.fc3_bn = nn.Identity()
        self.fc3.weight.copy_(weight[..., None, None])
        self.fc3.bias = nn.Parameter(bias.to(self.fc3.weight))


class _Ffn(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ffn_fc1 = _ConvNorm(channels, 4 * channels, 1)
        self.act = nn.GELU()
        self.ffn_fc2 = _ConvNorm(4 * channels, channels, 1)

    def forward(self, x: Float[Tensor, "b c H W"]) -> Float[Tensor, "b c H W"]:
        return self.ffn_fc2(self.act(self.ffn_fc1(x)))


class _Unit(nn.Module):
    def __init__(self, channels: int, block: _Block) -> None:
        super().__init__()
        self.prebn1 = nn.BatchNorm2d(channels)
        self.repmlp_block = block
        self.prebn2 = nn.BatchNorm2d(channels)
        self.ffn_block = _Ffn(channels)

    def forward(self, x: Float[Tensor, "b c H W"]) -> Float[Tensor, "b c H W"]:
        x = x + self.repmlp_block(self.prebn1(x))
        return x + self.ffn_block(self.prebn2(x))


class RepMlpNetPeer(nn.Module):
    """`allmlp.models.RepMlpNet` with aligned partitions, built from its arguments."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        a = arguments
        channels, (height, width) = list(a["channels"]), a["img_size"]
        sizes = a["partition_sizes"] or [(height // (4 * 2**i), width // (4 * 2**i)) for i in range(len(channels))]
        self.conv_embedding = _ConvNorm(a["in_chans"], channels[0], 4, stride=4)

        def unit(stage: int) -> _Unit:
            wide = channels[stage]
            block = _Block(
                wide,
                a["num_sharesets"][stage],
                tuple(sizes[stage]),
                list(a["reparam_kernels"]),
                wide // a["gate_reduction"],
            )
            return _Unit(wide, block)

        self.stages: Any = nn.ModuleList(
            nn.ModuleList(unit(stage) for _ in range(depth)) for stage, depth in enumerate(a["depths"])
        )
        self.embeds = nn.ModuleList(_ConvNorm(wide, wider, 2, stride=2) for wide, wider in pairwise(channels))
        self.head_norm = nn.BatchNorm2d(channels[-1])
        self.head = nn.Linear(channels[-1], a["num_classes"])

    def forward(self, x: Float[Tensor, "b i H W"]) -> Float[Tensor, "b k"]:
        """Images to logits."""
        x = torch.relu(self.conv_embedding(x))
        for index, stage in enumerate(self.stages):
            if index:
                x = torch.relu(self.embeds[index - 1](x))
            for unit in stage:
                x = unit(x)
        return self.head(self.head_norm(x).mean(dim=(2, 3)))

    def inject(self) -> "RepMlpNetPeer":
        """Turn into the authors' form for inference, in place: every block's parallel branches become one layer."""
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, _Block):
                    module.inject()
        return self
