"""ResMLP's checkpoint layouts: the authors' state dicts and timm's.

In the authors' files "attn" is the linear map over patches; there is no attention in them.
Source: facebookresearch/deit @ 7e160fe, timm 1.0.31.
"""

from torch import Tensor

from allmlp.convert.layout import Conversion, Layout, State, rename

_OFFICIAL = {
    "patch_embed.proj.": "stem.",
    ".attn.": ".token_mixing.",
    ".gamma_": ".layer_scale",
    ".mlp.": ".channel_mixing.",
}
_TIMM = {
    "stem.proj.": "stem.",
    ".linear_tokens.": ".token_mixing.",
    ".mlp_channels.": ".channel_mixing.",
    ".ls": ".layer_scale",
}


def _renamed(key: str, names: dict[str, str]) -> str:
    for theirs, ours in names.items():
        key = key.replace(theirs, ours)
    return key


def _official_key(key: str, tensor: Tensor) -> tuple[str, Tensor, str]:
    return _renamed(key, _OFFICIAL), tensor, "copied"


def _timm_key(key: str, tensor: Tensor) -> tuple[str, Tensor, str]:
    if key.endswith((".alpha", ".beta")):  # stored as (1, 1, c)
        return key, tensor.reshape(-1), "reshaped"
    return _renamed(key, _TIMM), tensor, "copied"


def _is_official(state: State) -> bool:
    return "blocks.0.attn.weight" in state and "blocks.0.norm1.alpha" in state


def _convert_official(state: State) -> Conversion:
    return rename("deit", state, _official_key)


def _is_timm(state: State) -> bool:
    return "blocks.0.linear_tokens.weight" in state and "blocks.0.ls1" in state


def _convert_timm(state: State) -> Conversion:
    return rename("timm", state, _timm_key)


LAYOUTS = (Layout("deit", _is_official, _convert_official), Layout("timm", _is_timm, _convert_timm))
