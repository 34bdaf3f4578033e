"""ResMLP: the authors' numbers, layouts, sizes, initialisation, folding."""

import numpy as np
import pytest
import timm
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import allmlp
from allmlp.errors import InputError
from allmlp.models import ResMlp
from allmlp.ops.token_grid import interpolation_matrix
from golden_check import check_folded, check_gradients, check_outputs, check_stages, load_case, origin_of

PARAMETERS = {
    "resmlp_s12": 15_350_872,
    "resmlp_s24": 30_020_680,
    "resmlp_s36": 44_690_488,
    "resmlp_b24_16": 115_736_776,
    "resmlp_b24_8": 129_138_280,
}


def build(case) -> ResMlp:
    return ResMlp(**case.manifest["allmlp"]["arguments"])


def small(**changes) -> ResMlp:
    """A small float64 model whose every parameter matters."""
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "mlp_ratio": 2.0, "num_classes": 5}
    model = ResMlp(**{**arguments, **changes}).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def by_the_equations(model: ResMlp, images: torch.Tensor) -> torch.Tensor:
    """The paper's equations 1 to 3 with explicit sums, from the model's weights."""
    p = dict(model.named_parameters())
    patch = model.patch_size
    x = F.unfold(images, patch, stride=patch).transpose(1, 2) @ p["stem.weight"].flatten(1).T + p["stem.bias"]
    for i in range(len(model.blocks)):
        w = {key.removeprefix(f"blocks.{i}."): value for key, value in p.items() if key.startswith(f"blocks.{i}.")}
        z = w["norm1.alpha"] * x + w["norm1.beta"]
        z = torch.einsum("mn,bnc->bmc", w["token_mixing.weight"], z) + w["token_mixing.bias"][None, :, None]
        x = x + w["layer_scale1"] * z
        z = (w["norm2.alpha"] * x + w["norm2.beta"]) @ w["channel_mixing.fc1.weight"].T + w["channel_mixing.fc1.bias"]
        z = 0.5 * z * (1 + torch.erf(z / 2**0.5)) @ w["channel_mixing.fc2.weight"].T + w["channel_mixing.fc2.bias"]
        x = x + w["layer_scale2"] * z
    return (p["norm.alpha"] * x + p["norm.beta"]).mean(1) @ p["head.weight"].T + p["head.bias"]


@pytest.mark.parametrize("name", ["resmlp_tiny", "resmlp_12"])
def test_golden(golden, name):
    case = golden(name)
    model = build(case)
    report = load_case(model, case)
    assert report.layout == "deit"
    check_outputs(model, case)
    check_gradients(model, case, origin_of(model, case))
    check_folded(model, case)


@pytest.mark.parametrize("name", ["resmlp_tiny", "resmlp_12"])
def test_golden_stages(golden, name):
    case = golden(name)
    parts = {"attn": ("token_mixing", lambda x: x.transpose(1, 2)), "mlp": ("channel_mixing", lambda x: x)}
    modules = {"patch_embed": ("stem", lambda x: x.flatten(2).transpose(1, 2)), "norm": ("norm", lambda x: x)}
    for stage in case.manifest["stages"]:
        head, _, part = stage["name"].rpartition(".")
        if stage["name"].startswith("blocks."):
            ours, order = parts.get(part, (part, lambda x: x))
            modules[stage["name"]] = (f"{head}.{ours}", order)
    check_stages(build(case), case, modules)


@pytest.mark.parametrize("changes", [{"img_size": (24, 40), "in_chans": 1}, {"mlp_ratio": 2.7, "depth": 1}])
def test_equals_the_equations(changes):
    model = small(**changes)
    x = torch.randn(2, model.in_chans, *model.arguments["img_size"], dtype=torch.double)
    assert torch.allclose(model(x), by_the_equations(model, x), atol=1e-12, rtol=1e-12)
    assert model.blocks[0].channel_mixing.fc1.out_features == int(24 * model.arguments["mlp_ratio"])


