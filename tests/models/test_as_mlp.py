"""AS-MLP: the authors' numbers, the equations, sizes, initialisation, checkpoints, folding."""

import math
import sys
import types

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import allmlp
from allmlp.errors import InputError
from allmlp.models import AsMlp
from allmlp.ops.axial_shift import PADDINGS
from golden_check import assert_close, check_folded, check_gradients, check_outputs, check_stages, load_case, origin_of
from slow_ops import slow_axial_shift

CASES = ["asmlp_tiny_small", "asmlp_tiny_small_divisible", "asmlp_few_groups", "asmlp_tiny"]

# Parameters, multiply-adds of convolutions and linear maps at 224 x 224; both as published, in millions and billions.
# The authors' multiply-adds count their norms too.
COUNTS = {
    "as_mlp_mobile": (9_597_480, 1_320_341_504, 9.6, 1.3),
    "as_mlp_t": (28_282_696, 4_350_425_088, 28, 4.4),
    "as_mlp_s": (49_594_696, 8_512_223_232, 50, 8.5),
    "as_mlp_b": (87_752_808, 15_126_077_440, 88, 15.2),
}

PARTS = {
    "conv1": "proj_in",
    "conv2_1": "along_width",
    "conv2_2": "along_height",
    "conv3": "proj_out",
    "norm1": "norm1",
    "norm2": "norm2",
}


def build(case) -> AsMlp:
    return AsMlp(**case.manifest["allmlp"]["arguments"])


