"""EAMLP as the authors write it: heads by reshape and permute, softmax over tokens, then division over the memory.

Source: MenghaoGuo/EANet @ 59c03cb, EAMLP/models: t2t_vit.py, token_performer.py, transformer_block.py (Clear BSD);
    their names.
Shapes: b batch, n tokens, c channels, k heads, d width of a head, p values of a patch, H W and h w maps.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from allmlp.errors import InputError
from allmlp.models.ea_mlp import sinusoid
from allmlp.models.ea_tokenizer import KERNELS, MEMORY_SIZE, padding_of, patches_along
from allmlp.peers._parts import Mlp


class _TokenAttention(nn.Module):
    def __init__(self, patch: int, dim: int, drop: float) -> None:
        super().__init__()
        self.q_linear = nn.Linear(patch, dim)
        self.linear_0 = nn.Linear(dim, MEMORY_SIZE, bias=False)
        self.linear_1 = nn.Linear(MEMORY_SIZE, dim)
        self.attn_drop = nn.Dropout(drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop)

    def forward(self, x: Float[Tensor, "b n p"]) -> Float[Tensor, "b n d"]:
        query = self.q_linear(x)
        attn = self.linear_0(query).softmax(dim=-2)
        attn = self.attn_drop(attn / (1e-9 + attn.sum(dim=-1, keepdim=True)))
        return query + self.proj_drop(self.proj(self.linear_1(attn)))


class _TokenBlock(nn.Module):
    def __init__(self, patch: int, dim: int, drop: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(patch)
        self.attn = _TokenAttention(patch, dim, drop)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, dim)

    def forward(self, x: Float[Tensor, "b n p"]) -> Float[Tensor, "b n d"]:
        x = self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _Tokenizer(nn.Module):
    def __init__(self, a: Mapping[str, Any], drop: float) -> None:
        super().__init__()
        cuts = list(zip(KERNELS, a["token_strides"]))
        self.soft_splits = nn.ModuleList(nn.Unfold(k, padding=padding_of(k, s), stride=s) for k, s in cuts)
        self.attention1 = _TokenBlock(a["in_chans"] * KERNELS[0] ** 2, a["token_dim"], drop)
        self.attention2 = _TokenBlock(a["token_dim"] * KERNELS[1] ** 2, a["token_dim"], drop)
        self.project = nn.Linear(a["token_dim"] * KERNELS[2] ** 2, a["embed_dim"])

    def forward(self, x: Float[Tensor, "b i H W"]) -> Float[Tensor, "b n c"]:
        first, second, third = self.soft_splits
        x = second(self._as_map(self.attention1(first(x).transpose(1, 2)))).transpose(1, 2)
        return self.project(third(self._as_map(self.attention2(x))).transpose(1, 2))

    @staticmethod
    def _as_map(x: Float[Tensor, "b n d"]) -> Float[Tensor, "b d h w"]:
        side = math.isqrt(x.shape[1])  # the authors' maps are square
        return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], side, side)


class _Attention(nn.Module):
    def __init__(self, dim: int, num_heads: int, memory_size: int, drop: float) -> None:
        super().__init__()
        self.heads = 4 * num_heads
        self.trans_dims = nn.Linear(dim, 4 * dim)
        self.linear_0 = nn.Linear(dim // num_heads, memory_size)
        self.linear_1 = nn.Linear(memory_size, dim // num_heads)
        self.proj = nn.Linear(4 * dim, dim)
        self.proj_drop = nn.Dropout(drop)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        batch, tokens, _ = x.shape
        x = self.trans_dims(x).view(batch, tokens, self.heads, -1).permute(0, 2, 1, 3)
        attn = self.linear_0(x).softmax(dim=-2)
        attn = attn / (1e-9 + attn.sum(dim=-1, keepdim=True))
        x = self.linear_1(attn).permute(0, 2, 1, 3).reshape(batch, tokens, -1)
        return self.proj_drop(self.proj(x))


class _Block(nn.Module):
    def __init__(self, a: Mapping[str, Any]) -> None:
        super().__init__()
        dim = a["embed_dim"]
        self.norm1 = nn.LayerNorm(dim)
        self.attn = _Attention(dim, a["num_heads"], a["memory_size"], a["drop_rate"])
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * a["mlp_ratio"]), drop=a["drop_rate"])

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class EaMlpPeer(nn.Module):
    """`allmlp.models.EaMlp`, built from its arguments; square images only.

    Raises:
        InputError: an image size that is not square.
    """

    pos_embed: Tensor

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        a = arguments
        if a["img_size"][0] != a["img_size"][1]:
            raise InputError(f"The authors' EAMLP takes square images only; got {a['img_size']}.")
        side = a["img_size"][0]
        for kernel, stride in zip(KERNELS, a["token_strides"]):
            side = patches_along(side, kernel, stride)
        self.class_token = a["global_pool"] == "token"
        self.tokens_to_token = _Tokenizer(a, 0.1 if a["tokenizer"] == "performer" else 0.0)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, a["embed_dim"]))
        self.register_buffer("pos_embed", sinusoid(1 + side * side, a["embed_dim"]))
        self.pos_drop = nn.Dropout(a["drop_rate"])
        self.blocks = nn.ModuleList(_Block(a) for _ in range(a["depth"]))
        self.norm = nn.LayerNorm(a["embed_dim"])
        self.head = nn.Linear(a["embed_dim"], a["num_classes"])

    def forward(self, x: Float[Tensor, "b i H W"]) -> Float[Tensor, "b k"]:
        """Images to logits."""
        x = self.tokens_to_token(x)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        x = self.pos_drop(x + self.pos_embed)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x[:, 0] if self.class_token else x[:, 1:].mean(dim=1))
