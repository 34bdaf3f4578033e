"""Vision Permutator: rows, columns and channels mixed side by side, their shares weighed by a softmax.

Paper: Hou et al., "Vision Permutator: A Permutable MLP-Like Architecture for Visual Recognition", arXiv 2106.12368,
    configuration table.
Source: houqb/VisionPermutator @ 2cab2ce, models/vip.py (MIT).
Differs: nothing at 224 pixels (tests/models/test_vip.py). Other sizes are taken, where the authors' layers are for maps
    with as many rows and columns as there are segments: here segments keep their number, and rows and columns of the
    mixing matrices follow the map.
Shapes: b batch, h w map, c channels of a stage, g segments, s channels of a segment (c = g * s, g the slow index). Maps
    are channels-last (b, h, w, c) inside; images and features that go in and out are (b, c, h, w).
"""

import re
from collections.abc import Sequence
from typing import ClassVar

from jaxtyping import Float
from timm.layers import DropPath
from torch import Tensor, nn

from allmlp.convert.vip import LAYOUTS
from allmlp.errors import InputError
from allmlp.models._base import Size, State, records_arguments, to_size
from allmlp.models._hierarchical import HierarchicalModel
from allmlp.models._registry import register
from allmlp.ops.token_grid import resample_inputs, resample_outputs
from allmlp.reparam.state_dict import merge_affine_into


class ChannelMixing(nn.Module):
    """W2 gelu(W1 x + b1) + b2 over the last axis."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, x: Float[Tensor, "*places c"]) -> Float[Tensor, "*places out"]:
        """Mix each place's channels."""
        return self.fc2(self.act(self.fc1(x)))


