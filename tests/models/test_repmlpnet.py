"""RepMLPNet: the authors' numbers, a slow form of the equations, layouts, sizes, folding, other image sizes."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import allmlp
from allmlp.errors import InputError
from allmlp.models import RepMlpNet
from golden_check import assert_close, check_folded, check_gradients, check_outputs, check_stages, load_case, origin_of

CASES = ("repmlpnet_small", "repmlpnet_small_partitions", "repmlpnet_t224")
# name: parameters, multiply-adds, multiply-adds folded
PUBLISHED = {
    "repmlpnet_t224": (38_293_608, 2_807_987_200, 2_798_453_760),
    "repmlpnet_t256": (58_687_848, 4_258_078_720, 4_245_626_880),
    "repmlpnet_b224": (68_242_712, 6_675_721_728, 6_656_905_728),
    "repmlpnet_b256": (96_447_512, 9_640_209_408, 9_615_633_408),
    "repmlpnet_d256": (86_887_648, 8_636_207_360, 8_610_812_160),
    "repmlpnet_l256": (117_641_560, 11_609_484_288, 11_579_010_048),
}
DEPLOYED = {  # parameters when only the local convolutions and the norm beside `fc` are merged
    "repmlpnet_t224": 38_331_720,
    "repmlpnet_t256": 58_739_400,
    "repmlpnet_b224": 68_332_664,
    "repmlpnet_b256": 96_568_184,
    "repmlpnet_d256": 86_985_280,
    "repmlpnet_l256": 117_820_600,
}


def build(case) -> RepMlpNet:
    return RepMlpNet(**case.manifest["allmlp"]["arguments"])


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


SMALL = {
    "img_size": (32, 48),
    "num_classes": 5,
    "channels": (6, 12, 16),
    "depths": (1, 2, 1),
    "num_sharesets": (2, 3, 16),
    "gate_reduction": 2,
}


def small(**changes) -> RepMlpNet:
    return randomise(RepMlpNet(**{**SMALL, **changes}))


def images(model, batch=2):
    return torch.randn(batch, model.in_chans, *model.arguments["img_size"], dtype=torch.double)


# ---- a slow, obvious form of the equations, from the tensors alone


def batch_norm(y, p, name, train):
    """y (.., channel second); statistics over all other axes."""
    axes = [axis for axis in range(y.ndim) if axis != 1]
    shape = [1, -1, *[1] * (y.ndim - 2)]
    mean = y.mean(axes) if train else p[name + ".running_mean"]
    var = y.var(axes, unbiased=False) if train else p[name + ".running_var"]
    normed = (y - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt()
    return normed * p[name + ".weight"].view(shape) + p[name + ".bias"].view(shape)


def slow_block(x, p, name, sets, size, kernels, order, train):
    b, c, height, width = x.shape
    rows, columns, (h, w) = height // size[0], width // size[1], size
    hidden = torch.relu(
        x.mean((2, 3)) @ p[f"{name}.global_perceptron.fc1.weight"].T + p[f"{name}.global_perceptron.fc1.bias"]
    )
    gate = torch.sigmoid(hidden @ p[f"{name}.global_perceptron.fc2.weight"].T + p[f"{name}.global_perceptron.fc2.bias"])
    matrices = p[f"{name}.fc.weight"].view(sets, h * w, h * w)
    # One row for each image, partition and group of channels; a row holds one channel of every set.
    taken, full = [], {k: [] for k in ("fc", *kernels)}
    for n in range(b):
        for i in range(rows):
            for j in range(columns):
                for m in range(c // sets):
                    piece = x[n, m * sets : (m + 1) * sets, i * h : (i + 1) * h, j * w : (j + 1) * w]
                    taken.append((n, m, i, j))
                    full["fc"].append(
                        torch.stack([(matrices[s] @ piece[s].reshape(-1)).view(h, w) for s in range(sets)])
                    )
                    for k in kernels:
                        kernel = p[f"{name}.local.{k}.conv.weight"]
                        convolved = [
                            F.conv2d(piece[s][None, None], kernel[s][None], padding=k // 2)[0, 0] for s in range(sets)
                        ]
                        full[k].append(torch.stack(convolved))
    y = batch_norm(torch.stack(full["fc"]), p, f"{name}.norm", train)
    for k in kernels:
        y = y + batch_norm(torch.stack(full[k]), p, f"{name}.local.{k}.norm", train)
    given = taken
    if order == "authors":
        given = [(n, m, i, j) for n in range(b) for m in range(c // sets) for i in range(rows) for j in range(columns)]
    out = torch.zeros_like(x)
    for row, (n, m, i, j) in zip(y, given):
        out[n, m * sets : (m + 1) * sets, i * h : (i + 1) * h, j * w : (j + 1) * w] = row
    return out * gate[:, :, None, None]


def slow_model(model, x, train=False):
    p, a = model.state_dict(), model.arguments
    y = torch.relu(batch_norm(F.conv2d(x, p["stem.conv.weight"], stride=4), p, "stem.norm", train))
    for i, depth in enumerate(a["depths"]):
        size = a["partition_sizes"][i] if a["partition_sizes"] else y.shape[2:]
        for j in range(depth):
            name = f"stages.{i}.{j}"
            z = batch_norm(y, p, f"{name}.norm1", train)
            settings = (a["num_sharesets"][i], size, a["reparam_kernels"], a["partition_order"], train)
            y = y + slow_block(z, p, f"{name}.rep_mlp", *settings)
            z = batch_norm(y, p, f"{name}.norm2", train)
            z = batch_norm(F.conv2d(z, p[f"{name}.ffn.fc1.conv.weight"]), p, f"{name}.ffn.fc1.norm", train)
            z = 0.5 * z * (1 + torch.erf(z / 2**0.5))
            y = y + batch_norm(F.conv2d(z, p[f"{name}.ffn.fc2.conv.weight"]), p, f"{name}.ffn.fc2.norm", train)
        if i + 1 < len(a["depths"]):
            y = F.conv2d(y, p[f"downsamples.{i}.conv.weight"], stride=2)
            y = torch.relu(batch_norm(y, p, f"downsamples.{i}.norm", train))
    return batch_norm(y, p, "norm", train).mean((2, 3)) @ p["head.weight"].T + p["head.bias"]


CONFIGURATIONS = {
    "one partition": {},
    "several partitions": {"partition_sizes": ((4, 4), (2, 3), (2, 1))},
    "several partitions, the authors' order": {
        "partition_sizes": ((4, 3), (2, 2), (1, 3)),
        "partition_order": "authors",
    },
    "odd maps": {"img_size": (28, 44), "partition_sizes": ((7, 11), (3, 5), (1, 2))},
    "sides that no stride divides": {"img_size": (31, 54), "partition_sizes": None},
    "large kernels": {"reparam_kernels": (1, 3, 5, 7)},
    "one kernel": {"reparam_kernels": (3,), "partition_sizes": ((8, 4), (4, 2), (2, 3))},
    "no kernels": {"reparam_kernels": ()},
    "one channel a set": {"num_sharesets": (6, 12, 16), "partition_sizes": ((4, 4), (4, 6), (1, 1))},
    "one set": {"num_sharesets": (1, 1, 1), "partition_sizes": ((2, 6), (2, 2), (2, 3))},
    "other channels and gates": {"in_chans": 2, "gate_reduction": 3, "partition_sizes": ((8, 12), (4, 3), (1, 3))},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_equals_the_equations(name):
    model = small(**CONFIGURATIONS[name])
    x = images(model)
    with torch.no_grad():
        wanted = slow_model(model, x)
        assert (model(x) - wanted).abs().max() < 1e-11 * wanted.std()
        folded = allmlp.fold(model)
        assert (folded(x) - wanted).abs().max() < 1e-11 * wanted.std()
        in_training = slow_model(model, x, train=True)
        assert (model.train()(x) - in_training).abs().max() < 1e-9 * in_training.std()


def test_running_statistics_follow_the_batch():
    model = small(partition_sizes=((4, 4), (2, 3), (2, 1))).train()
    x = images(model, 3)
    before = copy.deepcopy(model.state_dict())
    seen = {}
    block = model.stages[0][0].rep_mlp
    block.norm.register_forward_hook(lambda module, args, y: seen.update(fc=args[0]))
    model(x)
    mean, var = seen["fc"].mean((0, 2)), seen["fc"].var((0, 2), unbiased=True)
    name = "stages.0.0.rep_mlp.norm."
    assert torch.allclose(block.norm.running_mean, 0.9 * before[name + "running_mean"] + 0.1 * mean)
    assert torch.allclose(block.norm.running_var, 0.9 * before[name + "running_var"] + 0.1 * var)


# ---- the authors' numbers


@pytest.mark.parametrize("name", CASES)
def test_golden(golden, name):
    case = golden(name)
    model = build(case)
    assert sum(p.numel() for p in model.parameters()) == case.manifest["parameters"]
    assert load_case(model, case).layout == "RepMLPNet"
    check_outputs(model, case)
    check_gradients(model, case, origin_of(model, case), train=True)
    folded = check_folded(model, case).double()
    with torch.no_grad():
        assert_close(folded(case.input().double()), case.arrays["injected_logits"], 1e-9, what="injected")


@pytest.mark.parametrize("name", CASES)
def test_golden_train_mode(golden, name):
    case = golden(name)
    model = build(case)
    origin = origin_of(model, case)
    for dtype, key in ((torch.float32, "train_float32"), (torch.float64, "float64")):
        load_case(model.to(dtype).train(), case)
        with torch.no_grad():
            logits = model(case.input().to(dtype))
        assert_close(logits, case.arrays["train_logits"], case.manifest["tolerance"][key], what=f"{dtype} train logits")
    state = model.state_dict()
    for official, norm in zip(case.manifest["buffer_keys"], case.arrays["buffer_norm_after"]):
        assert state[origin[official]].norm().item() == pytest.approx(norm, rel=1e-9), official
    counters = [value for key, value in state.items() if key.endswith("num_batches_tracked")]
    assert all(value == 1 for value in counters)


@pytest.mark.parametrize("name", CASES)
def test_golden_merged_weights(golden, name):
    case = golden(name)
    model = build(case).double()
    load_case(model, case)
    state = allmlp.fold(model).state_dict()
    rows = zip(case.manifest["equivalent_keys"], case.arrays["equivalent_mean_std"], case.arrays["equivalent_values"])
    for entry, (mean, std), values in rows:
        ours = state[entry["key"].replace("repmlp_block.fc3", "rep_mlp.fc")].numpy()
        assert ours.size == np.prod(entry["shape"])
        got = case.rule.probe(ours)
        scale = max(std, abs(mean))  # the bias of one set is one number
        assert abs(got[0] - mean) < 1e-10 * scale
        assert abs(got[1] - std) < 1e-10 * scale
        assert np.abs(got[2] - values).max() < 1e-10 * scale


@pytest.mark.parametrize("name", CASES)
def test_golden_stages(golden, name):
    case = golden(name)
    same = lambda x: x  # noqa: E731
    parts = {
        "prebn1": "norm1",
        "prebn2": "norm2",
        "repmlp_block.gp": "rep_mlp.global_perceptron",
        "repmlp_block": "rep_mlp",
        "ffn_block": "ffn",
    }
    modules = {}
    for stage in case.manifest["stages"]:
        names = stage["name"].split(".")
        if names[0] == "stages":
            inside = parts.get(".".join(names[3:]), "")
            modules[stage["name"]] = (".".join([*names[:3], *([inside] if inside else [])]), same)
        else:
            ours = {"conv_embedding": "stem", "embeds": f"downsamples.{names[-1]}", "head_norm": "norm"}
            modules[stage["name"]] = (ours[names[0]], same)
    check_stages(build(case), case, modules)


# ---- files


def official_deploy(model_arguments, state):
    """The authors' injected form of an official state dict: an identity matrix goes through the convolutions."""
    state = {key: value.double() for key, value in state.items()}
    for key in [key for key in state if key.endswith("repmlp_block.fc3.weight")]:
        block = key.removesuffix("fc3.weight")
        sets = len(state[block + "fc3_bn.weight"])
        cells = state[key].shape[1]
        height, width = model_arguments["partition_sizes"][int(key.split(".")[1])]

        def popped(path):
            state.pop(path + ".num_batches_tracked")
            weight, bias, mean, var = (
                state.pop(f"{path}.{leaf}") for leaf in ("weight", "bias", "running_mean", "running_var")
            )
            return weight / (var + 1e-5).sqrt(), bias - weight * mean / (var + 1e-5).sqrt()

        scale, shift = popped(block + "fc3_bn")
        weight = state[key].view(sets, cells, cells) * scale[:, None, None]
        bias = shift[:, None].repeat(1, cells)
        for k in model_arguments["reparam_kernels"]:
            kernel = state.pop(f"{block}repconv{k}.conv.weight")
            scale, shift = popped(f"{block}repconv{k}.bn")
            identity = torch.eye(cells, dtype=torch.double).view(cells, 1, height, width).repeat(1, sets, 1, 1)
            columns = F.conv2d(identity, kernel * scale.view(-1, 1, 1, 1), padding=k // 2, groups=sets)
            weight = weight + columns.flatten(2).permute(1, 2, 0)
            bias = bias + shift[:, None]
        state[key], state[block + "fc3.bias"] = weight.reshape(-1, cells, 1, 1), bias.reshape(-1)
    return state


@pytest.mark.parametrize("name", ["repmlpnet_small", "repmlpnet_small_partitions"])
def test_deploy_files_go_into_a_folded_model_only(golden, name):
    case = golden(name)
    model = build(case).double()
    deploy = official_deploy(model.arguments, case.weights())
    assert deploy.keys() == {entry["key"] for entry in case.manifest["injected_entries"]}
    with pytest.raises(InputError, match=r"allmlp\.fold"):
        allmlp.load_official(model, deploy)
    folded = allmlp.fold(model)
    report = allmlp.load_official(folded, {"model": deploy})
    assert report.layout == "RepMLPNet deploy"
    assert not report.unexpected
    assert "stages.0.0.rep_mlp.global_perceptron.fc2.bias" in report.copied
    assert "stages.0.0.rep_mlp.fc.weight" in report.transposed
    assert "stages.0.0.ffn.fc1.conv.bias" in report.merged
    with torch.no_grad():
        assert_close(folded(case.input().double()), case.arrays["injected_logits"], 1e-9)
    with pytest.raises(InputError, match="training form"):
        allmlp.load_official(folded, case.weights())


def test_a_deploy_file_that_is_not_whole_says_so(golden):
    case = golden("repmlpnet_small")
    model = build(case).double()
    deploy = official_deploy(model.arguments, case.weights())
    del deploy["stages.1.1.prebn2.running_mean"]
    with pytest.raises(InputError, match=r"stages\.1\.1\.norm2\.running_mean"):
        allmlp.load_official(allmlp.fold(model), deploy)


def as_mmpretrain(state):
    names = {
        "conv_embedding.conv": "patch_embed.projection",
        "conv_embedding.bn": "patch_embed.norm",
        "prebn": "norm",
        "gp.fc1": "gp.conv1.conv",
        "gp.fc2": "gp.conv2.conv",
        "head_norm": "final_norm",
    }
    renamed = {}
    for key, value in state.items():
        for theirs, mm in names.items():
            key = key.replace(theirs, mm)
        if key.startswith("embeds."):
            key = (
                key.replace("embeds.", "downsample_layers.").replace(".conv.", ".projection.").replace(".bn.", ".norm.")
            )
        renamed[f"head.fc.{key[5:]}" if key.startswith("head.") else f"backbone.{key}"] = value
    return renamed


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"model": state, "epoch": 3},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        as_mmpretrain,
        lambda state: {"state_dict": as_mmpretrain(state), "meta": {}},
    ],
    ids=["model", "module.", "both", "mmpretrain", "mmpretrain file"],
)
def test_other_layouts_and_wrappers(golden, wrap):
    case = golden("repmlpnet_small")
    model = build(case).double().eval()
    report = allmlp.load_official(model, wrap(case.weights()))
    assert not report.unexpected
    assert not report.reinitialised
    with torch.no_grad():
        assert_close(model(case.input().double()), case.arrays["logits"], 1e-9)


