"""Controls of the small models' size: what a simpler or a known network makes of the same images.

`PlainMlp` and `LeNet5` are ours, the others are timm's classes with arguments. Each has at most 1.5 M parameters at 10
classes and is meant for images of 16 to 64 pixels.

Paper: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", Proceedings of the
    IEEE 86 (1998), Figure 2, for LeNet-5.
Source: none; timm for the rest.
Differs: LeNet-5 has plain average pooling where the paper's learns a scale and a shift, full connections from the
    first maps to the second (C3), an unscaled tanh, and a linear classifier (tests/models/test_controls.py).
Shapes: b batch, i image channels, d features.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from timm.models import EfficientNet, ResNet, SwinTransformer, VisionTransformer
from timm.models.efficientnet import decode_arch_def
from timm.models.resnet import BasicBlock
from torch import Tensor, nn

from allmlp.errors import InputError
from allmlp.models._base import records_arguments, to_size
from allmlp.models._registry import register_control


@torch.fx.wrap
def check_size(x: Tensor, height: int, width: int) -> Tensor:
    """Return x if it is (b, i, height, width), else raise."""
    if x.shape[-2] != height or x.shape[-1] != width:
        raise InputError(
            f"Wanted images of {height} x {width} pixels, which this network was built for; got {x.shape[-2]} x "
            f"{x.shape[-1]}. Resize the images, or build it with img_size=({x.shape[-2]}, {x.shape[-1]})."
        )
    return x


class VectorModel(nn.Module):
    """timm's method set for a network that makes one vector of an image: a stem, some layers, a linear classifier."""

    stem: nn.Module
    layers: nn.Sequential
    head: nn.Module

    def _finish(self, img_size: int | Sequence[int], in_chans: int, num_features: int, num_classes: int) -> None:
        self.img_size = to_size(img_size)
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = num_features
        self.reset_classifier(num_classes)

    def get_classifier(self) -> nn.Module:
        """The classifier layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one for `num_classes` classes (0: none). There is nothing to pool."""
        self.num_classes = num_classes
        like = next(self.parameters())
        head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        self.head = head.to(like.device, like.dtype)

    def forward_features(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b d"]:
        """Images to what the classifier reads."""
        return self.layers(self.stem(check_size(x, *self.img_size)))

    def forward_head(self, x: Float[Tensor, "b d"], pre_logits: bool = False) -> Tensor:
        """Features to logits (b, num_classes), or as they are if `pre_logits`."""
        return x if pre_logits else self.head(x)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Tensor:
        """Images to logits (b, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def no_weight_decay(self) -> set[str]:
        """Biases."""
        return {name for name, parameter in self.named_parameters() if parameter.ndim <= 1}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Refused: these networks are too small to gain from it."""
        if enable:
            raise InputError(f"{type(self).__name__} cannot recompute layers to save memory; leave it out.")

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that sort parameters into layers, for layer-wise learning rates."""
        return {"stem": r"^stem", "blocks": r"^layers\.(\d+)"}


class PlainMlp(VectorModel):
    """All pixels in one vector, then hidden layers with GELU: a network that knows nothing of images.

    Args:
        img_size: image height and width in pixels, or one number; the first layer's weights belong to it.
        in_chans: image channels.
        num_classes: classes of the head; 0 for none.
        hidden_dims: widths of the hidden layers, one at least.
        drop_rate: dropout after each of them.

    Raises:
        InputError: no hidden layer.
    """

    @records_arguments
    def __init__(
        self,
        img_size: int | Sequence[int] = 32,
        in_chans: int = 3,
        num_classes: int = 1000,
        hidden_dims: Sequence[int] = (384, 384),
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if not hidden_dims:
            raise InputError("Wanted hidden_dims with one width at least, such as (384, 384); got none.")
        height, width = to_size(img_size)
        self.stem = nn.Flatten()
        layers: list[nn.Module] = []
        for before, after in zip([in_chans * height * width, *hidden_dims], hidden_dims):
            layers.append(nn.Sequential(nn.Linear(before, after), nn.GELU(), nn.Dropout(drop_rate)))
        self.layers = nn.Sequential(*layers)
        self._finish(img_size, in_chans, hidden_dims[-1], num_classes)


class LeNet5(VectorModel):
    """Two 5x5 convolutions of 6 and 16 maps, each with tanh and 2x2 averages after it, then 120 and 84 units.

    Args:
        img_size: image height and width in pixels, or one number, at least 16; the third layer's weights belong to it.
        in_chans: image channels; the paper's are grey.
        num_classes: classes of the head; 0 for none.
        drop_rate: dropout before the head.

    Raises:
        InputError: images so small that no map is left.
    """

    @records_arguments
    def __init__(
        self,
        img_size: int | Sequence[int] = 32,
        in_chans: int = 3,
        num_classes: int = 1000,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        height, width = (((side - 4) // 2 - 4) // 2 for side in to_size(img_size))
        if min(height, width) < 1:
            raise InputError(f"Wanted images of at least 16 x 16 pixels for LeNet-5; got {to_size(img_size)}.")
        self.stem = nn.Conv2d(in_chans, 6, 5)
        self.layers = nn.Sequential(
            nn.Sequential(nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten()),
            nn.Sequential(nn.Linear(16 * height * width, 120), nn.Tanh()),
            nn.Sequential(nn.Linear(120, 84), nn.Tanh(), nn.Dropout(drop_rate)),
        )
        self._finish(img_size, in_chans, 84, num_classes)


register_control("plain_mlp", PlainMlp, {}, module=__name__, mixing="MLP", first_conv=None, classifier="head")
register_control("lenet5", LeNet5, {}, module=__name__, mixing="convolution", first_conv="stem", classifier="head")
register_control(  # ff_nano but for its token mixer
    "vit_nano",
    VisionTransformer,
    {"patch_size": 4, "embed_dim": 128, "depth": 7, "num_heads": 4},
    module=__name__,
    mixing="attention",
    first_conv="patch_embed.proj",
    classifier="head",
    out_indices=(4, 5, 6),
)
register_control(  # as_mlp_nano's widths and depths
    "swin_nano",
    SwinTransformer,
    {
        "patch_size": 4,
        "embed_dim": 32,
        "depths": (3, 4, 1, 1),
        "num_heads": (1, 2, 4, 8),
        "window_size": 4,
        "drop_path_rate": 0.0,
    },
    module=__name__,
    mixing="attention",
    first_conv="patch_embed.proj",
    classifier="head.fc",
    out_indices=(0, 1, 2, 3),
)
register_control(  # small kernels at the image; after the stem 8 x 8 cells, as in the others
    "resnet_nano",
    ResNet,
    {
        "block": BasicBlock,
        "layers": (2, 3, 1, 1),
        "channels": (64, 96, 128, 160),
        "stem_type": "deep",
        "stem_width": 32,
    },
    module=__name__,
    mixing="convolution",
    first_conv="conv1.0",
    classifier="fc",
    out_indices=(1, 2, 3, 4),
)
register_control(  # MobileNetV2's blocks
    "mobilenet_nano",
    EfficientNet,
    {
        "block_args": decode_arch_def(
            [
                ["ds_r1_k3_s1_c24"],
                ["ir_r3_k3_s2_e4_c48"],
                ["ir_r4_k3_s2_e4_c96"],
                ["ir_r3_k3_s2_e4_c128"],
                ["ir_r2_k3_s2_e4_c160"],
            ]
        ),
        "stem_size": 24,
        "num_features": 512,
        "act_layer": nn.ReLU6,
    },
    module=__name__,
    mixing="convolution",
    first_conv="conv_stem",
    classifier="classifier",
    out_indices=(1, 2, 3, 4),
)
