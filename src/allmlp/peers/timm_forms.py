"""timm's own networks of the same function, where it has them: MLP-Mixer and ResMLP."""

from collections.abc import Mapping
from typing import Any

from timm.models.mlp_mixer import Affine, MlpMixer, ResBlock
from torch import nn


def timm_mixer(arguments: Mapping[str, Any]) -> nn.Module:
    """timm's MlpMixer by the arguments of ours; its GELU is set to the form that ours has."""
    a = arguments
    # timm rounds width times ratio down
    ratios = [(a[key] + 0.5) / a["embed_dim"] for key in ("tokens_mlp_dim", "channels_mlp_dim")]
    network = MlpMixer(**_sizes(a), mlp_ratio=(ratios[0], ratios[1]))
    for module in network.modules():
        if isinstance(module, nn.GELU):
            module.approximate = {"tanh": "tanh", "erf": "none"}[a["gelu"]]
    return network


def timm_resmlp(arguments: Mapping[str, Any]) -> nn.Module:
    """timm's MlpMixer of ResMLP's blocks by the arguments of ours."""
    ratio: Any = arguments["mlp_ratio"]
    return MlpMixer(
        **_sizes(arguments),
        mlp_ratio=ratio,
        block_layer=ResBlock,
        norm_layer=Affine,
        proj_drop_rate=arguments["drop_rate"],
    )


def _sizes(a: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "img_size": a["img_size"],
        "in_chans": a["in_chans"],
        "num_classes": a["num_classes"],
        "patch_size": a["patch_size"],
        "num_blocks": a["depth"],
        "embed_dim": a["embed_dim"],
    }