def test_official_file_from_disk(golden, tmp_path):
    case = golden("repmlpnet_small")
    torch.save({"model": case.weights()}, tmp_path / "file.pth")
    model = build(case).double().eval()
    allmlp.load_official(model, tmp_path / "file.pth")
    with torch.no_grad():
        assert_close(model(case.input().double()), case.arrays["logits"], 1e-9)


def test_strange_and_missing_keys_are_listed(golden):
    case = golden("repmlpnet_small")
    state = case.weights()
    state["stages.0.0.repmlp_block.fc9.weight"] = state.pop("stages.0.0.prebn1.bias")
    with pytest.raises(InputError, match=r"(?s)stages\.0\.0\.norm1\.bias.*fc9\.weight"):
        allmlp.load_official(build(case), state)


def test_a_file_of_another_image_size_is_resampled(golden):
    case = golden("repmlpnet_small")  # 64 pixels, whole maps
    arguments = case.manifest["allmlp"]["arguments"]
    same = build(case).double()
    allmlp.load_official(same, case.weights())
    for size, partitions in (((96, 96), ((24, 24), (12, 12), (6, 6))), ((32, 64), ((8, 16), (4, 8), (2, 4)))):
        other = RepMlpNet(**{**arguments, "img_size": size, "partition_sizes": partitions}).double().eval()
        report = allmlp.load_official(other, case.weights())
        assert len(report.resampled) == 4
        assert "64 x 64" in report.notes[0]
        resized = copy.deepcopy(same).eval()
        resized.set_input_size(size)
        x = torch.randn(1, 3, *size, dtype=torch.double)
        assert torch.allclose(resized(x), other(x), atol=1e-5)  # resampled in double and in single precision
    tiled = RepMlpNet(**{**arguments, "img_size": 128}).double().eval()
    assert not allmlp.load_official(tiled, case.weights()).resampled  # it has the file's own partitions


