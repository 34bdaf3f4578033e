"""EAMLP's checkpoint layouts: the authors' T2T-ViT shell with external attention throughout, in its two key forms.

The two tokenizers are the same network. In the one named "performer" the memory's linear maps count from 0, in the one
named "transformer" from 1; so `attn.linear_1` is the value memory of the first and the key memory of the second.
Source: MenghaoGuo/EANet @ 59c03cb, EAMLP/models: t2t_vit.py, token_performer.py, token_transformer.py.
"""

import re
from functools import partial

from torch import Tensor

from allmlp.convert.external_attention import multi_head_key
from allmlp.convert.layout import Conversion, Layout, State, rename

_SPLIT = re.compile(r"tokens_to_token\.attention([12])\.(.+)\.(weight|bias)")
_BLOCK = re.compile(r"blocks\.(\d+)\.(?:attn\.(.+)|(norm[12]|mlp\.fc[12])\.(weight|bias))")
_SIDES = {"1": 7, "2": 3}  # of the patches that each part of the tokenizer cuts out
_FIRST_MEMORY = {"performer": 0, "transformer": 1}


def _key(tokenizer: str, key: str, tensor: Tensor) -> tuple[str, Tensor, str] | None:
    if key in ("cls_token", "pos_embed") or re.fullmatch(r"(norm|head)\.(weight|bias)", key):
        return key, tensor, "copied"
    if split := _SPLIT.fullmatch(key):
        number, module, leaf = split.groups()
        first = _FIRST_MEMORY[tokenizer]
        names = {
            "attn.q_linear": "attention.query",
            f"attn.linear_{first}": "attention.memory_key",
            f"attn.linear_{first + 1}": "attention.memory_value",
            "attn.proj": "attention.project",
            "mlp.fc1": "fc1",
            "mlp.fc2": "fc2",
        }
        path = f"stem.split{number}.{names.get(module, module)}.{leaf}"
        if tensor.ndim == 2 and module == "attn.q_linear":
            return path, _as_kernel(tensor, _SIDES[number]), "reshaped"
        return path, tensor, "copied"
    if key == "tokens_to_token.project.weight":
        return "stem.project.weight", _as_kernel(tensor, 3), "reshaped"
    if key == "tokens_to_token.project.bias":
        return "stem.project.bias", tensor, "copied"
    if block := _BLOCK.fullmatch(key):
        number, attention, _, _ = block.groups()
        if attention is None:
            return key, tensor, "copied"
        ours = multi_head_key(attention)
        return None if ours is None else (f"blocks.{number}.attention.{ours}", tensor, "copied")
    return None


def _as_kernel(matrix: Tensor, side: int) -> Tensor:
    """A linear map of flattened patches (o, i * side * side) as a convolution's kernel (o, i, side, side)."""
    return matrix.unflatten(1, (-1, side, side))


def _detect(tokenizer: str, state: State) -> bool:
    memory = f"tokens_to_token.attention1.attn.linear_{_FIRST_MEMORY[tokenizer]}"
    return f"{memory}.weight" in state and f"{memory}.bias" not in state


def _convert(tokenizer: str, state: State) -> Conversion:
    return rename(f"EAMLP, {tokenizer} tokenizer", state, partial(_key, tokenizer))


LAYOUTS = tuple(
    Layout(f"EAMLP, {name} tokenizer", partial(_detect, name), partial(_convert, name)) for name in _FIRST_MEMORY
)
