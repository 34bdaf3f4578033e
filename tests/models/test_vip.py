"""Vision Permutator: the authors' numbers, layout, sizes, initialisation, folding, other image sizes."""

import zlib

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import allmlp
from allmlp.errors import InputError
from allmlp.models import VisionPermutator
from allmlp.ops.token_grid import interpolation_matrix
from golden_check import classification_loss, origin_of

PARAMETERS = {"vip_s14": 29_892_904, "vip_s7": 25_114_984, "vip_m7": 55_272_488, "vip_l7": 87_784_936}
MACS = {"vip_s14": 6_855_613_440, "vip_s7": 6_901_767_168, "vip_m7": 16_284_307_456, "vip_l7": 24_340_320_256}
# The authors' list `network`: stages by number, transitions by what they lead between.
NETWORKS = {
    "vip_s14": {"stages": [0, 1, 2, 3], "transitions": {}},
    "vip_s7": {"stages": [0, 2, 3, 4], "transitions": {1: (192, 384)}},
    "vip_m7": {"stages": [0, 1, 3, 4], "transitions": {2: (256, 512)}},
    "vip_l7": {"stages": [0, 2, 3, 4], "transitions": {1: (256, 512)}},
}
SMALL = {
    "img_size": 56,
    "patch_size": 7,
    "num_classes": 5,
    "depths": (2, 1, 2, 1),
    "embed_dims": (16, 16, 24, 32),
    "segment_dims": (8, 8, 4, 4),
    "transitions": (False, True, False, False),
    "mlp_ratios": (3, 2, 3, 3),
}
SMALL_NETWORK = {"stages": [0, 1, 3, 5], "transitions": {2: (16, 24), 4: (24, 32)}}
# What the authors' code, run in float64 on the weights of `official_state`, gives for the image of `official_image`.
LOGITS = [
    [-0.16571230913304874, 0.048534193626041444, 0.27867943298323444, -0.105846910654524, 0.5965172643485661],
    [0.12092216054804852, -0.009259299697571707, 0.19173625475443828, 0.00596597878720817, 0.5055578159333486],
]
LOSS = 1.873240739096893
GRADIENT_NORMS = {
    "patch_embed.proj.weight": 2.365263513099133,
    "network.0.0.attn.mlp_h.weight": 0.17951696522197955,
    "network.2.proj.weight": 2.173659127015742,
    "network.3.0.attn.reweight.fc2.bias": 0.07181687119107165,
}
SUM_OF_ALL_GRADIENT_NORMS = 31.361936177253114


def build(**changes) -> VisionPermutator:
    return VisionPermutator(**{**SMALL, **changes})


def small(**changes) -> VisionPermutator:
    """A small float64 model whose every parameter matters."""
    model = build(**changes).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def official_shapes(arguments, network) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the authors' state dict."""
    dims, patch = arguments["embed_dims"], arguments["patch_size"]
    shapes = {"patch_embed.proj": (dims[0], 3, patch, patch)}
    for stage, number in enumerate(network["stages"]):
        c, hidden = dims[stage], dims[stage] * arguments["mlp_ratios"][stage]
        for block in range(arguments["depths"][stage]):
            path = f"network.{number}.{block}."
            shapes |= {path + "norm1": (c,), path + "norm2": (c,)}
            shapes |= {f"{path}attn.mlp_{name}": (c, c) for name in "chw"}
            shapes |= {path + "attn.reweight.fc1": (c // 4, c), path + "attn.reweight.fc2": (3 * c, c // 4)}
            shapes |= {path + "attn.proj": (c, c), path + "mlp.fc1": (hidden, c), path + "mlp.fc2": (c, hidden)}
    for number, (before, after) in network["transitions"].items():
        halves = arguments["transitions"][network["stages"].index(number - 1)]
        shapes[f"network.{number}.proj"] = (after, before, *((2, 2) if halves else (1, 1)))
    shapes |= {"norm": (dims[-1],), "head": (arguments["num_classes"], dims[-1])}
    keyed = {f"{path}.weight": shape for path, shape in shapes.items()}
    without = ("mlp_c", "mlp_h", "mlp_w")
    keyed |= {f"{path}.bias": shape[:1] for path, shape in shapes.items() if not path.endswith(without)}
    return keyed


def official_state(arguments=SMALL, network=SMALL_NETWORK) -> dict[str, torch.Tensor]:
    """Weights made from their keys, as the golden cases make theirs."""
    state = {}
    for key, shape in official_shapes(arguments, network).items():
        z = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape).astype(np.float32)
        if len(shape) > 1:
            z = z / np.float32(np.sqrt(np.prod(shape[1:])))
        elif "norm" in key and key.endswith("weight"):
            z = 1 + np.float32(0.1) * z
        else:
            z = np.float32(0.1) * z
        state[key] = torch.from_numpy(z)
    return state


def official_image(side=56) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(7).standard_normal((2, 3, side, side)).astype(np.float32))


