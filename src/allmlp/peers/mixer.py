"""MLP-Mixer as the authors write it: linear layers on the last axis, the tokens brought there by a transpose and back.

Source: google-research/vision_transformer @ c6de1e5, vit_jax/models_mixer.py, which is Flax; the same operations in
    PyTorch, with timm's names.
Shapes: b batch, n tokens, c channels.
"""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from allmlp.peers._parts import Mlp, PatchEmbedding


class _Block(nn.Module):
    def __init__(self, tokens: int, dim: int, tokens_mlp_dim: int, channels_mlp_dim: int, gelu: str) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp_tokens = Mlp(tokens, tokens_mlp_dim, gelu=gelu)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp_channels = Mlp(dim, channels_mlp_dim, gelu=gelu)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        y = self.norm1(x).transpose(1, 2)
        x = x + self.mlp_tokens(y).transpose(1, 2)
        return x + self.mlp_channels(self.norm2(x))


class MlpMixerPeer(nn.Module):
    """`allmlp.models.MlpMixer`, built from its arguments."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        a = arguments
        self.stem = PatchEmbedding(a["in_chans"], a["embed_dim"], a["patch_size"])
        tokens = self.stem.tokens(a["img_size"])
        gelu = {"tanh": "tanh", "erf": "none"}[a["gelu"]]
        self.blocks = nn.Sequential(
            *[
                _Block(tokens, a["embed_dim"], a["tokens_mlp_dim"], a["channels_mlp_dim"], gelu)
                for _ in range(a["depth"])
            ]
        )
        self.norm = nn.LayerNorm(a["embed_dim"], eps=1e-6)
        self.head = nn.Linear(a["embed_dim"], a["num_classes"])

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b k"]:
        """Images to logits."""
        return self.head(self.norm(self.blocks(self.stem(x))).mean(dim=1))
