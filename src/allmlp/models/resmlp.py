"""ResMLP.

Paper: Touvron et al., "ResMLP: Feedforward networks for image classification with data-efficient training",
    arXiv 2105.03404, Tables 1, 3 and D.3.
Source: facebookresearch/deit @ 7e160fe, resmlp_models.py (Apache-2.0).
Differs: nothing in evaluation (tests/models/test_resmlp.py, golden numbers). Like the authors' code, and unlike the
    paper's equations 2 and 3, a branch ends in a scale without a shift. `resmlp_b24_16` has no official constructor;
    its layer scale starts at 1e-6, as in B24/8.
Shapes: b batch, n tokens (row-major grid), c channels (embed_dim).
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from timm.layers import DropPath
from torch import Tensor, nn

from allmlp.convert.resmlp import LAYOUTS
from allmlp.layers import TokenLinear
from allmlp.models._base import Size, State, records_arguments
from allmlp.models._isotropic import IsotropicModel
from allmlp.models._registry import register
from allmlp.ops.token_grid import resample_inputs, resample_outputs
from allmlp.reparam.affine import affine_then_linear, linear_then_affine


class Affine(nn.Module):
    """Aff(x) = alpha * x + beta, one of each a channel: what stands where other networks normalise. No statistics."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(embed_dim))
        self.beta = nn.Parameter(torch.zeros(embed_dim))

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Scale and shift every channel."""
        return torch.addcmul(self.beta, self.alpha, x)


class ChannelMixing(nn.Module):
    """The MLP over channels, shared by all tokens: W2 gelu(W1 x + c1) + c2, with dropout after each step."""

    def __init__(self, embed_dim: int, hidden_dim: int, drop: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, embed_dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Mix each token's row of channels."""
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))

    def mean(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b c"]:
        """The mean over tokens of `forward`, in evaluation: W2 is linear, so it acts once, on the mean."""
        return self.fc2(self.act(self.fc1(x)).mean(dim=1))


class ResMlpBlock(nn.Module):
    """U = X + ls1 * (A aff1(X) + a); Y = U + ls2 * channel_mixing(aff2(U)). A is linear: no activation follows it."""

    def __init__(
        self, num_tokens: int, embed_dim: int, hidden_dim: int, layer_scale_init: float, drop: float, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = Affine(embed_dim)
        self.token_mixing = TokenLinear(num_tokens, num_tokens)
        self.layer_scale1 = nn.Parameter(torch.full((embed_dim,), layer_scale_init))
        self.norm2 = Affine(embed_dim)
        self.channel_mixing = ChannelMixing(embed_dim, hidden_dim, drop)
        self.layer_scale2 = nn.Parameter(torch.full((embed_dim,), layer_scale_init))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """One layer of the paper's Figure 1."""
        x = x + self.drop_path(self.layer_scale1 * self.token_mixing(self.norm1(x)))
        return x + self.drop_path(self.layer_scale2 * self.channel_mixing(self.norm2(x)))


class FoldedResMlpBlock(nn.Module):
    """The same layer in evaluation: U = X + scale * (A X) + shift; Y = U + channel_mixing(U).

    A is shared by all channels, so a scale per channel commutes with it and stays, whatever coordinates the residual
    stream is carried in; the shift is one constant per token and channel.
    """

    def __init__(self, num_tokens: int, embed_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.token_mixing = TokenLinear(num_tokens, num_tokens, bias=False)
        self.token_scale = nn.Parameter(torch.ones(embed_dim))
        self.token_shift = nn.Parameter(torch.zeros(num_tokens, embed_dim))
        self.channel_mixing = ChannelMixing(embed_dim, hidden_dim, 0.0)

    def mix_tokens(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """The patch sublayer with its residual connection."""
        return torch.addcmul(x, self.token_scale, self.token_mixing(x)) + self.token_shift

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """One layer."""
        x = self.mix_tokens(x)
        return x + self.channel_mixing(x)

    def mean(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b c"]:
        """The mean over tokens of `forward`, for less work."""
        x = self.mix_tokens(x)
        return x.mean(dim=1) + self.channel_mixing.mean(x)


class ResMlp(IsotropicModel):
    """ResMLP: patches, then `depth` layers of one linear map over tokens and an MLP over channels, affine, mean, head.

    Args:
        img_size: image height and width in pixels (or one number); the token-mixing weights belong to it.
        patch_size: side of a patch in pixels.
        in_chans: image channels.
        num_classes: classes of the head; 0 for none.
        embed_dim: channels of a token.
        depth: number of layers.
        mlp_ratio: hidden width of the channel MLP, in multiples of `embed_dim`.
        layer_scale_init: what every branch's scale starts at; the published value falls with depth.
        drop_rate: dropout after each step of the channel MLP, as the authors place it. There is none before the head.
        drop_path_rate: stochastic depth, the same in every layer.
        global_pool: "avg", or "" to keep the tokens.
        folded: build the inference form (see `allmlp.fold`).

    Source: arXiv 2105.03404, section 2, equations 1 to 3.
    """

    layouts = LAYOUTS
    train_only_key: ClassVar[str] = "blocks.0.norm1.alpha"
    blocks: nn.Sequential

    @records_arguments
    def __init__(
        self,
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 384,
        depth: int = 12,
        mlp_ratio: float = 4.0,
        layer_scale_init: float = 1e-4,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
        folded: bool = False,
    ) -> None:
        super().__init__()
        self.check_pool(global_pool)
        self._describe(num_classes, in_chans, embed_dim, global_pool, folded)
        self._describe_tokens(img_size, patch_size, depth)
        tokens, hidden_dim = self.grid_size[0] * self.grid_size[1], int(embed_dim * mlp_ratio)
        self.stem = nn.Conv2d(in_chans, embed_dim, patch_size, stride=patch_size)
        self.blocks = nn.Sequential(
            *[
                FoldedResMlpBlock(tokens, embed_dim, hidden_dim)
                if folded
                else ResMlpBlock(tokens, embed_dim, hidden_dim, layer_scale_init, drop_rate, drop_path_rate)
                for _ in range(depth)
            ]
        )
        self.norm = nn.Identity() if folded and num_classes else Affine(embed_dim)
        self.head_drop = nn.Identity()
        self.head = self.make_head(num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Normal with sd 0.02 for every linear map, zero biases; the stem keeps torch's uniform default."""
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def embed(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b n c"]:
        """Project every patch, row by row."""
        return self.stem(self.check_input(x)).flatten(2).transpose(1, 2)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Tensor:
        """Images (b, in_chans, height, width) to logits (b, num_classes)."""
        if not self.folded or self.global_pool != "avg":
            return super().forward(x)
        blocks = list(self.blocks)
        last: Any = blocks.pop()
        x = self.embed(x)
        for block in blocks:
            x = block(x)
        return self.head(self.norm(last.mean(x)))

    def token_maps(self) -> dict[str, Tensor]:
        """What each place's token mixing reads: (n, h, w) a block."""
        state = self.state_dict()
        weights = [state[f"blocks.{i}.token_mixing.weight"] for i in range(len(self.blocks))]
        return {f"block {i + 1}": weight.unflatten(1, self.grid_size) for i, weight in enumerate(weights)}

    # ---- image size

    def size_from_state(self, state: State) -> Size | None:
        """From the token-mixing matrix: a square grid, or one of this model's own shape."""
        return self.size_of_tokens(state["blocks.0.token_mixing.weight"].shape[0])

    def resize_state(self, state: State, old: Size, new: Size, method: str) -> dict[str, Tensor]:
        """Token mixing at another grid: its rows and columns resampled as images over the grid, row sums kept."""
        old_grid, new_grid = self.grid_of(old), self.grid_of(new)
        resized = dict(state)
        for key, value in state.items():
            if key.endswith("token_mixing.weight"):
                resized[key] = resample_outputs(resample_inputs(value, old_grid, new_grid), old_grid, new_grid)
            elif key.endswith(("token_mixing.bias", "token_shift")):
                resized[key] = resample_outputs(value, old_grid, new_grid)
        return resized

    # ---- folding

    def folded_state(self) -> dict[str, Tensor]:
        """The channel MLP and the head take in every affine map and scale beside them; the patch sublayer keeps two.

        With A the token-mixing matrix and a its bias, ls1 * (A (alpha x + beta) + a) = scale * (A x) + shift, where
        scale = ls1 * alpha (c) and shift = ls1 * (rowsum(A) beta + a) (n, c).
        """
        state = dict(self.state_dict())
        for i in range(len(self.blocks)):
            block = f"blocks.{i}."
            alpha, beta = state.pop(block + "norm1.alpha"), state.pop(block + "norm1.beta")
            scale, bias = state.pop(block + "layer_scale1"), state.pop(block + "token_mixing.bias")
            sums = state[block + "token_mixing.weight"].double().sum(dim=1)
            shift = scale.double() * (torch.outer(sums, beta.double()) + bias.double()[:, None])
            state[block + "token_scale"] = (scale.double() * alpha.double()).to(alpha.dtype)
            state[block + "token_shift"] = shift.to(alpha.dtype)
            fc1, fc2 = block + "channel_mixing.fc1.", block + "channel_mixing.fc2."
            _merge_into(state, block + "norm2.", fc1)
            state[fc2 + "weight"], state[fc2 + "bias"] = linear_then_affine(
                state[fc2 + "weight"], state[fc2 + "bias"], state.pop(block + "layer_scale2"), None
            )
        if self.num_classes:
            _merge_into(state, "norm.", "head.")
        return state


def _merge_into(state: dict[str, Tensor], affine: str, linear: str) -> None:
    """Merge an affine map into the linear layer that reads it, and take its keys out."""
    state[linear + "weight"], state[linear + "bias"] = affine_then_linear(
        state.pop(affine + "alpha"), state.pop(affine + "beta"), state[linear + "weight"], state[linear + "bias"]
    )


def _size(embed_dim: int, depth: int, layer_scale_init: float, patch_size: int = 16) -> dict[str, float]:
    return {
        "patch_size": patch_size,
        "embed_dim": embed_dim,
        "depth": depth,
        "layer_scale_init": layer_scale_init,
    }


register(
    ResMlp,
    {
        "resmlp_s12": _size(384, 12, 0.1),
        "resmlp_s24": _size(384, 24, 1e-5),
        "resmlp_s36": _size(384, 36, 1e-6),
        "resmlp_b24_16": _size(768, 24, 1e-6),
        "resmlp_b24_8": _size(768, 24, 1e-6, patch_size=8),
        "resmlp_nano": _size(128, 8, 0.1, patch_size=4),
    },
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    crop_pct=0.9,
    url="https://github.com/facebookresearch/deit",
)
