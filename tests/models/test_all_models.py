"""What every registered model promises, written once and run over every name.

By default names above 40 M parameters run at reduced depth and every model on small images; `make test-full` runs the
published sizes whole, at their own image size.
"""

import copy
import functools
import json
import os

import pytest
import timm
import torch
from jaxtyping import config as jaxtyping_config
from timm.models import group_parameters
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.feature_extraction import create_feature_extractor

import allmlp
from allmlp.errors import InputError
from allmlp.models._base import AllMlpModel
from allmlp.models._registry import entry

FULL = os.environ.get("ALLMLP_FULL_MODELS") == "1"
NAMES = [name for name in allmlp.list_models() if issubclass(entry(name).model_class, AllMlpModel)]
REPRESENTATIVES = list({entry(name).model_class: name for name in reversed(NAMES)}.values())


@pytest.fixture(autouse=True)
def _no_shape_checks():
    """Shape annotations are checked in the models' own tests; tracing cannot run the checker."""
    jaxtyping_config.update("jaxtyping_disable", True)
    yield
    jaxtyping_config.update("jaxtyping_disable", False)


@functools.cache
def arguments_for(name: str, shallow: bool) -> dict:
    """Overrides that keep a name's widths and make it cheap: few blocks, a small image."""
    size = allmlp.create_model(name, device="meta").arguments
    overrides = {}
    if shallow:
        if "depth" in size:
            overrides["depth"] = min(size["depth"], 3)
        if "depths" in size:
            overrides["depths"] = tuple(min(depth, 2) for depth in size["depths"])
    patch = size.get("patch_size", 16)
    for side in (4 * patch if patch <= 16 else 2 * patch, 64, 96, 128):
        if side >= entry(name).img_size[0]:
            continue
        try:
            allmlp.create_model(name, device="meta", img_size=side, **overrides)
        except InputError:
            continue
        overrides["img_size"] = side
        break
    return overrides


@functools.cache
def is_large(name: str) -> bool:
    model = allmlp.create_model(name, device="meta")
    return sum(p.numel() for p in model.parameters()) > 40_000_000


def build(name: str, *, shallow: bool | None = None, **overrides) -> AllMlpModel:
    """A model with weights that are nowhere zero or one, so that nothing is compared with zeros."""
    if not FULL:
        overrides = {**arguments_for(name, is_large(name) if shallow is None else shallow), **overrides}
    model = allmlp.create_model(name, **overrides)
    shake(model)
    return model.eval()