class OfficialCase:
    """What `origin_of` asks of a golden case."""

    weights = staticmethod(official_state)


def norm(x, weight, bias):
    """Layer norm over channels, eps 1e-5."""
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / 2**0.5))


def by_the_equations(model, images):
    """The forward pass with explicit sums over places i, segments d and their channels u, from the weights."""
    a, p = model.arguments, dict(model.named_parameters())
    x = torch.nn.functional.conv2d(images, p["stem.proj.weight"], p["stem.proj.bias"], a["patch_size"])
    x = x.permute(0, 2, 3, 1)
    for stage, depth in enumerate(a["depths"]):
        g = a["segment_dims"][stage]
        s = a["embed_dims"][stage] // g
        for block in range(depth):
            path = f"stages.{stage}.{block}."
            w = {key.removeprefix(path): value for key, value in p.items() if key.startswith(path)}
            z = norm(x, w["norm1.weight"], w["norm1.bias"])
            b, rows, columns, _ = z.shape
            parts = z.reshape(b, rows, columns, g, s)
            height = w["permute_mlp.mix_height.weight"].reshape(rows, s, rows, s)
            width = w["permute_mlp.mix_width.weight"].reshape(columns, s, columns, s)
            h = torch.einsum("iuIU,bIjdU->bijdu", height, parts).reshape(z.shape)
            v = torch.einsum("juJU,biJdU->bijdu", width, parts).reshape(z.shape)
            e = torch.einsum("kc,bijc->bijk", w["permute_mlp.mix_channels.weight"], z)
            mean = (h + v + e).mean((1, 2))
            scores = gelu(mean @ w["permute_mlp.reweight.fc1.weight"].T + w["permute_mlp.reweight.fc1.bias"])
            scores = scores @ w["permute_mlp.reweight.fc2.weight"].T + w["permute_mlp.reweight.fc2.bias"]
            scores = torch.stack([scores[:, k::3] for k in range(3)]).exp()
            shares = (scores / scores.sum(0))[:, :, None, None, :]
            mixed = h * shares[0] + v * shares[1] + e * shares[2]
            x = x + mixed @ w["permute_mlp.proj.weight"].T + w["permute_mlp.proj.bias"]
            z = norm(x, w["norm2.weight"], w["norm2.bias"])
            z = gelu(z @ w["mlp.fc1.weight"].T + w["mlp.fc1.bias"])
            x = x + z @ w["mlp.fc2.weight"].T + w["mlp.fc2.bias"]
        if f"downsamples.{stage}.proj.weight" in p:
            weight, bias = p[f"downsamples.{stage}.proj.weight"], p[f"downsamples.{stage}.proj.bias"]
            x = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride=weight.shape[-1])
            x = x.permute(0, 2, 3, 1)
    return norm(x, p["norm.weight"], p["norm.bias"]).mean((1, 2)) @ p["head.weight"].T + p["head.bias"]


