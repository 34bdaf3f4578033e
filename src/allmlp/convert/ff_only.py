"""Feed-forward only's checkpoint layout: the authors' state dicts, whose mlp1 is over channels and mlp2 over tokens.

Source: lukemelas/do-you-even-need-attention @ 1f57ab0, vision_transformer_linear.py.
"""

from torch import Tensor

from allmlp.convert.layout import Conversion, Layout, State, rename

_NAMES = {
    "patch_embed.proj.": "stem.",
    "pos_encoding.": "",
    ".mlp1.": ".channel_mixing.",
    ".mlp2.": ".token_mixing.",
}


def _key(key: str, tensor: Tensor) -> tuple[str, Tensor, str]:
    for theirs, ours in _NAMES.items():
        key = key.replace(theirs, ours)
    return key, tensor, "copied"


def _is_official(state: State) -> bool:
    return "pos_encoding.pos_embed" in state and "blocks.0.mlp2.fc1.weight" in state


def _convert(state: State) -> Conversion:
    return rename("ff-only", state, _key)


LAYOUTS = (Layout("ff-only", _is_official, _convert),)
