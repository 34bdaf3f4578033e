"""EAMLP: a T2T-ViT whose every attention, in the tokenizer and in the layers, is external attention.

Paper: Guo et al., "Beyond Self-attention: External Attention using Two Linear Layers for Visual Tasks",
    arXiv 2105.02358, ImageNet table.
Source: MenghaoGuo/EANet @ 59c03cb, EAMLP/models: t2t_vit.py, transformer_block.py (Clear BSD).
Differs: nothing in evaluation (tests/models/test_ea_mlp.py, golden numbers). The table of positions, which is never
    trained, is a buffer and no parameter. Any image size is taken, where the authors' maps are square.
Shapes: b batch, i image channels, H W pixels, n tokens (class token first, then row by row), c channels (embed_dim).
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from timm.layers import DropPath, trunc_normal_
from torch import Tensor, nn

from allmlp.convert.ea_mlp import LAYOUTS
from allmlp.errors import InputError
from allmlp.models._base import Size, State, records_arguments, to_size
from allmlp.models._isotropic import IsotropicModel
from allmlp.models._registry import register
from allmlp.models.ea_tokenizer import KERNELS, Tokenizer, patches_along
from allmlp.models.external_attention import MultiHeadExternalAttention
from allmlp.reparam.affine import affine_then_linear

_TOKENIZER_DROP = {"performer": 0.1, "transformer": 0.0}  # by the authors' names


def sinusoid(length: int, width: int) -> Float[Tensor, "1 n c"]:
    """Fixed positions: at place p, sin(p / 10000^(j / width)) in each even channel j, its cosine in channel j + 1."""
    places = torch.arange(length, dtype=torch.float64)[:, None]
    channels = torch.arange(width, dtype=torch.float64)
    odd = channels % 2
    angles = places / 10000 ** ((channels - odd) / width)
    return torch.where(odd == 0, angles.sin(), angles.cos()).float()[None]


@torch.fx.wrap
def positions(table: Float[Tensor, "1 _ c"], length: int) -> Float[Tensor, "1 n c"]:
    """The table itself if it has this many places, else a sinusoid that has."""
    return table if table.shape[1] == length else sinusoid(length, table.shape[2]).to(table)


class ChannelMixing(nn.Module):
    """The MLP over channels, shared by all tokens: W2 gelu(W1 x + b1) + b2, with dropout after each step."""

    def __init__(self, dim: int, hidden: int, drop: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Mix each token's row of channels."""
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class EaMlpBlock(nn.Module):
    """Y = X + attention(norm1(X)); Z = Y + mlp(norm2(Y))."""

    def __init__(
        self, dim: int, num_heads: int, memory_size: int, hidden: int, drop: float, drop_path: float, folded: bool
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, elementwise_affine=not folded)
        self.attention = MultiHeadExternalAttention(dim, num_heads, memory_size, drop_rate=drop, folded=folded)
        self.norm2 = nn.LayerNorm(dim, elementwise_affine=not folded)
        self.mlp = ChannelMixing(dim, hidden, drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """One layer."""
        x = x + self.drop_path(self.attention(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def first_token(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b 1 c"]:
        """The first row of `forward`, in evaluation, for less work."""
        x = x[:, :1] + self.attention.first_token(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def folded_state(self) -> dict[str, Tensor]:
        """Both norms' affines in the linear maps after them; the attention as it folds itself.

        The first norm's shift is the same for all tokens, so it cancels in the softmax over them.
        """
        state = {f"attention.{key}": value for key, value in self.attention.folded_state().items()}
        state |= {f"mlp.{key}": value for key, value in self.mlp.state_dict().items()}
        first = "attention.expand.weight" if "attention.expand.weight" in state else "attention.memory_key.weight"
        state[first], _ = affine_then_linear(self.norm1.weight, None, state[first], None)
        state["mlp.fc1.weight"], state["mlp.fc1.bias"] = affine_then_linear(
            self.norm2.weight, self.norm2.bias, state["mlp.fc1.weight"], state["mlp.fc1.bias"]
        )
        return state


class EaMlp(IsotropicModel):
    """EAMLP: tokenizer, class token, fixed positions, `depth` layers of external attention and MLP, norm, head.

    No weight belongs to a place, so images of any size can be given: positions are a sinusoid along the row of tokens,
    and are made anew where their number is not the table's.

    Args:
        img_size: the size in pixels that the table of positions is for.
        in_chans: image channels.
        num_classes: classes of the head; 0 for none.
        embed_dim: channels of a token.
        depth: number of layers.
        num_heads: heads by the authors' count; there are four times as many, which share one memory.
        mlp_ratio: hidden width of the channel MLP, in multiples of `embed_dim`.
        token_dim: channels inside the tokenizer.
        tokenizer: "performer" or "transformer", the authors' two names for one network: the first has dropout 0.1 in
            its attention, the second none. Files of both load into both.
        memory_size: rows of the memory of each layer.
        token_strides: of the tokenizer's three cuts; their product is the side of a token in pixels.
        drop_rate: dropout of the embedded tokens, of the layers' attention and after each step of their channel MLPs,
            as the authors place it. There is none before the head.
        drop_path_rate: stochastic depth of the last layer; it rises linearly from 0.
        global_pool: "token" (the class token), "avg" over the others, or "" to keep the tokens.
        folded: build the inference form (see `allmlp.fold`).

    Raises:
        InputError: an unknown tokenizer, a num_heads that does not divide embed_dim, or too small an image.

    Source: arXiv 2105.02358; the shell is T2T-ViT, arXiv 2101.11986.
    """

    layouts = LAYOUTS
    first_conv: ClassVar[str] = "stem.split1.attention.query"
    size_bound: ClassVar[bool] = False
    train_only_key: ClassVar[str] = "blocks.0.norm2.weight"
    num_prefix_tokens: ClassVar[int] = 1
    stem_pattern: ClassVar[str] = r"^stem|^cls_token"
    blocks: nn.Sequential
    stem: Tokenizer
    norm: nn.LayerNorm
    pos_embed: Tensor

    @records_arguments
    def __init__(
        self,
        img_size: int | Sequence[int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 384,
        depth: int = 14,
        num_heads: int = 6,
        mlp_ratio: float = 3.0,
        token_dim: int = 64,
        tokenizer: str = "performer",
        memory_size: int = 64,
        token_strides: Sequence[int] = (4, 2, 2),
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "token",
        folded: bool = False,
    ) -> None:
        super().__init__()
        if tokenizer not in _TOKENIZER_DROP:
            raise InputError(f"Wanted a tokenizer out of {', '.join(_TOKENIZER_DROP)}; got {tokenizer!r}.")
        self.check_pool(global_pool)
        self._describe(num_classes, in_chans, embed_dim, global_pool, folded)
        self.stem = Tokenizer(in_chans, token_dim, embed_dim, token_strides, _TOKENIZER_DROP[tokenizer], folded)
        self._describe_tokens(img_size, token_strides[0] * token_strides[1] * token_strides[2], depth)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.register_buffer("pos_embed", sinusoid(self.places_of(to_size(img_size)), embed_dim))
        self.pos_drop = nn.Dropout(drop_rate)
        rates = [drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]
        hidden = int(embed_dim * mlp_ratio)
        self.blocks = nn.Sequential(
            *[EaMlpBlock(embed_dim, num_heads, memory_size, hidden, drop_rate, rate, folded) for rate in rates]
        )
        self.norm = nn.LayerNorm(embed_dim, elementwise_affine=not (folded and num_classes))
        self.head_drop = nn.Identity()
        self.head = self.make_head(num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Truncated normal with sd 0.02 for every linear map and the class token, zero biases; the tokenizer's own."""
        self.stem.init_weights()
        trunc_normal_(self.cls_token, std=0.02)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def embed(self, x: Float[Tensor, "b i H W"]) -> Float[Tensor, "b n c"]:
        """Class token and tokens, with their positions."""
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), tokens], dim=1)
        return self.pos_drop(tokens + positions(self.pos_embed, tokens.shape[1]))

    def forward(self, x: Float[Tensor, "b i H W"]) -> Tensor:
        """Images (b, in_chans, height, width) to logits (b, num_classes)."""
        if not self.folded or self.global_pool != "token":
            return super().forward(x)
        blocks: list[Any] = list(self.blocks)
        x = self.embed(x)
        for block in blocks[:-1]:
            x = block(x)
        return self.head(self.norm(blocks[-1].first_token(x)[:, 0]))

    def no_weight_decay(self) -> set[str]:
        """All 1-D parameters and the class token."""
        return super().no_weight_decay() | {"cls_token"}

    # ---- image size

    def grid_of(self, size: Size) -> Size:
        """The token grid of images of this size.

        Raises:
            InputError: too small for a single patch.
        """
        height, width = size
        for kernel, stride in zip(KERNELS, self.stem.strides):
            height, width = patches_along(height, kernel, stride), patches_along(width, kernel, stride)
        if min(height, width) < 1:
            raise InputError(f"Wanted an image of at least 3 x 3 pixels; got {size[0]} x {size[1]}.")
        return height, width

    def places_of(self, size: Size) -> int:
        """How many positions images of this size take, the class token's first."""
        height, width = self.grid_of(size)
        return self.num_prefix_tokens + height * width

    def map_size(self, x: Tensor) -> Size:
        """The token grid of an image batch, whatever its size."""
        return self.grid_of(to_size(x.shape[2:]))

    def _set_size(self, size: Size) -> None:
        super()._set_size(size)
        self.pos_embed = positions(self.pos_embed, self.places_of(size))

    def size_from_state(self, state: State) -> Size | None:
        """From the number of positions: this model's own size, else that of the grid nearest to a square."""
        places = state["pos_embed"].shape[1]
        if places == self.pos_embed.shape[1]:
            return self.arguments["img_size"]
        count = places - self.num_prefix_tokens
        rows = max(side for side in range(1, count + 1) if count % side == 0 and side * side <= count)
        return rows * self.patch_size, count // rows * self.patch_size

    def resize_state(self, state: State, old: Size, new: Size, method: str) -> dict[str, Tensor]:
        """The state with positions for the new size: a wave is not resampled but written out again."""
        return dict(state) | {"pos_embed": positions(state["pos_embed"], self.places_of(new))}

    # ---- loading and folding

    def fit_image_channels(self, state: State) -> dict[str, Tensor]:
        """The first norm's affine, one value a colour and pixel, moved into the query, where colours can be fitted."""
        keys = [f"{path}.{leaf}" for path in ("stem.split1.norm1", self.first_conv) for leaf in ("weight", "bias")]
        if any(key not in state for key in keys):  # in a folded file it has moved already
            return {}
        scale, shift, kernel, bias = (state[key] for key in keys)
        if kernel.shape[1] == self.in_chans:
            return {}
        matrix, bias = affine_then_linear(scale, shift, kernel.flatten(1), bias)
        ones = matrix.new_ones(self.in_chans * KERNELS[0] ** 2)
        return dict(zip(keys, (ones, torch.zeros_like(ones), matrix.view_as(kernel), bias)))

    def folded_state(self) -> dict[str, Tensor]:
        """Every norm's affine goes into the linear map that reads it, and linear maps in a row become one."""
        state = {key: value for key, value in self.state_dict().items() if not key.startswith(("stem.", "blocks."))}
        state |= {f"stem.{key}": value for key, value in self.stem.folded_state().items()}
        blocks: list[Any] = list(self.blocks)
        for i, block in enumerate(blocks):
            state |= {f"blocks.{i}.{key}": value for key, value in block.folded_state().items()}
        if self.num_classes:
            state["head.weight"], state["head.bias"] = affine_then_linear(
                state.pop("norm.weight"), state.pop("norm.bias"), state["head.weight"], state["head.bias"]
            )
        return state


def _size(depth: int, embed_dim: int, num_heads: int, mlp_ratio: float) -> dict[str, float]:
    return {"depth": depth, "embed_dim": embed_dim, "num_heads": num_heads, "mlp_ratio": mlp_ratio}


register(
    EaMlp,
    {
        "eamlp_7": _size(7, 256, 4, 2.0),
        "eamlp_10": _size(10, 256, 4, 2.0),
        "eamlp_12": _size(12, 256, 4, 2.0),
        "eamlp_14": _size(14, 384, 6, 3.0),
        "eamlp_19": _size(19, 448, 7, 3.0),
        "eamlp_24": _size(24, 512, 8, 3.0),
        # The mean over tokens learns much faster than the class token where data is small.
        "eamlp_nano": {**_size(5, 128, 2, 2.0), "token_strides": (2, 2, 1), "global_pool": "avg"},
    },
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    crop_pct=0.9,
    licence="bsd-3-clause-clear",
    url="https://github.com/MenghaoGuo/EANet",
)
