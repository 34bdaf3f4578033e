"""MLP-Mixer's checkpoint layouts: Google's `.npz` (three ways to name the arrays) and timm's state dicts.

Source: google-research/vision_transformer @ c6de1e5, big_vision @ 0127fb6, timm 1.0.31.
"""

import re

from torch import Tensor

from allmlp.convert.layout import Conversion, Layout, State, rename

# big_vision nests self-trained files under one of these.
_ROOTS = ("params/", "opt/target/")

_FLAX_MODULES = {
    "stem": "stem",
    "pre_head_layer_norm": "norm",
    "head": "head",
    "LayerNorm_0": "norm1",
    "LayerNorm_1": "norm2",
    "token_mixing/Dense_0": "token_mixing.fc1",
    "token_mixing/Dense_1": "token_mixing.fc2",
    "channel_mixing/Dense_0": "channel_mixing.fc1",
    "channel_mixing/Dense_1": "channel_mixing.fc2",
}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def _without_root(state: State) -> dict[str, Tensor]:
    for root in _ROOTS:
        inner = {key.removeprefix(root): value for key, value in state.items() if key.startswith(root)}
        if inner:
            return inner
    return dict(state)


def _from_kernel(weight: Tensor) -> tuple[Tensor, str]:
    """A Flax kernel (in, out) or (kh, kw, in, out), in PyTorch's order."""
    if weight.ndim == 4:
        return weight.permute(3, 2, 0, 1).contiguous(), "transposed"
    return (weight.T.contiguous(), "transposed") if weight.ndim == 2 else (weight, "copied")


def _flax_key(key: str, tensor: Tensor) -> tuple[str, Tensor, str] | None:
    path, _, leaf = key.rpartition("/")
    block = re.match(r"MixerBlock_(\d+)/(.+)", path)
    module = _FLAX_MODULES.get(block[2] if block else path)
    if module is None or leaf not in _LEAVES:
        return None
    value, how = _from_kernel(tensor)
    return (f"blocks.{block[1]}.{module}" if block else module) + f".{_LEAVES[leaf]}", value, how


def _is_flax(state: State) -> bool:
    return any("MixerBlock_0/token_mixing/Dense_0/kernel" in key for key in state)


def _convert_flax(state: State) -> Conversion:
    return rename("google npz", _without_root(state), _flax_key)


_PHASES = {"token_mixing_phase_0": "token_mixing", "channel_mixing_phase_0": "channel_mixing"}
_OLD_MODULES = {"embedding": "stem", "Mixer/encoder_norm": "norm", "head": "head", "pre_head_layer_norm": "norm"}


def _old_key(key: str, tensor: Tensor) -> tuple[str, Tensor, str] | None:
    path, _, leaf = key.rpartition("/")
    block = re.match(r"Mixer/encoderblock_(\d+)/(\w+)", path)
    if block is None:
        module = _OLD_MODULES.get(path)
        if module is None or leaf not in _LEAVES:
            return None
        value, how = _from_kernel(tensor)
        return f"{module}.{_LEAVES[leaf]}", value, how
    if block[2] in _PHASES:
        number, kind = leaf[-1], leaf[:-1]
        squeezed = tensor.squeeze()
        value, how = _from_kernel(squeezed) if kind == "kernel" else (squeezed, "copied")
        return f"blocks.{block[1]}.{_PHASES[block[2]]}.fc{number}.{_LEAVES[kind]}", value, how
    norm = {"LayerNorm_0": "norm1", "LayerNorm_1": "norm2"}.get(block[2])
    return (f"blocks.{block[1]}.{norm}.{_LEAVES[leaf]}", tensor.squeeze(), "copied") if norm else None


def _is_old(state: State) -> bool:
    return any("Mixer/encoderblock_0/" in key for key in state)


def _convert_old(state: State) -> Conversion:
    return rename("google npz, older names", _without_root(state), _old_key)


def _timm_key(key: str, tensor: Tensor) -> tuple[str, Tensor, str] | None:
    key = key.replace("stem.proj.", "stem.").replace("mlp_tokens.", "token_mixing.")
    return key.replace("mlp_channels.", "channel_mixing."), tensor, "copied"


def _is_timm(state: State) -> bool:
    return "blocks.0.mlp_tokens.fc1.weight" in state and "blocks.0.ls1" not in state


def _convert_timm(state: State) -> Conversion:
    conversion = rename("timm", state, _timm_key)
    conversion.arguments["gelu"] = "erf"
    conversion.notes.append("timm's Mixer applies the exact (erf) GELU: the model was set to gelu='erf'")
    return conversion


LAYOUTS = (
    Layout("google npz", _is_flax, _convert_flax),
    Layout("google npz, older names", _is_old, _convert_old),
    Layout("timm", _is_timm, _convert_timm),
)
