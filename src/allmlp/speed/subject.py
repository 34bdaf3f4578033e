"""What is measured: a network with weights that hide nothing, its forms, and those that it is measured against."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.layers import DropPath
from torch import nn

from allmlp.errors import InputError
from allmlp.folding import fold
from allmlp.metrics.cost import count_macs
from allmlp.models import create_model
from allmlp.models._base import AllMlpModel
from allmlp.models._registry import check_name, entry
from allmlp.peers import create_peer, peer_forms
from allmlp.peers.weights import perturb
from allmlp.recipes.schema import ModelGroup
from allmlp.runs import load_model
from allmlp.runs.network import input_size

PEERS = ("authors", "timm")


@dataclass(frozen=True)
class Form:
    """One network to run.

    name: "ours", a peer's name, or that of another model. network: in the mode that is measured. macs: of an image, in
    the unfolded network. same: whether it must give the outputs of the subject's unfolded network; another model is
    compared with itself in eager mode.
    """

    name: str
    network: nn.Module
    macs: int
    same: bool = True


@dataclass(frozen=True)
class Subject:
    """A model to measure.

    network: as it is trained. input_size: (channels, height, width). forms: its own first. left_out: why a
    built-in peer is not among them.
    """

    name: str
    network: nn.Module
    input_size: tuple[int, int, int]
    forms: list[Form]
    left_out: list[str]


def check_subject(model: str, against: Sequence[str] | None) -> None:
    """Raise unless a name or run folder is known, and so is everything that it is to be measured against."""
    for other in against or ():
        if other not in PEERS:
            check_name(other)
    if Path(model).expanduser().is_dir():
        return
    check_name(model)
    known = [] if model.startswith("timm/") else peer_forms(entry(model).model_class)
    for other in against or ():
        if other in PEERS and other not in known:
            raise InputError(
                f"against: wanted a peer of {model} ({', '.join(known) or 'there is none'}); got {other!r}. "
                "Name another model instead, such as timm/vit_base_patch16_224."
            )


def open_subject(
    model: str, img_size: int | None, against: Sequence[str] | None, train: bool, seed: int = 0
) -> Subject:
    """Build a model and what it is measured against, all with the same weights and without stochastic depth.

    Args:
        model: a name, `timm/NAME`, or a run folder, whose weights are taken as they are.
        img_size: side in pixels; None for the model's own size.
        against: "authors", "timm", names of models; None for the built-in peers that there are.
        train: whether training is measured, in which nothing is folded.
        seed: of new weights.

    Raises:
        InputError: no such peer, a size that it cannot take, or a run of another task.
    """
    name, network, size = _open(model, img_size, seed)
    for module in network.modules():
        if isinstance(module, DropPath):  # a peer has none
            module.drop_prob = 0.0
    macs = count_macs(network, size)
    own = "ours" if isinstance(network, AllMlpModel) else "timm"
    forms = [Form(own, network.train() if train else _for_inference(network), macs)]
    left_out = []
    for other in peer_forms(type(network)) if against is None else against:
        if other in PEERS:
            try:
                forms += _peers(network, other, train, macs)
            except InputError as error:
                if against is not None:
                    raise
                left_out.append(str(error))
        else:
            built = _new(other, img_size or size[1], seed)
            forms.append(Form(other, built.train(train), count_macs(built, size), same=False))
    return Subject(name, network, size, forms, left_out)


def _open(model: str, img_size: int | None, seed: int) -> tuple[str, nn.Module, tuple[int, int, int]]:
    folder = Path(model).expanduser()
    if folder.is_dir():
        saved = load_model(folder)
        if saved.task != "classify":
            raise InputError(f"Wanted a run of a classifier to measure; {folder} is of task {saved.task}.")
        network, size = saved.network, (saved.spec.channels, *saved.spec.size)
        if img_size is not None:
            if not isinstance(network, AllMlpModel):
                raise InputError(f"img_size: {folder} holds a model of timm's, whose size stays; leave img_size out.")
            network.set_input_size(img_size)
            size = (size[0], img_size, img_size)
        return folder.name, network.eval(), size
    network = _new(model, img_size, seed)
    return model, network, input_size(network, ModelGroup(name=model, img_size=img_size))  # type: ignore[arg-type]


def _new(model: str, img_size: int | None, seed: int) -> nn.Module:
    """A new network, in evaluation mode, whose weights all matter."""
    torch.manual_seed(seed)
    network: Any
    if img_size is not None and not model.startswith("timm/") and _has_partitions(model):
        network = create_model(model)
        network.set_input_size(img_size)  # keeps the partitions, where a layer for the whole map would be huge
    else:
        network = create_model(model, img_size=img_size)
    perturb(network, seed)
    return network.eval()


def _has_partitions(model: str) -> bool:
    return bool(getattr(entry(model).model_class, "partition_argument", ""))


def _for_inference(network: nn.Module) -> nn.Module:
    return fold(network) if isinstance(network, AllMlpModel) else network


def _peers(network: nn.Module, name: str, train: bool, macs: int) -> list[Form]:
    peer: Any = create_peer(network, name)
    if train or not hasattr(peer, "inject"):
        return [Form(name, peer.train(train), macs)]
    return [Form(name, copy.deepcopy(peer).inject(), macs), Form(f"{name}_unmerged", peer, macs)]
