"""Peers: the same functions as our models compute, in the operations that the authors' code and timm use.

A peer holds the same weights under the official names and gives the same logits (tests/peers); what differs is how it
goes about it: transposes around linear layers, 1x1 convolutions, permuted heads, padded and rolled copies. `allmlp
benchmark` measures ours against them. They are written from the equations and layouts, not copied.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from allmlp.errors import InputError
from allmlp.models import AsMlp, EaMlp, FeedForwardOnly, MlpMixer, RepMlpNet, ResMlp
from allmlp.models._base import AllMlpModel
from allmlp.models._loading import match_checkpoint
from allmlp.peers.as_mlp import AsMlpPeer
from allmlp.peers.ea_mlp import EaMlpPeer
from allmlp.peers.ff_only import FeedForwardOnlyPeer
from allmlp.peers.mixer import MlpMixerPeer
from allmlp.peers.repmlpnet import RepMlpNetPeer
from allmlp.peers.resmlp import ResMlpPeer
from allmlp.peers.timm_forms import timm_mixer, timm_resmlp

Build = Callable[[Mapping[str, Any]], nn.Module]

_PEERS: dict[type[nn.Module], dict[str, Build]] = {
    MlpMixer: {"authors": MlpMixerPeer, "timm": timm_mixer},
    ResMlp: {"authors": ResMlpPeer, "timm": timm_resmlp},
    FeedForwardOnly: {"authors": FeedForwardOnlyPeer},
    EaMlp: {"authors": EaMlpPeer},
    AsMlp: {"authors": AsMlpPeer},
    RepMlpNet: {"authors": RepMlpNetPeer},
}


def peer_forms(model_class: type[nn.Module]) -> list[str]:
    """The peers that there are for models of a class: "authors", "timm", both or none."""
    return list(_PEERS.get(model_class, {}))


def create_peer(model: nn.Module, form: str) -> nn.Module:
    """A peer of an unfolded model with the model's weights, in the same mode, dtype and place.

    Stochastic depth is left out: the peer is equal to a model whose `drop_path_rate` is 0.

    Args:
        model: one of ours.
        form: one of `peer_forms(type(model))`.

    Raises:
        InputError: there is no such peer, it cannot be built with the model's arguments, or the model is folded.
    """
    forms = _PEERS.get(type(model), {})
    if form not in forms or not isinstance(model, AllMlpModel):
        known = f"there is {', '.join(forms)}" if forms else "there is none"
        raise InputError(f"Wanted a peer of {type(model).__name__} named {form!r}; {known}.")
    if model.folded:
        raise InputError("Wanted an unfolded model, whose weights a peer can take; this one is folded.")
    example = next(model.parameters())
    peer = forms[form](model.arguments).to(example.device, example.dtype)
    _copy_weights(model, peer)
    return peer.train(model.training)


def _copy_weights(model: AllMlpModel, peer: nn.Module) -> None:
    """Give a peer the model's weights, by the checkpoint layouts read backwards: which of ours is which of theirs."""
    theirs, ours = peer.state_dict(), model.state_dict()
    found = match_checkpoint(model, dict(theirs))
    if found.unexpected or found.tensors.keys() != ours.keys():
        odd = [*found.unexpected, *(found.tensors.keys() ^ ours.keys())]
        raise InputError(f"Wanted a peer with the tensors of {type(model).__name__}; these have no match: {odd}.")
    with torch.no_grad():
        for key, value in ours.items():
            target = theirs[found.origin[key][0]]
            target.copy_(value.reshape(target.shape))  # layouts differ in flattened axes and axes of size 1 only


__all__ = ["create_peer", "peer_forms"]