def shake(model: nn.Module) -> None:
    """Non-trivial head, norms, scales and running statistics."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
            noise = torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
            if key.endswith("running_var"):
                tensor.copy_(torch.exp(0.2 * noise))
            elif key.endswith("running_mean"):
                tensor.copy_(0.2 * noise)
            elif isinstance(tensor, nn.Parameter) and tensor.ndim <= 1:
                tensor.add_(0.1 * noise)
            elif key == "head.weight":
                tensor.copy_(noise / tensor.shape[1] ** 0.5)


def images(model: AllMlpModel, batch: int = 2, channels: int = 3) -> torch.Tensor:
    height, width = model.arguments["img_size"]
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NAMES)
def test_forward_backward_and_heads(name):
    model = build(name, num_classes=7)
    x = images(model)
    with torch.no_grad():
        logits = model(x)
        features = model.forward_features(x)
        pre_logits = model.forward_head(features, pre_logits=True)
        assert logits.shape == (2, 7)
        assert torch.isfinite(logits).all()
        assert torch.equal(model.forward_head(features), logits)
        assert pre_logits.shape == (2, model.head_hidden_size)
    assert model.num_classes == 7
    assert model.in_chans == 3
    assert model.num_features == model.head_hidden_size

    trained = copy.deepcopy(model).train()  # a copy, since a batch norm's statistics change
    trained(images(model, 4)).square().mean().backward()
    without = [key for key, p in trained.named_parameters() if p.requires_grad and p.grad is None]
    assert not without

    cfg = model.pretrained_cfg
    assert f"{cfg['classifier']}.weight" in model.state_dict()
    assert f"{cfg['first_conv']}.weight" in model.state_dict()
    classifier = model.get_classifier()
    assert classifier is model.get_submodule(cfg["classifier"])
    model.reset_classifier(0)
    with torch.no_grad():
        assert torch.equal(model(x), pre_logits)
        model.reset_classifier(0, "")
        assert torch.equal(model(x), features)
        model.reset_classifier(5, "avg")
        assert model(x).shape == (2, 5)


@pytest.mark.parametrize("name", NAMES)
def test_built_again_from_its_arguments(name):
    model = build(name, num_classes=3)
    arguments = json.loads(json.dumps(model.arguments))
    again = type(model)(**arguments).eval()
    again.load_state_dict(model.state_dict())
    x = images(model)
    with torch.no_grad():
        assert torch.allclose(again(x), model(x), atol=1e-6)
    assert again.arguments == type(model)(**arguments).arguments


@pytest.mark.parametrize("name", NAMES)
def test_no_head_and_other_channels(name):
    model = build(name, num_classes=0, in_chans=1)
    with torch.no_grad():
        assert model(images(model, channels=1)).shape == (2, model.num_features)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_checkpointing_changes_nothing(name):
    model = build(name, shallow=True)
    plain = copy.deepcopy(model).train()
    saved = model.train()
    saved.set_grad_checkpointing()
    assert saved.grad_checkpointing
    x = images(model, 4)
    for m in (plain, saved):
        torch.manual_seed(0)
        m(x).square().mean().backward()
    for (key, p), q in zip(plain.named_parameters(), saved.parameters()):
        assert torch.allclose(p.grad, q.grad, rtol=1e-4, atol=1e-5), key


@pytest.mark.parametrize("name", NAMES)
def test_intermediates_and_features_only(name):
    model = build(name)
    x = images(model)
    count = len(model.feature_info)
    with torch.no_grad():
        final, kept = model.forward_intermediates(x)
        assert torch.equal(final, model.forward_features(x))
        assert len(kept) == count
        only = model.forward_intermediates(x, indices=[-1, 0], stop_early=True, intermediates_only=True)
        assert {tuple(y.shape) for y in only} == {tuple(kept[0].shape), tuple(kept[-1].shape)}
    for info, y in zip(model.feature_info, kept):
        assert y.shape[1] == info["num_chs"]
        assert y.shape[2] <= -(-x.shape[2] // info["reduction"]) + 1
    reductions = [info["reduction"] for info in model.feature_info]
    assert reductions == sorted(reductions)

    overrides = {} if FULL else arguments_for(name, is_large(name))
    extractor = timm.create_model(f"allmlp_{name}", features_only=True, **overrides).eval()
    with torch.no_grad():
        maps = extractor(x)
    assert len(maps) >= 3
    assert [y.shape[1] for y in maps] == extractor.feature_info.channels()
    last = timm.create_model(f"allmlp_{name}", features_only=True, out_indices=(-1,), **overrides)
    assert len(last(x)) == 1


@pytest.mark.parametrize("name", NAMES)
def test_folds(name):
    model = build(name, num_classes=6).double()
    x = images(model).double()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = allmlp.fold(model)
    with torch.no_grad():
        wanted = model(x)
        assert (folded(x) - wanted).abs().max() < 1e-10 * wanted.std()
        # Not bitwise: forward may skip work of the last block that the pooled output does not need.
        pooled = folded.forward_head(folded.forward_features(x))
        assert (pooled - folded(x)).abs().max() < 1e-10 * wanted.std()
    assert not model.folded
    assert folded.folded
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    again = type(model)(**json.loads(json.dumps(folded.arguments))).double().eval()
    again.load_state_dict(folded.state_dict())
    with torch.no_grad():
        assert torch.allclose(again(x), folded(x), rtol=0, atol=1e-12 * wanted.std())
    report = allmlp.load_official(again, folded.state_dict())
    assert not report.unexpected
    with pytest.raises(InputError, match="folded"):
        folded.train()
    with pytest.raises(InputError, match="fold"):
        allmlp.load_official(model, folded.state_dict())
    with pytest.raises(InputError, match="fold"):
        allmlp.load_official(folded, model.state_dict())
    twice = allmlp.fold(folded)
    assert twice.folded
    with torch.no_grad():
        with FlopCounterMode(display=False) as unfolded_flops:
            model(x)
        with FlopCounterMode(display=False) as folded_flops:
            folded(x)
    assert folded_flops.get_total_flops() <= unfolded_flops.get_total_flops()


@pytest.mark.parametrize("name", NAMES)
def test_input_size(name):
    model = build(name, shallow=True, num_classes=4)
    height, width = model.arguments["img_size"]
    x = images(model)
    with torch.no_grad():
        before = model(x)
        model.set_input_size((height, width))
        assert torch.equal(model(x), before)
        if model.size_bound:
            with pytest.raises(InputError, match="set_input_size"):
                model(torch.randn(1, 3, height * 2, width))
        else:
            assert model(torch.randn(1, 3, height * 2, width)).shape == (1, 4)
    try:
        model.set_input_size((height * 2, width))
    except InputError as error:
        assert any(c.isdigit() for c in str(error))  # noqa: PT017 - it must name a size that works
        model.set_input_size((height * 2, width * 2))
    x = images(model)
    with torch.no_grad():
        wanted = model(x)
    assert wanted.shape == (2, 4)
    again = type(model)(**json.loads(json.dumps(model.arguments))).eval()
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.allclose(again(x), wanted, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_loads_at_another_size(name):
    source = build(name, shallow=True, num_classes=4)
    side = source.arguments["img_size"][0]
    target = build(name, shallow=True, num_classes=4, img_size=2 * side)
    report = allmlp.load_official(target, source.state_dict())
    assert bool(report.resampled) == (target.size_bound or "pos_embed" in source.state_dict())
    with torch.no_grad():
        assert torch.isfinite(target(images(target))).all()


@pytest.mark.parametrize("channels", [1, 4, 13])
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_stem_weights_follow_the_image_channels(name, channels):
    source = build(name, shallow=True, num_classes=4)
    target = build(name, shallow=True, num_classes=4, in_chans=channels)
    report = allmlp.load_official(target, source.state_dict())
    assert any("channels" in note for note in report.notes)
    grey = images(source)[:, :1]
    with torch.no_grad():
        if channels == 1:  # summed: a grey image gives what three equal channels gave
            assert torch.allclose(target(grey), source(grey.expand(-1, 3, -1, -1)), atol=1e-4)
        else:
            assert torch.isfinite(target(grey.expand(-1, channels, -1, -1))).all()


@pytest.mark.parametrize("name", NAMES)
def test_decay_and_groups(name):
    model = allmlp.create_model(name, device="meta")
    parameters = dict(model.named_parameters())
    spared = model.no_weight_decay()
    assert spared <= set(parameters)
    assert {key for key, p in parameters.items() if p.ndim <= 1} <= spared
    grouped = group_parameters(model, model.group_matcher())
    flat = [key for keys in grouped.values() for key in keys]
    assert sorted(flat) == sorted(parameters)
    depth = len(grouped)
    assert depth >= 3


@pytest.mark.parametrize("name", NAMES)
def test_device_and_dtype(name):
    meta = allmlp.create_model(name, device="meta")
    assert all(p.is_meta for p in meta.parameters())
    model = build(name, shallow=True, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        assert torch.isfinite(model(images(model).bfloat16())).all()


@pytest.mark.parametrize("name", NAMES)
def test_channels_last_gives_the_same(name):
    model = build(name, shallow=True)
    x = images(model)
    with torch.no_grad():
        wanted = model(x)
        got = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert torch.allclose(got, wanted, atol=1e-4 * wanted.abs().max().item())


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_fx_compile_and_export(name):
    for model in (build(name, shallow=True), allmlp.fold(build(name, shallow=True))):
        x = images(model)
        with torch.no_grad():
            wanted = model(x)
            assert torch.equal(torch.fx.symbolic_trace(model)(x), wanted)
            if not model.folded:
                extractor = create_feature_extractor(model, ["head"]).eval()
                assert torch.equal(extractor(x)["head"], wanted)
            compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
            assert torch.allclose(compiled(x), wanted, atol=1e-5 * wanted.abs().max().item())
            batch = torch.export.Dim("batch", min=2, max=64)
            program = torch.export.export(model, (images(model, 3),), dynamic_shapes=({0: batch},))
            assert torch.allclose(program.module()(x), wanted, atol=1e-5 * wanted.abs().max().item())
        torch._dynamo.reset()


def test_unknown_names_offer_the_nearest():
    with pytest.raises(InputError, match="mixer_b16"):
        allmlp.create_model("mixer_b61")
    with pytest.raises(InputError, match="resnet50"):
        allmlp.create_model("timm/resnet5o")
    with pytest.raises(InputError, match="widht"):
        allmlp.create_model("mixer_nano", widht=3)


def test_nothing_of_timm_is_registered_again():
    ours = {name for name in timm.list_models() if name.startswith("allmlp_")}
    assert ours >= {f"allmlp_{name}" for name in NAMES}
    modules = {entry(name).model_class.__module__.rpartition(".")[2] for name in NAMES}
    for module in modules:
        assert all(name.startswith("allmlp_") for name in timm.list_models(module=module))
