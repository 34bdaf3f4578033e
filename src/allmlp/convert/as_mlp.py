"""AS-MLP's checkpoint layout, as the authors' classification code writes it and their dense-task code nests it.

Source: svip-lab/AS-MLP @ dd1eb4f, models/as_mlp.py.
"""

import re

from torch import Tensor

from allmlp.convert.layout import Conversion, Layout, State, rename

# conv2_1 reads the map shifted along its width, conv2_2 the one shifted along its height; exchanged they load as well.
_CONVOLUTIONS = {
    "axial_shift.conv1": "axial_shift.proj_in",
    "axial_shift.conv2_1": "axial_shift.along_width",
    "axial_shift.conv2_2": "axial_shift.along_height",
    "axial_shift.conv3": "axial_shift.proj_out",
}
_NO_TRACE = (
    "the shift size leaves no trace in the weights: the authors' own files for the T model may be from shift size 3 or "
    "5 (their configuration changed); evaluate with both and keep the better"
)


def as_mlp_key(key: str, tensor: Tensor) -> tuple[str, Tensor, str] | None:
    """The key of `AsMlp` for an official one, its tensor (1x1 convolutions as matrices) and what was done to it."""
    if key.startswith("patch_embed."):
        return key.replace("patch_embed.", "stem.", 1), tensor, "copied"
    if re.fullmatch(r"(norm|head)\.(weight|bias)", key):
        return key, tensor, "copied"
    layer = re.fullmatch(r"layers\.(\d+)\.(?:blocks\.(\d+)\.(.+)|downsample\.(.+))\.(weight|bias)", key)
    if layer is None:
        return None
    stage, block, inside, merge, leaf = layer.groups()
    path = f"downsamples.{stage}.{merge}" if merge else f"stages.{stage}.{block}.{_CONVOLUTIONS.get(inside, inside)}"
    if tensor.ndim == 4:
        return f"{path}.{leaf}", tensor.flatten(1), "reshaped"
    return f"{path}.{leaf}", tensor, "copied"


def _is_official(state: State) -> bool:
    return "layers.0.blocks.0.axial_shift.conv2_1.weight" in state


def _convert(state: State) -> Conversion:
    conversion = rename("official", state, as_mlp_key)
    conversion.notes.append(_NO_TRACE)
    return conversion


LAYOUTS = (Layout("official", _is_official, _convert),)