@pytest.mark.parametrize("channels", [1, 5])
def test_official_file_for_other_image_channels(golden, channels):
    case = golden("repmlpnet_small")
    model = RepMlpNet(**{**case.manifest["allmlp"]["arguments"], "in_chans": channels})
    assert allmlp.load_official(model, case.weights()).resampled == ["stem.conv.weight"]


# ---- sizes and initialisation


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_macs(name):
    model = allmlp.create_model(name, device="meta").eval()
    folded = RepMlpNet(**{**model.arguments, "folded": True}, device="meta").eval()
    parameters, macs, folded_macs = PUBLISHED[name]
    assert sum(p.numel() for p in model.parameters()) == parameters
    for form, wanted in ((model, macs), (folded, folded_macs)):
        with FlopCounterMode(display=False) as counter:
            form(torch.empty(1, 3, *model.arguments["img_size"], device="meta"))
        assert counter.get_total_flops() == 2 * wanted
    # Injection alone trades 16 numbers a set for one bias a cell.
    rep_mlps = [block for _, block in model.blocks()]
    biases = sum(len(block.fc.weight) for block in rep_mlps)
    assert parameters - sum(16 * block.num_sets for block in rep_mlps) + biases == DEPLOYED[name]


def test_nano_is_small():
    model = allmlp.create_model("repmlpnet_nano", num_classes=10)
    assert sum(p.numel() for p in model.parameters()) <= 1_500_000
    assert model.arguments["img_size"] == (32, 32)


