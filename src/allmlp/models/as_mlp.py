"""AS-MLP: shift channel groups along the two axes, then mix channels.

Paper: Lian, Yu, Sun, Gao, "AS-MLP: An Axial Shifted MLP Architecture for Vision", arXiv 2107.08391, Table 1.
Source: svip-lab/AS-MLP @ dd1eb4f, models/as_mlp.py (MIT); for other image sizes svip-lab/AS-MLP-Semantic-Segmentation
    @ c9838f9 and svip-lab/AS-MLP-Object-Detection @ f80ff38, models/backbones/asmlp.py (Apache-2.0).
Differs: nothing at the authors' sizes (tests/models/test_as_mlp.py, golden numbers). Any image size is taken, as in the
    segmentation code; dilation and the other paddings are the paper's ablations, which no released code holds.
Shapes: b batch, h w map, c channels of a stage. Maps are (b, c, h, w), channels last in memory.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from allmlp.convert.as_mlp import LAYOUTS
from allmlp.errors import InputError
from allmlp.layers import PointwiseLinear
from allmlp.models._base import Size, records_arguments
from allmlp.models._hierarchical import HierarchicalModel
from allmlp.models._registry import register
from allmlp.ops.axial_shift import axial_shift, check_shift
from allmlp.reparam.affine import affine_then_linear

torch.fx.wrap("axial_shift")  # reads sizes, so symbolic tracing keeps it as one node


@torch.fx.wrap
def fill_up(x: Float[Tensor, "b c _h _w"], multiple: int, padding: str) -> Float[Tensor, "b c h w"]:
    """Append zero rows and columns until both sides are multiples, or raise if `padding` is "assert"."""
    height, width = x.shape[2], x.shape[3]
    below, right = -height % multiple, -width % multiple
    if not (below or right):
        return x
    if padding == "assert":
        raise InputError(
            f"Wanted a map whose sides {multiple} divides (merge_padding='assert'); got {height} x {width}. Pad the "
            "images to a multiple of 32, or build the model with merge_padding='pad'."
        )
    return F.pad(x, [0, right, 0, below])


class MapNorm(nn.GroupNorm):
    """Group norm with one group: over all channels and positions of a sample, then an affine map by channel."""

    def __init__(self, channels: int, affine: bool = True) -> None:
        super().__init__(1, channels, eps=1e-5, affine=affine)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise each sample's whole map."""
        if not torch.compiler.is_exporting():
            return super().forward(x)
        # The same, of whose graph runtimes make one node; a group norm becomes reshapes around an instance norm.
        x = F.layer_norm(x, x.shape[1:], eps=self.eps)
        return x if self.weight is None else torch.addcmul(self.bias[:, None, None], x, self.weight[:, None, None])


class AxialShift(nn.Module):
    """T = gelu(norm1(W1 x)); W3 norm2(gelu(Wh shift_w(T)) + gelu(Wv shift_h(T))). The paper's Figure 2."""

    def __init__(self, dim: int, shift_size: int, dilation: int, padding: str, bias: bool, folded: bool) -> None:
        super().__init__()
        self.shift_size, self.dilation, self.padding = shift_size, dilation, padding
        self.proj_in = PointwiseLinear(dim, dim, bias=bias or folded)
        self.norm1 = MapNorm(dim)
        self.act = nn.GELU()
        self.along_width = PointwiseLinear(dim, dim, bias=bias)
        self.along_height = PointwiseLinear(dim, dim, bias=bias)
        self.norm2 = MapNorm(dim, affine=not folded)
        self.proj_out = PointwiseLinear(dim, dim, bias=bias or folded)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Mix each cell with the cells of its row and of its column."""
        x = self.act(self.norm1(self.proj_in(x)))
        across = axial_shift(x, self.shift_size, 3, self.dilation, self.padding)
        down = axial_shift(x, self.shift_size, 2, self.dilation, self.padding)
        x = self.act(self.along_width(across)) + self.act(self.along_height(down))
        return self.proj_out(self.norm2(x))

    def extra_repr(self) -> str:
        return f"shift_size={self.shift_size}, dilation={self.dilation}, padding={self.padding!r}"


class ChannelMixing(nn.Module):
    """The MLP over channels, shared by all cells: W5 gelu(W4 x + b4) + b5."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = PointwiseLinear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = PointwiseLinear(hidden, dim)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Mix each cell's channels."""
        return self.fc2(self.act(self.fc1(x)))


