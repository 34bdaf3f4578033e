"""RepMLP's checkpoint layouts: RepMLPNet (v2) of the authors and of mmpretrain, and v1's block and hosts.

Source: DingXiaoH/RepMLP @ 3eff13f, repmlpnet.py, and @ 4b3e347, repmlp.py, repmlp_blocks.py and repmlp_resnet.py; key
names of open-mmlab/mmpretrain @ 9fe593e, backbones/repmlp.py. "deploy" files have the local convolutions and the norm
beside `fc3` merged into it; of v2 they keep all other norms, which the architecture's file merges.
"""

import re
from collections.abc import Callable

from torch import Tensor

from allmlp.convert.layout import Conversion, Layout, State, rename

Rule = Callable[[str, Tensor], tuple[str, Tensor, str] | None]

# Official path inside a block -> ours. Convolution and norm of a pair are "conv" and "bn" in all of them.
_V2_BLOCK = {
    "prebn1": "norm1",
    "prebn2": "norm2",
    "norm1": "norm1",  # mmpretrain
    "norm2": "norm2",
    "repmlp_block.gp.fc1": "rep_mlp.global_perceptron.fc1",
    "repmlp_block.gp.fc2": "rep_mlp.global_perceptron.fc2",
    "repmlp_block.gp.conv1.conv": "rep_mlp.global_perceptron.fc1",
    "repmlp_block.gp.conv2.conv": "rep_mlp.global_perceptron.fc2",
    "repmlp_block.fc3": "rep_mlp.fc",
    "repmlp_block.fc3_bn": "rep_mlp.norm",
    "ffn_block.ffn_fc1.conv": "ffn.fc1.conv",
    "ffn_block.ffn_fc1.bn": "ffn.fc1.norm",
    "ffn_block.ffn_fc2.conv": "ffn.fc2.conv",
    "ffn_block.ffn_fc2.bn": "ffn.fc2.norm",
}
_V2_OUTSIDE = {
    "conv_embedding.conv": "stem.conv",
    "conv_embedding.bn": "stem.norm",
    "patch_embed.projection": "stem.conv",
    "patch_embed.norm": "stem.norm",
    "head_norm": "norm",
    "final_norm": "norm",
    "head": "head",
    "head.fc": "head",
}
_V1_BLOCK = {
    "avg.bn": "global_perceptron.norm",
    "fc1_fc2.fc1": "global_perceptron.fc1",
    "fc1_fc2.fc2": "global_perceptron.fc2",
    "fc3": "fc",
    "fc3_bn": "norm",
}
_V1_HOST = {
    "conv1": "reduce",
    "light_conv1": "reduce",
    "btnk_conv1": "reduce",
    "conv2": "body.conv",
    "btnk_conv2": "body.narrow",
    "btnk_conv4": "body.widen",
    "conv3": "expand",
    "light_conv3": "expand",
    "btnk_conv5": "expand",
    "shortcut": "shortcut",
}
_PAIR = {"conv": "conv", "bn": "norm"}


def _local(path: str) -> str | None:
    """repconv3.bn -> local.3.norm."""
    match = re.fullmatch(r"repconv(\d+)\.(conv|bn)", path)
    return f"local.{match[1]}.{_PAIR[match[2]]}" if match else None


def _v2_path(path: str) -> str | None:
    if path in _V2_OUTSIDE:
        return _V2_OUTSIDE[path]
    if match := re.fullmatch(r"(?:embeds|downsample_layers)\.(\d+)\.(conv|projection|bn|norm)", path):
        return f"downsamples.{match[1]}.{'conv' if match[2] in ('conv', 'projection') else 'norm'}"
    if match := re.fullmatch(r"(stages\.\d+\.\d+)\.(.+)", path):
        local = _local(match[2].removeprefix("repmlp_block."))
        inside = f"rep_mlp.{local}" if local else _V2_BLOCK.get(match[2])
        return f"{match[1]}.{inside}" if inside else None
    return None


def _v1_block_path(path: str) -> str | None:
    return _local(path) or _V1_BLOCK.get(path)


def _v1_host_path(path: str) -> str | None:
    if path == "linear":
        return "head"
    if match := re.fullmatch(r"stage0\.0\.(conv|bn)", path):
        return f"stem.{_PAIR[match[1]]}"
    match = re.fullmatch(r"stage(\d+)\.(\d+)\.(\w+)\.(.+)", path)
    if match is None:
        return None
    stage, block, module, inside = f"stages.{int(match[1]) - 1}", match[2], match[3], match[4]
    if module in ("light_repmlp", "btnk_repmlp"):
        place = _v1_block_path(inside)
        return f"{stage}.{block}.body.rep_mlp.{place}" if place else None
    if module in _V1_HOST and inside in _PAIR:
        return f"{stage}.{block}.{_V1_HOST[module]}.{_PAIR[inside]}"
    return None


def _rule(path_of: Callable[[str], str | None]) -> Rule:
    """Rename a key's path; fully-connected layers that are stored as 1x1 convolutions become matrices."""

    def rule(key: str, tensor: Tensor) -> tuple[str, Tensor, str] | None:
        path, _, leaf = key.rpartition(".")
        ours = path_of(path)
        if ours is None:
            return None
        if tensor.ndim == 4 and not ours.endswith("conv"):
            return f"{ours}.{leaf}", tensor.flatten(1), "reshaped"
        return f"{ours}.{leaf}", tensor, "copied"

    return rule


def _without_backbone(state: State) -> dict[str, Tensor]:
    return {key.removeprefix("backbone."): value for key, value in state.items()}


def _layout(name: str, marks: tuple[str, ...], path_of: Callable[[str], str | None], folded: bool) -> Layout:
    """A layout whose files have every key of `marks`."""

    def detect(state: State) -> bool:
        bare = _without_backbone(state)
        return all(mark in bare for mark in marks)

    def convert(state: State) -> Conversion:
        conversion = rename(name, _without_backbone(state), _rule(path_of))
        conversion.folded = folded
        return conversion

    return Layout(name, detect, convert)


_V2_FC = "stages.0.0.repmlp_block.fc3."
_V1_STEM = "stage0.0.conv."
V2_DEPLOY = _layout("RepMLPNet deploy", (_V2_FC + "bias",), _v2_path, folded=True)
V2_TRAIN = _layout("RepMLPNet", (_V2_FC + "weight",), _v2_path, folded=False)
V1_BLOCK_LAYOUTS = (
    _layout("RepMLP v1 block deploy", ("fc3.weight", "fc3.bias"), _v1_block_path, folded=True),
    _layout("RepMLP v1 block", ("fc3.weight", "fc3_bn.weight"), _v1_block_path, folded=False),
)
V1_HOST_LAYOUTS = (
    _layout("RepMLP v1 ResNet deploy", (_V1_STEM + "weight", _V1_STEM + "bias", "linear.weight"), _v1_host_path, True),
    _layout("RepMLP v1 ResNet", (_V1_STEM + "weight", "stage0.0.bn.weight"), _v1_host_path, folded=False),
)