@pytest.mark.parametrize("channels", [1, 4, 13])
def test_official_file_for_other_image_channels(golden, channels):
    case = golden("resmlp_tiny")
    model = ResMlp(**{**case.manifest["allmlp"]["arguments"], "in_chans": channels}).eval()
    report = allmlp.load_official(model, case.weights())
    assert report.resampled == ["stem.weight"]
    official = case.weights()["patch_embed.proj.weight"]
    if channels == 1:  # timm sums the colours, so a grey image gives what its three equal channels gave
        assert torch.allclose(model.stem.weight, official.sum(1, keepdim=True), atol=1e-6)
    else:
        assert torch.allclose(model.stem.weight[:, :3], official[:, :3] * 3 / channels, atol=1e-6)


def test_timm_layout_and_logits():
    theirs = timm.create_model("resmlp_12_224", num_classes=7).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.1 if parameter.numel() < 2000 else 0.02)
    ours = allmlp.create_model("resmlp_s12", num_classes=7).eval()
    report = allmlp.load_official(ours, theirs.state_dict())
    assert report.layout == "timm"
    assert not report.unexpected
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        wanted = theirs(x)
        assert torch.allclose(ours(x), wanted, atol=1e-5 * wanted.std().item())


def test_file_without_a_head(golden):
    case = golden("resmlp_tiny")
    state = {key: value for key, value in case.weights().items() if not key.startswith("head.")}
    model = build(case)
    with pytest.raises(InputError, match=r"head\.weight; head\.bias"):
        allmlp.load_official(model, state)
    report = allmlp.load_official(model, {"model": state}, reinit=("head.*",))
    assert report.reinitialised == ["head.weight", "head.bias"]


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_and_macs(name):
    """MACs count the matrix products: stem, A, the channel MLP and the head; scales and sums are not counted."""
    model = allmlp.create_model(name, device="meta")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    d, depth, patch = model.num_features, len(model.blocks), model.patch_size
    n = (224 // patch) ** 2
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, 224, 224, device="meta"))
    assert counter.get_total_flops() == 2 * (n * 3 * patch**2 * d + depth * (d * n**2 + 8 * n * d**2) + 1000 * d)


def test_published_macs_of_s12():
    with FlopCounterMode(display=False) as counter:
        allmlp.create_model("resmlp_s12", device="meta")(torch.empty(1, 3, 224, 224, device="meta"))
    assert counter.get_total_flops() // 2 == 3_009_739_776


def test_nano_is_small():
    model = allmlp.create_model("resmlp_nano", num_classes=10)
    assert sum(p.numel() for p in model.parameters()) <= 1_500_000
    assert model.arguments["img_size"] == (32, 32)


@pytest.mark.parametrize(
    ("name", "start"),
    [("resmlp_s12", 0.1), ("resmlp_s24", 1e-5), ("resmlp_s36", 1e-6), ("resmlp_b24_16", 1e-6), ("resmlp_b24_8", 1e-6)],
)
def test_layer_scale_starts_by_depth(name, start):
    model = allmlp.create_model(name, embed_dim=16, img_size=32, num_classes=2)
    for block in model.blocks:
        for scale in (block.layer_scale1, block.layer_scale2):
            assert torch.equal(scale, torch.full((16,), start))


def test_layer_scale_built_by_hand():
    assert ResMlp(img_size=32, embed_dim=8, depth=1).blocks[0].layer_scale1[0].item() == pytest.approx(1e-4)


def test_initialisation():
    model = ResMlp(embed_dim=256, depth=2)
    linears = (
        model.blocks[0].token_mixing,
        model.blocks[1].channel_mixing.fc1,
        model.blocks[1].channel_mixing.fc2,
        model.head,
    )
    for linear in linears:
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.03)
        assert linear.weight.mean().item() == pytest.approx(0, abs=5e-4)
        assert linear.weight.abs().max().item() > 0.07  # the cut lies at 2, a hundred deviations out
        assert not linear.bias.any()
    bound = 1 / (3 * 16 * 16) ** 0.5
    for tensor in (model.stem.weight, model.stem.bias):  # torch's own: uniform
        assert tensor.abs().max().item() == pytest.approx(bound, rel=0.03)
        assert tensor.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
    for affine in (model.norm, model.blocks[0].norm1, model.blocks[1].norm2):
        assert torch.equal(affine.alpha, torch.ones(256))
        assert not affine.beta.any()