class PermuteMlp(nn.Module):
    """proj(a1 * H + a2 * W + a3 * C), where three matrices without bias give H, W and C.

    H mixes the places of a column and the channels of a segment, jointly: all columns and segments share one matrix.
    W does the same along rows; C mixes the channels of a place. The weights a are a softmax over the three for every
    channel, from the mean of H + W + C over the map. The paper's weighted Permute-MLP.
    """

    def __init__(self, dim: int, segments: int, map_size: Size) -> None:
        super().__init__()
        self.segments = segments
        self.segment_width = dim // segments
        rows, columns = (side * self.segment_width for side in map_size)
        self.mix_height = nn.Linear(rows, rows, bias=False)
        self.mix_width = nn.Linear(columns, columns, bias=False)
        self.mix_channels = nn.Linear(dim, dim, bias=False)
        self.reweight = ChannelMixing(dim, dim // 4, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def along_rows(self, x: Float[Tensor, "b l n c"], mix: nn.Linear) -> Float[Tensor, "b l n c"]:
        """Every line (b, l) of n places through a matrix of n * s rows and columns, segment by segment."""
        x = x.unflatten(3, (self.segments, self.segment_width)).transpose(2, 3)
        x = mix(x.flatten(3)).unflatten(3, (-1, self.segment_width))
        return x.transpose(2, 3).flatten(3)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Mix each place with its column and its row."""
        down = self.along_rows(x.transpose(1, 2), self.mix_height).transpose(1, 2)
        across = self.along_rows(x, self.mix_width)
        here = self.mix_channels(x)
        scores = self.reweight((down + across + here).mean(dim=(1, 2)))
        shares = scores.unflatten(1, (-1, 3)).softmax(dim=2)[:, None, None]  # the branch is the fast index
        return self.proj(down * shares[..., 0] + across * shares[..., 1] + here * shares[..., 2])


class PermutatorBlock(nn.Module):
    """Y = X + permute_mlp(norm1(X)); Z = Y + mlp(norm2(Y)), both branches dropped by the same rate."""

    def __init__(
        self, dim: int, segments: int, map_size: Size, mlp_ratio: float, drop_path: float, folded: bool
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.permute_mlp = PermuteMlp(dim, segments, map_size)
        self.norm2 = nn.LayerNorm(dim, elementwise_affine=not folded)
        self.mlp = ChannelMixing(dim, int(dim * mlp_ratio), dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """One layer of the paper's Figure 1."""
        x = x + self.drop_path(self.permute_mlp(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchEmbedding(nn.Module):
    """Patches of an image to a channels-last map, by a convolution; no norm."""

    def __init__(self, in_chans: int, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, patch_size, stride=patch_size)

    def forward(self, x: Float[Tensor, "b i H W"]) -> Float[Tensor, "b h w c"]:
        """Images to a map."""
        return self.proj(x).permute(0, 2, 3, 1)


class Transition(PatchEmbedding):
    """Patches of a channels-last map to a smaller one of another width; no norm."""

    def forward(self, x: Float[Tensor, "b H W i"]) -> Float[Tensor, "b h w c"]:
        """A map to the next stage's."""
        return super().forward(x.permute(0, 3, 1, 2))


class VisionPermutator(HierarchicalModel):
    """Vision Permutator: patches, stages of blocks, norm, mean over the map, head.

    Args:
        img_size: image height and width in pixels (or one number); the mixing matrices belong to it.
        patch_size: side of a patch in pixels.
        in_chans: image channels.
        num_classes: classes of the head; 0 for none.
        depths: blocks of each stage.
        embed_dims: channels of each stage.
        segment_dims: segments that each stage's channels are cut into, a divisor of them; as published, as many as its
            map has rows.
        transitions: after which stages two by two places become one. The last entry does nothing.
        mlp_ratios: hidden width of each stage's channel MLP, in multiples of its channels.
        drop_rate: dropout before the head; the authors have none.
        drop_path_rate: stochastic depth of the last block; it rises linearly from 0 over all blocks.
        global_pool: "avg", or "" to keep the map.
        folded: build the inference form (see `allmlp.fold`).

    Raises:
        InputError: lists of other lengths, segments that do not divide the channels, or an image size that the patches
            and transitions do not divide.

    Source: arXiv 2106.12368, section 3.
    """

    layouts = LAYOUTS
    first_conv: ClassVar[str] = "stem.proj"
    train_only_key: ClassVar[str] = "stages.0.0.norm2.weight"

    @records_arguments
    def __init__(
        self,
        img_size: int | Sequence[int] = 224,
        patch_size: int = 7,
        in_chans: int = 3,
        num_classes: int = 1000,
        depths: Sequence[int] = (4, 3, 8, 3),
        embed_dims: Sequence[int] = (192, 384, 384, 384),
        segment_dims: Sequence[int] = (32, 16, 16, 16),
        transitions: Sequence[bool] = (True, False, False, False),
        mlp_ratios: Sequence[float] = (3, 3, 3, 3),
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
        folded: bool = False,
    ) -> None:
        super().__init__()
        lists = (depths, embed_dims, segment_dims, transitions, mlp_ratios)
        if len({len(values) for values in lists}) > 1:
            raise InputError(
                "Wanted depths, embed_dims, segment_dims, transitions and mlp_ratios of one length, an entry a stage; "
                f"got {', '.join(str(tuple(values)) for values in lists)}."
            )
        for dim, segments in zip(embed_dims, segment_dims):
            if dim % segments:
                raise InputError(f"Wanted segment_dims that divide embed_dims; got {segments} segments of {dim}.")
        self.check_pool(global_pool)
        self.segment_widths = [dim // segments for dim, segments in zip(embed_dims, segment_dims)]
        self.reductions = [patch_size * 2 ** sum(map(bool, transitions[:i])) for i in range(len(depths))]
        maps = self.maps_of(to_size(img_size))
        self._describe(num_classes, in_chans, embed_dims[-1], global_pool, folded)
        self._describe_stages(embed_dims, self.reductions)
        rates = iter([drop_path_rate * i / max(sum(depths) - 1, 1) for i in range(sum(depths))])
        self.stem = PatchEmbedding(in_chans, embed_dims[0], patch_size)
        self.stages = nn.ModuleList(
            nn.Sequential(*[PermutatorBlock(dim, segments, size, ratio, next(rates), folded) for _ in range(depth)])
            for depth, dim, segments, size, ratio in zip(depths, embed_dims, segment_dims, maps, mlp_ratios)
        )
        self.downsamples = nn.ModuleList(
            Transition(dim, after, 2 if halves else 1) if halves or dim != after else nn.Identity()
            for dim, after, halves in zip(embed_dims, embed_dims[1:], transitions)
        )
        self.norm = nn.LayerNorm(embed_dims[-1], elementwise_affine=not (folded and num_classes))
        self.head_drop = nn.Dropout(drop_rate)
        self.head = self.make_head(num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Normal with sd 0.02 for every linear map, zero biases; convolutions keep torch's default."""
        for module in self.stages.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def to_nchw(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b c h w"]:
        """A view with the channels second."""
        return x.permute(0, 3, 1, 2)

    # ---- image size

    def maps_of(self, size: Size) -> list[Size]:
        """The map of each stage for images of this size.

        Raises:
            InputError: the last stage's cells do not divide the image; sizes that work are named.
        """
        cell = self.reductions[-1]
        if size[0] % cell or size[1] % cell or min(size) < cell:
            near = " x ".join(str(max(cell, round(side / cell) * cell)) for side in size)
            raise InputError(
                f"Wanted an image size whose sides are multiples of {cell} (the patch size times 2 for each halving of "
                f"the map); got {size[0]} x {size[1]}. The nearest that works is {near}."
            )
        return [(size[0] // reduction, size[1] // reduction) for reduction in self.reductions]

    def size_from_state(self, state: State) -> Size | None:
        """From the first block's matrices; None where they are of another architecture's size."""
        sides = []
        for name in ("mix_height", "mix_width"):
            side, rest = divmod(state[f"stages.0.0.permute_mlp.{name}.weight"].shape[0], self.segment_widths[0])
            if rest:
                return None
            sides.append(side * self.reductions[0])
        return sides[0], sides[1]

    def resize_state(self, state: State, old: Size, new: Size, method: str) -> dict[str, Tensor]:
        """Mixing matrices of another map: row or column places resampled, channels inside a segment as they are.

        A map that is constant along a column gives, along it, the resampled column that it gave.
        """
        old_maps, new_maps = self.maps_of(old), self.maps_of(new)
        resized = dict(state)
        for key, weight in state.items():
            found = re.fullmatch(r"stages\.(\d+)\.\d+\.permute_mlp\.(mix_height|mix_width)\.weight", key)
            if found:
                stage, axis = int(found[1]), ("mix_height", "mix_width").index(found[2])
                places = old_maps[stage][axis], new_maps[stage][axis]
                resized[key] = _resample_places(weight, self.segment_widths[stage], *places)
        return resized

    # ---- folding

    def folded_state(self) -> dict[str, Tensor]:
        """norm2's affine goes into the channel MLP, the final norm's into the head (the mean over the map commutes).

        norm1's differs by segment while segments share the mixing matrices, so it cannot be merged.
        """
        state = dict(self.state_dict())
        blocks = [f"stages.{i}.{j}" for i, depth in enumerate(self.arguments["depths"]) for j in range(depth)]
        pairs = [(f"{block}.norm2", f"{block}.mlp.fc1") for block in blocks]
        for norm, linear in pairs + ([("norm", "head")] if self.num_classes else []):
            merge_affine_into(state, linear, state.pop(f"{norm}.weight"), state.pop(f"{norm}.bias"))
        return state


def _resample_places(weight: Tensor, width: int, old: int, new: int) -> Tensor:
    """A matrix over `old` places of `width` channels, for `new` places; one of other widths is left as it is."""
    if old == new or weight.shape[0] != old * width:
        return weight
    places = weight.reshape(old, width, old, width)
    places = resample_outputs(places, (old, 1), (new, 1), dim=0)
    return resample_inputs(places, (old, 1), (new, 1), dim=2).reshape(new * width, new * width)


register(
    VisionPermutator,
    {
        "vip_s7": {},
        "vip_s14": {
            "patch_size": 14,
            "embed_dims": (384, 384, 384, 384),
            "segment_dims": (16, 16, 16, 16),
            "transitions": (False, False, False, False),
        },
        "vip_m7": {
            "depths": (4, 3, 14, 3),
            "embed_dims": (256, 256, 512, 512),
            "segment_dims": (32, 32, 16, 16),
            "transitions": (False, True, False, False),
        },
        "vip_l7": {"depths": (8, 8, 16, 4), "embed_dims": (256, 512, 512, 512), "crop_pct": 0.875},
    },
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    crop_pct=0.9,
    licence="mit",
    url="https://github.com/houqb/VisionPermutator",
    out_indices=4,
)
