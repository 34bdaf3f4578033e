"""The controls: as large as the small models, equal to them where they should be, and built like any other name."""

import json

import pytest
import timm
import torch
from timm.models import group_parameters
from torch.utils.flop_counter import FlopCounterMode

import allmlp
from allmlp.errors import InputError
from allmlp.models import LeNet5, PlainMlp
from allmlp.models._registry import entry

TIMM = {
    "vit_nano": timm.models.VisionTransformer,
    "swin_nano": timm.models.SwinTransformer,
    "resnet_nano": timm.models.ResNet,
    "mobilenet_nano": timm.models.EfficientNet,
}
CONTROLS = ["plain_mlp", "lenet5", *TIMM]


def count(parameters) -> int:
    return sum(p.numel() for p in parameters)


@pytest.mark.parametrize("name", CONTROLS)
def test_registered_and_small(name):
    assert name in allmlp.list_models()
    assert f"allmlp_{name}" in timm.list_models(module="controls")
    assert name not in timm.list_models()
    assert entry(name).img_size == (32, 32)
    assert not entry(name).published
    model = allmlp.create_model(name, num_classes=10).eval()
    assert isinstance(model, TIMM.get(name, torch.nn.Module))
    assert isinstance(model, entry(name).model_class)
    assert count(model.parameters()) <= 1_500_000
    with torch.no_grad():
        assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("name", CONTROLS)
def test_timms_method_set(name):
    model = allmlp.create_model(name, num_classes=7).eval()
    x = torch.randn(2, 3, 32, 32)
    cfg = model.pretrained_cfg
    assert cfg["input_size"] == (3, 32, 32)
    assert model.get_classifier() is model.get_submodule(cfg["classifier"])
    if cfg["first_conv"]:
        assert model.get_submodule(cfg["first_conv"]).weight.shape[1] == 3
    with torch.no_grad():
        features = model.forward_features(x)
        logits, pre_logits = model(x), model.forward_head(features, pre_logits=True)
        assert torch.equal(model.forward_head(features), logits)
        assert pre_logits.shape == (2, model.head_hidden_size)
        model.reset_classifier(0)
        assert torch.equal(model(x), pre_logits)
        model.reset_classifier(5)
        assert model(x).shape == (2, 5)
        assert model.num_classes == 5
    groups = group_parameters(model, model.group_matcher())
    assert sorted(key for keys in groups.values() for key in keys) == sorted(k for k, _ in model.named_parameters())
    assert len(groups) >= 3


@pytest.mark.parametrize("name", CONTROLS)
def test_built_again_from_name_and_arguments(name):
    arguments = json.loads(json.dumps({"num_classes": 3, "img_size": (48, 64), "in_chans": 1, "drop_rate": 0.1}))
    torch.manual_seed(7)
    model = allmlp.create_model(name, **arguments)
    torch.manual_seed(7)
    same = allmlp.create_model(name, **arguments)
    torch.manual_seed(8)
    other = allmlp.create_model(name, **arguments)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), same.state_dict().values()))
    assert not all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values()))
    other.load_state_dict(model.state_dict())
    x = torch.randn(2, 1, 48, 64)
    with torch.no_grad():
        assert torch.equal(other.eval()(x), model.eval()(x))
    assert model.arguments["img_size"] == (48, 64)


@pytest.mark.parametrize("name", CONTROLS)
@pytest.mark.parametrize("side", [16, 28, 64])
def test_small_image_sizes(name, side):
    model = allmlp.create_model(name, num_classes=2, img_size=side).eval()
    with torch.no_grad():
        assert torch.isfinite(model(torch.randn(2, 3, side, side))).all()