def small(**changes) -> AsMlp:
    """A small float64 model whose every parameter matters; no width is a multiple of the shift size."""
    arguments = {"img_size": 32, "embed_dim": 12, "depths": (1, 2), "mlp_ratio": 2.0, "num_classes": 5}
    model = AsMlp(**{**arguments, **changes}).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def by_the_equations(model: AsMlp, images: torch.Tensor) -> torch.Tensor:
    """The whole network on maps (b, c, h, w) with convolutions and a slow shift, from the model's weights."""
    p, settings = model.state_dict(), model.arguments

    def conv(x, name):
        return F.conv2d(x, p[f"{name}.weight"][:, :, None, None], p.get(f"{name}.bias"))

    def norm(x, name):
        centred = x - x.mean((1, 2, 3), keepdim=True)
        scaled = centred / (centred.square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt()
        return scaled * p[f"{name}.weight"][:, None, None] + p[f"{name}.bias"][:, None, None]

    def gelu(x):
        return 0.5 * x * (1 + torch.erf(x / 2**0.5))

    def shift(x, dim):
        return slow_axial_shift(x, settings["shift_size"], dim, settings["dilation"], settings["shift_padding"])

    patch = settings["patch_size"]
    x = F.pad(images, (0, -images.shape[3] % patch, 0, -images.shape[2] % patch))
    x = F.conv2d(x, p["stem.proj.weight"], p["stem.proj.bias"], stride=patch)
    x = norm(x, "stem.norm") if settings["patch_norm"] else x
    for i, stage in enumerate(model.stages):
        for j in range(len(stage)):
            block = f"stages.{i}.{j}"
            t = gelu(
                norm(conv(norm(x, f"{block}.norm1"), f"{block}.axial_shift.proj_in"), f"{block}.axial_shift.norm1")
            )
            t = gelu(conv(shift(t, 3), f"{block}.axial_shift.along_width")) + gelu(
                conv(shift(t, 2), f"{block}.axial_shift.along_height")
            )
            x = x + conv(norm(t, f"{block}.axial_shift.norm2"), f"{block}.axial_shift.proj_out")
            x = x + conv(gelu(conv(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
        if i < len(model.stages) - 1:
            x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
            phases = [x[:, :, row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
            x = conv(norm(torch.cat(phases, 1), f"downsamples.{i}.norm"), f"downsamples.{i}.reduction")
    return norm(x, "norm").mean((2, 3)) @ p["head.weight"].T + p["head.bias"]


@pytest.mark.parametrize("name", CASES)
def test_golden(golden, name):
    case = golden(name)
    model = build(case)
    report = load_case(model, case)
    assert report.layout == "official"
    assert sum(p.numel() for p in model.parameters()) == case.manifest["parameters"]
    check_outputs(model, case)
    check_gradients(model, case, origin_of(model, case))
    check_folded(model, case)


@pytest.mark.parametrize("name", CASES)
def test_golden_stages(golden, name):
    case = golden(name)

    def ours(stage: str) -> str:
        if stage in ("patch_embed", "norm"):
            return stage.replace("patch_embed", "stem")
        _, layer, kind, *rest = stage.split(".")
        if kind == "downsample":
            return f"downsamples.{layer}"
        *inside, last = rest
        return ".".join(["stages", layer, *inside, PARTS[last] if "axial_shift" in inside else last])

    names = [stage["name"] for stage in case.manifest["stages"]]
    check_stages(build(case), case, {name: (ours(name), lambda x: x) for name in names})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"img_size": (37, 53), "depths": (1, 1, 1)},
        {"img_size": (4, 20), "depths": (1,)},
        {"shift_size": 3, "bias": False, "patch_norm": False},
        {"shift_size": 7, "dilation": 2, "patch_size": 2},
        {"shift_size": 1, "in_chans": 1},
        *({"shift_padding": padding, "shift_size": 3, "dilation": 2, "img_size": (24, 40)} for padding in PADDINGS),
    ],
)
def test_equals_the_equations(changes):
    model = small(**changes)
    x = torch.randn(2, model.in_chans, *model.arguments["img_size"], dtype=torch.double)
    wanted = by_the_equations(model, x)
    assert (model(x) - wanted).abs().max() < 1e-11 * wanted.std()


def test_bias_is_that_of_the_four_maps_around_the_shifts():
    without = {key for key in small().state_dict() if key not in small(bias=False).state_dict()}
    linear = ("proj_in", "along_width", "along_height", "proj_out")
    blocks = ("stages.0.0", "stages.1.0", "stages.1.1")
    assert without == {f"{block}.axial_shift.{name}.bias" for block in blocks for name in linear}


# ---- sizes


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_and_macs(name):
    model = allmlp.create_model(name, device="meta")
    parameters, macs, published, published_macs = COUNTS[name]
    c0, depths = model.arguments["embed_dim"], model.arguments["depths"]
    c = [c0 * 2**i for i in range(4)]
    cells = [(224 // 4 // 2**i) ** 2 for i in range(4)]
    blocks = sum(d * (12 * ci**2 + 17 * ci) for d, ci in zip(depths, c))
    merges = sum(8 * ci**2 + 8 * ci for ci in c[:3])
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert parameters == 51 * c0 + blocks + merges + 2 * c[3] + 1000 * (c[3] + 1)
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, 224, 224, device="meta"))
    assert counter.get_total_flops() == 2 * macs
    merging = sum(n // 4 * 8 * ci**2 for n, ci in zip(cells, c[:3]))
    mixing = sum(n * d * 12 * ci**2 for n, d, ci in zip(cells, depths, c))
    assert macs == cells[0] * 48 * c0 + mixing + merging + 1000 * c[3]
    assert parameters / 1e6 == pytest.approx(published, rel=0.012)
    assert macs / 1e9 == pytest.approx(published_macs, rel=0.016)


@pytest.mark.parametrize("name", COUNTS)
def test_the_shift_size_is_no_parameter(name):
    five, three = (allmlp.create_model(name, device="meta", shift_size=size) for size in (5, 3))
    assert {k: v.shape for k, v in five.state_dict().items()} == {k: v.shape for k, v in three.state_dict().items()}


def test_nano_is_small():
    model = allmlp.create_model("as_mlp_nano", num_classes=10)
    assert sum(p.numel() for p in model.parameters()) <= 1_500_000
    assert model.arguments["img_size"] == (32, 32)


# ---- any image size


@pytest.mark.parametrize(
    ("size", "maps"),
    [
        ((512, 683), [(128, 171), (64, 86), (32, 43), (16, 22)]),
        ((100, 100), [(25, 25), (13, 13), (7, 7), (4, 4)]),
        ((37, 53), [(10, 14), (5, 7), (3, 4), (2, 2)]),
        ((224, 224), [(56, 56), (28, 28), (14, 14), (7, 7)]),
        ((1, 1), [(1, 1)] * 4),
    ],
)
def test_maps_of_any_size_as_the_segmentation_code(size, maps):
    model = AsMlp(embed_dim=8, depths=(1, 1, 1, 1), device="meta")
    x = torch.empty(1, 3, *size, device="meta")
    assert [tuple(y.shape[2:]) for y in model.forward_intermediates(x, intermediates_only=True)] == maps


def test_zeros_enter_the_norm_of_a_merge():
    merge = small().downsamples[0]
    x = torch.randn(1, 12, 5, 7, dtype=torch.double)
    padded = F.pad(x, (0, 1, 0, 1))
    assert padded.shape == (1, 12, 6, 8)
    assert torch.equal(merge(x), merge(padded))
    inside = merge(x[:, :, :4, :6])  # had the zeros not counted, these cells would be the same
    assert (merge(x)[:, :, :2, :3] - inside).abs().min() > 1e-6


def test_the_detection_rule_refuses_odd_maps():
    model = small(depths=(1, 1, 1), merge_padding="assert")
    with pytest.raises(InputError, match=r"sides 2 divides .* got 25 x 25.*merge_padding='pad'"):
        model(torch.randn(1, 3, 100, 100, dtype=torch.double))
    with pytest.raises(InputError, match="got 13 x 26"):
        model(torch.randn(1, 3, 104, 208, dtype=torch.double))
    tolerant = small(depths=(1, 1, 1))
    tolerant.load_state_dict(model.state_dict())
    for size in ((96, 160), (93, 158)):  # the second is filled up by the patch embedding, under both rules
        x = torch.randn(1, 3, *size, dtype=torch.double)
        assert torch.equal(model(x), tolerant(x))
    with pytest.raises(InputError, match="'pad' or 'assert'"):
        small(merge_padding="zeros")


def test_a_new_size_leaves_the_weights_alone():
    model = small()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.set_input_size((48, 20))
    assert model.arguments["img_size"] == (48, 20)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    other = small(img_size=(48, 20))
    assert not allmlp.load_official(other, small().state_dict()).resampled


def test_the_norm_runs_over_the_whole_map():
    """So zeros beside an image change its features everywhere, and the norm before the mean matters."""
    model = small(depths=(1,))
    x = torch.randn(1, 3, 32, 32, dtype=torch.double)
    alone = model.forward_features(x)
    padded = model.forward_features(F.pad(x, (0, 32)))[..., :8]
    assert (alone - padded).abs().min() > 1e-9
    pooled = model.norm(model.stages[0](model.stem(x)).mean((2, 3), keepdim=True)).flatten(1)
    assert (model.forward_head(alone, pre_logits=True) - pooled).abs().max() > 1e-3


def test_the_order_of_merging_is_column_slow():
    merge = small().downsamples[0]
    seen = []
    merge.norm.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    x = torch.arange(2 * 2 * 12.0, dtype=torch.double).reshape(1, 12, 2, 2)
    merge(x)
    wanted = torch.cat([x[0, :, 0, 0], x[0, :, 1, 0], x[0, :, 0, 1], x[0, :, 1, 1]])
    assert torch.equal(seen[0].flatten(), wanted)
    assert not torch.equal(F.pixel_unshuffle(x, 2).flatten(), wanted)


# ---- training


def test_initialisation():
    model = AsMlp(embed_dim=64, depths=(1, 1), num_classes=500)
    block = model.stages[1][0]
    for layer in (
        model.stem.proj,
        block.axial_shift.proj_in,
        block.axial_shift.along_width,
        block.axial_shift.along_height,
        block.axial_shift.proj_out,
        block.mlp.fc1,
        block.mlp.fc2,
        model.downsamples[0].reduction,
    ):  # torch's own: uniform within 1 / sqrt(fan-in), as the authors leave their convolutions
        bound = 1 / math.sqrt(layer.weight[0].numel())
        assert layer.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
        if layer is model.downsamples[0].reduction:
            assert layer.bias is None
        else:
            assert bound / 2 < layer.bias.abs().max().item() <= bound
    assert model.head.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert not model.head.bias.any()
    norms = [module for module in model.modules() if isinstance(module, torch.nn.GroupNorm)]
    assert len(norms) == 1 + 4 * 2 + 1 + 1
    for norm in norms:
        assert (norm.num_groups, norm.eps) == (1, 1e-5)
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
        assert not norm.bias.any()
    before = model.head.weight.clone()
    model.init_weights()
    assert not torch.equal(model.head.weight, before)
    assert not model.head.bias.any()


@pytest.mark.parametrize(("name", "rate", "second"), [("as_mlp_t", 0.2, 0.018182), ("as_mlp_s", 0.3, 0.013043)])
def test_stochastic_depth_rises_linearly_over_all_blocks(name, rate, second):
    model = allmlp.create_model(name, embed_dim=8, drop_path_rate=rate)
    rates = [block.drop_path.drop_prob for stage in model.stages for block in stage]
    assert rates == pytest.approx([rate * i / (len(rates) - 1) for i in range(len(rates))])
    assert rates[1] == pytest.approx(second, abs=1e-6)
    out = model.stages[3][-1].drop_path.train()(torch.ones(4000, 1, 1, 1))
    assert out.unique().tolist() == pytest.approx([0.0, 1 / (1 - rate)])
    assert (out > 0).float().mean().item() == pytest.approx(1 - rate, abs=0.03)


def test_both_branches_of_a_block_are_dropped_on_their_own():
    block = small(drop_path_rate=0.5, depths=(2,)).stages[0][1].train()
    x = torch.randn(400, 12, 2, 2, dtype=torch.double)
    seen = []
    block.drop_path.register_forward_hook(lambda m, args, y: seen.append((y.flatten(1) != 0).any(1)))
    block(x)
    assert len(seen) == 2
    assert 0.4 < (seen[0] == seen[1]).double().mean() < 0.6


def test_decay_spares_biases_and_norms():
    model = small()
    decayed = set(dict(model.named_parameters())) - model.no_weight_decay()
    assert decayed == {key for key, p in model.named_parameters() if p.ndim >= 2}
    assert all(key.endswith("weight") and "norm" not in key for key in decayed)


# ---- checkpoints


def test_the_report_warns_that_the_shift_size_leaves_no_trace(golden):
    case = golden("asmlp_tiny_small")
    arguments = case.manifest["allmlp"]["arguments"]
    logits = []
    for shift_size in (3, 5):
        model = AsMlp(**{**arguments, "shift_size": shift_size}).double().eval()
        report = allmlp.load_official(model, case.weights())
        assert any("3 or 5" in note and "evaluate with both" in note for note in report.notes)
        logits.append(model(case.input().double()))
    assert (logits[0] - logits[1]).abs().max() > 0.1 * logits[1].std()
    assert_close(logits[1], case.arrays["logits"], 1e-9)


def test_exchanged_branches_load_and_are_wrong(golden):
    case = golden("asmlp_tiny_small")

    def exchanged(key: str) -> str:
        names = {"conv2_1": "conv2_2", "conv2_2": "conv2_1"}
        return ".".join(names.get(word, word) for word in key.split("."))

    model = build(case).double().eval()
    allmlp.load_official(model, {exchanged(key): value for key, value in case.weights().items()})
    error = (model(case.input().double()) - torch.from_numpy(case.arrays["logits"])).abs().max()
    assert error > 0.1 * case.arrays["logits"].std()


@pytest.fixture
def yacs(monkeypatch):
    """A stand-in for the configuration library whose objects the authors pickle beside the weights."""
    module = types.ModuleType("yacs.config")
    module.CfgNode = type("CfgNode", (dict,), {"__module__": "yacs.config"})
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    return module.CfgNode


def test_the_authors_training_file(golden, tmp_path, yacs, monkeypatch):
    case = golden("asmlp_tiny_small")
    config = yacs({"MODEL": yacs({"TYPE": "as_mlp"})})
    config.__dict__["__immutable__"] = True
    contents = {
        "model": case.weights(),
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-3}]},
        "lr_scheduler": {"last_epoch": 299},
        "max_accuracy": 81.3,
        "epoch": 299,
        "config": config,
        "amp": {"loss_scaler0": {"loss_scale": 65536.0, "unskipped": 7}},
    }
    path = tmp_path / "asmlp_tiny_patch4_shift5_224.pth"
    torch.save(contents, path)
    monkeypatch.delitem(sys.modules, "yacs.config")
    monkeypatch.delitem(sys.modules, "yacs")
    model = build(case).double().eval()
    report = allmlp.load_official(model, path)
    assert not report.unexpected
    assert_close(model(case.input().double()), case.arrays["logits"], 1e-9)


def test_a_code_running_pickle_is_refused(tmp_path):
    class Runs:
        def __reduce__(self):
            return print, ("it ran",)

    torch.save({"model": {"head.weight": torch.zeros(1)}, "config": Runs()}, tmp_path / "bad.pth")
    with pytest.raises(InputError, match=r"asks to run code.*print"):
        allmlp.load_official(small(), tmp_path / "bad.pth")


def test_every_key_must_match(golden):
    case = golden("asmlp_few_groups")
    state = case.weights()
    deeper = "layers.0.blocks.1.norm1.weight"
    with pytest.raises(InputError, match=deeper.replace(".", r"\.")):
        allmlp.load_official(build(case), state | {deeper: torch.ones(6)})
    state.pop("layers.1.downsample.reduction.weight")
    with pytest.raises(InputError, match=r"downsamples\.1\.reduction\.weight"):
        allmlp.load_official(build(case), state)
    with pytest.raises(InputError, match="of another shape"):
        allmlp.load_official(AsMlp(**{**case.manifest["allmlp"]["arguments"], "embed_dim": 12}), case.weights())


@pytest.mark.parametrize("channels", [1, 4])
def test_official_file_for_other_image_channels(golden, channels):
    case = golden("asmlp_few_groups")
    model = AsMlp(**{**case.manifest["allmlp"]["arguments"], "in_chans": channels}).eval()
    assert allmlp.load_official(model, case.weights()).resampled == ["stem.proj.weight"]


# ---- folding


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bias": False},
        {"num_classes": 0},
        {"num_classes": 0, "global_pool": ""},
        {"patch_norm": False},
        {"img_size": (37, 53)},
    ],
)
def test_folded_equals_the_model(changes):
    model = small(**changes)
    x = torch.randn(2, 3, *model.arguments["img_size"], dtype=torch.double)
    folded = allmlp.fold(model)
    wanted = model(x)
    assert (folded(x) - wanted).abs().max() < 1e-10 * wanted.std()
    affine = [key for key, m in folded.named_modules() if isinstance(m, torch.nn.GroupNorm) and m.affine]
    kept = {f"stages.{i}.{j}.axial_shift.norm1" for i, j in ((0, 0), (1, 0), (1, 1))}
    kept |= {"stem.norm"} if changes.get("patch_norm", True) else set()
    assert set(affine) == kept | ({"norm"} if not changes.get("num_classes", 5) else set())
    counts = []
    for form in (model, folded):
        with FlopCounterMode(display=False) as counter:
            form(x)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]


def test_folded_without_biases_is_exact_at_borders():
    """The norm's shift goes into `proj_in` before the shift's zeros come in, so it is exact at the border too."""
    model = small(bias=False, shift_size=7, depths=(1,))
    x = torch.randn(1, 3, 8, 12, dtype=torch.double)  # a map of 2 x 3 cells, smaller than the shift
    folded = allmlp.fold(model)
    assert folded.stages[0][0].axial_shift.proj_in.bias is not None
    assert folded.stages[0][0].axial_shift.along_width.bias is None
    wanted = model(x)
    assert (folded(x) - wanted).abs().max() < 1e-10 * wanted.std()
