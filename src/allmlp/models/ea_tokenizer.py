"""EAMLP's tokenizer: T2T-ViT's tokens-to-token module with external attention in the place of self-attention.

Paper: Guo et al., "Beyond Self-attention: External Attention using Two Linear Layers for Visual Tasks",
    arXiv 2105.02358; the module is from Yuan et al., "Tokens-to-Token ViT", arXiv 2101.11986, Figure 3.
Source: MenghaoGuo/EANet @ 59c03cb, EAMLP/models: t2t_vit.py, token_performer.py, token_transformer.py (Clear BSD).
Differs: nothing in evaluation (tests/models/test_ea_mlp.py, golden numbers). The two memories are two parameters, equal
    at initialisation, where the authors' share one storage until the model moves to a GPU. Maps need not be square.
Shapes: b batch, i channels of a map, H W its sides, h w those of the smaller map, p values of a patch, n tokens,
    e token_dim, c channels (embed_dim).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from timm.layers import trunc_normal_
from torch import Tensor, nn
from torch.nn import functional as F

from allmlp.ops.double_norm import double_normalise
from allmlp.reparam.affine import affine_then_linear, linear_then_linear

KERNELS = (7, 3, 3)  # sides of the patches, cut out one after the other
MEMORY_SIZE = 128


def padding_of(kernel: int, stride: int) -> int:
    """Zeros around a map, so that a cut divides its sides by the stride: 2, 1 and 1 at the authors' strides."""
    return (kernel - stride + 1) // 2


def patches_along(side: int, kernel: int, stride: int) -> int:
    """How many patches are cut out along one side of a map."""
    return (side + 2 * padding_of(kernel, stride) - kernel) // stride + 1


class PatchLinear(nn.Conv2d):
    """A convolution's weight on patches that were cut out before, because each is normed in between."""

    def forward(self, x: Float[Tensor, "b n p"]) -> Float[Tensor, "b n e"]:
        """Every flattened patch (channels, rows, columns) to a token."""
        return F.linear(x, self.weight.flatten(1), self.bias)


class TokenizerAttention(nn.Module):
    """q = query(x); q + project(memory_value(double_normalise(memory_key(q)))). One head."""

    def __init__(self, in_chans: int, kernel: int, dim: int, drop: float, folded: bool) -> None:
        super().__init__()
        self.query = PatchLinear(in_chans, dim, kernel)
        self.memory_key = nn.Linear(dim, MEMORY_SIZE, bias=False)
        self.attn_drop = nn.Dropout(drop)
        self.memory_value = nn.Linear(MEMORY_SIZE, dim)
        self.project = nn.Identity() if folded else nn.Linear(dim, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Float[Tensor, "b n p"]) -> Float[Tensor, "b n e"]:
        """Flattened patches to tokens that have seen each other."""
        query = self.query(x)
        attention = self.attn_drop(double_normalise(self.memory_key(query), tokens_dim=1, memory_dim=2))
        return query + self.drop(self.project(self.memory_value(attention)))


class SoftSplit(nn.Module):
    """Overlapping patches of a map as tokens: Y = attention(norm1(patches)); Z = Y + fc2 gelu(fc1 norm2(Y))."""

    def __init__(self, in_chans: int, kernel: int, stride: int, dim: int, drop: float, folded: bool) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.patches = nn.Unfold(kernel, padding=padding_of(kernel, stride), stride=stride)
        self.norm1 = nn.LayerNorm(in_chans * kernel * kernel, elementwise_affine=not folded)
        self.attention = TokenizerAttention(in_chans, kernel, dim, drop, folded)
        self.norm2 = nn.LayerNorm(dim, elementwise_affine=not folded)
        self.fc1 = nn.Linear(dim, dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "b i H W"]) -> Float[Tensor, "b e h w"]:
        """A map to one that is smaller by the stride."""
        grid = [patches_along(side, self.kernel, self.stride) for side in (x.shape[2], x.shape[3])]
        tokens = self.attention(self.norm1(self.patches(x).transpose(1, 2)))
        tokens = tokens + self.fc2(self.act(self.fc1(self.norm2(tokens))))
        return tokens.transpose(1, 2).unflatten(2, grid)

    def folded_state(self) -> dict[str, Tensor]:
        """Both norms' affines in the linear maps after them, and the two maps after the memory as one.

        The query stays apart from the memory, since it is also added to the result.
        """
        state = dict(self.state_dict())
        value, project = "attention.memory_value", "attention.project"
        state[f"{value}.weight"], state[f"{value}.bias"] = linear_then_linear(
            state[f"{value}.weight"],
            state[f"{value}.bias"],
            state.pop(f"{project}.weight"),
            state.pop(f"{project}.bias"),
        )
        for norm, linear in (("norm1", "attention.query"), ("norm2", "fc1")):
            scale, shift = state.pop(f"{norm}.weight"), state.pop(f"{norm}.bias")
            weight, bias = state[f"{linear}.weight"], state[f"{linear}.bias"]
            matrix, state[f"{linear}.bias"] = affine_then_linear(scale, shift, weight.flatten(1), bias)
            state[f"{linear}.weight"] = matrix.view_as(weight)
        return state


class Tokenizer(nn.Module):
    """Two soft splits; a linear map then turns a third one's patches into tokens, which is a 3x3 convolution."""

    def __init__(
        self, in_chans: int, token_dim: int, embed_dim: int, strides: Sequence[int], drop: float, folded: bool
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.split1 = SoftSplit(in_chans, KERNELS[0], strides[0], token_dim, drop, folded)
        self.split2 = SoftSplit(token_dim, KERNELS[1], strides[1], token_dim, drop, folded)
        padding = padding_of(KERNELS[2], strides[2])
        self.project = nn.Conv2d(token_dim, embed_dim, KERNELS[2], stride=strides[2], padding=padding)

    def init_weights(self) -> None:
        """Truncated normal with sd 0.02, zero biases; the memories of a split as one another's transpose."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            for split in (self.split1, self.split2):
                split.attention.memory_key.weight.copy_(split.attention.memory_value.weight.T)

    def forward(self, x: Float[Tensor, "b i H W"]) -> Float[Tensor, "b c h w"]:
        """Images to a map of tokens."""
        return self.project(self.split2(self.split1(x)))

    def folded_state(self) -> dict[str, Tensor]:
        """Of both splits; the last linear map is as it was."""
        state = {f"project.{key}": value for key, value in self.project.state_dict().items()}
        for name in ("split1", "split2"):
            split: SoftSplit = getattr(self, name)
            state |= {f"{name}.{key}": value for key, value in split.folded_state().items()}
        return state
