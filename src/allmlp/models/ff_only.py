"""Feed-forward only: a ViT whose attention is a second feed-forward layer, along the token axis.

Paper: Melas-Kyriazi, "Do You Even Need Attention? A Stack of Feed-Forward Layers Does Surprisingly Well on ImageNet",
    arXiv 2105.02723, results table.
Source: lukemelas/do-you-even-need-attention @ 1f57ab0, vision_transformer_linear.py (no licence file).
Differs: nothing in evaluation (tests/models/test_ff_only.py, golden numbers). Images of any multiple of the patch size
    are taken, where the authors' token layers are for 224 pixels.
Shapes: b batch, h w token grid, n tokens (class token first, then the grid row-major), c channels (embed_dim).
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from allmlp.convert import Layout
from allmlp.convert.ff_only import LAYOUTS
from allmlp.models._base import Size, State, records_arguments, to_size
from allmlp.models._isotropic import IsotropicModel
from allmlp.models._registry import register
from allmlp.ops.token_grid import resample_inputs, resample_outputs
from allmlp.reparam.state_dict import merge_affine_into


class FeedForward(nn.Module):
    """W2 gelu(W1 x + b1) + b2 along the last axis, with dropout after each step."""

    def __init__(self, width: int, hidden: int, drop: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Float[Tensor, "b a w"]) -> Float[Tensor, "b a w"]:
        """Mix each row."""
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))

    def first(self, x: Float[Tensor, "b a w"]) -> Float[Tensor, "b a"]:
        """The first entry of each row of `forward`, in evaluation, for less work."""
        return F.linear(self.act(self.fc1(x)), self.fc2.weight[:1], self.fc2.bias[:1]).squeeze(-1)


class FeedForwardBlock(nn.Module):
    """U = X + channel_mixing(norm1(X)); Y = U + token_mixing(norm2(U')), U' the transpose.

    norm2 is along the tokens: one mean and variance a channel, one scale and shift a token.
    """

    def __init__(
        self,
        num_tokens: int,
        embed_dim: int,
        tokens_mlp_dim: int,
        channels_mlp_dim: int,
        drop: float,
        drop_path: float,
        folded: bool,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=1e-6, elementwise_affine=not folded)
        self.channel_mixing = FeedForward(embed_dim, channels_mlp_dim, drop)
        self.norm2 = nn.LayerNorm(num_tokens, eps=1e-6, elementwise_affine=not folded)
        self.token_mixing = FeedForward(num_tokens, tokens_mlp_dim, drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """One layer: channels first, then tokens."""
        x = x + self.drop_path(self.channel_mixing(self.norm1(x)))
        return x + self.drop_path(self.token_mixing(self.norm2(x.transpose(1, 2)))).transpose(1, 2)

    def class_token(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b c"]:
        """The class token of `forward`, in evaluation, for less work."""
        x = x + self.channel_mixing(self.norm1(x))
        return x[:, 0] + self.token_mixing.first(self.norm2(x.transpose(1, 2)))


class FeedForwardOnly(IsotropicModel):
    """Patches, a class token and positions, then `depth` layers of channel and token mixing, norm, class token, head.

    Args:
        img_size: image height and width in pixels (or one number); the token-mixing weights belong to it.
        patch_size: side of a patch in pixels.
        in_chans: image channels.
        num_classes: classes of the head; 0 for none.
        embed_dim: channels of a token.
        depth: number of layers.
        mlp_ratio: hidden widths, in multiples of `embed_dim` and of the number of tokens.
        tokens_mlp_dim: hidden width of the token MLPs, if not by `mlp_ratio`. Changing the image size keeps it.
        pos_grid: rows and columns of the learned position table, resized to the token grid at every forward.
        drop_rate: dropout of the tokens and after each step of the MLPs. There is none before the head.
        drop_path_rate: stochastic depth of the last layer; it rises linearly from 0.
        global_pool: "token" for the class token, "avg" for the mean of the others, "" to keep all tokens.
        folded: build the inference form (see `allmlp.fold`).

    Source: arXiv 2105.02723, section 2.
    """

    layouts: ClassVar[tuple[Layout, ...]] = LAYOUTS
    num_prefix_tokens: ClassVar[int] = 1
    stem_pattern: ClassVar[str] = r"^stem|^cls_|^pos_"
    train_only_key: ClassVar[str] = "blocks.0.norm1.weight"
    reads_channels: ClassVar[str] = "channel_mixing.fc1"  # what follows norm1 in a block
    reads_tokens: ClassVar[str] = "token_mixing.fc1"  # what follows norm2
    writes_tokens: ClassVar[str] = "token_mixing.fc2"
    tokens_width: ClassVar[str] = "tokens_mlp_dim"  # the argument that is the width between the last two
    blocks: nn.Sequential

    @records_arguments
    def __init__(
        self,
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 768,
        depth: int = 12,
        mlp_ratio: float = 4.0,
        tokens_mlp_dim: int | None = None,
        pos_grid: int | Sequence[int] = (14, 14),
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "token",
        folded: bool = False,
    ) -> None:
        super().__init__()
        self._describe(num_classes, in_chans, embed_dim, global_pool, folded)
        self._describe_tokens(img_size, patch_size, depth)

        def block(tokens: int, drop_path: float) -> nn.Module:
            hidden = tokens_mlp_dim or int(tokens * mlp_ratio)
            return FeedForwardBlock(tokens, embed_dim, hidden, int(embed_dim * mlp_ratio), drop_rate, drop_path, folded)

        self._assemble(block, depth, pos_grid, drop_rate, drop_path_rate)

    def _assemble(
        self,
        block: Callable[[int, float], nn.Module],
        depth: int,
        pos_grid: int | Sequence[int],
        drop_rate: float,
        drop_path_rate: float,
    ) -> None:
        """Everything around the blocks, and the blocks: each from the number of tokens and its stochastic depth."""
        self.check_pool(self.global_pool)
        width = self.num_features
        self.pos_grid = to_size(pos_grid)
        self.stem = nn.Conv2d(self.in_chans, width, self.patch_size, stride=self.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.cls_pos_embed = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, width, *self.pos_grid))
        self.pos_drop = nn.Dropout(drop_rate)
        rates = [drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.Sequential(*[block(self._tokens_of(self.grid_size), rate) for rate in rates])
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=not (self.folded and self.num_classes))
        self.head_drop = nn.Identity()
        self.head = self.make_head(self.num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Normal with sd 0.02 for linear maps, class token and positions, zero biases; torch's default for the stem."""
        for tensor in (self.cls_token, self.cls_pos_embed, self.pos_embed):
            nn.init.trunc_normal_(tensor, std=0.02)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def no_weight_decay(self) -> set[str]:
        """All 1-D parameters, the class token and the positions."""
        return super().no_weight_decay() | {"cls_token", "cls_pos_embed", "pos_embed"}

    def positions(self) -> Float[Tensor, "1 c h w"]:
        """The position table at the token grid: bilinear, half-pixel centres, not antialiased."""
        if self.pos_grid == self.grid_size:
            return self.pos_embed
        return F.interpolate(self.pos_embed, size=self.grid_size, mode="bilinear", align_corners=False)

    def embed(self, x: Float[Tensor, "b i H W"]) -> Float[Tensor, "b n c"]:
        """Project every patch, add positions, put the class token in front."""
        x = (self.stem(self.check_input(x)) + self.positions()).flatten(2).transpose(1, 2)
        first = (self.cls_token + self.cls_pos_embed).expand(x.shape[0], -1, -1)
        return self.pos_drop(torch.cat([first, x], dim=1))

    def forward(self, x: Float[Tensor, "b i H W"]) -> Tensor:
        """Images (b, in_chans, height, width) to logits (b, num_classes)."""
        if not self.folded or self.global_pool != "token":
            return super().forward(x)
        blocks: list[Any] = list(self.blocks)
        x = self.embed(x)
        for block in blocks[:-1]:
            x = block(x)
        return self.head(self.norm(blocks[-1].class_token(x)))

    def token_maps(self) -> dict[str, Tensor]:
        """What each hidden unit of each token MLP reads of the grid: (tokens_mlp_dim, h, w) a block."""
        return {
            f"block {i + 1}": layer.weight[:, 1:].reshape(-1, *self.grid_size)
            for i, layer in enumerate(self._in_blocks(self.reads_tokens))
        }

    # ---- image size

    def _in_blocks(self, path: str) -> list[Any]:
        return [block.get_submodule(path) for block in self.blocks]

    def _tokens_of(self, grid: Size) -> int:
        return self.num_prefix_tokens + grid[0] * grid[1]

    def _set_size(self, size: Size) -> None:
        super()._set_size(size)
        for norm in self._in_blocks("norm2"):
            norm.normalized_shape = (self._tokens_of(self.grid_size),)
        self._note_width()

    def _note_width(self) -> None:
        self.arguments[self.tokens_width] = self._in_blocks(self.writes_tokens)[0].weight.shape[1]

    def size_from_state(self, state: State) -> Size | None:
        """From the token MLP's output bias less the class token: a square grid, or one of this model's own shape."""
        tokens = state[f"blocks.0.{self.writes_tokens}.bias"].shape[0]
        return self.size_of_tokens(tokens - self.num_prefix_tokens)

    def resize_state(self, state: State, old: Size, new: Size, method: str) -> dict[str, Tensor]:
        """Token MLPs and token norms at another grid, resampled as images over it; the class token's entries are kept.

        Hidden widths stay, and so does the position table, which `positions` resizes. What a token MLP makes of a
        normed map that is constant over the grid stays the same. The norm itself sees the class token as one of more
        or fewer tokens, so its statistics, and with them the logits, change a little.
        """
        grids = self.grid_of(old), self.grid_of(new)
        resized = dict(state)
        for key, value in state.items():
            if key.endswith((".norm2.weight", ".norm2.bias")) or f".{self.writes_tokens}." in key:
                resized[key] = resample_outputs(value, *grids, prefix=self.num_prefix_tokens)
            elif key.endswith(f".{self.reads_tokens}.weight"):
                resized[key] = resample_inputs(value, *grids, prefix=self.num_prefix_tokens)
        return resized

    def adopt_widths(self, state: State) -> None:
        """Take over the hidden width of the token MLPs from a file of another size, for it depends on that size."""
        for index in range(len(self.blocks)):
            for leaf in (f"{self.reads_tokens}.weight", f"{self.reads_tokens}.bias", f"{self.writes_tokens}.weight"):
                key = f"blocks.{index}.{leaf}"
                if key in state:
                    self._replace_tensor(key, state[key].clone())
        self._note_width()

    # ---- folding

    def folded_state(self) -> dict[str, Tensor]:
        """Every norm's affine goes into the linear map that reads it; the final norm's into the head."""
        state = dict(self.state_dict())
        pairs = [("norm", "head")] if self.num_classes else []
        for i in range(len(self.blocks)):
            pairs += [(f"blocks.{i}.norm1", f"blocks.{i}.{self.reads_channels}")]
            pairs += [(f"blocks.{i}.norm2", f"blocks.{i}.{self.reads_tokens}")]
        for norm, linear in pairs:
            merge_affine_into(state, linear, state.pop(f"{norm}.weight"), state.pop(f"{norm}.bias"))
        return state


register(
    FeedForwardOnly,
    {
        "ff_tiny": {"patch_size": 16, "embed_dim": 192, "depth": 12, "tokens_mlp_dim": 788},
        "ff_base": {"patch_size": 16, "embed_dim": 768, "depth": 12, "tokens_mlp_dim": 788},
        "ff_large": {"patch_size": 32, "embed_dim": 1024, "depth": 24, "tokens_mlp_dim": 200},
        "ff_nano": {"patch_size": 4, "embed_dim": 128, "depth": 7, "tokens_mlp_dim": 260, "pos_grid": (8, 8)},
    },
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    licence="",
    url="https://github.com/lukemelas/do-you-even-need-attention",
)
