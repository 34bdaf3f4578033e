"""Every family detects and segments: pyramids, isotropic models on a canvas, timm's; folded they give the same."""

import pytest
import torch

import allmlp
from allmlp.dense import create_backbone, create_detector, create_segmenter
from allmlp.dense.conv import ConvBnRelu
from allmlp.errors import InputError
from allmlp.models import list_models

SMALL_SWIN = {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}
BACKBONES = {
    "as_mlp_nano": {},
    "mixer_nano": {"img_size": 96},
    "resmlp_nano": {"img_size": (64, 96)},
    "ff_nano": {"img_size": 96},
    "eamlp_nano": {"img_size": 96},
    "repmlpnet_nano": {"img_size": 96},
    "vip_s7": {"img_size": 224, "depths": (1, 1, 1, 1)},
    "timm/resnet10t": {},
    "timm/swin_tiny_patch4_window7_224": SMALL_SWIN,
    "timm/vit_tiny_patch16_224": {"embed_dim": 32, "num_heads": 2},
    "timm/mixer_s16_224": {"img_size": 96},
}
FAMILIES = [name for name in BACKBONES if name.startswith("timm/") or name in list_models()]


def on_canvas(network):
    return network.canvas or (64, 96)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_detects_and_segments(name):
    detector = create_detector("mask_rcnn", name, 3, "small", **BACKBONES[name]).train()
    height, width = on_canvas(detector)
    images = torch.randn(2, 3, height, width)
    target = {
        "boxes": torch.tensor([[5.0, 8, 40, 50]]),
        "labels": torch.tensor([1]),
        "masks": torch.ones(1, height, width, dtype=torch.uint8),
    }
    sum(detector(images, None, [target, target]).values()).backward()
    # What the last norm of the model is for, a pyramid from earlier maps does not use.
    assert all(p.grad is not None for key, p in detector.named_parameters() if "roi_heads" in key or "fpn" in key)
    assert sum(p.grad is not None for p in detector.backbone.parameters()) > 4
    assert len(detector.eval()(images[:1])) == 1
    segmenter = create_segmenter("upernet", name, 3, "small", **BACKBONES[name]).train()
    sum(segmenter(images, torch.randint(3, (2, height, width))).values()).backward()
    smaller = images[..., : height - 9, : width - 5]
    assert segmenter.eval()(smaller).shape == (2, 3, height - 9, width - 5)


@pytest.mark.parametrize("name", FAMILIES)
def test_networks_are_built_again_from_their_arguments(name):
    for create, kind in ((create_detector, "mask_rcnn"), (create_segmenter, "upernet")):
        network = create(kind, name, 3, "small", **BACKBONES[name]).eval()
        again = create(**network.arguments).eval()
        again.load_state_dict(network.state_dict())
        assert again.arguments == network.arguments
        x = torch.randn(1, 3, *on_canvas(network))
        for mine, wanted in zip(again.backbone(x), network.backbone(x)):
            assert torch.equal(mine, wanted)


def randomise(network):
    """Norm statistics and affines as after training, or folding would have nothing to do."""
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.1)


@pytest.mark.parametrize(
    ("create", "kind"),
    [
        (create_detector, "mask_rcnn"),
        (create_detector, "cascade_mask_rcnn"),
        (create_segmenter, "upernet"),
        (create_segmenter, "eanet"),
    ],
)
@pytest.mark.parametrize("name", ["as_mlp_nano", "resmlp_nano", "timm/resnet10t"])
def test_folded_networks_give_the_same(create, kind, name):
    network = create(kind, name, 3, "small", **BACKBONES[name]).double().eval()
    if name == "timm/resnet10t" and kind in ("mask_rcnn", "upernet"):
        with pytest.raises(InputError, match="to fold"):
            allmlp.fold(network)  # the network is timm's, and these small heads hold no batch norm
        return
    randomise(network)
    folded = allmlp.fold(network)
    x = torch.randn(1, 3, *on_canvas(network), dtype=torch.float64)

    def outputs(model):
        if create is create_segmenter:
            return [model(x)]
        return [model.probe(x)]

    with torch.no_grad():
        for mine, wanted in zip(outputs(folded), outputs(network), strict=True):
            assert (mine - wanted).abs().max() < 1e-10 * wanted.std()
    assert folded.folded
    assert not network.folded
    assert not any(p.requires_grad for m in folded.modules() if isinstance(m, ConvBnRelu) for p in m.parameters())
    with pytest.raises(InputError, match="folded"):
        folded.train()
    assert not any(module.training for module in folded.modules())
    again = create(**network.arguments, folded=True).double()
    again.load_state_dict(folded.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(outputs(again.eval()), outputs(folded), rtol=1e-9, atol=1e-9)


def test_a_run_of_our_own_loads_and_a_folded_file_only_into_a_folded_network():
    network = create_segmenter("upernet", "as_mlp_nano", 3, "small")
    report = allmlp.load_official(create_segmenter("upernet", "as_mlp_nano", 3, "small"), network.state_dict())
    assert report.layout == "allmlp"
    folded = allmlp.fold(network)
    with pytest.raises(InputError, match="fold"):
        allmlp.load_official(create_segmenter("upernet", "as_mlp_nano", 3, "small"), folded.state_dict())
    allmlp.load_official(create_segmenter("upernet", "as_mlp_nano", 3, "small", folded=True), folded.state_dict())


def test_gradient_checkpointing_changes_nothing():
    for name in ("as_mlp_nano", "mixer_nano"):
        network = create_backbone(name, **BACKBONES[name]).train()
        x = torch.randn(1, 3, *on_canvas(network))
        plain = network(x)[-1]
        network.set_grad_checkpointing()
        torch.testing.assert_close(network(x)[-1], plain)


def test_every_1d_parameter_is_spared_weight_decay():
    network = create_detector("cascade_mask_rcnn", "mixer_nano", 3, "small", img_size=64)
    spared = network.no_weight_decay()
    assert spared == {name for name, parameter in network.named_parameters() if parameter.ndim <= 1}
