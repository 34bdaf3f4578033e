"""A convolution without bias, then a batch norm, then perhaps a ReLU; one convolution with bias when folded."""

from jaxtyping import Float
from torch import Tensor, nn


class ConvNorm(nn.Module):
    """norm(conv(x)), or relu(norm(conv(x))).

    Args:
        in_chans, out_chans, kernel_size, stride, groups: of the convolution.
        padding: zeros on every side.
        relu: whether a ReLU follows.
        folded: build the inference form; `allmlp.reparam.batch_norm.merge_conv_norms` makes its weights.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        relu: bool = False,
        folded: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chans, out_chans, kernel_size, stride, padding, groups=groups, bias=folded)
        self.norm = nn.Identity() if folded else nn.BatchNorm2d(out_chans)
        self.act = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Float[Tensor, "b i H W"]) -> Float[Tensor, "b o h w"]:
        """Images or maps to maps."""
        return self.act(self.norm(self.conv(x)))