class AsMlpBlock(nn.Module):
    """Y = X + axial_shift(norm1(X)); Z = Y + mlp(norm2(Y)), both branches dropped by the same rate."""

    def __init__(self, axial: AxialShift, dim: int, hidden: int, drop_path: float, folded: bool) -> None:
        super().__init__()
        self.norm1 = MapNorm(dim, affine=not folded)
        self.axial_shift = axial
        self.norm2 = MapNorm(dim, affine=not folded)
        self.mlp = ChannelMixing(dim, hidden)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """One block of the paper's Figure 1."""
        x = x + self.drop_path(self.axial_shift(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchEmbedding(nn.Module):
    """Patches to channels by a convolution, then a norm; images are filled up with zeros at the right and bottom."""

    def __init__(self, in_chans: int, dim: int, patch_size: int, norm: bool) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_chans, dim, patch_size, stride=patch_size)
        self.norm = MapNorm(dim) if norm else nn.Identity()

    def forward(self, x: Float[Tensor, "b i H W"]) -> Float[Tensor, "b c h w"]:
        """Images to a map, channels last in memory."""
        x = fill_up(x, self.patch_size, "pad")
        return self.norm(self.proj(x).contiguous(memory_format=torch.channels_last))


class PatchMerging(nn.Module):
    """Two by two cells to one of twice the width: stack, norm over the 4c map, linear map without bias."""

    def __init__(self, dim: int, padding: str, folded: bool) -> None:
        super().__init__()
        self.padding = padding
        self.norm = MapNorm(4 * dim, affine=not folded)
        self.reduction = PointwiseLinear(4 * dim, 2 * dim, bias=folded)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Halve the sides; an odd one is filled up with zeros first, so they enter the norm."""
        x = fill_up(x, 2, self.padding)
        if torch.compiler.is_exporting() and self.norm.weight is None:
            # The norm is of all entries, so it can come before the stacking, which then is a convolution's.
            weight = self.reduction.weight.unflatten(1, (2, 2, -1)).permute(0, 3, 2, 1)
            return F.conv2d(self.norm(x), weight, self.reduction.bias, stride=2)
        b, c, h, w = x.shape
        # The order of the four is (row, column) even-even, odd-even, even-odd, odd-odd: the column is the slow index.
        x = x.permute(0, 2, 3, 1).reshape(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 4, 2, 5)
        x = x.reshape(b, h // 2, w // 2, 4 * c).permute(0, 3, 1, 2)
        return self.reduction(self.norm(x))


class AsMlp(HierarchicalModel):
    """AS-MLP: patch embedding, stages of axial-shift blocks with merging between them, norm, mean, head.

    No weight belongs to a position, so images of any size can be given.

    Args:
        img_size: the size that the model is meant for, in pixels; nothing is bound to it.
        patch_size: side of a patch in pixels.
        in_chans: image channels.
        num_classes: classes of the head; 0 for none.
        embed_dim: channels of the first stage; each further stage doubles them.
        depths: blocks of each stage.
        shift_size: channel groups of a shift, odd. It leaves no trace in the weights.
        dilation: cells between neighbouring groups of a shift.
        shift_padding: "zeros", "reflect", "replicate" or "circular" (see `allmlp.ops.axial_shift`).
        mlp_ratio: hidden width of the channel MLP in units of the stage's channels.
        bias: whether the four linear maps around the shifts have one.
        patch_norm: whether a norm follows the patch embedding.
        merge_padding: what happens to maps of odd sides at merging: "pad" fills them up with zeros at the bottom and
            right, as the authors' segmentation code; "assert" refuses them, as their other code.
        drop_rate: dropout before the head.
        drop_path_rate: stochastic depth of the last block; it rises linearly from 0 over all blocks.
        global_pool: "avg", or "" to keep the map.
        folded: build the inference form (see `allmlp.fold`).

    Source: arXiv 2107.08391, section 3.
    """

    layouts = LAYOUTS
    first_conv: ClassVar[str] = "stem.proj"
    size_bound: ClassVar[bool] = False
    train_only_key: ClassVar[str] = "stages.0.0.norm1.weight"

    @records_arguments
    def __init__(
        self,
        img_size: int | Sequence[int] = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        shift_size: int = 5,
        dilation: int = 1,
        shift_padding: str = "zeros",
        mlp_ratio: float = 4.0,
        bias: bool = True,
        patch_norm: bool = True,
        merge_padding: str = "pad",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
        folded: bool = False,
    ) -> None:
        super().__init__()
        check_shift(shift_size, dilation, shift_padding)
        if merge_padding not in ("pad", "assert"):
            raise InputError(f"Wanted merge_padding 'pad' or 'assert'; got {merge_padding!r}.")
        self.check_pool(global_pool)
        dims = [embed_dim * 2**i for i in range(len(depths))]
        self._describe(num_classes, in_chans, dims[-1], global_pool, folded)
        self._describe_stages(dims, [patch_size * 2**i for i in range(len(depths))])
        rates = iter(_linear(drop_path_rate, sum(depths)))

        def block(dim: int) -> AsMlpBlock:
            axial = AxialShift(dim, shift_size, dilation, shift_padding, bias, folded)
            return AsMlpBlock(axial, dim, int(dim * mlp_ratio), next(rates), folded)

        self.stem = PatchEmbedding(in_chans, embed_dim, patch_size, patch_norm)
        self.stages = nn.ModuleList(
            nn.Sequential(*[block(dim) for _ in range(depth)]) for dim, depth in zip(dims, depths)
        )
        self.downsamples = nn.ModuleList(PatchMerging(dim, merge_padding, folded) for dim in dims[:-1])
        self.norm = MapNorm(dims[-1], affine=not (folded and num_classes))
        self.head_drop = nn.Dropout(drop_rate)
        self.head = self.make_head(num_classes)

    def init_weights(self) -> None:
        """PyTorch's own initialisation everywhere, as the authors leave their convolutions; the head apart."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.GroupNorm)):
                module.reset_parameters()
        if isinstance(self.head, nn.Linear):
            self.init_head(self.head)

    def resize_state(self, state: Any, old: Size, new: Size, method: str) -> dict[str, Tensor]:
        """The state itself: no tensor depends on the image size."""
        return dict(state)

    def folded_state(self) -> dict[str, Tensor]:
        """Every norm's affine that a linear map follows goes into it; the final norm's passes the mean into the head.

        The norm after `proj_in` and that of the patch embedding keep theirs: a GELU and a residual sum follow.
        """
        state = dict(self.state_dict())
        pairs = [("norm", "head")] if self.num_classes else []
        for i, stage in enumerate(self.stages):
            for j in range(len(stage)):  # type: ignore[arg-type]
                block = f"stages.{i}.{j}"
                pairs.append((f"{block}.norm1", f"{block}.axial_shift.proj_in"))
                pairs.append((f"{block}.axial_shift.norm2", f"{block}.axial_shift.proj_out"))
                pairs.append((f"{block}.norm2", f"{block}.mlp.fc1"))
        pairs += [(f"downsamples.{i}.norm", f"downsamples.{i}.reduction") for i in range(len(self.downsamples))]
        for norm, linear in pairs:
            state[f"{linear}.weight"], state[f"{linear}.bias"] = affine_then_linear(
                state.pop(f"{norm}.weight"),
                state.pop(f"{norm}.bias"),
                state[f"{linear}.weight"],
                state.get(f"{linear}.bias"),
            )
        return state


def _linear(rate: float, count: int) -> list[float]:
    return [rate * i / max(count - 1, 1) for i in range(count)]


register(
    AsMlp,
    {
        "as_mlp_mobile": {"embed_dim": 64, "depths": (2, 2, 2, 2)},
        "as_mlp_t": {"embed_dim": 96, "depths": (2, 2, 6, 2)},
        "as_mlp_s": {"embed_dim": 96, "depths": (2, 2, 18, 2)},
        "as_mlp_b": {"embed_dim": 128, "depths": (2, 2, 18, 2)},
        "as_mlp_nano": {"embed_dim": 32, "depths": (3, 4, 1, 1)},
    },
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    licence="mit",
    url="https://github.com/svip-lab/AS-MLP",
    out_indices=4,
)