def test_stochastic_depth_is_the_same_in_every_layer():
    model = ResMlp(img_size=32, embed_dim=16, depth=5, drop_path_rate=0.2)
    assert [block.drop_path.drop_prob for block in model.blocks] == [0.2] * 5
    out = model.blocks[4].drop_path.train()(torch.ones(4000, 1, 1))
    assert out.unique().tolist() == pytest.approx([0.0, 1.25])  # kept branches are divided by the keep probability
    assert (out > 0).float().mean().item() == pytest.approx(0.8, abs=0.03)


def test_dropout_sits_in_the_channel_mlp():
    model = small(drop_rate=0.4, depth=1).train()
    seen = []
    model.blocks[0].channel_mixing.drop.register_forward_hook(lambda m, a, y: seen.append((y == 0).double().mean()))
    model(torch.randn(64, 3, 32, 32, dtype=torch.double))
    assert [float(share) for share in seen] == pytest.approx([0.4, 0.4], abs=0.03)
    assert isinstance(model.head_drop, torch.nn.Identity)


def test_no_weight_decay_spares_affine_maps_and_scales():
    spared = small().no_weight_decay()
    assert {"blocks.0.norm1.alpha", "blocks.0.norm2.beta", "blocks.2.layer_scale1", "norm.alpha"} <= spared
    assert not any(key.endswith(("token_mixing.weight", "fc1.weight", "fc2.weight")) for key in spared)


@pytest.mark.parametrize("changes", [{}, {"img_size": (24, 40)}, {"num_classes": 0}, {"global_pool": ""}])
def test_folded_equals_the_model(changes):
    model = small(**changes)
    x = torch.randn(2, 3, *model.arguments["img_size"], dtype=torch.double)
    folded = allmlp.fold(model)
    wanted = model(x)
    assert (folded(x) - wanted).abs().max() < 1e-10 * wanted.std()
    assert not any(".norm" in key or "layer_scale" in key for key in folded.state_dict())
    tokens = model.norm(model.run_blocks(model.embed(x)))
    if not changes.get("num_classes", 5):  # without a head the last affine stays
        assert (folded.forward_features(x) - tokens).abs().max() < 1e-10 * tokens.std()
    with pytest.raises(InputError, match="folded"):
        folded.train()


