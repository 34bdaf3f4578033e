"""Checkpoint layouts of the two external attention blocks alone: EANet's, and EAMLP's with several heads.

Source: MenghaoGuo/EANet @ 59c03cb, model_torch.py and EAMLP/models/transformer_block.py.
"""

from torch import Tensor

from allmlp.convert.layout import Conversion, Layout, State, rename

# Official module -> ours. The authors number the two linear maps of the memory.
_EANET = {
    "conv1": "project_in",
    "linear_0": "memory_key",
    "linear_1": "memory_value",
    "conv2.0": "project_out",
    "conv2.1": "norm",
}
_MULTI_HEAD = {"trans_dims": "expand", "linear_0": "memory_key", "linear_1": "memory_value", "proj": "project"}


def eanet_block_key(key: str) -> str | None:
    """Our key inside `ExternalAttention` for an official one inside `External_attention`; None if there is none."""
    return _lookup(_EANET, key)


def multi_head_key(key: str) -> str | None:
    """Our key inside `MultiHeadExternalAttention` for an official one inside `Attention`; None if there is none."""
    return _lookup(_MULTI_HEAD, key)


def _lookup(modules: dict[str, str], key: str) -> str | None:
    module, _, leaf = key.rpartition(".")
    return f"{modules[module]}.{leaf}" if module in modules else None


def _is_eanet(state: State) -> bool:
    return "conv1.weight" in state and "linear_0.weight" in state and "conv2.0.weight" in state


def _eanet_rule(key: str, tensor: Tensor) -> tuple[str, Tensor, str] | None:
    ours = eanet_block_key(key)
    return None if ours is None else (ours, tensor, "copied")


def _convert_eanet(state: State) -> Conversion:
    return rename("EANet block", state, _eanet_rule)


def _is_multi_head(state: State) -> bool:
    return "trans_dims.weight" in state and "linear_0.weight" in state


def _multi_head_rule(key: str, tensor: Tensor) -> tuple[str, Tensor, str] | None:
    ours = multi_head_key(key)
    return None if ours is None else (ours, tensor, "copied")


def _convert_multi_head(state: State) -> Conversion:
    return rename("EAMLP attention", state, _multi_head_rule)


EANET_BLOCK_LAYOUTS = (Layout("EANet block", _is_eanet, _convert_eanet),)
MULTI_HEAD_LAYOUTS = (Layout("EAMLP attention", _is_multi_head, _convert_multi_head),)
