"""AS-MLP as the authors write it: channels-first 1x1 convolutions; a shift is pad, chunk, roll, concatenate, crop.

Source: svip-lab/AS-MLP @ dd1eb4f, models/as_mlp.py (MIT); their names. Of their two shifts the one in plain PyTorch;
    the other one is a CUDA kernel.
Shapes: b batch, c channels of a stage, h w map.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from allmlp.errors import InputError


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(1, channels)


class _AxialShift(nn.Module):
    def __init__(self, dim: int, shift_size: int, bias: bool) -> None:
        super().__init__()
        self.shift_size, self.pad = shift_size, shift_size // 2
        self.conv1 = nn.Conv2d(dim, dim, 1, bias=bias)
        self.conv2_1 = nn.Conv2d(dim, dim, 1, bias=bias)
        self.conv2_2 = nn.Conv2d(dim, dim, 1, bias=bias)
        self.conv3 = nn.Conv2d(dim, dim, 1, bias=bias)
        self.actn = nn.GELU()
        self.norm1, self.norm2 = _norm(dim), _norm(dim)

    def _shift(self, chunks: tuple[Tensor, ...], dim: int, height: int, width: int) -> Float[Tensor, "b c h w"]:
        offsets = range(-self.pad, self.pad + 1)
        x = torch.cat([torch.roll(chunk, offset, dim) for chunk, offset in zip(chunks, offsets)], dim=1)
        return x.narrow(2, self.pad, height).narrow(3, self.pad, width)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        height, width = x.shape[2:]
        x = self.actn(self.norm1(self.conv1(x)))
        chunks = torch.chunk(F.pad(x, (self.pad, self.pad, self.pad, self.pad)), self.shift_size, dim=1)
        across = self.actn(self.conv2_1(self._shift(chunks, 3, height, width)))
        down = self.actn(self.conv2_2(self._shift(chunks, 2, height, width)))
        return self.conv3(self.norm2(across + down))


class _Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self.fc2(self.act(self.fc1(x)))


class _Block(nn.Module):
    def __init__(self, dim: int, a: Mapping[str, Any]) -> None:
        super().__init__()
        self.norm1 = _norm(dim)
        self.axial_shift = _AxialShift(dim, a["shift_size"], a["bias"])
        self.norm2 = _norm(dim)
        self.mlp = _Mlp(dim, int(dim * a["mlp_ratio"]))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        x = x + self.axial_shift(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _PatchMerging(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = _norm(4 * dim)
        self.reduction = nn.Conv2d(4 * dim, 2 * dim, 1, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        phases = [x[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(phases, dim=1)))


class _Stage(nn.Module):
    def __init__(self, dim: int, depth: int, last: bool, a: Mapping[str, Any]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(dim, a) for _ in range(depth))
        self.downsample = None if last else _PatchMerging(dim)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class _PatchEmbedding(nn.Module):
    def __init__(self, in_chans: int, dim: int, patch_size: int, norm: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, patch_size, stride=patch_size)
        self.norm = _norm(dim) if norm else None

    def forward(self, x: Float[Tensor, "b i H W"]) -> Float[Tensor, "b c h w"]:
        x = self.proj(x)
        return x if self.norm is None else self.norm(x)


class AsMlpPeer(nn.Module):
    """`allmlp.models.AsMlp`, built from its arguments; zero padding and neighbouring cells only.

    Raises:
        InputError: another padding or a dilation, or an image that merging does not divide evenly.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        a = arguments
        if a["shift_padding"] != "zeros" or a["dilation"] != 1:
            raise InputError("The authors' AS-MLP shifts with zeros and dilation 1 only; no other has been released.")
        stride = a["patch_size"] * 2 ** (len(a["depths"]) - 1)
        if a["img_size"][0] % stride or a["img_size"][1] % stride:
            raise InputError(f"The authors' AS-MLP takes images of a multiple of {stride} pixels; got {a['img_size']}.")
        dims = [a["embed_dim"] * 2**i for i in range(len(a["depths"]))]
        self.patch_embed = _PatchEmbedding(a["in_chans"], dims[0], a["patch_size"], a["patch_norm"])
        self.layers = nn.ModuleList(_Stage(dim, depth, dim == dims[-1], a) for dim, depth in zip(dims, a["depths"]))
        self.norm = _norm(dims[-1])
        self.head = nn.Linear(dims[-1], a["num_classes"])

    def forward(self, x: Float[Tensor, "b i H W"]) -> Float[Tensor, "b k"]:
        """Images to logits."""
        x = self.patch_embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(F.adaptive_avg_pool2d(self.norm(x), 1).flatten(1))