@pytest.mark.parametrize("name", CONTROLS)
def test_learns(name):
    torch.manual_seed(3)
    model = allmlp.create_model(name, num_classes=4).train()
    x, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 4
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    assert not [key for key, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize("name", CONTROLS)
def test_no_rates_unless_asked(name):
    model = allmlp.create_model(name).train()
    rates = [getattr(m, "p", None) or getattr(m, "drop_prob", None) for m in model.modules()]
    assert not any(rates)


def test_vit_nano_is_ff_nano_but_for_its_token_mixer():
    ff, vit = (allmlp.create_model(name, num_classes=10, device="meta") for name in ("ff_nano", "vit_nano"))
    of_ff = {key: p.numel() for key, p in ff.named_parameters() if ".token_mixing." not in key and ".norm2." not in key}
    of_vit = {key: p.numel() for key, p in vit.named_parameters() if ".attn." not in key and ".norm1." not in key}
    assert sum(of_ff.values()) == sum(of_vit.values())
    assert vit.pos_embed.numel() == ff.cls_pos_embed.numel() + ff.pos_embed.numel()
    assert vit.cls_token.shape == ff.cls_token.shape
    assert vit.patch_embed.proj.weight.shape == ff.stem.weight.shape
    for block, twin in zip(ff.blocks, vit.blocks, strict=True):
        assert count(block.channel_mixing.parameters()) == count(twin.mlp.parameters())
        assert twin.norm1.eps == block.norm1.eps
    assert vit.global_pool == ff.global_pool == "token"


def test_swin_nano_has_the_widths_and_depths_of_as_mlp_nano():
    ours, swin = (allmlp.create_model(name, num_classes=10, device="meta") for name in ("as_mlp_nano", "swin_nano"))
    assert [len(stage) for stage in ours.stages] == [len(layer.blocks) for layer in swin.layers]
    assert [info["num_chs"] for info in ours.feature_info] == [info["num_chs"] for info in swin.feature_info]
    assert [info["reduction"] for info in ours.feature_info] == [info["reduction"] for info in swin.feature_info]
    for stage, layer in zip(ours.stages, swin.layers):
        assert count(stage[0].mlp.parameters()) == count(layer.blocks[0].mlp.parameters())


@pytest.mark.parametrize("name", TIMM)
def test_feature_maps(name):
    x = torch.randn(2, 3, 32, 32)
    extractor = timm.create_model(f"allmlp_{name}", features_only=True).eval()
    with torch.no_grad():
        maps = extractor(x)
    assert [y.shape[1] for y in maps] == extractor.feature_info.channels()
    assert [32 // y.shape[2] for y in maps] in ([4, 4, 4], [4, 8, 16, 32])
    last = timm.create_model(f"allmlp_{name}", features_only=True, out_indices=(-1,)).eval()
    assert len(last(x)) == 1


@pytest.mark.parametrize("name", ["plain_mlp", "lenet5"])
def test_no_feature_maps(name):
    with pytest.raises(InputError, match="feature maps"):
        allmlp.create_backbone(name)


# ---- ours


@pytest.mark.parametrize("kind", [PlainMlp, LeNet5])
def test_wrong_size_names_the_mend(kind):
    with pytest.raises(InputError, match=r"img_size=\(28, 30\)"):
        kind(num_classes=2)(torch.randn(1, 3, 28, 30))


def test_plain_mlp_by_hand():
    model = PlainMlp(img_size=(4, 6), in_chans=2, num_classes=3, hidden_dims=(8, 5)).double().eval()
    x = torch.randn(2, 2, 4, 6, dtype=torch.double)
    p = dict(model.named_parameters())
    y = x.flatten(1)
    for i in (0, 1):
        y = y @ p[f"layers.{i}.0.weight"].T + p[f"layers.{i}.0.bias"]
        y = 0.5 * y * (1 + torch.erf(y / 2**0.5))
    assert torch.allclose(model(x), y @ p["head.weight"].T + p["head.bias"], atol=1e-12)
    assert allmlp.create_model("plain_mlp", hidden_dims=(16,), num_classes=2).num_features == 16
    with pytest.raises(InputError, match="hidden_dims"):
        PlainMlp(hidden_dims=())


def test_lenet5_has_the_papers_layers():
    """156 and 2,416 weights in the convolutions (the paper's C3 has 1,516, being sparse), 48,120 and 10,164 after."""
    model = LeNet5(in_chans=1, num_classes=10)
    sizes = [count(m.parameters()) for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert sizes == [156, 2_416, 48_120, 10_164, 850]
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 1, 32, 32))
    assert counter.get_total_flops() // 2 == 28 * 28 * 150 + 10 * 10 * 2400 + 48_000 + 10_080 + 840
    with pytest.raises(InputError, match="16 x 16"):
        LeNet5(img_size=12)


@pytest.mark.parametrize("kind", [PlainMlp, LeNet5])
def test_traces_and_exports(kind):
    model = kind(num_classes=3).eval()
    x = torch.randn(2, 3, 32, 32)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    y = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(program.module()(y), model(y), atol=1e-6)
        assert torch.equal(torch.fx.symbolic_trace(model)(y), model(y))


# ---- arguments of any name


def test_overrides_reach_the_constructor():
    model = allmlp.create_model("vit_nano", num_classes=6, img_size=48, in_chans=2, depth=3, drop_path_rate=0.2)
    assert len(model.blocks) == 3
    assert model.blocks[2].drop_path1.drop_prob == pytest.approx(0.2)
    assert model.patch_embed.grid_size == (12, 12)
    assert model.patch_embed.proj.weight.shape[1] == 2
    assert model.num_classes == 6
    assert len(allmlp.create_model("vit_nano").blocks) == 7  # the next one is built as before


def test_overrides_reach_timms_constructors():
    model = allmlp.create_model("timm/resnet18", num_classes=4, in_chans=1, img_size=64, drop_path_rate=0.1)
    assert model.conv1.weight.shape[1] == 1
    assert model.layer4[1].drop_path.drop_prob == pytest.approx(0.1)
    model = allmlp.create_model("timm/vit_tiny_patch16_224", num_classes=4, img_size=64, depth=2)
    assert model.patch_embed.grid_size == (4, 4)
    assert len(model.blocks) == 2


@pytest.mark.parametrize("name", [*CONTROLS, "timm/resnet18", "timm/vit_tiny_patch16_224"])
def test_unknown_argument(name):
    with pytest.raises(InputError, match="widht"):
        allmlp.create_model(name, widht=3)
