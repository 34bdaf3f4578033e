"""EANet's segmentation checkpoint: the state dict under `net`, of a dilated ResNet with one external attention block.

Source: MenghaoGuo/EANet @ 59c03cb, model_torch.py and the ResNet that it imports. Facts only: the repository's root
carries no licence.
"""

import re

from torch import Tensor

from allmlp.convert.external_attention import eanet_block_key
from allmlp.convert.layout import Conversion, Layout, State, rename

_RULES = tuple(
    (re.compile(pattern), target)
    for pattern, target in (
        (r"extractor\.0\.(\d)\.(.+)", r"backbone.model.conv1.\1.\2"),
        (r"extractor\.1\.(.+)", r"backbone.model.bn1.\1"),
        (r"extractor\.([4-7])\.(.+)", None),  # layer1 to layer4
        (r"(fc0\.(?:conv|bn)\..+)", r"head.\1"),
        (r"fc1\.0\.(.+)", r"head.fc1.\1"),
        (r"fc2\.(.+)", r"head.fc2.\1"),
    )
)


def _detect(state: State) -> bool:
    return "linu.linear_0.weight" in state and any(key.startswith("extractor.") for key in state)


def _key(key: str, tensor: Tensor) -> tuple[str, Tensor, str] | None:
    if key.startswith("linu."):
        inside = eanet_block_key(key.removeprefix("linu."))
        return None if inside is None else (f"head.attention.{inside}", tensor, "copied")
    for pattern, target in _RULES:
        if match := pattern.fullmatch(key):
            name = f"backbone.model.layer{int(match[1]) - 3}.{match[2]}" if target is None else match.expand(target)
            return name, tensor, "copied"
    return None


def _convert(state: State) -> Conversion:
    return rename("eanet", state, _key)


LAYOUTS = (Layout("eanet", _detect, _convert),)