def test_gates_are_as_narrow_as_the_authors():
    model = allmlp.create_model("repmlpnet_d256", device="meta")
    widths = [stage[0].rep_mlp.global_perceptron.fc1.out_features for stage in model.stages]
    assert widths == [20, 40, 80, 160]


def test_initialisation():
    model = RepMlpNet(img_size=64, channels=(64, 128), depths=(1, 1), num_sharesets=(4, 16), num_classes=100)
    block = model.stages[0][0]
    layers = {
        block.rep_mlp.fc: 256,
        block.rep_mlp.global_perceptron.fc2: 16,
        block.ffn.fc1.conv: 64,
        block.ffn.fc2.conv: 256,
        model.stem.conv: 48,
        model.downsamples[0].conv: 256,
        model.head: 128,
    }
    for layer, fan_in in layers.items():  # uniform within 1 / sqrt(fan-in): PyTorch's own
        for tensor in layer.parameters():
            bound = fan_in**-0.5
            assert tensor.abs().max().item() <= bound * (1 + 1e-6)
            if tensor.numel() > 1000:
                assert tensor.abs().max().item() == pytest.approx(bound, rel=0.02)
                assert tensor.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 2 * (2 + 1 + 2 + 2) + 3
    for norm in norms:
        assert (norm.eps, norm.momentum) == (1e-5, 0.1)
        assert (norm.weight == 1).all()
        assert not norm.bias.any()


