"""MLP-Mixer.

Paper: Tolstikhin et al., "MLP-Mixer: An all-MLP Architecture for Vision", arXiv 2105.01601, Table 1.
Source: google-research/vision_transformer @ c6de1e5, vit_jax/models_mixer.py (Apache-2.0); training from
    google-research/big_vision @ 0127fb6, big_vision/models/mlp_mixer.py (Apache-2.0).
Differs: nothing in evaluation (tests/models/test_mixer.py, golden numbers). Stochastic depth follows big_vision: the
    rate rises linearly over blocks, both branches of a block draw on their own, and kept branches are not divided by
    the keep probability, because that is how the published models were trained. Images must be a multiple of the
    patch size, where Flax pads them.
Shapes: b batch, n tokens (row-major grid), c channels (embed_dim), s tokens_mlp_dim, d channels_mlp_dim.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from jaxtyping import Float
from timm.layers import DropPath, lecun_normal_
from torch import Tensor, nn

from allmlp.convert.mixer import LAYOUTS
from allmlp.errors import InputError
from allmlp.layers import TokenLinear
from allmlp.models._base import Size, State, records_arguments
from allmlp.models._isotropic import IsotropicModel
from allmlp.models._registry import register
from allmlp.ops.token_grid import integer_factors, resample_inputs, resample_outputs, tile_order
from allmlp.reparam.affine import affine_then_linear

_GELU = {"tanh": "tanh", "erf": "none"}


class TokenMixing(nn.Module):
    """The MLP over tokens, shared by all channels: W2 gelu(W1 X + b1) + b2."""

    def __init__(self, num_tokens: int, tokens_mlp_dim: int, gelu: str) -> None:
        super().__init__()
        self.fc1 = TokenLinear(num_tokens, tokens_mlp_dim)
        self.act = nn.GELU(approximate=_GELU[gelu])
        self.fc2 = TokenLinear(tokens_mlp_dim, num_tokens)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Mix each channel's column of tokens."""
        return self.fc2(self.act(self.fc1(x)))


class ChannelMixing(nn.Module):
    """The MLP over channels, shared by all tokens: W4 gelu(W3 x + b3) + b4."""

    def __init__(self, embed_dim: int, channels_mlp_dim: int, gelu: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, channels_mlp_dim)
        self.act = nn.GELU(approximate=_GELU[gelu])
        self.fc2 = nn.Linear(channels_mlp_dim, embed_dim)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Mix each token's row of channels."""
        return self.fc2(self.act(self.fc1(x)))


