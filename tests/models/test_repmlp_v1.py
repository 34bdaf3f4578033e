"""RepMLP's first version: the authors' numbers, a slow form of the equations, hosts, layouts, sizes, resizing."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import allmlp
from allmlp.errors import InputError
from allmlp.models import RepMlpPure, RepMlpResNet, RepMlpV1Block
from golden_check import (
    assert_close,
    check_folded,
    check_gradients,
    check_outputs,
    check_stages,
    load_case,
    origin_of,
    outputs_loss,
)

BLOCKS = ("repmlp_v1_block", "repmlp_v1_block_one_partition")
RESNET = "repmlp_v1_resnet_light"


def build(case):
    classes = {"RepMlpV1Block": RepMlpV1Block, "RepMlpResNet": RepMlpResNet}
    return classes[case.manifest["allmlp"]["class"]](**case.manifest["allmlp"]["arguments"])


def randomise(model):
    """Float64, evaluation, every parameter and statistic away from 0 and 1."""
    for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if key.endswith("running_var"):
            nn.init.uniform_(tensor, 0.5, 2.0)
        elif key.endswith("running_mean") or (tensor.ndim == 1 and "norm" not in key):
            nn.init.normal_(tensor, std=0.3)
        elif tensor.ndim == 1:
            nn.init.normal_(tensor, mean=1.0, std=0.3)
        elif tensor.ndim:
            nn.init.normal_(tensor, std=tensor[0].numel() ** -0.5)
    return model.double().eval()


# ---- a slow, obvious form of the equations


def batch_norm(y, p, name, train):
    """y (b, c, ..); statistics over all axes but the second."""
    axes = [axis for axis in range(y.ndim) if axis != 1]
    shape = [1, -1, *[1] * (y.ndim - 2)]
    mean = y.mean(axes) if train else p[name + ".running_mean"]
    var = y.var(axes, unbiased=False) if train else p[name + ".running_var"]
    normed = (y - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt()
    return normed * p[name + ".weight"].view(shape) + p[name + ".bias"].view(shape)


def slow_block(block, x, train=False):
    p, a = block.state_dict(), block.arguments
    b, c, height, width = x.shape
    h, w = a["partition"]
    rows, columns, groups, outputs = height // h, width // w, a["groups"], a["out_chans"]
    if rows * columns > 1:
        means = torch.zeros(b, c, rows, columns, dtype=x.dtype)
        for i in range(rows):
            for j in range(columns):
                means[:, :, i, j] = x[:, :, i * h : (i + 1) * h, j * w : (j + 1) * w].mean((2, 3))
        v = batch_norm(means, p, "global_perceptron.norm", train).reshape(b, -1)
        v = torch.relu(v @ p["global_perceptron.fc1.weight"].T + p["global_perceptron.fc1.bias"])
        v = (v @ p["global_perceptron.fc2.weight"].T + p["global_perceptron.fc2.bias"]).view(b, c, rows, columns)
        x = x.clone()
        for i in range(rows):
            for j in range(columns):
                x[:, :, i * h : (i + 1) * h, j * w : (j + 1) * w] += v[:, :, i, j, None, None]
    wide_in, wide_out = c * h * w // groups, outputs * h * w // groups
    places, mixed, convolved = [], [], {k: [] for k in a["reparam_kernels"]}
    for n in range(b):
        for i in range(rows):
            for j in range(columns):
                piece = x[n, :, i * h : (i + 1) * h, j * w : (j + 1) * w]
                vector = piece.reshape(-1)
                pieces = [
                    p["fc.weight"][g * wide_out : (g + 1) * wide_out] @ vector[g * wide_in : (g + 1) * wide_in]
                    for g in range(groups)
                ]
                places.append((n, i, j))
                mixed.append(torch.cat(pieces))
                for k in convolved:
                    kernel = p[f"local.{k}.conv.weight"]
                    convolved[k].append(F.conv2d(piece[None], kernel, padding=k // 2, groups=groups)[0])
    y = batch_norm(torch.stack(mixed), p, "norm", train).view(-1, outputs, h, w)
    for k, maps in convolved.items():
        y = y + batch_norm(torch.stack(maps), p, f"local.{k}.norm", train)
    out = torch.zeros(b, outputs, height, width, dtype=x.dtype)
    for part, (n, i, j) in zip(y, places):
        out[n, :, i * h : (i + 1) * h, j * w : (j + 1) * w] = part
    return out


CONFIGURATIONS = {
    "one partition": (4, 4, 5, 6, (5, 6), (3,), 1, 2),
    "several partitions": (8, 8, 6, 9, (3, 3), (1, 3, 5), 1, 4),
    "fewer outputs": (6, 3, 4, 8, (4, 4), (1, 3), 2, 3),
    "more outputs": (4, 10, 6, 4, (3, 2), (1, 3, 5), 1, 2),
    "more outputs, one partition": (4, 6, 3, 5, (3, 5), (3, 5), 1, 2),
    "one group": (3, 5, 4, 6, (2, 6), (1, 3), 3, 1),
    "one channel a group": (6, 6, 8, 2, (4, 1), (1, 3, 7), 4, 6),
    "odd map": (4, 4, 9, 15, (3, 5), (5,), 1, 2),
    "no kernels": (4, 2, 4, 4, (2, 2), (), 1, 2),
}
NAMES = ("in_chans", "out_chans", "height", "width", "partition", "reparam_kernels", "reduction", "groups")


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_equals_the_equations(name):
    block = randomise(RepMlpV1Block(**dict(zip(NAMES, CONFIGURATIONS[name]))))
    x = torch.randn(3, block.in_chans, *block.map_size, dtype=torch.double)
    with torch.no_grad():
        wanted = slow_block(block, x)
        assert (block(x) - wanted).abs().max() < 1e-12 * wanted.std()
        folded = allmlp.fold(block)
        assert (folded(x) - wanted).abs().max() < 1e-12 * wanted.std()
        in_training = slow_block(block, x, train=True)
        assert (block.train()(x) - in_training).abs().max() < 1e-10 * in_training.std()


def test_folding_leaves_the_layers_of_the_text():
    block = randomise(RepMlpV1Block(4, 10, 6, 4, (3, 2), (1, 3), 1, 2))
    folded = allmlp.fold(block)
    keys = {"fc.weight", "fc.bias", *(f"global_perceptron.fc{i}.{leaf}" for i in (1, 2) for leaf in ("weight", "bias"))}
    assert folded.state_dict().keys() == keys
    for leaf in ("weight", "bias"):
        key = f"global_perceptron.fc2.{leaf}"
        assert torch.equal(folded.state_dict()[key], block.state_dict()[key])
    with pytest.raises(InputError, match="folded"):
        folded.train()
    again = RepMlpV1Block(**folded.arguments).double()
    allmlp.load_official(again, folded.state_dict())
    with pytest.raises(InputError, match="fold"):
        allmlp.load_official(block, folded.state_dict())


def test_folding_does_not_raise_the_work():
    for arguments in CONFIGURATIONS.values():
        block = RepMlpV1Block(**dict(zip(NAMES, arguments)), device="meta").eval()
        folded = RepMlpV1Block(**{**block.arguments, "folded": True}, device="meta").eval()
        counts = []
        for form in (block, folded):
            with FlopCounterMode(display=False) as counter:
                form(torch.empty(1, block.in_chans, *block.map_size, device="meta"))
            counts.append(counter.get_total_flops())
        assert counts[1] < counts[0] or not block.arguments["reparam_kernels"]


def test_the_global_perceptron_is_there_for_several_partitions_only():
    assert isinstance(RepMlpV1Block(4, 4, 6, 6, (6, 6)).global_perceptron, nn.Identity)
    assert RepMlpV1Block(4, 4, 6, 6, (6, 3)).global_perceptron.fc1.weight.shape == (8, 8)
    assert RepMlpV1Block(4, 4, 6, 6, (2, 3), reduction=4).global_perceptron.fc1.weight.shape == (6, 24)


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="6 x 6; got 4 x 3"):
        RepMlpV1Block(4, 4, 6, 6, (4, 3))
    with pytest.raises(InputError, match="groups that divide 4 and 6 channels; got 4"):
        RepMlpV1Block(4, 6, 6, 6, (3, 3), groups=4)
    with pytest.raises(InputError, match="odd"):
        RepMlpV1Block(4, 4, 6, 6, (3, 3), (1, 4))
    with pytest.raises(InputError, match="4 channels and 6 x 6 cells"):
        RepMlpV1Block(4, 4, 6, 6, (3, 3))(torch.randn(1, 4, 12, 6))


def test_the_matrix_starts_orthogonal():
    weight = RepMlpV1Block(8, 8, 4, 4, (4, 4), groups=4).fc.weight  # (8 * 16, 8 * 16 / 4)
    assert torch.allclose(weight.T @ weight, torch.eye(32), atol=1e-5)


# ---- the authors' numbers


def check_part(case, y, tolerance, values="output_values"):
    """256 values of the output and its means over channels and over positions."""
    scale = case.arrays["output_mean_std"][1]
    _, _, probed = case.rule.probe(y.numpy(), 256)
    assert_close(torch.from_numpy(probed), case.arrays[values], tolerance, scale, values)
    assert_close(y.double().mean((2, 3)), case.arrays["output_channel_mean"], tolerance, scale, "channel means")
    assert_close(y.double().mean(1), case.arrays["output_position_mean"], tolerance, scale, "position means")


@pytest.mark.parametrize("name", BLOCKS)
def test_golden_block(golden, name):
    case = golden(name)
    block = build(case)
    assert sum(p.numel() for p in block.parameters()) == case.manifest["parameters"]
    for dtype in ("float32", "float64"):
        kind = getattr(torch, dtype)
        assert load_case(block.to(kind).eval(), case).layout == "RepMLP v1 block"
        with torch.no_grad():
            check_part(case, block(case.input().to(kind)), case.manifest["tolerance"][dtype])
    check_gradients(block, case, origin_of(block, case), lambda m, x: outputs_loss(case, [m(x)]), train=True)


@pytest.mark.parametrize("name", BLOCKS)
def test_golden_block_folded(golden, name):
    case = golden(name)
    block = build(case).double().eval()
    load_case(block, case)
    folded = allmlp.fold(block)
    x = case.input()
    bound = max(1e-5, 5 * case.manifest["float32_error"])
    with torch.no_grad():
        wanted = block(x.double())
        assert_close(folded(x.double()), wanted.numpy(), 1e-10)
        check_part(case, folded(x.double()), 1e-9, "converted_output_values")
        assert_close(allmlp.fold(block.float())(x), wanted.numpy(), bound)
    check_merged(case, folded)


@pytest.mark.parametrize("name", [*BLOCKS, RESNET])
def test_golden_train_mode(golden, name):
    case = golden(name)
    model = build(case)
    origin = origin_of(model, case)
    load_case(model.double().train(), case)
    with torch.no_grad():
        y = model(case.input().double())
    if "train_logits" in case.arrays:
        assert_close(y, case.arrays["train_logits"], 1e-9)
    else:
        values = torch.from_numpy(case.rule.probe(y.numpy())[2])
        assert_close(values, case.arrays["train_output_values"], 1e-9)
    state = model.state_dict()
    for official, norm in zip(case.manifest["buffer_keys"], case.arrays["buffer_norm_after"]):
        assert state[origin[official]].norm().item() == pytest.approx(norm, rel=1e-9), official
    assert all(value == 1 for key, value in state.items() if key.endswith("num_batches_tracked"))


@pytest.mark.parametrize("name", BLOCKS)
def test_golden_block_stages(golden, name):
    case = golden(name)
    cells = int(np.prod(case.manifest["allmlp"]["arguments"]["partition"]))
    modules = {
        "avg": ("global_perceptron.norm", lambda x: x),
        "fc1_fc2": ("global_perceptron.fc2", lambda x: x),
        "fc3": ("fc", lambda x: x.flatten(1)[:, :, None, None]),
        "fc3_bn": ("norm", lambda x: x),
        **{f"repconv{k}": (f"local.{k}", lambda x: x) for k in (1, 3, 5)},
    }
    wanted = [stage["name"] for stage in case.manifest["stages"]]
    block = build(case)
    assert block.fc.weight.shape[0] == block.out_chans * cells
    check_stages(block, case, {key: value for key, value in modules.items() if key in wanted})


def test_golden_resnet(golden):
    case = golden(RESNET)
    model = build(case)
    assert sum(p.numel() for p in model.parameters()) == case.manifest["parameters"]
    assert load_case(model, case).layout == "RepMLP v1 ResNet"
    check_outputs(model, case)
    check_gradients(model, case, origin_of(model, case), train=True)
    folded = check_folded(model, case).double()
    with torch.no_grad():
        assert_close(folded(case.input().double()), case.arrays["converted_logits"], 1e-9)
    check_merged(case, folded)
    load_case(model.float().train(), case)
    with torch.no_grad():
        logits = model(case.input())
    assert_close(logits, case.arrays["train_logits"], case.manifest["tolerance"]["train_float32"])


def test_golden_resnet_stages(golden):
    case = golden(RESNET)
    modules = {"stage0": ("stem", lambda x: x)}
    for stage in case.manifest["stages"][1:]:
        number, block = stage["name"].removeprefix("stage").split(".")
        modules[stage["name"]] = (f"stages.{int(number) - 1}.{block}", lambda x: x)
    check_stages(build(case), case, modules)


def official_names(model):
    """Our folded key -> the official converted key, written down independently of the loader."""
    names = {"reduce": "conv1", "body.conv": "conv2", "expand": "conv3", "shortcut": "shortcut"}
    light = {"reduce": "light_conv1", "expand": "light_conv3", "body.rep_mlp": "light_repmlp"}
    bottleneck = {
        "reduce": "btnk_conv1",
        "body.narrow": "btnk_conv2",
        "body.rep_mlp": "btnk_repmlp",
        "body.widen": "btnk_conv4",
        "expand": "btnk_conv5",
    }
    inside = {
        "global_perceptron.norm": "avg.bn",
        "global_perceptron.fc": "fc1_fc2.fc",
        "fc.": "fc3.",
        "norm.": "fc3_bn.",
    }
    found = {}
    for key in model.state_dict():
        if key.startswith("head."):
            found[key] = key.replace("head", "linear")
        elif key.startswith("stem."):
            found[key] = key.replace("stem", "stage0.0").replace(".norm.", ".bn.")
        elif key.startswith("stages."):
            _, stage, index, rest = key.split(".", 3)
            mixed = any(f"stages.{stage}.{index}.body.rep_mlp" in other for other in model.state_dict())
            kind = (light if model.arguments["block_type"] == "light" else bottleneck) if mixed else names
            place = next(path for path in kind if rest.startswith(path + "."))
            rest = rest.removeprefix(place + ".")
            if place == "body.rep_mlp" and rest.startswith("local."):
                rest = "repconv" + rest.removeprefix("local.").replace("norm.", "bn.")
            elif place == "body.rep_mlp":
                ours = next(path for path in inside if rest.startswith(path))
                rest = inside[ours] + rest.removeprefix(ours)
            else:
                rest = rest.replace("norm.", "bn.")
            found[key] = f"stage{int(stage) + 1}.{index}.{kind[place]}.{rest}"
    return found


def check_merged(case, folded):
    """Every converted tensor has the official shape; those whose values are kept agree."""
    if isinstance(folded, RepMlpResNet):
        official = {theirs: ours for ours, theirs in official_names(folded).items()}
    else:
        official = {"fc3.weight": "fc.weight", "fc3.bias": "fc.bias"}
        for i in (1, 2):
            for leaf in ("weight", "bias"):
                official[f"fc1_fc2.fc{i}.{leaf}"] = f"global_perceptron.fc{i}.{leaf}"
    state = folded.double().state_dict()
    for entry in case.manifest["converted_entries"]:
        assert state[official[entry["key"]]].numel() == np.prod(entry["shape"])
    assert len(case.manifest["converted_entries"]) == len(state)
    rows = zip(case.manifest["equivalent_keys"], case.arrays["equivalent_mean_std"], case.arrays["equivalent_values"])
    for entry, (mean, std), values in rows:
        got = case.rule.probe(state[official[entry["key"]]].numpy())
        assert abs(got[0] - mean) < 1e-10 * std
        assert abs(got[1] - std) < 1e-10 * std
        assert np.abs(got[2] - values).max() < 1e-10 * std


# ---- files

HOSTS = {
    "light": {"block_type": "light", "groups": 4},
    "bottleneck": {"block_type": "bottleneck", "groups": 2, "bottleneck_reduction": (2, 4)},
}


def host(kind, **changes):
    arguments = {"img_size": 64, "num_classes": 5, "depths": (1, 2, 2, 1), "reparam_kernels": (1, 3), **HOSTS[kind]}
    return randomise(RepMlpResNet(**{**arguments, **changes}))


def as_official(model):
    names = official_names(model)
    state = {}
    for key, value in model.state_dict().items():
        matrix = ".fc.weight" in key
        state[names[key]] = value[:, :, None, None] if matrix else value
    return state


@pytest.mark.parametrize("kind", HOSTS)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 7},
        lambda state: {"model": state},
    ],
)
def test_official_layouts_of_hosts(kind, wrap):
    model = host(kind)
    x = torch.randn(2, 3, 64, 64, dtype=torch.double)
    other = host(kind)
    report = allmlp.load_official(other, wrap(as_official(model)))
    assert report.layout == "RepMLP v1 ResNet"
    assert not report.unexpected
    assert torch.equal(other(x), model(x))
    folded, fresh = allmlp.fold(model), allmlp.fold(host(kind))
    deploy = wrap(as_official(folded))
    report = allmlp.load_official(fresh, deploy)
    assert report.layout == "RepMLP v1 ResNet deploy"
    assert torch.equal(fresh(x), folded(x))
    with pytest.raises(InputError, match=r"allmlp\.fold"):
        allmlp.load_official(other, deploy)
    with pytest.raises(InputError, match="training form"):
        allmlp.load_official(fresh, as_official(model))


@pytest.mark.parametrize("name", BLOCKS)
def test_converted_block_files(golden, name):
    case = golden(name)
    block = build(case).double()
    load_case(block, case)
    folded = allmlp.fold(block)
    names = {"fc.": "fc3.", "global_perceptron.fc": "fc1_fc2.fc"}
    deploy = {}
    for key, value in folded.state_dict().items():
        ours = next(path for path in names if key.startswith(path))
        deploy[names[ours] + key.removeprefix(ours)] = value[:, :, None, None] if key == "fc.weight" else value
    assert deploy.keys() == {entry["key"] for entry in case.manifest["converted_entries"]}
    fresh = allmlp.fold(build(case).double())
    assert allmlp.load_official(fresh, deploy).layout == "RepMLP v1 block deploy"
    x = case.input().double()
    assert torch.equal(fresh(x), folded(x))
    with pytest.raises(InputError, match=r"allmlp\.fold"):
        allmlp.load_official(block, deploy)


def test_strange_and_missing_keys_are_listed(golden):
    case = golden(RESNET)
    state = case.weights()
    state["stage2.1.light_conv2.conv.weight"] = state.pop("stage2.1.light_repmlp.fc3.weight")
    with pytest.raises(InputError, match=r"(?s)body\.rep_mlp\.fc\.weight.*light_conv2"):
        allmlp.load_official(build(case), state)


# ---- sizes

PUBLISHED = {
    # name: arguments, parameters, folded parameters, multiply-adds, folded multiply-adds
    "ResNet-50": ({"mixed_stages": ()}, 25_557_032, 25_530_472, None, 4_089_184_256),
    "c4 only": ({"mixed_stages": (2,), "bottleneck_reduction": 4}, 31_011_112, 30_876_392, None, 3_825_412_096),
    "c3 and c4": ({}, 41_071_144, 40_871_528, 3_950_419_968, 3_890_710_528),
    "c2 to c4": (
        {"mixed_stages": (0, 1, 2), "bottleneck_reduction": (2, 2, 4)},
        58_487_080,
        58_274_792,
        None,
        3_946_825_728,
    ),
    "c2 to c5": (
        {"mixed_stages": (0, 1, 2, 3), "bottleneck_reduction": (2, 2, 4, 4)},
        66_132_776,
        65_762_792,
        None,
        3_841_054_720,
    ),
    "320, g8/16": ({"img_size": 320, "groups": (8, 16)}, 59_543_080, 59_223_144, None, 8_057_225_216),
    "320, g8/8": ({"img_size": 320}, 72_450_600, 72_023_144, None, 8_108_425_216),
    "320, g4/8": ({"img_size": 320, "groups": (4, 8)}, 87_939_624, 87_383_144, None, 8_354_185_216),
    "light, released": (
        {"block_type": "light", "groups": 4},
        87_038_248,
        86_142_440,
        3_301_703_680,
        3_076_915_200,
    ),
    "light, paper": ({"block_type": "light", "groups": 8}, 58_351_912, 57_868_264, 3_031_957_504, 2_919_563_264),
}


def counted(model):
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, *model.arguments["img_size"], device="meta"))
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_macs(name):
    changes, parameters, folded_parameters, macs, folded_macs = PUBLISHED[name]
    kernels = (1, 3, 5, 7) if "320" in name else (1, 3, 5)
    arguments = {"block_type": "bottleneck", "groups": 8, "reparam_kernels": kernels, **changes}
    if not arguments.get("mixed_stages", True):
        arguments["bottleneck_reduction"] = ()
    model = RepMlpResNet(**arguments, device="meta").eval()
    folded = RepMlpResNet(**{**model.arguments, "folded": True}, device="meta").eval()
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(p.numel() for p in folded.parameters()) == folded_parameters
    assert counted(folded) == folded_macs
    assert macs is None or counted(model) == macs


@pytest.mark.parametrize(
    ("reduction", "groups", "millions"),
    [
        (2, 2, 126.53),
        (2, 16, 40.48),
        (4, 1, 73.90),
        (4, 2, 49.32),
        (4, 8, 30.88),
        (8, 1, 35.78),
        (8, 4, 26.57),
        (8, 16, 24.26),
    ],
)
def test_folded_parameters_of_c4_alone(reduction, groups, millions):
    model = RepMlpResNet(
        block_type="bottleneck",
        mixed_stages=(2,),
        bottleneck_reduction=reduction,
        groups=groups,
        folded=True,
        device="meta",
    )
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.0051)


def test_names():
    sizes = {name: allmlp.create_model(name, device="meta") for name in ("repmlp_resnet50", "repmlp_resnet50_light")}
    found = {name: sum(p.numel() for p in model.parameters()) for name, model in sizes.items()}
    assert found == {"repmlp_resnet50": 41_071_144, "repmlp_resnet50_light": 87_038_248}
    nano = allmlp.create_model("repmlp_v1_nano", num_classes=10)
    assert sum(p.numel() for p in nano.parameters()) <= 1_500_000
    assert nano.arguments["img_size"] == (32, 32)
    assert nano.partition_size == (8, 8)


def test_the_small_network_does_about_the_papers_work():
    """52.8 M multiply-adds in the text, for 16, 32 and 64 channels, partitions of 8 x 8 and 2 groups."""
    model = RepMlpPure(folded=True, device="meta").eval()
    assert counted(model) == pytest.approx(52.8e6, rel=0.01)


def test_what_stands_where():
    model = RepMlpResNet(depths=(3, 4, 6, 3), device="meta")
    paths = [path for path, _, _ in model.blocks()]
    assert len(paths) == 3 + 5
    assert all(path.split(".")[1] in "12" and path.split(".")[2] != "0" for path in paths)
    assert {block.in_chans for _, stage, block in model.blocks() if stage == 2} == {128}
    assert all(block.global_perceptron.fc1.in_features == 1024 for _, stage, block in model.blocks() if stage == 1)
    assert RepMlpResNet(img_size=320, device="meta").partition_size == (10, 10)
    with pytest.raises(InputError, match="'light' or 'bottleneck'"):
        RepMlpResNet(block_type="base")
    with pytest.raises(InputError, match="each of 2 stages"):
        RepMlpResNet(groups=(4, 4, 8))
    with pytest.raises(InputError, match="divide the map of 32 x 32; got 7 x 7"):
        RepMlpResNet(img_size=256, partition=(7, 7), device="meta")


def test_initialisation():
    model = RepMlpResNet(img_size=64, depths=(1, 2, 2, 1), num_classes=10)
    for layer in (model.stem.conv, model.stages[1][0].body.conv.conv, model.head):
        bound = layer.weight[0].numel() ** -0.5
        assert layer.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    for _, _, block in model.blocks():
        weight = block.fc.weight
        assert torch.allclose(weight.T @ weight, torch.eye(weight.shape[1]), atol=1e-4)
        bound = block.global_perceptron.fc1.weight.shape[1] ** -0.5
        assert block.global_perceptron.fc1.weight.abs().max().item() == pytest.approx(bound, rel=0.01)


def test_weight_decay_spares_norms_and_biases():
    model = host("light")
    expected = {key for key, p in model.named_parameters() if "norm." in key or key.endswith(".bias")}
    assert model.no_weight_decay() == expected


# ---- other image sizes


def pure(**changes):
    arguments = {"img_size": (16, 24), "channels": (4, 6), "depths": (1, 1), "groups": (2, 3), "num_classes": 5}
    return randomise(RepMlpPure(**{**arguments, "partition": (4, 6), "reparam_kernels": (1, 3), **changes}))


@pytest.mark.parametrize("form", ["model", "folded"])
def test_more_partitions_of_the_same_size(form):
    """The hidden widths of the global perceptrons are kept, by the reduction."""
    model = allmlp.fold(pure()) if form == "folded" else pure()
    hidden = [block.global_perceptron.fc1.weight.shape[0] for _, _, block in model.blocks()]
    mixing = [block.fc.weight for _, _, block in model.blocks()]
    model.set_input_size((32, 48))
    assert model.partition_size == (4, 6)
    assert model.arguments["reduction"] == 4
    assert [block.grid for _, _, block in model.blocks()] == [(8, 8), (4, 4)]
    assert [block.global_perceptron.fc1.weight.shape[0] for _, _, block in model.blocks()] == hidden
    assert all(block.fc.weight is weight for (_, _, block), weight in zip(model.blocks(), mixing))


@pytest.mark.parametrize("form", ["model", "folded"])
@pytest.mark.parametrize("factors", [(2, 2), (3, 1)])
def test_a_tiled_image_gives_the_base_logits_if_partitions_do_not_talk(factors, form):
    model = pure()
    for _, _, block in model.blocks():
        block.global_perceptron.fc2.weight.data.zero_()
        block.global_perceptron.fc2.bias.data.zero_()
    model = allmlp.fold(model) if form == "folded" else model
    x = torch.randn(2, 3, 16, 24, dtype=torch.double)
    before = model(x)
    model.set_input_size((16 * factors[0], 24 * factors[1]))
    assert torch.allclose(model(x.repeat(1, 1, *factors)), before, atol=1e-12)


def constant(model):
    """Make every layer write all cells and all partitions alike; then no border shows."""
    for _, _, block in model.blocks():
        cells = block.partition_size[0] * block.partition_size[1]
        for tensor, count in [
            (block.fc.weight, cells),
            (block.norm.weight, cells),
            (block.norm.bias, cells),
            (block.norm.running_mean, cells),
            (block.norm.running_var, cells),
            (block.global_perceptron.fc2.weight, block.grid[0] * block.grid[1]),
            (block.global_perceptron.fc2.bias, block.grid[0] * block.grid[1]),
        ]:
            grouped = tensor.data.unflatten(0, (-1, count))
            tensor.data.copy_(grouped[:, :1].expand_as(grouped).flatten(0, 1))
    return model


@pytest.mark.parametrize("form", ["model", "folded"])
@pytest.mark.parametrize("size", [(32, 48), (24, 36), (48, 24), (16, 72)])
def test_resampling_keeps_constant_images(size, form):
    model = constant(pure(reparam_kernels=(1,)))
    if form == "folded":  # the 1x1 convolution is on the diagonal of the matrix
        for _, _, block in model.blocks():
            block.local["1"].conv.weight.data.zero_()
        model = allmlp.fold(model)
    x = torch.randn(2, 3, 1, 1, dtype=torch.double)
    before = model(x.expand(2, 3, 16, 24))
    hidden = [block.global_perceptron.fc1.weight.shape[0] for _, _, block in model.blocks()]
    model.set_input_size(size)
    assert torch.allclose(model(x.expand(2, 3, *size)), before, atol=1e-12)
    again = RepMlpPure(**model.arguments).double().eval()
    again.load_state_dict(model.state_dict())
    assert [block.global_perceptron.fc1.weight.shape[0] for _, _, block in again.blocks()] == hidden


@pytest.mark.parametrize("kind", HOSTS)
def test_a_resnet_at_other_sizes(kind):
    model = host(kind)
    for size, partition, reduction in (((128, 64), (2, 2), 2), (128, (2, 2), 4), (192, (2, 2), 9), (160, (2, 2), 6.25)):
        model.set_input_size(size)
        assert model.partition_size == partition
        assert model.arguments["reduction"] == reduction
        x = torch.randn(1, 3, *model.arguments["img_size"], dtype=torch.double)
        again = RepMlpResNet(**model.arguments).double().eval()
        again.load_state_dict(model.state_dict())
        assert torch.equal(again(x), model(x))
        wanted = model(x)
        assert (allmlp.fold(model)(x) - wanted).abs().max() < 1e-10 * wanted.std()


def test_as_many_partitions_where_the_partition_does_not_divide():
    model = RepMlpResNet(depths=(1, 2, 2, 1), num_classes=5)
    model.set_input_size(256)
    assert model.partition_size == (8, 8)
    assert model.arguments["reduction"] == 1
    with pytest.raises(InputError, match="256 x 256"):
        model.set_input_size(200)
    assert model.arguments["img_size"] == (256, 256)
    with pytest.raises(InputError, match="resample"):
        model.set_input_size(512, method="tile")
    plain = RepMlpResNet(depths=(1, 1, 1, 1), mixed_stages=(), bottleneck_reduction=(), num_classes=5)
    plain.set_input_size(200)  # without RepMLP blocks any size will do
    assert plain(torch.randn(2, 3, 200, 200)).shape == (2, 5)


def test_a_map_of_one_partition_can_grow():
    """It gets a global perceptron that adds 0 as yet, so tiles of the old size are mixed as before."""
    model = pure(partition=(8, 12))
    grown = [stage for _, stage, block in model.blocks() if block.grid == (1, 1)]
    assert grown == [1]
    for path, _, block in model.blocks():
        if "stages.0" in path:
            nn.init.zeros_(block.global_perceptron.fc2.weight)
            nn.init.zeros_(block.global_perceptron.fc2.bias)
    x = torch.randn(2, 3, 16, 24, dtype=torch.double)
    before = model(x)
    with pytest.raises(InputError, match="resample"):
        model.set_input_size((32, 24), method="tile")
    assert RepMlpPure(**model.arguments).state_dict().keys() == model.state_dict().keys()  # nothing came yet
    model.set_input_size((32, 24))
    assert torch.allclose(model(x.repeat(1, 1, 2, 1)), before, atol=1e-12)
    again = RepMlpPure(**model.arguments).double().eval()
    again.load_state_dict(model.state_dict())
    model.train()(x.repeat(1, 1, 2, 1)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.set_input_size((16, 24))  # it stays: partitions get smaller instead
    assert model.partition_size == (4, 12)
    assert [block.grid for _, _, block in model.blocks()] == [(4, 2), (2, 1)]


def test_loading_at_another_size():
    source = host("light")
    target = host("light", img_size=128, partition=(2, 2), reduction=4)
    report = allmlp.load_official(target, as_official(source))
    assert "64 x 64" in report.notes[0]
    source.set_input_size(128)
    x = torch.randn(1, 3, 128, 128, dtype=torch.double)
    assert torch.equal(target(x), source(x))
    with pytest.raises(InputError, match="reduction=4"):
        allmlp.load_official(host("light", img_size=128, partition=(2, 2)), as_official(host("light")))


def test_checkpointing_counts_every_batch_once():
    plain = host("light").train()
    saved = copy.deepcopy(plain)
    saved.set_grad_checkpointing()
    x = torch.randn(4, 3, 64, 64, dtype=torch.double)
    for model in (plain, saved):
        model(x).square().sum().backward()
    for (key, a), b in zip(plain.state_dict().items(), saved.state_dict().values()):
        assert torch.equal(a, b), key