def test_weight_decay_spares_norms_and_biases():
    model = small()
    spared = model.no_weight_decay()
    assert spared == {key for key, p in model.named_parameters() if key.endswith(".bias") or "norm" in key}
    assert "stages.0.0.rep_mlp.local.1.conv.weight" not in spared


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="5 sets of 12 channels"):
        RepMlpNet(**{**SMALL, "num_sharesets": (2, 5, 4)})
    with pytest.raises(InputError, match="depths"):
        RepMlpNet(**{**SMALL, "depths": (1, 1)})
    with pytest.raises(InputError, match="8 x 12; got 3 x 4"):
        RepMlpNet(**{**SMALL, "partition_sizes": ((3, 4), (4, 6), (2, 3))})
    with pytest.raises(InputError, match="odd"):
        RepMlpNet(**{**SMALL, "reparam_kernels": (1, 2)})
    with pytest.raises(InputError, match="at most 6 channels; got 8"):
        RepMlpNet(**{**SMALL, "gate_reduction": 8})
    with pytest.raises(InputError, match="'aligned' or 'authors'"):
        RepMlpNet(**{**SMALL, "partition_order": "paper"})
    with pytest.raises(InputError, match="16 x 16 pixels"):
        RepMlpNet(**{**SMALL, "img_size": (15, 48)})


