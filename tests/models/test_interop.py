"""The models in other libraries: segmentation-models-pytorch, transformers, torchvision, and timm's folders."""

import json

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from timm.models import save_for_hf
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork
from transformers import TimmBackbone, TimmBackboneConfig

import allmlp.models
from allmlp.models._base import AllMlpModel
from allmlp.models._registry import entry

PYRAMIDS = ["as_mlp_t", "as_mlp_nano", "repmlpnet_t224"]
NANOS = [name for name in allmlp.models.list_models("*_nano") if issubclass(entry(name).model_class, AllMlpModel)]


def image(name: str, batch: int = 2) -> torch.Tensor:
    """Images of the name's own size, or 64 x 96 where any goes."""
    size = entry(name).img_size if entry(name).model_class.size_bound else (64, 96)
    return torch.randn(batch, 3, *size)


@pytest.mark.parametrize("name", PYRAMIDS)
@pytest.mark.parametrize("kind", ["UPerNet", "Unet", "FPN"])
def test_segmentation_models_pytorch(kind, name):
    network = getattr(smp, kind)(f"tu-allmlp_{name}", encoder_weights=None, classes=5)
    assert type(network.encoder.model.model) is entry(name).model_class
    x = image(name)
    masks = network.train()(x)
    assert masks.shape == (2, 5, *x.shape[2:])
    masks.square().mean().backward()
    encoder = dict(network.encoder.model.model.named_parameters())
    unused = {key for key, p in encoder.items() if p.grad is None or not p.grad.any()}
    assert not unused
    with torch.no_grad():
        maps = network.encoder.eval()(x)[-4:]
        ours = network.encoder.model.model.forward_intermediates(x, intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(maps, ours, strict=True))


def test_segmentation_models_pytorch_takes_other_image_channels():
    network = smp.UPerNet("tu-allmlp_as_mlp_nano", encoder_weights=None, in_channels=4).eval()
    assert network(torch.randn(1, 4, 64, 64)).shape == (1, 1, 64, 64)


@pytest.mark.parametrize("name", PYRAMIDS)
def test_transformers_backbone(name):
    config = TimmBackboneConfig(backbone=f"allmlp_{name}", out_indices=(0, 1, 2, 3), use_pretrained_backbone=False)
    backbone = TimmBackbone(config).eval()
    model = allmlp.models.create_model(name).eval()
    assert backbone.channels == [info["num_chs"] for info in model.feature_info]
    state = {key: value for key, value in model.state_dict().items() if not key.startswith(("norm.", "head."))}
    inside = backbone.state_dict()
    backbone.load_state_dict({key: state[_our_key(key)] for key in inside})
    x = image(name)
    with torch.no_grad():
        wanted = model.forward_intermediates(x, intermediates_only=True)
        maps = backbone(x).feature_maps
    assert all(torch.equal(a, b) for a, b in zip(maps, wanted, strict=True))


def _our_key(key: str) -> str:
    return key.removeprefix("_backbone.").removeprefix("model.")


class FpnBody(nn.Module):
    """A timm backbone under torchvision's feature pyramid network."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.body = timm.create_model(f"allmlp_{name}", features_only=True, out_indices=(0, 1, 2, 3))
        self.out_channels = 32
        self.fpn = FeaturePyramidNetwork(self.body.feature_info.channels(), self.out_channels)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.fpn({str(i): y for i, y in enumerate(self.body(x))})


def test_torchvision_pyramid():
    body = FpnBody("as_mlp_nano").eval()
    maps = body(torch.randn(2, 3, 64, 96))
    assert [tuple(y.shape) for y in maps.values()] == [(2, 32, 64 // s, 96 // s) for s in (4, 8, 16, 32)]


def test_torchvision_detector():
    anchors = AnchorGenerator(sizes=((8,), (16,), (32,), (64,)), aspect_ratios=((1.0,),) * 4)
    body = FpnBody("as_mlp_nano")
    network = FasterRCNN(body, 3, rpn_anchor_generator=anchors, min_size=64, max_size=96)
    images = [torch.rand(3, 64, 96), torch.rand(3, 60, 80)]
    targets = [
        {"boxes": torch.tensor([[4.0, 8.0, 40.0, 50.0]]), "labels": torch.tensor([1])},
        {"boxes": torch.tensor([[10.0, 2.0, 30.0, 30.0], [1.0, 1.0, 20.0, 9.0]]), "labels": torch.tensor([2, 1])},
    ]
    losses = network(images, targets)
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in body.body.parameters())
    found = network.eval()(images)
    assert [set(one) for one in found] == [{"boxes", "labels", "scores"}] * 2


# ---- timm's own folder: config.json and model.safetensors


def randomised(name: str, **arguments) -> AllMlpModel:
    model = allmlp.models.create_model(name, **arguments).eval()
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not key.endswith("running_var"):
            tensor.add_(0.05 * torch.randn(tensor.shape))
    return model


@pytest.mark.parametrize("name", NANOS)
def test_timm_folder_gives_the_same_model(name, tmp_path):
    model = randomised(name, num_classes=7)
    save_for_hf(model, tmp_path, safe_serialization="both", model_args={"num_classes": 7})
    assert json.loads((tmp_path / "config.json").read_text())["architecture"] == f"allmlp_{name}"
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert type(again) is type(model)
    x = torch.randn(2, 3, *model.arguments["img_size"])
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
    assert tuple(again.pretrained_cfg["mean"]) == model.pretrained_cfg["mean"]


@pytest.mark.parametrize("name", NANOS)
def test_timm_folder_with_another_head_and_image_channels(name, tmp_path):
    model = randomised(name, num_classes=7)
    save_for_hf(model, tmp_path, model_args={"num_classes": 7})
    size = model.arguments["img_size"]
    other = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=4, in_chans=1).eval()
    grey = torch.randn(2, 1, *size)
    with torch.no_grad():
        assert other(grey).shape == (2, 4)
        wanted = model.forward_features(grey.expand(-1, 3, -1, -1))
        assert torch.allclose(other.forward_features(grey), wanted, atol=1e-4 * wanted.abs().max().item())
    many = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, in_chans=5).eval()
    with torch.no_grad():
        assert torch.isfinite(many(torch.randn(2, 5, *size))).all()


@pytest.mark.parametrize("name", NANOS)
def test_timm_folder_as_features(name, tmp_path):
    model = randomised(name, num_classes=7)
    save_for_hf(model, tmp_path, model_args={"num_classes": 7})
    features = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, features_only=True, out_indices=(-1,)).eval()
    x = torch.randn(2, 3, *model.arguments["img_size"])
    with torch.no_grad():
        wanted = model.forward_intermediates(x, indices=[-1], intermediates_only=True)[0]
        assert torch.equal(features(x)[0], wanted)