# ---- the authors' numbers and layout


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_the_authors_numbers(dtype, tolerance):
    model = build().to(dtype).eval()
    report = allmlp.load_official(model, official_state())
    assert report.layout == "vip"
    assert len(report.copied) == len(official_state()) == 112
    logits = model(official_image().to(dtype))
    assert (logits.double() - torch.tensor(LOGITS, dtype=torch.double)).abs().max() < tolerance
    loss = classification_loss(logits)
    loss.backward()
    assert loss.item() == pytest.approx(LOSS, rel=10 * tolerance)
    origin, parameters = origin_of(model, OfficialCase), dict(model.named_parameters())
    norms = {key: parameters[ours].grad.double().norm().item() for key, ours in origin.items()}
    assert sum(norms.values()) == pytest.approx(SUM_OF_ALL_GRADIENT_NORMS, rel=10 * tolerance)
    for key, wanted in GRADIENT_NORMS.items():
        assert norms[key] == pytest.approx(wanted, rel=10 * tolerance)


def test_the_branch_is_the_fast_index_of_the_shares():
    """Three contiguous blocks load as well, and are wrong."""
    state = official_state()
    for key in [key for key in state if ".reweight.fc2." in key]:
        state[key] = torch.cat([state[key][k::3] for k in range(3)])
    model = build().double().eval()
    allmlp.load_official(model, state)
    wrong = model(official_image().double())
    assert (wrong - torch.tensor(LOGITS, dtype=torch.double)).abs().max() > 1e-3


@pytest.mark.parametrize(
    "changes", [{}, {"img_size": (28, 70), "in_chans": 1}, {"segment_dims": (16, 4, 2, 32), "depths": (1, 1, 1, 1)}]
)
def test_equals_the_equations(changes):
    model = small(**changes)
    x = torch.randn(2, model.in_chans, *model.arguments["img_size"], dtype=torch.double)
    wanted = by_the_equations(model, x)
    assert (model(x) - wanted).abs().max() < 1e-11 * wanted.std()