def test_folding_saves_work_and_parameters():
    """The last layer's second matrix acts on the mean, and nothing else gains a multiply-add."""
    model = small()
    x = torch.randn(1, 3, 32, 32, dtype=torch.double)
    counts = []
    for form in (model, allmlp.fold(model)):
        with FlopCounterMode(display=False) as counter:
            form(x)
        counts.append(counter.get_total_flops() // 2)
    n, d, hidden = 16, 24, 48
    assert counts[0] - counts[1] == (n - 1) * d * hidden


def test_folded_file_goes_into_a_folded_model_only():
    model = small()
    folded = allmlp.fold(model)
    other = allmlp.fold(small())
    assert allmlp.load_official(other, folded.state_dict()).copied
    x = torch.randn(1, 3, 32, 32, dtype=torch.double)
    assert torch.equal(other(x), folded(x))
    with pytest.raises(InputError, match=r"allmlp\.fold"):
        allmlp.load_official(small(), folded.state_dict())


@pytest.mark.parametrize("size", [64, 48, (40, 24), 16])
def test_resampled_mixing_of_a_constant_image_is_the_resampled_map(size):
    """Row sums are kept, so one patch sublayer turns a constant image into the same map, seen at another size."""
    model = small(depth=1)
    block = model.blocks[0]
    x = torch.randn(2, 3, 1, 1, dtype=torch.double)
    sublayer = lambda y: block.token_mixing(block.norm1(y))  # noqa: E731
    before = sublayer(model.embed(x.expand(2, 3, 32, 32)))
    old_grid = model.grid_size
    model.set_input_size(size)
    after = sublayer(model.embed(x.expand(2, 3, *model.arguments["img_size"])))
    assert torch.allclose(after, interpolation_matrix(old_grid, model.grid_size) @ before, atol=1e-12)


@pytest.mark.parametrize("size", [64, (40, 24), 16])
@pytest.mark.parametrize("form", ["model", "folded"])
def test_resampling_keeps_constant_images(size, form):
    model = small()
    x = torch.randn(2, 3, 1, 1, dtype=torch.double)
    for block in model.blocks:  # a map that mixes all tokens alike keeps a constant image constant
        block.token_mixing.weight.data[:] = block.token_mixing.weight.data.mean(0, keepdim=True)
        block.token_mixing.bias.data[:] = block.token_mixing.bias.data.mean()
    model = allmlp.fold(model) if form == "folded" else model
    before = model(x.expand(2, 3, 32, 32))
    model.set_input_size(size)
    assert torch.allclose(model(x.expand(2, 3, *model.arguments["img_size"])), before, atol=1e-12)


def test_resizing_and_folding_commute():
    model = small()
    folded = allmlp.fold(model)
    for form in (model, folded):
        form.set_input_size((48, 24))
    x = torch.randn(2, 3, 48, 24, dtype=torch.double)
    assert torch.allclose(model(x), folded(x), atol=1e-11)


def test_same_size_changes_nothing():
    model = small()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.set_input_size(32)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert ResMlp(**model.arguments).state_dict().keys() == before.keys()


def test_loading_at_another_size():
    base, other = small(), small(img_size=(48, 16))
    report = allmlp.load_official(other, base.state_dict())
    assert len(report.resampled) == 2 * 3
    base.set_input_size((48, 16))
    x = torch.randn(1, 3, 48, 16, dtype=torch.double)
    assert torch.equal(other(x), base(x))


def test_wrong_size_names_the_mend():
    model = small()
    with pytest.raises(InputError, match=r"set_input_size\(\(48, 40\)\)"):
        model(torch.randn(1, 3, 48, 40, dtype=torch.double))
    with pytest.raises(InputError, match="nearest that works is 32 x 40"):
        model.set_input_size((33, 41))
    with pytest.raises(InputError, match="resample"):
        model.set_input_size(64, method="tile")


@pytest.mark.parametrize("form", ["model", "folded"])
def test_half_precision_and_memory_format(form):
    model = allmlp.create_model("resmlp_nano", num_classes=10).eval()
    model = allmlp.fold(model) if form == "folded" else model
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = model(x)
        assert torch.allclose(model(x.to(memory_format=torch.channels_last)), wanted, atol=1e-6)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.allclose(model(x).float(), wanted, atol=0.05 * wanted.abs().max().item() + 0.02)
        assert model.bfloat16()(x.bfloat16()).isfinite().all()


@pytest.mark.parametrize("form", ["model", "folded"])
def test_exports(form):
    model = allmlp.create_model("resmlp_nano", num_classes=10, depth=2).eval()
    model = allmlp.fold(model) if form == "folded" else model
    x = torch.randn(3, 3, 32, 32)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (x,), dynamic_shapes={"x": {0: batch}})
    traced = torch.fx.symbolic_trace(model)
    y = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(program.module()(y), model(y), atol=1e-6)
        assert torch.equal(traced(y), model(y))


def test_gradients_reach_every_parameter_also_with_checkpointing():
    torch.manual_seed(3)
    model = small(layer_scale_init=0.1).train()
    x = torch.randn(2, 3, 32, 32, dtype=torch.double)
    gradients = []
    for enable in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(enable)
        model(x).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.allclose(a, b) and a.any() for a, b in zip(*gradients))


def test_published_names_are_not_timms():
    assert not set(allmlp.list_models("resmlp*")) & set(timm.list_models("resmlp*"))
    assert np.all([name in allmlp.list_models() for name in PARAMETERS])