# ---- partitions


def without_mixing(model):
    """Fully-connected layers that are identities, no local convolutions and open gates."""
    for _, block in model.blocks():
        cells = block.fc.weight.shape[1]
        block.fc.weight.data = torch.eye(cells, dtype=torch.double).repeat(block.num_sets, 1)
        block.norm = nn.Identity()
        block.global_perceptron.register_forward_hook(lambda module, args, y: torch.ones_like(y))
    return model


@pytest.mark.parametrize("sizes", [((4, 4), (4, 6), (2, 3)), ((8, 12), (2, 3), (1, 1))])
def test_partitions_return_to_their_places(sizes):
    """With identity matrices a block is the identity, in the authors' order only with one partition or group."""
    for order in ("aligned", "authors"):
        model = without_mixing(small(partition_sizes=sizes, reparam_kernels=(), partition_order=order))
        for stage, block in model.blocks():
            x = torch.randn(2, block.channels, *block.map_size, dtype=torch.double)
            whole = block.map_size == block.partition_size or block.num_sets == block.channels
            assert torch.equal(block(x), x) == (order == "aligned" or whole), (order, stage)


# ---- other image sizes


@pytest.mark.parametrize("form", ["model", "folded"])
@pytest.mark.parametrize("factors", [(2, 2), (2, 3), (1, 4)])
@pytest.mark.parametrize("sizes", [None, ((4, 4), (2, 6), (1, 3))])
def test_a_tiled_image_gives_the_base_logits(factors, sizes, form):
    model = small(partition_sizes=sizes)
    model = allmlp.fold(model) if form == "folded" else model
    x = images(model)
    before = model(x)
    held = model.partition_sizes
    model.set_input_size((32 * factors[0], 48 * factors[1]))
    assert model.partition_sizes == held
    assert model.arguments["partition_sizes"] == held
    assert torch.allclose(model(x.repeat(1, 1, *factors)), before, atol=1e-12)
    model.set_input_size((32, 48))  # nothing was resampled, so the way back is exact
    assert torch.equal(model(x), before)


def test_tiling_in_the_authors_order_changes_the_logits():
    model = small(partition_order="authors")
    x = images(model)
    before = model(x)
    model.set_input_size((64, 96))
    assert (model(x.repeat(1, 1, 2, 2)) - before).abs().max() > 1e-3


@pytest.mark.parametrize("form", ["model", "folded"])
@pytest.mark.parametrize("size", [(48, 48), (40, 72), (16, 48), (28, 52), (104, 56)])
def test_resampling_keeps_constant_images(size, form):
    """Where every cell is written alike, no border shows, and sums over cells are kept."""
    model = small(partition_sizes=((4, 12), (4, 3), (2, 3)), reparam_kernels=(1,))
    for _, block in model.blocks():
        weight = block.fc.weight.data.unflatten(0, (block.num_sets, -1))
        block.fc.weight.data = weight.mean(1, keepdim=True).expand_as(weight).flatten(0, 1).clone()
    x = torch.randn(2, 3, 1, 1, dtype=torch.double)
    if form == "folded":  # the 1x1 convolution is on the diagonal of the matrix
        for _, block in model.blocks():
            block.local["1"].conv.weight.data.zero_()
        model = allmlp.fold(model)
    before = model(x.expand(2, 3, 32, 48))
    model.set_input_size(size)
    assert torch.allclose(model(x.expand(2, 3, *size)), before, atol=1e-11)
    again = RepMlpNet(**model.arguments).double().eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(x.expand(2, 3, *size)), model(x.expand(2, 3, *size)))


