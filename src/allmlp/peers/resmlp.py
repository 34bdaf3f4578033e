"""ResMLP as the authors write it: an affine map, a linear layer between two transposes, a layer scale, each apart.

Source: facebookresearch/deit @ 7e160fe, resmlp_models.py (Apache-2.0); their names.
Shapes: b batch, n tokens, c channels.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from allmlp.peers._parts import Mlp, PatchEmbedding


class _Affine(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(dim))
        self.beta = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
        return self.alpha * x + self.beta


class _Block(nn.Module):
    def __init__(self, tokens: int, dim: int, hidden: int, drop: float) -> None:
        super().__init__()
        self.norm1 = _Affine(dim)
        self.attn = nn.Linear(tokens, tokens)  # by the authors' name
        self.norm2 = _Affine(dim)
        self.mlp = Mlp(dim, hidden, drop=drop)
        self.gamma_1 = nn.Parameter(torch.ones(dim))
        self.gamma_2 = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        y = self.attn(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.gamma_1 * y
        return x + self.gamma_2 * self.mlp(self.norm2(x))


class ResMlpPeer(nn.Module):
    """`allmlp.models.ResMlp`, built from its arguments."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        a = arguments
        self.patch_embed = PatchEmbedding(a["in_chans"], a["embed_dim"], a["patch_size"])
        tokens, hidden = self.patch_embed.tokens(a["img_size"]), int(a["embed_dim"] * a["mlp_ratio"])
        self.blocks = nn.ModuleList(_Block(tokens, a["embed_dim"], hidden, a["drop_rate"]) for _ in range(a["depth"]))
        self.norm = _Affine(a["embed_dim"])
        self.head = nn.Linear(a["embed_dim"], a["num_classes"])

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b k"]:
        """Images to logits."""
        x = self.patch_embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(dim=1))
