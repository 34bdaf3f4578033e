"""External attention: the block of EANet, and the form with several heads that EAMLP is made of.

Paper: Guo et al., "Beyond Self-attention: External Attention using Two Linear Layers for Visual Tasks",
    arXiv 2105.02358.
Source: MenghaoGuo/EANet @ 59c03cb, model_torch.py (no licence: facts only) and
    EAMLP/models/transformer_block.py (Clear BSD).
Differs: nothing in evaluation (tests/models/test_external_attention.py, golden numbers). The authors make EANet's two
    memories views of one storage, which moving the module to a GPU or another dtype undoes; here they are two
    parameters, equal at initialisation, as the published models were trained.
Shapes: b batch, c channels (dim), n tokens, h w map, k heads, d width of a head (c / num_heads), m memory_size.
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from timm.layers import trunc_normal_
from torch import Tensor, nn
from torch.nn import functional as F

from allmlp.convert.external_attention import EANET_BLOCK_LAYOUTS, MULTI_HEAD_LAYOUTS
from allmlp.errors import InputError
from allmlp.models._base import AllMlpModule, records_arguments
from allmlp.ops.double_norm import EPSILON, double_normalise
from allmlp.reparam.affine import linear_then_affine, linear_then_linear
from allmlp.reparam.batch_norm import batch_norm_affine

EXPANSION = 4  # the multi-head form works at four times the width, in four times the heads


class ExternalAttention(AllMlpModule):
    """EANet's block: relu(x + norm(project_out(attention(project_in(x))))), all maps 1x1.

    The positions of the map are the tokens; the memory is shared by all images and positions, so the cost grows
    linearly with the number of positions.

    Args:
        dim: channels of the map.
        memory_size: rows of the memory.
        folded: build the inference form (see `allmlp.fold`): each memory absorbs the projection beside it, and the
            bias in front of the softmax, which cancels in it, is gone. It takes 2 dim^2 multiply-adds a position less.
    """

    layouts = EANET_BLOCK_LAYOUTS
    train_only_key: ClassVar[str] = "norm.weight"

    @records_arguments
    def __init__(self, dim: int = 512, memory_size: int = 64, folded: bool = False) -> None:
        super().__init__()
        self.folded = folded
        self.project_in = nn.Identity() if folded else nn.Conv2d(dim, dim, 1)
        self.memory_key = nn.Conv1d(dim, memory_size, 1, bias=False)
        self.memory_value = nn.Conv1d(memory_size, dim, 1, bias=folded)
        self.project_out = nn.Identity() if folded else nn.Conv2d(dim, dim, 1, bias=False)
        self.norm = nn.Identity() if folded else nn.BatchNorm2d(dim)
        self.init_weights()

    def init_weights(self) -> None:
        """He normal by fan-out for every weight; both memories equal, at the value memory's scale."""
        for module in self.modules():
            if isinstance(module, (nn.Conv1d, nn.Conv2d)):
                nn.init.normal_(module.weight, std=(2 / module.out_channels) ** 0.5)
        with torch.no_grad():
            self.memory_key.weight.copy_(self.memory_value.weight.transpose(0, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """A feature map to one of the same shape."""
        logits = self.memory_key(self.project_in(x).flatten(2))
        attention = double_normalise(logits, tokens_dim=-1, memory_dim=-2)
        y = self.memory_value(attention).unflatten(-1, x.shape[-2:])
        return F.relu(x + self.norm(self.project_out(y)))

    def folded_state(self) -> dict[str, Tensor]:
        """Two matrices: memory_key project_in, and norm project_out memory_value."""
        if not isinstance(self.norm, nn.modules.batchnorm._BatchNorm):
            raise InputError("This block is folded already.")
        names = ("project_in", "memory_key", "memory_value", "project_out")
        weights = {name: self.get_submodule(name).get_parameter("weight").flatten(1) for name in names}
        key, _ = linear_then_linear(weights["project_in"], None, weights["memory_key"], None)
        out, shift = linear_then_affine(weights["project_out"], None, *batch_norm_affine(self.norm))
        value, bias = linear_then_linear(weights["memory_value"], None, out, shift)
        return {"memory_key.weight": key[..., None], "memory_value.weight": value[..., None], "memory_value.bias": bias}


class MultiHeadExternalAttention(AllMlpModule):
    """EAMLP's token mixing: the tokens at four times the width, in 4 num_heads heads that share one memory.

    z = expand(x); each head's logits are memory_key(z_head); a softmax over tokens, then division by the sum over the
    memory; project(concatenation of memory_value(weights)).

    Args:
        dim: channels of a token.
        num_heads: heads by the authors' count; there are four times as many, each dim / num_heads wide.
        memory_size: rows of the memory that all heads share.
        attn_drop_rate: dropout of the attention weights.
        drop_rate: dropout of the result.
        folded: build the inference form (see `allmlp.fold`). The biases before the softmax are constant over tokens
            and cancel in it; the value's bias moves into `project`. Where heads are wide enough for the memory that
            multiply-adds do not rise, the two linear maps on each side become one (`merged`).

    Raises:
        InputError: num_heads does not divide dim.
    """

    layouts = MULTI_HEAD_LAYOUTS
    train_only_key: ClassVar[str] = "memory_value.bias"

    @records_arguments
    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        memory_size: int = 64,
        attn_drop_rate: float = 0.0,
        drop_rate: float = 0.0,
        folded: bool = False,
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            near = [k for k in range(1, dim + 1) if dim % k == 0]
            raise InputError(f"Wanted a num_heads that divides dim {dim} ({near}); got {num_heads}.")
        self.folded = folded
        self.heads = EXPANSION * num_heads
        self.memory_size = memory_size
        width = EXPANSION * dim
        # Per token: width * memory_size * num_heads merged, width * dim + width * memory_size not.
        self.merged = folded and num_heads * memory_size <= dim + memory_size
        if self.merged:
            self.memory_key = nn.Linear(dim, self.heads * memory_size, bias=False)
            self.project = nn.Linear(self.heads * memory_size, dim)
        else:
            self.expand = nn.Linear(dim, width, bias=not folded)
            self.memory_key = nn.Linear(dim // num_heads, memory_size, bias=not folded)
            self.memory_value = nn.Linear(memory_size, dim // num_heads, bias=not folded)
            self.project = nn.Linear(width, dim)
        self.attn_drop = nn.Dropout(attn_drop_rate)
        self.drop = nn.Dropout(drop_rate)
        self.init_weights()

    def init_weights(self) -> None:
        """Truncated normal with sd 0.02, zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def logits(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n k m"]:
        """Similarity of every token's every head with every memory row."""
        if self.merged:
            return self.memory_key(x).unflatten(-1, (self.heads, self.memory_size))
        return self.memory_key(self.expand(x).unflatten(-1, (self.heads, -1)))

    def read(self, attention: Float[Tensor, "b n k m"]) -> Float[Tensor, "b n c"]:
        """What the memory holds for these attention weights."""
        attention = self.attn_drop(attention)
        values = attention if self.merged else self.memory_value(attention)
        return self.drop(self.project(values.flatten(2)))

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Mix the tokens. Every token takes part in the softmax, a class token too."""
        return self.read(double_normalise(self.logits(x), tokens_dim=1, memory_dim=-1))

    def first_token(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b 1 c"]:
        """The first row of `forward`, without computing the others: they count in the softmax only."""
        logits = self.logits(x)
        attention = (logits[:, :1] - logits.logsumexp(dim=1, keepdim=True)).exp()
        return self.read(attention / (EPSILON + attention.sum(dim=-1, keepdim=True)))

    def folded_state(self) -> dict[str, Tensor]:
        """The inference form: no biases before the softmax, and linear maps in a row merged where that is no dearer."""
        if self.folded:
            raise InputError("This block is folded already.")
        state = dict(self.state_dict())
        key, value, value_bias = (state[f"memory_{name}"] for name in ("key.weight", "value.weight", "value.bias"))
        dim = self.project.out_features
        project = state["project.weight"].unflatten(1, (self.heads, -1)).double()  # (c, k, d)
        bias = state["project.bias"].double() + (project @ value_bias.double()).sum(1)
        if self.memory_size * self.heads > EXPANSION * (dim + self.memory_size):
            names = ("expand.weight", "memory_key.weight", "memory_value.weight", "project.weight")
            return {name: state[name] for name in names} | {"project.bias": bias.to(value)}
        expand = state["expand.weight"].unflatten(0, (self.heads, -1)).double()  # (k, d, c)
        return {
            "memory_key.weight": (key.double() @ expand).flatten(0, 1).to(value),
            "project.weight": (project @ value.double()).flatten(1).to(value),
            "project.bias": bias.to(value),
        }
