"""The peers compute what our models compute, in float64, with weights that hide nothing."""

from typing import Any

import pytest
import torch
from timm.models.mlp_mixer import MlpMixer as TimmMlpMixer
from torch import nn

import allmlp
from allmlp.errors import InputError
from allmlp.peers import create_peer, peer_forms
from allmlp.peers.weights import perturb

CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("mixer_nano", "authors", {}),
    ("mixer_nano", "timm", {}),
    ("mixer_nano", "timm", {"gelu": "erf", "tokens_mlp_dim": 50, "in_chans": 1, "img_size": (32, 48)}),
    ("resmlp_nano", "authors", {"img_size": (32, 48)}),
    ("resmlp_nano", "timm", {}),
    ("ff_nano", "authors", {}),
    ("ff_nano", "authors", {"img_size": 64, "global_pool": "avg"}),
    ("eamlp_nano", "authors", {}),
    ("eamlp_nano", "authors", {"img_size": 64, "token_strides": (4, 2, 2), "global_pool": "token"}),
    ("as_mlp_nano", "authors", {}),
    ("as_mlp_nano", "authors", {"img_size": (64, 96), "shift_size": 7, "patch_norm": False, "bias": False}),
    ("repmlpnet_nano", "authors", {}),
    ("repmlpnet_nano", "authors", {"num_sharesets": (1, 2, 144, 6), "reparam_kernels": (1, 3, 5)}),
]


def a_model(name: str, **arguments: Any) -> Any:
    """A model in float64 and evaluation mode, all of whose weights matter."""
    torch.manual_seed(0)
    model = allmlp.create_model(name, num_classes=7, **arguments).double().eval()
    perturb(model)
    return model


def an_image(model: Any) -> torch.Tensor:
    return torch.randn(2, model.arguments["in_chans"], *model.arguments["img_size"], dtype=torch.float64)


def assert_same(mine: torch.Tensor, theirs: torch.Tensor) -> None:
    assert mine.shape == theirs.shape
    assert (mine - theirs).abs().max() < 1e-12 * mine.std()


@pytest.mark.parametrize(("name", "form", "arguments"), CASES)
def test_a_peer_gives_equal_logits_and_gradients(name, form, arguments):
    model = a_model(name, **arguments)
    peer = create_peer(model, form)
    assert not isinstance(peer, type(model))
    one, other = (an_image(model).requires_grad_() for _ in range(2))
    other.data.copy_(one.data)
    mine, theirs = model(one), peer(other)
    assert mine.std() > 0.01
    assert_same(mine, theirs)
    for logits in (mine, theirs):
        logits.sin().sum().backward()
    assert_same(one.grad, other.grad)


def test_batch_statistics_are_used_alike_in_training():
    model = a_model("repmlpnet_nano").train()
    peer = create_peer(model, "authors")
    assert peer.training
    images = an_image(model)
    assert_same(model(images), peer(images))


def test_the_authors_injection_keeps_the_logits():
    model = a_model("repmlpnet_nano")
    peer = create_peer(model, "authors")
    images = an_image(model)
    before = model(images)
    peer.inject()
    assert not [key for key in peer.state_dict() if "repconv" in key or "fc3_bn" in key]
    assert_same(before, peer(images))


def test_partitions_of_a_larger_image_return_to_their_places():
    model = a_model("repmlpnet_nano")
    model.set_input_size(64)
    assert_same(model(images := an_image(model)), create_peer(model, "authors")(images))


def test_a_peer_does_it_the_authors_way():
    mixer = create_peer(a_model("mixer_nano"), "authors")
    assert type(mixer.get_submodule("blocks.0.mlp_tokens.fc1")) is nn.Linear
    repmlp = create_peer(a_model("repmlpnet_nano"), "authors")
    assert repmlp.get_submodule("stages.0.0.repmlp_block.fc3").groups == 8
    as_mlp = create_peer(a_model("as_mlp_nano"), "authors")
    assert type(as_mlp.get_submodule("layers.0.blocks.0.axial_shift.conv1")) is nn.Conv2d
    assert isinstance(create_peer(a_model("resmlp_nano"), "timm"), TimmMlpMixer)


@pytest.mark.parametrize("name", ["mixer_b16", "resmlp_s24", "ff_base", "eamlp_14", "as_mlp_t", "repmlpnet_t224"])
def test_published_sizes_have_peers_with_as_many_numbers(name):
    with torch.device("meta"):
        model = allmlp.create_model(name)
    for form in peer_forms(type(model)):
        with torch.device("meta"):
            peer = create_peer(model, form)
        assert sum(p.numel() for p in peer.parameters()) == sum(p.numel() for p in model.parameters())


def test_perturbed_weights_all_matter():
    model = a_model("resmlp_nano", layer_scale_init=1e-6)
    scale = model.get_parameter("blocks.0.layer_scale1")
    assert 0.1 <= scale.min() < scale.max() <= 0.3
    images = an_image(model)
    before = model(images)
    with torch.no_grad():
        for parameter in model.parameters():
            kept = parameter.clone()
            parameter.mul_(0.9)
            assert (model(images) - before).abs().max() > 1e-5 * before.std()
            parameter.copy_(kept)


@pytest.mark.parametrize(
    ("name", "form", "arguments"),
    [
        ("vip_s14", "authors", {"img_size": 56}),
        ("ff_nano", "timm", {}),
        ("as_mlp_nano", "authors", {"dilation": 2}),
        ("as_mlp_nano", "authors", {"img_size": 40}),
        ("eamlp_nano", "authors", {"img_size": (32, 48)}),
    ],
)
def test_a_peer_that_cannot_be_is_refused(name, form, arguments):
    with torch.device("meta"):
        model = allmlp.create_model(name, **arguments)
    with pytest.raises(InputError, match=r"Wanted a peer|The authors'"):
        create_peer(model, form)


def test_a_folded_model_has_no_peer():
    with pytest.raises(InputError, match="unfolded"):
        create_peer(allmlp.fold(a_model("mixer_nano")), "authors")
