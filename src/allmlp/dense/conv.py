"""The layers that all convolutional heads are made of.

Shapes: b images or regions, i channels in, o out, h x w the map.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from allmlp.models._base import AllMlpModule, records_arguments
from allmlp.reparam.batch_norm import conv_then_batch_norm

he_normal = partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu")


def initialise(layers: Iterable[nn.Module], weight: Callable[..., Any], **settings: Any) -> None:
    """Fill the weight of every linear layer or convolution by `weight(tensor, **settings)`, and its bias with 0."""
    for layer in layers:
        assert isinstance(layer.weight, Tensor)  # noqa: S101 - callers pass layers with weights
        weight(layer.weight, **settings)
        if isinstance(layer.bias, Tensor):
            nn.init.zeros_(layer.bias)


class ConvRelu(nn.Module):
    """A convolution with bias, then ReLU: small segmenters learn faster from few images without batch norm."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        initialise([self.conv], he_normal)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        """Convolve, cut at 0."""
        return self.conv(x).relu()


class ConvBnRelu(AllMlpModule):
    """A convolution without bias, batch norm, ReLU: what mmcv calls a ConvModule, with its keys `conv` and `bn`.

    Args:
        in_channels, out_channels: channels.
        kernel_size: odd; the map keeps its size.
        folded: build the inference form, where the convolution holds the norm.
    """

    train_only_key: ClassVar[str] = "bn.weight"

    @records_arguments
    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, folded: bool = False) -> None:
        super().__init__()
        self.folded = folded
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=folded)
        self.bn = nn.Identity() if folded else nn.BatchNorm2d(out_channels)
        he_normal(self.conv.weight)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        """Convolve, norm, cut at 0."""
        return self.bn(self.conv(x)).relu()

    def folded_state(self) -> dict[str, Tensor]:
        """The convolution with the norm's scale and shift in it."""
        assert isinstance(self.bn, nn.BatchNorm2d)  # noqa: S101 - only the training form is folded
        weight, bias = conv_then_batch_norm(self.conv.weight, self.conv.bias, self.bn)
        return {"conv.weight": weight, "conv.bias": bias}


def conv_relu(in_channels: int, out_channels: int, kernel_size: int, norm: bool, folded: bool) -> ConvBnRelu | ConvRelu:
    """A `ConvBnRelu`, or without `norm` a `ConvRelu`, which has no other form to fold to."""
    if norm:
        return ConvBnRelu(in_channels, out_channels, kernel_size, folded)
    return ConvRelu(in_channels, out_channels, kernel_size)
