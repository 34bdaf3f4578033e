"""EANet: a dilated ResNet and one external attention block before the classifier.

Paper: Guo et al., "Beyond Self-attention: External Attention using Two Linear Layers for Visual Tasks",
    arXiv 2105.02358, section 3.
Source: MenghaoGuo/EANet @ 59c03cb, model_torch.py and settings.py (no licence at the root: facts only).
Differs: the two memory matrices are independent parameters, as they are in the authors' code once on a GPU. On other
    backbones than ResNets, maps of strides 8 to 32 are concatenated at stride 8 (ours).
Shapes: b images, n classes, c_l channels of map l.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

from allmlp.dense.backbone import Backbone
from allmlp.dense.conv import ConvBnRelu
from allmlp.dense.upernet import resize
from allmlp.models.external_attention import ExternalAttention

_DEPTHS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3)}
RESNETS = tuple(_DEPTHS)


class DilatedResNet(Backbone):
    """A ResNet whose last map has stride 8, with a stem of three 3x3 convolutions (64, 64, 128 channels).

    The third stage is dilated by 2 and the fourth by 4, multiplied by 1, 2, 4 over its blocks; the first block of each
    has half its stage's dilation. Only the last map comes out.

    Args:
        name: "resnet50", "resnet101" or "resnet152".
        in_chans: image channels.
    """

    strides = (8,)
    multiple = 1

    def __init__(self, name: str, in_chans: int = 3) -> None:
        super().__init__()
        self.model = ResNet(
            Bottleneck,  # type: ignore[arg-type]
            _DEPTHS[name],
            num_classes=0,
            in_chans=in_chans,
            output_stride=8,
            stem_width=64,
            stem_type="deep",
        )
        for block, dilation in zip(self.model.layer4, (2, 8, 16)):
            block.conv2.dilation = block.conv2.padding = (dilation, dilation)
        self.channels = (self.model.num_features,)
        self.describe()

    def forward(self, x: Float[Tensor, "b i h w"]) -> list[Tensor]:
        """Images to one map of 2048 channels."""
        return [self.model.forward_features(x)]


class EaHead(nn.Module):
    """Reduce, attend to the external memory, reduce again, classify.

    Args:
        in_channels: of the map, or of the maps to concatenate.
        num_classes: classes.
        channels: of the attention block; half of it before the classifier.
        memory_size: rows of the memory.
        folded: build the inference form.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        channels: int = 512,
        memory_size: int = 64,
        folded: bool = False,
    ) -> None:
        super().__init__()
        self.fc0 = ConvBnRelu(sum(in_channels), channels, 3, folded)
        self.attention = ExternalAttention(channels, memory_size, folded)
        self.fc1 = ConvBnRelu(channels, channels // 2, 3, folded)
        for layer in (self.fc0, self.fc1):
            layer.conv.reset_parameters()  # the authors leave PyTorch's initial weights here
        self.dropout = nn.Dropout2d(0.1)
        self.fc2 = nn.Conv2d(channels // 2, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Float[Tensor, "b n h w"]:
        """Logits at the first map's resolution."""
        x = torch.cat([resize(y, maps[0]) for y in maps], dim=1) if len(maps) > 1 else maps[0]
        return self.fc2(self.dropout(self.fc1(self.attention(self.fc0(x)))))
