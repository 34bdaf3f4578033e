"""What several authors' code shares, as they took it from the same ancestors: the patch embedding and the MLP."""

from jaxtyping import Float
from torch import Tensor, nn


class PatchEmbedding(nn.Module):
    """A strided convolution, then (b, n, c) by a transpose, as in every descendant of the ViT code."""

    def __init__(self, in_chans: int, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, patch_size, stride=patch_size)

    def tokens(self, img_size: tuple[int, int]) -> int:
        """How many patches an image has."""
        return (img_size[0] // self.proj.stride[0]) * (img_size[1] // self.proj.stride[1])

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b n c"]:
        """Images to tokens, row by row."""
        return self.proj(x).flatten(2).transpose(1, 2)


class Mlp(nn.Module):
    """W2 gelu(W1 x + b1) + b2 on the last axis, with dropout after each step."""

    def __init__(self, dim: int, hidden: int, out: int | None = None, gelu: str = "none", drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU(approximate=gelu)
        self.fc2 = nn.Linear(hidden, out or dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b e"]:
        """Mix each row."""
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))