@pytest.mark.parametrize("name", PARAMETERS)
def test_official_layout_of_every_size(name):
    model = allmlp.create_model(name, num_classes=3, device="meta")
    shapes = official_shapes(model.arguments, NETWORKS[name])
    report = allmlp.load_official(model, {key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
    assert len(report.copied) == len(shapes) == len(model.state_dict())


@pytest.mark.parametrize("form", ["bare", "state_dict", "module."])
def test_official_file(tmp_path, form):
    state = official_state()
    if form == "module.":
        state = {form + key: value for key, value in state.items()}
    if form == "state_dict":
        state = {"epoch": 299, "arch": "vip_s7", "state_dict": state}
    torch.save(state, tmp_path / "file.pth.tar")
    model = build().eval()
    assert not allmlp.load_official(model, tmp_path / "file.pth.tar").unexpected
    assert torch.allclose(model(official_image()), torch.tensor(LOGITS), atol=1e-5)


@pytest.mark.parametrize("channels", [1, 4])
def test_official_file_for_other_image_channels(channels):
    model = build(in_chans=channels)
    report = allmlp.load_official(model, official_state())
    assert report.resampled == ["stem.proj.weight"]
    official = official_state()["patch_embed.proj.weight"]
    if channels == 1:  # the colours are summed, so a grey image gives what its three equal channels gave
        assert torch.allclose(model.stem.proj.weight, official.sum(1, keepdim=True), atol=1e-6)
    else:
        assert torch.allclose(model.stem.proj.weight[:, :3], official * 3 / 4, atol=1e-6)


@pytest.mark.parametrize("size", [112, (28, 84)])
def test_official_file_for_another_image_size(size):
    model, other = build(img_size=size).eval(), build().eval()
    report = allmlp.load_official(model, official_state())
    assert len(report.resampled) == 2 * 6
    allmlp.load_official(other, official_state())
    other.set_input_size(size)
    x = torch.randn(2, 3, *model.arguments["img_size"])
    assert torch.equal(model(x), other(x))


def test_a_file_of_another_size_of_network_is_refused_with_its_keys():
    with pytest.raises(InputError, match=r"mix_height\.weight: file \(16, 16\), model \(24, 24\)"):
        allmlp.load_official(build(embed_dims=(24, 16, 24, 32)), official_state())


# ---- sizes, initialisation, regularisation


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_and_macs(name):
    """MACs count the matrix products and convolutions; a block of n places has 10 n c^2 + c^2 of them at ratio 3."""
    model = allmlp.create_model(name, device="meta")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, 224, 224, device="meta"))
    assert counter.get_total_flops() == 2 * MACS[name]
    maps = model.maps_of((224, 224))
    assert [height for height, _ in maps] == list(model.arguments["segment_dims"])  # as published
    patch, dims = model.arguments["patch_size"], model.arguments["embed_dims"]
    macs = maps[0][0] ** 2 * 3 * patch**2 * dims[0] + 1000 * dims[-1]
    for depth, c, (height, width) in zip(model.arguments["depths"], dims, maps):
        macs += depth * (10 * height * width * c**2 + c * (c // 4) + (c // 4) * 3 * c)
    for before, after in NETWORKS[name]["transitions"].values():
        macs += 16 * 16 * 4 * before * after
    assert macs == MACS[name]


def test_the_size_in_the_authors_comment_is_not_the_codes():
    assert 55_534_632 - PARAMETERS["vip_m7"] == 512**2


@pytest.mark.parametrize(("name", "rate"), [("vip_s7", 0.1), ("vip_l7", 0.3)])
def test_stochastic_depth_is_linear_over_all_stages(name, rate):
    model = allmlp.create_model(name, drop_path_rate=rate, device="meta")
    rates = [block.drop_path.drop_prob for stage in model.stages for block in stage]
    assert rates == pytest.approx([rate * t / (len(rates) - 1) for t in range(len(rates))])
    if name == "vip_s7":
        assert rates[1] == pytest.approx(0.00588, abs=5e-6)


def test_kept_branches_are_divided_by_the_keep_probability():
    drop = build(drop_path_rate=0.2).stages[3][0].drop_path.train()
    assert drop(torch.ones(4000, 1, 1, 1)).unique().tolist() == pytest.approx([0.0, 1.25])


def test_dropout_sits_before_the_head_alone():
    model = build(drop_rate=0.4)
    dropouts = [path for path, module in model.named_modules() if isinstance(module, torch.nn.Dropout)]
    assert dropouts == ["head_drop"]
    features = model.train().forward_head(torch.ones(64, 32, 2, 2), pre_logits=True)
    assert (features == 0).double().mean().item() == pytest.approx(0.4, abs=0.05)


def test_initialisation():
    model = allmlp.create_model("vip_s7", depths=(1, 1, 1, 1))
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert len(linears) == 4 * 8 + 1
    for linear in linears:
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.03)
        assert linear.weight.mean().item() == pytest.approx(0, abs=5e-4)
        assert linear.bias is None or not linear.bias.any()
    for conv, fan_in in ((model.stem.proj, 3 * 49), (model.downsamples[0].proj, 4 * 192)):
        for tensor in (conv.weight, conv.bias):  # torch's own: uniform
            assert tensor.abs().max().item() == pytest.approx(fan_in**-0.5, rel=0.03)
            assert tensor.std().item() == pytest.approx((3 * fan_in) ** -0.5, rel=0.1)
    for layer_norm in (model.norm, model.stages[0][0].norm1, model.stages[3][0].norm2):
        assert torch.equal(layer_norm.weight, torch.ones_like(layer_norm.weight))
        assert not layer_norm.bias.any()
        assert layer_norm.eps == 1e-5


def test_no_weight_decay_spares_biases_and_norms():
    model = small()
    spared = model.no_weight_decay()
    assert {"stages.0.0.norm1.weight", "stages.3.0.permute_mlp.reweight.fc2.bias", "downsamples.1.proj.bias"} <= spared
    assert {key for key, p in model.named_parameters() if p.ndim > 1}.isdisjoint(spared)


def test_modules_stand_between_stages_only_where_something_changes():
    kinds = {name: [type(m).__name__ for m in allmlp.create_model(name, device="meta").downsamples] for name in MACS}
    assert kinds["vip_s14"] == ["Identity"] * 3
    assert kinds["vip_m7"] == ["Identity", "Transition", "Identity"]
    assert [m.proj.kernel_size for m in build().downsamples if hasattr(m, "proj")] == [(2, 2), (1, 1)]


def test_impossible_arguments():
    with pytest.raises(InputError, match="one length"):
        build(depths=(1, 1))
    with pytest.raises(InputError, match="5 segments of 16"):
        build(segment_dims=(8, 5, 4, 4))
    with pytest.raises(InputError, match="nearest that works is 224 x 252"):
        allmlp.create_model("vip_s7", img_size=(225, 250))


# ---- folding


@pytest.mark.parametrize(
    "changes", [{}, {"img_size": (28, 70)}, {"num_classes": 0}, {"num_classes": 0, "global_pool": ""}]
)
def test_folded_equals_the_model(changes):
    model = small(**changes)
    x = torch.randn(2, 3, *model.arguments["img_size"], dtype=torch.double)
    folded = allmlp.fold(model)
    wanted = model(x)
    assert (folded(x) - wanted).abs().max() < 1e-10 * wanted.std()
    keys = folded.state_dict()
    assert not any("norm2" in key for key in keys)
    assert sum("norm1.weight" in key for key in keys) == 6
    assert ("norm.weight" in keys) == (changes.get("num_classes") == 0)


def test_folded_float32():
    model = build().eval()
    allmlp.load_official(model, official_state())
    assert torch.allclose(allmlp.fold(model)(official_image()), torch.tensor(LOGITS), atol=1e-5)


# ---- image size


@pytest.mark.parametrize("size", [112, (28, 84), 14])
def test_a_line_that_is_constant_is_mixed_alike_at_every_size(size):
    model = small()
    mlp = model.stages[2][0].permute_mlp
    x = torch.randn(2, 3, 1, 24, dtype=torch.double)

    def lines(mix, places):
        return mlp.along_rows(x.expand(2, 3, places, 24), mix)

    old = model.maps_of((56, 56))[2]
    before = [lines(mlp.mix_height, old[0]), lines(mlp.mix_width, old[1])]
    model.set_input_size(size)
    new = model.maps_of(model.arguments["img_size"])[2]
    after = [lines(mlp.mix_height, new[0]), lines(mlp.mix_width, new[1])]
    for y, z, places, more in zip(before, after, old, new):
        assert torch.allclose(z, interpolation_matrix((places, 1), (more, 1)) @ y, atol=1e-12)


@pytest.mark.parametrize("size", [112, (28, 84), 14])
@pytest.mark.parametrize("form", ["model", "folded"])
def test_resizing_keeps_constant_images(size, form):
    model = small()
    for stage, width in zip(model.stages, model.segment_widths):
        for block in stage:  # lines whose places are all mixed alike keep a constant map constant
            for mix in (block.permute_mlp.mix_height, block.permute_mlp.mix_width):
                rows = mix.weight.data.unflatten(0, (-1, width))
                rows[:] = rows.mean(0, keepdim=True)
    model = allmlp.fold(model) if form == "folded" else model
    x = torch.randn(2, 3, 1, 1, dtype=torch.double)
    before = model(x.expand(2, 3, 56, 56))
    model.set_input_size(size)
    assert torch.allclose(model(x.expand(2, 3, *model.arguments["img_size"])), before, atol=1e-11)
    assert model.arguments["segment_dims"] == SMALL["segment_dims"]


def test_resizing_and_folding_commute():
    model = small()
    folded = allmlp.fold(model)
    for form in (model, folded):
        form.set_input_size((84, 28))
    x = torch.randn(2, 3, 84, 28, dtype=torch.double)
    wanted = model(x)
    assert (folded(x) - wanted).abs().max() < 1e-10 * wanted.std()


def test_same_size_changes_nothing():
    model = small()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.set_input_size(56)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_wrong_size_names_the_mend():
    model = small()
    with pytest.raises(InputError, match=r"set_input_size\(\(42, 70\)\)"):
        model(torch.randn(1, 3, 42, 70, dtype=torch.double))
    for size in (60, (56, 57)):
        with pytest.raises(InputError, match=r"multiples of 14.*nearest that works is 56 x 56"):
            model.set_input_size(size)
    with pytest.raises(InputError, match="resample"):
        model.set_input_size(112, method="tile")