def test_the_larger_published_size_is_the_resampled_smaller_one():
    model = allmlp.create_model("repmlpnet_t224", depths=(1, 1, 1, 1))
    model.set_input_size(256)
    wanted = allmlp.create_model("repmlpnet_t256", depths=(1, 1, 1, 1), device="meta").state_dict()
    assert {key: value.shape for key, value in model.state_dict().items()} == {k: v.shape for k, v in wanted.items()}


def test_tiling_can_be_insisted_on():
    model = small()
    model.set_input_size((64, 48), method="tile")
    with pytest.raises(InputError, match="resample"):
        model.set_input_size((72, 48), method="tile")
    with pytest.raises(InputError, match="resample"):
        model.set_input_size((72, 48), method="stretch")
    model.set_input_size((72, 48), method="resample")
    assert model.arguments["img_size"] == (72, 48)


def test_only_what_changes_is_replaced():
    model = small()
    before = dict(model.named_parameters())
    model.set_input_size((64, 96))
    assert all(before[key] is value for key, value in model.named_parameters())
    model.set_input_size((80, 96))
    changed = {key for key, value in model.named_parameters() if before[key] is not value}
    assert changed == {key for key in before if key.endswith("rep_mlp.fc.weight")}


def test_a_backbone_repeats_the_partitions_of_its_name():
    backbone = allmlp.create_backbone("repmlpnet_nano").eval()
    assert backbone.canvas == (128, 128)
    assert backbone.model.partition_sizes == allmlp.create_model("repmlpnet_nano", device="meta").partition_sizes
    assert [tuple(y.shape[1:]) for y in backbone(torch.randn(1, 3, 128, 128))] == [
        (48, 32, 32),
        (96, 16, 16),
        (144, 8, 8),
        (192, 4, 4),
    ]
    own = allmlp.create_backbone("repmlpnet_nano", img_size=96, partition_sizes=((12, 12), (6, 6), (3, 3), (1, 1)))
    assert own.model.partition_sizes == [(12, 12), (6, 6), (3, 3), (1, 1)]


def test_a_segmenter_whose_canvas_changed_twice_is_built_again():
    network = allmlp.create_segmenter("upernet", "repmlpnet_nano", 3, "small", img_size=80).eval()
    network.backbone.set_input_size(96)  # not the partitions that it would have had at once
    assert network.backbone.model.partition_sizes == [(12, 12), (6, 6), (6, 6), (1, 1)]
    again = allmlp.create_segmenter(**network.arguments).eval()
    again.load_state_dict(network.state_dict())
    x = torch.randn(1, 3, 96, 96)
    assert torch.equal(again(x), network(x))


# ---- folding and training


def test_no_batch_norm_is_left():
    folded = allmlp.fold(small(num_sharesets=(2, 12, 4)))
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in folded.modules())
    assert not any("local" in key for key in folded.state_dict())
    assert isinstance(folded.stages[1][0].norm1, nn.Identity)  # one channel a set: merged like every other
    assert not isinstance(folded.stages[0][0].norm1, nn.Identity)
    assert isinstance(folded.norm, nn.Identity)


@pytest.mark.parametrize("changes", [{"num_classes": 0}, {"num_classes": 0, "global_pool": ""}])
def test_folded_equals_the_model_without_a_head(changes):
    model = small(**changes)
    x = images(model)
    wanted = model(x)
    assert (allmlp.fold(model)(x) - wanted).abs().max() < 1e-10 * wanted.std()


def test_checkpointing_counts_every_batch_once():
    torch.manual_seed(1)
    plain = RepMlpNet(**SMALL).double().train()
    saved = copy.deepcopy(plain)
    saved.set_grad_checkpointing()
    x = images(plain, 4)
    for model in (plain, saved):
        model(x).square().sum().backward()
    for (key, a), b in zip(plain.state_dict().items(), saved.state_dict().values()):
        assert torch.equal(a, b), key
    for (key, a), b in zip(plain.named_parameters(), saved.parameters()):
        assert torch.allclose(a.grad, b.grad, rtol=1e-9, atol=1e-12), key


def test_maps_of_what_each_cell_reads():
    model = small(partition_sizes=((4, 4), (2, 3), (2, 1)))
    shapes = [tuple(value.shape) for value in model.token_maps().values()]
    assert shapes == [(32, 4, 4), (18, 2, 3), (18, 2, 3), (32, 2, 1)]
