"""Vision Permutator's checkpoint layout: the authors' state dicts, which number stages and transitions in one list.

Source: houqb/VisionPermutator @ 2cab2ce, models/vip.py.
"""

import re

from torch import Tensor

from allmlp.convert.layout import Conversion, Layout, State, rename

_NAMES = {
    "patch_embed.": "stem.",
    ".attn.mlp_h.": ".permute_mlp.mix_height.",
    ".attn.mlp_w.": ".permute_mlp.mix_width.",
    ".attn.mlp_c.": ".permute_mlp.mix_channels.",
    ".attn.": ".permute_mlp.",
}


def _places(state: State) -> dict[str, str]:
    """Where each entry of the authors' list `network` goes: "stages.I", or "downsamples.I" after stage I."""
    numbers = {int(key.split(".")[1]) for key in state if re.match(r"network\.\d+\.", key)}
    places: dict[str, str] = {}
    stages = 0
    for number in sorted(numbers):
        if f"network.{number}.proj.weight" in state:
            places[str(number)] = f"downsamples.{stages - 1}"
        else:
            places[str(number)] = f"stages.{stages}"
            stages += 1
    return places


def _is_official(state: State) -> bool:
    return "network.0.0.attn.mlp_h.weight" in state


def _convert(state: State) -> Conversion:
    places = _places(state)

    def rules(key: str, tensor: Tensor) -> tuple[str, Tensor, str]:
        for theirs, ours in _NAMES.items():
            key = key.replace(theirs, ours)
        return re.sub(r"^network\.(\d+)", lambda match: places[match[1]], key), tensor, "copied"

    return rename("vip", state, rules)


LAYOUTS = (Layout("vip", _is_official, _convert),)
