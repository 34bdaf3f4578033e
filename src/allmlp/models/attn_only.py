"""Attention only: the control of feed-forward only, a ViT whose feed-forward is attention along the channels.

Paper: Melas-Kyriazi, "Do You Even Need Attention? A Stack of Feed-Forward Layers Does Surprisingly Well on ImageNet",
    arXiv 2105.02723, the experiment at the end of its results.
Source: none was released. Rebuilt from the text and from its 4.0 M parameters: DeiT-tiny's widths, attention over
    tokens, then attention over channels with all tokens as features, which one head must hold since 197 is a prime.
Differs: unknown; the paper gives neither the order of the two nor heads and scale (tests/models/test_ff_only.py).
Shapes: b batch, n tokens (class token first, then the grid row-major), c channels (embed_dim).
"""

from collections.abc import Sequence
from typing import ClassVar

from jaxtyping import Float
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from allmlp.models._base import records_arguments
from allmlp.models._registry import register
from allmlp.models.ff_only import FeedForwardOnly


class SelfAttention(nn.Module):
    """Softmax(Q K' / sqrt(width of a head)) V, projected: rows see rows, whatever rows and features are."""

    def __init__(self, features: int, width: int, num_heads: int, drop: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(features, 3 * width)
        self.proj = nn.Linear(width, features)
        self.drop = nn.Dropout(drop)

    def attend(self, x: Float[Tensor, "b a f"]) -> Float[Tensor, "b a w"]:
        """What `proj` is applied to: the heads' outputs side by side."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def forward(self, x: Float[Tensor, "b a f"]) -> Float[Tensor, "b a f"]:
        """Mix the rows."""
        return self.drop(self.proj(self.attend(x)))

    def first(self, x: Float[Tensor, "b a f"]) -> Float[Tensor, "b a"]:
        """The first entry of each row of `forward`, in evaluation, for less work."""
        return F.linear(self.attend(x), self.proj.weight[:1], self.proj.bias[:1]).squeeze(-1)


class AttentionBlock(nn.Module):
    """U = X + token_attention(norm1(X)); Y = U + channel_attention(norm2(U')), U' the transpose."""

    def __init__(
        self, num_tokens: int, embed_dim: int, width: int, num_heads: int, drop: float, drop_path: float, folded: bool
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=1e-6, elementwise_affine=not folded)
        self.token_attention = SelfAttention(embed_dim, embed_dim, num_heads, drop)
        self.norm2 = nn.LayerNorm(num_tokens, eps=1e-6, elementwise_affine=not folded)
        self.channel_attention = SelfAttention(num_tokens, width, 1, drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """One layer."""
        x = x + self.drop_path(self.token_attention(self.norm1(x)))
        return x + self.drop_path(self.channel_attention(self.norm2(x.transpose(1, 2)))).transpose(1, 2)

    def class_token(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b c"]:
        """The class token of `forward`, in evaluation, for less work."""
        x = x + self.token_attention(self.norm1(x))
        return x[:, 0] + self.channel_attention.first(self.norm2(x.transpose(1, 2)))


class AttentionOnly(FeedForwardOnly):
    """Feed-forward only's stem, positions, norm and head around layers of attention over tokens and over channels.

    Args:
        num_heads: heads of the attention over tokens.
        tokens_attn_dim: width of the attention over channels, whose features are the tokens; by default the number of
            tokens. Changing the image size keeps it.

    The others are those of `FeedForwardOnly`.
    """

    layouts = ()
    reads_channels: ClassVar[str] = "token_attention.qkv"
    reads_tokens: ClassVar[str] = "channel_attention.qkv"
    writes_tokens: ClassVar[str] = "channel_attention.proj"
    tokens_width: ClassVar[str] = "tokens_attn_dim"

    @records_arguments
    def __init__(
        self,
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 192,
        depth: int = 12,
        num_heads: int = 3,
        tokens_attn_dim: int | None = None,
        pos_grid: int | Sequence[int] = (14, 14),
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "token",
        folded: bool = False,
    ) -> None:
        nn.Module.__init__(self)
        self._describe(num_classes, in_chans, embed_dim, global_pool, folded)
        self._describe_tokens(img_size, patch_size, depth)

        def block(tokens: int, drop_path: float) -> nn.Module:
            width = tokens_attn_dim or tokens
            return AttentionBlock(tokens, embed_dim, width, num_heads, drop_rate, drop_path, folded)

        self._assemble(block, depth, pos_grid, drop_rate, drop_path_rate)


register(
    AttentionOnly,
    {"attn_only_tiny": {"tokens_attn_dim": 197}},
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    licence="",
    url="https://github.com/lukemelas/do-you-even-need-attention",
    mixing="attention",
)