class MixerBlock(nn.Module):
    """U = X + token_mixing(norm1(X)); Y = U + channel_mixing(norm2(U)); both norms over channels."""

    def __init__(
        self,
        num_tokens: int,
        embed_dim: int,
        tokens_mlp_dim: int,
        channels_mlp_dim: int,
        gelu: str,
        drop_path: float,
        folded: bool,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.token_mixing = TokenMixing(num_tokens, tokens_mlp_dim, gelu)
        self.norm2 = nn.LayerNorm(embed_dim, eps=1e-6, elementwise_affine=not folded)
        self.channel_mixing = ChannelMixing(embed_dim, channels_mlp_dim, gelu)
        self.drop_path = DropPath(drop_path, scale_by_keep=False)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """One layer of the paper's Figure 1."""
        x = x + self.drop_path(self.token_mixing(self.norm1(x)))
        return x + self.drop_path(self.channel_mixing(self.norm2(x)))


class MlpMixer(IsotropicModel):
    """MLP-Mixer: patches, then `depth` layers of token mixing and channel mixing, norm, mean over tokens, head.

    Args:
        img_size: image height and width in pixels (or one number); the token-mixing weights belong to it.
        patch_size: side of a patch in pixels.
        in_chans: image channels.
        num_classes: classes of the head; 0 for none.
        embed_dim: channels of a token.
        depth: number of layers.
        tokens_mlp_dim, channels_mlp_dim: hidden widths of the two MLPs.
        drop_rate: dropout before the head.
        drop_path_rate: stochastic depth of the last layer; it rises linearly from 0.
        gelu: "tanh" as the authors compute it, or "erf" as timm does.
        global_pool: "avg", or "" to keep the tokens.
        folded: build the inference form (see `allmlp.fold`).

    Source: arXiv 2105.01601, section 2, equation 1.
    """

    layouts = LAYOUTS
    train_only_key: ClassVar[str] = "blocks.0.norm2.weight"
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
        tokens_mlp_dim: int = 384,
        channels_mlp_dim: int = 3072,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        gelu: str = "tanh",
        global_pool: str = "avg",
        folded: bool = False,
    ) -> None:
        super().__init__()
        if gelu not in _GELU:
            raise InputError(f"Wanted gelu 'tanh' or 'erf'; got {gelu!r}.")
        self.check_pool(global_pool)
        self._describe(num_classes, in_chans, embed_dim, global_pool, folded)
        self._describe_tokens(img_size, patch_size, depth)
        tokens = self.grid_size[0] * self.grid_size[1]
        rates = [drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]
        self.stem = nn.Conv2d(in_chans, embed_dim, patch_size, stride=patch_size)
        self.blocks = nn.Sequential(
            *[MixerBlock(tokens, embed_dim, tokens_mlp_dim, channels_mlp_dim, gelu, rate, folded) for rate in rates]
        )
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6, elementwise_affine=not (folded and num_classes))
        self.head_drop = nn.Dropout(drop_rate)
        self.head = self.make_head(num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """LeCun normal for every linear map and the stem, zero biases, zero head (Flax's defaults)."""
        for module in [self.stem, *self.blocks.modules()]:
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                lecun_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def init_head(self, head: nn.Linear) -> None:
        """Zero weights and biases."""
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)

    def embed(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b n c"]:
        """Project every patch, row by row."""
        return self.stem(self.check_input(x)).flatten(2).transpose(1, 2)

    def token_maps(self) -> dict[str, Tensor]:
        """What each hidden unit of each token MLP reads: (tokens_mlp_dim, h, w) a block."""
        state = self.state_dict()
        weights = [state[f"blocks.{i}.token_mixing.fc1.weight"] for i in range(len(self.blocks))]
        return {f"block {i + 1}": weight.unflatten(1, self.grid_size) for i, weight in enumerate(weights)}

    # ---- image size

    def _set_size(self, size: Size) -> None:
        super()._set_size(size)
        self.arguments["tokens_mlp_dim"] = len(self.get_parameter("blocks.0.token_mixing.fc1.bias"))

    def resize_method(self, state: State, old: Size, new: Size, method: str | None) -> str:
        """Tile at integer factors unless told otherwise."""
        fits = integer_factors(self.grid_of(old), self.grid_of(new)) is not None
        if method not in (None, "tile", "resample"):
            raise InputError(f"Wanted method 'tile' or 'resample'; got {method!r}.")
        if method == "tile" and not fits:
            raise InputError(
                f"Tiling needs a token grid that is a whole multiple of {self.grid_of(old)}; got {self.grid_of(new)}. "
                "Use method='resample'."
            )
        return method or ("tile" if fits else "resample")

    def loading_method(self, state: State, old: Size, new: Size) -> str:
        """Tile if this model's hidden width is the file's times the growth in tokens, else resample."""
        factors = integer_factors(self.grid_of(old), self.grid_of(new))
        width = state["blocks.0.token_mixing.fc1.bias"].shape[0]
        return "tile" if factors and self.arguments["tokens_mlp_dim"] == width * factors[0] * factors[1] else "resample"

    def size_from_state(self, state: State) -> Size | None:
        """From the token MLP's output bias: a square grid, or one of this model's own shape."""
        tokens = state["blocks.0.token_mixing.fc2.bias"].shape[0]
        return self.size_of_tokens(tokens)

    def resize_state(self, state: State, old: Size, new: Size, method: str) -> dict[str, Tensor]:
        """Token MLPs at another grid.

        "tile" cuts the new grid into tiles of the old size, each mixed by its own copy of the old weights (the
        paper's initialisation for higher resolutions: widths grow, cross terms start at zero). "resample" keeps the
        width and resamples the weights as images over the grid.
        """
        old_grid, new_grid = self.grid_of(old), self.grid_of(new)
        resized = dict(state)
        for key in state:
            if ".token_mixing." not in key:
                continue
            if method == "tile":
                resized[key] = _tile(key, state[key], old_grid, new_grid)
            elif key.endswith("fc1.weight"):
                resized[key] = resample_inputs(state[key], old_grid, new_grid)
            elif ".fc2." in key:
                resized[key] = resample_outputs(state[key], old_grid, new_grid)
        return resized

    # ---- loading and folding

    def adopt_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Set the form of GELU that a file was trained with."""
        self.arguments.update(arguments)
        for module in self.modules():
            if isinstance(module, nn.GELU):
                module.approximate = _GELU[arguments["gelu"]]

    def folded_state(self) -> dict[str, Tensor]:
        """norm2's affine goes into the channel MLP, the final norm's into the head (the mean over tokens commutes).

        norm1's scale differs by channel while the token MLP is shared by all channels, so it cannot be merged.
        """
        state = dict(self.state_dict())
        pairs = [(f"blocks.{i}.norm2", f"blocks.{i}.channel_mixing.fc1") for i in range(len(self.blocks))]
        for norm, linear in pairs + ([("norm", "head")] if self.num_classes else []):
            state[f"{linear}.weight"], state[f"{linear}.bias"] = affine_then_linear(
                state.pop(f"{norm}.weight"),
                state.pop(f"{norm}.bias"),
                state[f"{linear}.weight"],
                state[f"{linear}.bias"],
            )
        return state


def _tile(key: str, tensor: Tensor, old: Size, new: Size) -> Tensor:
    """One tensor of a token MLP, copied to every tile of a larger grid."""
    factors = integer_factors(old, new)
    if factors is None:
        raise InputError(f"Cannot tile a token grid of {old} to {new}: not a whole multiple. Use method='resample'.")
    tiles = factors[0] * factors[1]
    if tiles == 1:
        return tensor
    tile, place = tile_order(old, factors)
    tile, place = tile.to(tensor.device), place.to(tensor.device)
    if key.endswith("fc1.bias"):
        return tensor.repeat(tiles)
    if key.endswith("fc2.bias"):
        return tensor[place]
    rows = tensor.T if key.endswith("fc1.weight") else tensor  # (n, s): one row a token
    wide = tensor.new_zeros(len(place), tiles, rows.shape[1])
    wide[range(len(place)), tile] = rows[place]
    wide = wide.flatten(1)
    return wide.T.contiguous() if key.endswith("fc1.weight") else wide


def _size(patch_size: int, depth: int, embed_dim: int) -> dict[str, int]:
    return {
        "patch_size": patch_size,
        "depth": depth,
        "embed_dim": embed_dim,
        "tokens_mlp_dim": embed_dim // 2,
        "channels_mlp_dim": embed_dim * 4,
    }


register(
    MlpMixer,
    {
        "mixer_s32": _size(32, 8, 512),
        "mixer_s16": _size(16, 8, 512),
        "mixer_b32": _size(32, 12, 768),
        "mixer_b16": _size(16, 12, 768),
        "mixer_l32": _size(32, 24, 1024),
        "mixer_l16": _size(16, 24, 1024),
        "mixer_h14": _size(14, 32, 1280),
        "mixer_nano": {
            "patch_size": 4,
            "depth": 8,
            "embed_dim": 128,
            "tokens_mlp_dim": 64,
            "channels_mlp_dim": 512,
        },
    },
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    url="https://github.com/google-research/vision_transformer",
)
