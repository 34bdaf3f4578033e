"""Feed-forward only as its author writes it: a ViT block whose second half runs on the transposed tokens.

Source: lukemelas/do-you-even-need-attention @ 1f57ab0, vision_transformer_linear.py; its names.
Shapes: b batch, n tokens (class token first), c channels, g h the patch grid.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from allmlp.peers._parts import Mlp, PatchEmbedding


class _Block(nn.Module):
    def __init__(self, tokens: int, dim: int, tokens_mlp_dim: int, channels_mlp_dim: int, drop: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp1 = Mlp(dim, channels_mlp_dim, drop=drop)
        self.norm2 = nn.LayerNorm(tokens, eps=1e-6)
        self.mlp2 = Mlp(tokens, tokens_mlp_dim, drop=drop)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        x = x + self.mlp1(self.norm1(x))
        x = x.transpose(-2, -1)
        x = x + self.mlp2(self.norm2(x))
        return x.transpose(-2, -1)


class _Positions(nn.Module):
    def __init__(self, dim: int, pos_grid: tuple[int, int]) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, dim, *pos_grid))
        self.cls_pos_embed = nn.Parameter(torch.zeros(1, 1, dim))

    def forward(self, cls_token: Tensor, x: Float[Tensor, "b c g h"]) -> Float[Tensor, "b n c"]:
        table: Tensor = self.pos_embed
        if table.shape[2:] != x.shape[2:]:
            table = F.interpolate(table, size=x.shape[2:], mode="bilinear", align_corners=False)
        x = (x + table).flatten(2).transpose(1, 2)
        return torch.cat((cls_token.expand(x.shape[0], -1, -1) + self.cls_pos_embed, x), dim=1)


class FeedForwardOnlyPeer(nn.Module):
    """`allmlp.models.FeedForwardOnly`, built from its arguments."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        a = arguments
        self.class_token = a["global_pool"] == "token"
        dim = a["embed_dim"]
        self.patch_embed = PatchEmbedding(a["in_chans"], dim, a["patch_size"])
        tokens = 1 + self.patch_embed.tokens(a["img_size"])
        hidden = a["tokens_mlp_dim"] or int(tokens * a["mlp_ratio"])
        grid = a["pos_grid"]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_encoding = _Positions(dim, (grid, grid) if isinstance(grid, int) else tuple(grid))
        self.pos_drop = nn.Dropout(a["drop_rate"])
        self.blocks = nn.ModuleList(
            _Block(tokens, dim, hidden, int(dim * a["mlp_ratio"]), a["drop_rate"]) for _ in range(a["depth"])
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, a["num_classes"])

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b k"]:
        """Images to logits."""
        x = self.pos_drop(self.pos_encoding(self.cls_token, self.patch_embed.proj(x)))
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x[:, 0] if self.class_token else x[:, 1:].mean(dim=1))
