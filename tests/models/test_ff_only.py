"""Feed-forward only and its attention-only control: the authors' numbers, layout, sizes, initialisation, folding."""

import argparse

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import allmlp
from allmlp.errors import InputError
from allmlp.models import AttentionOnly, FeedForwardOnly
from allmlp.ops.token_grid import interpolation_matrix
from golden_check import assert_close, check_folded, check_gradients, check_outputs, check_stages, load_case, origin_of

PARAMETERS = {"ff_tiny": 7_676_332, "ff_base": 61_943_020, "ff_large": 206_363_576}
PUBLISHED_GMACS = {"ff_tiny": 1.442, "ff_base": 14.132, "ff_large": 10.713}


def build(case, **changes) -> FeedForwardOnly:
    return FeedForwardOnly(**{**case.manifest["allmlp"]["arguments"], **changes})


def small(kind=FeedForwardOnly, **changes):
    """A small float64 model whose every parameter matters."""
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_classes": 5, "pos_grid": (3, 5)}
    model = kind(**{**arguments, **changes}).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def attention(x, w, name, heads):
    """Softmax(Q K' / sqrt(d)) V by explicit sums over heads."""
    parts = (x @ w[f"{name}.qkv.weight"].T + w[f"{name}.qkv.bias"]).chunk(3, dim=-1)
    outputs = []
    for q, k, v in zip(*(part.chunk(heads, dim=-1) for part in parts)):
        scores = torch.einsum("bid,bjd->bij", q, k) / q.shape[-1] ** 0.5
        outputs.append(torch.softmax(scores, dim=-1) @ v)
    return torch.cat(outputs, dim=-1) @ w[f"{name}.proj.weight"].T + w[f"{name}.proj.bias"]


def feed_forward(x, w, name):
    x = x @ w[f"{name}.fc1.weight"].T + w[f"{name}.fc1.bias"]
    return 0.5 * x * (1 + torch.erf(x / 2**0.5)) @ w[f"{name}.fc2.weight"].T + w[f"{name}.fc2.bias"]


def norm(x, dim, weight, bias):
    """Layer norm along one axis, eps 1e-6."""
    mean, variance = x.mean(dim, keepdim=True), x.var(dim, unbiased=False, keepdim=True)
    shape = [-1 if axis == dim else 1 for axis in range(x.ndim)]
    return (x - mean) / (variance + 1e-6).sqrt() * weight.reshape(shape) + bias.reshape(shape)


def by_the_equations(model, images):
    """The forward pass with explicit sums, from the model's weights."""
    p = dict(model.named_parameters())
    patch = model.patch_size
    x = F.unfold(images, patch, stride=patch).transpose(1, 2) @ p["stem.weight"].flatten(1).T + p["stem.bias"]
    table = F.interpolate(p["pos_embed"], size=model.grid_size, mode="bilinear", align_corners=False)
    x = x + table.flatten(2).transpose(1, 2)
    x = torch.cat([(p["cls_token"] + p["cls_pos_embed"]).expand(len(x), 1, -1), x], dim=1)
    for i in range(len(model.blocks)):
        w = {key.removeprefix(f"blocks.{i}."): value for key, value in p.items() if key.startswith(f"blocks.{i}.")}
        z = norm(x, 2, w["norm1.weight"], w["norm1.bias"])
        if isinstance(model, AttentionOnly):
            x = x + attention(z, w, "token_attention", model.arguments["num_heads"])
        else:
            x = x + feed_forward(z, w, "channel_mixing")
        z = norm(x, 1, w["norm2.weight"], w["norm2.bias"]).transpose(1, 2)
        if isinstance(model, AttentionOnly):
            x = x + attention(z, w, "channel_attention", 1).transpose(1, 2)
        else:
            x = x + feed_forward(z, w, "token_mixing").transpose(1, 2)
    return norm(x, 2, p["norm.weight"], p["norm.bias"])[:, 0] @ p["head.weight"].T + p["head.bias"]


@pytest.mark.parametrize("name", ["ff_tiny", "ff_patch32_small"])
def test_golden(golden, name):
    case = golden(name)
    model = build(case)
    report = load_case(model, case)
    assert report.layout == "ff-only"
    assert len(report.copied) == len(case.weights())
    check_outputs(model, case)
    check_gradients(model, case, origin_of(model, case))
    folded = check_folded(model, case)
    assert not any("norm" in key for key in folded.state_dict())


@pytest.mark.parametrize("name", ["ff_tiny", "ff_patch32_small"])
def test_golden_stages(golden, name):
    case = golden(name)
    parts = {"mlp1": "channel_mixing", "mlp2": "token_mixing", "norm1": "norm1", "norm2": "norm2"}
    modules = {"patch_embed": ("stem", lambda x: x), "norm": ("norm", lambda x: x)}
    for stage in case.manifest["stages"]:
        if stage["name"].startswith("blocks."):
            block, _, part = stage["name"].removeprefix("blocks.").partition(".")
            modules[stage["name"]] = (f"blocks.{block}" + (f".{parts[part]}" if part else ""), lambda x: x)
    check_stages(build(case), case, modules)


@pytest.mark.parametrize("kind", [FeedForwardOnly, AttentionOnly])
@pytest.mark.parametrize("changes", [{}, {"img_size": (24, 40), "in_chans": 1}, {"depth": 1, "pos_grid": 4}])
def test_equals_the_equations(kind, changes):
    model = small(kind, **changes)
    x = torch.randn(2, model.in_chans, *model.arguments["img_size"], dtype=torch.double)
    wanted = by_the_equations(model, x)
    assert (model(x) - wanted).abs().max() < 1e-11 * wanted.std()


# ---- the official layout


def wrapped(state):
    """As DeiT's script saves it, with the file's other contents."""
    return {"model": state, "optimizer": {"state": {}}, "epoch": 299, "args": argparse.Namespace(lr=5e-4)}


@pytest.mark.parametrize("form", ["bare", "wrapped", "module."])
def test_official_file(golden, tmp_path, form):
    case = golden("ff_patch32_small")
    state = case.weights()
    if form == "wrapped":
        state = wrapped(state)
    if form == "module.":
        state = {form + key: value for key, value in state.items()}
    torch.save(state, tmp_path / "file.pth")
    model = build(case).eval()
    report = allmlp.load_official(model, tmp_path / "file.pth")
    assert not report.unexpected
    with torch.no_grad():
        assert_close(model(case.input()), case.arrays["logits"], 2e-4)


@pytest.mark.parametrize("channels", [1, 4])
def test_official_file_for_other_image_channels(golden, channels):
    case = golden("ff_patch32_small")
    model = build(case, in_chans=channels).eval()
    report = allmlp.load_official(model, case.weights())
    assert report.resampled == ["stem.weight"]
    official = case.weights()["patch_embed.proj.weight"]
    if channels == 1:  # the colours are summed, so a grey image gives what its three equal channels gave
        assert torch.allclose(model.stem.weight, official.sum(1, keepdim=True), atol=1e-6)
    else:
        assert torch.allclose(model.stem.weight[:, :3], official * 3 / 4, atol=1e-6)


@pytest.mark.parametrize("size", [448, 160, (96, 288)])
def test_official_file_for_another_image_size(golden, size):
    """The file's hidden width comes along, since by the ratio it would depend on the size."""
    case = golden("ff_patch32_small")
    state = case.weights()
    model, by_width = build(case, img_size=size).eval(), build(case, img_size=size, tokens_mlp_dim=200).eval()
    report = allmlp.load_official(model, state)
    assert len(report.resampled) == 2 * 5
    assert "pos_embed" in report.copied
    assert model.arguments["tokens_mlp_dim"] == 200
    allmlp.load_official(by_width, state)
    at_224 = build(case).eval()
    allmlp.load_official(at_224, state)
    at_224.set_input_size(size)
    again = FeedForwardOnly(**model.arguments).eval()
    again.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, *model.arguments["img_size"])
    with torch.no_grad():
        wanted = at_224(x)
        for other in (model, by_width, again):
            assert torch.equal(other(x), wanted)
        model.blocks[0].token_mixing.fc1.bias.zero_()  # the file's own tensors are no part of the model
    assert state["blocks.0.mlp2.fc1.bias"].any()


def test_widths_of_the_same_size_must_agree(golden):
    case = golden("ff_patch32_small")
    with pytest.raises(InputError, match=r"token_mixing\.fc1\.weight: file \(200, 50\), model \(100, 50\)"):
        allmlp.load_official(build(case, tokens_mlp_dim=100), case.weights())


# ---- sizes, initialisation, regularisation


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_and_macs(name):
    """MACs count the matrix products: stem, both MLPs of every token and channel, and the head on the class token."""
    model = allmlp.create_model(name, device="meta")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    c, depth, patch = model.num_features, len(model.blocks), model.patch_size
    s = (224 // patch) ** 2
    t = s + 1
    hidden = int(4 * t)
    assert model.arguments["tokens_mlp_dim"] == hidden
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, 224, 224, device="meta"))
    macs = s * 3 * patch**2 * c + depth * (8 * t * c**2 + 2 * c * t * hidden) + 1000 * c
    assert counter.get_total_flops() == 2 * macs
    assert round(macs / 1e9, 3) == PUBLISHED_GMACS[name]


def test_parameters_of_the_attention_only_control():
    model = allmlp.create_model("attn_only_tiny", device="meta")
    assert sum(p.numel() for p in model.parameters()) == 4_039_360
    without = sum(p.numel() for key, p in model.named_parameters() if key.endswith("qkv.bias"))
    assert 4_039_360 - without == 4_025_356


def test_the_image_size_never_changes_widths():
    model = allmlp.create_model("ff_tiny", img_size=448, device="meta")
    assert model.arguments["tokens_mlp_dim"] == 788
    assert model.blocks[0].token_mixing.fc1.weight.shape == (788, 785)
    assert model.pos_embed.shape == (1, 192, 14, 14)
    assert FeedForwardOnly(img_size=64, embed_dim=8, depth=1).blocks[0].token_mixing.fc1.weight.shape == (68, 17)


def test_nano_is_small():
    model = allmlp.create_model("ff_nano", num_classes=10)
    assert sum(p.numel() for p in model.parameters()) <= 1_500_000
    assert model.arguments["img_size"] == (32, 32)
    assert model.grid_size == model.pos_grid == (8, 8)


@pytest.mark.parametrize("kind", [FeedForwardOnly, AttentionOnly])
def test_initialisation(kind):
    model = kind(embed_dim=256, depth=2, num_heads=4) if kind is AttentionOnly else kind(embed_dim=256, depth=2)
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert len(linears) == 2 * 4 + 1
    for linear in linears:
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.03)
        assert linear.weight.mean().item() == pytest.approx(0, abs=5e-4)
        assert not linear.bias.any()
    for tensor in (model.cls_token, model.cls_pos_embed, model.pos_embed):
        assert tensor.std().item() == pytest.approx(0.02, rel=0.15)
    bound = 1 / (3 * 16 * 16) ** 0.5
    for tensor in (model.stem.weight, model.stem.bias):  # torch's own: uniform
        assert tensor.abs().max().item() == pytest.approx(bound, rel=0.03)
        assert tensor.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
    for layer_norm in (model.norm, model.blocks[0].norm1, model.blocks[1].norm2):
        assert torch.equal(layer_norm.weight, torch.ones_like(layer_norm.weight))
        assert not layer_norm.bias.any()
        assert layer_norm.eps == 1e-6


def test_stochastic_depth_is_linear():
    model = FeedForwardOnly(img_size=32, embed_dim=16, depth=5, drop_path_rate=0.4)
    assert [block.drop_path.drop_prob for block in model.blocks] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    drop = model.blocks[4].drop_path.train()
    out = drop(torch.ones(4000, 1, 1))
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.6])  # kept branches are divided by the keep probability
    assert (out > 0).float().mean().item() == pytest.approx(0.6, abs=0.04)
    draws = []
    drop.register_forward_hook(lambda module, args, output: draws.append(output.flatten(1).any(1)))
    model.train()(torch.randn(64, 3, 32, 32))
    assert len(draws) == 2
    assert not torch.equal(*draws)  # the two branches of a layer draw on their own


def test_dropout_sits_on_tokens_and_in_both_mlps():
    model = small(drop_rate=0.4, depth=1).train()
    seen = {}
    for name in ("pos_drop", "blocks.0.channel_mixing.drop", "blocks.0.token_mixing.drop"):
        model.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: seen.setdefault(name, []).append((output == 0).double().mean())
        )
    model(torch.randn(64, 3, 32, 32, dtype=torch.double))
    assert {name: len(shares) for name, shares in seen.items()} == {
        "pos_drop": 1,
        "blocks.0.channel_mixing.drop": 2,
        "blocks.0.token_mixing.drop": 2,
    }
    assert all(float(share) == pytest.approx(0.4, abs=0.03) for shares in seen.values() for share in shares)
    assert isinstance(model.head_drop, torch.nn.Identity)


@pytest.mark.parametrize("kind", [FeedForwardOnly, AttentionOnly])
def test_weight_decay_spares_norms_positions_and_class_token(kind):
    model = small(kind)
    spared = model.no_weight_decay()
    assert {"cls_token", "cls_pos_embed", "pos_embed", "blocks.0.norm2.weight", "stem.bias"} <= spared
    matrices = {key for key, p in model.named_parameters() if key.endswith("weight") and p.ndim > 1}
    assert not spared & matrices
    assert spared | matrices == {key for key, _ in model.named_parameters()}


# ---- what is special to this architecture


def test_the_token_norm_removes_a_channels_scale():
    model = small(depth=1)
    block = model.blocks[0]
    x = 10 * torch.randn(2, 17, 24, dtype=torch.double)
    scale = torch.rand(24, dtype=torch.double) + 0.5
    assert torch.allclose(block.norm2((x * scale).transpose(1, 2)), block.norm2(x.transpose(1, 2)), atol=1e-6)


def test_only_the_class_token_of_the_last_layer_learns():
    model = small().train()
    model(torch.randn(2, 3, 32, 32, dtype=torch.double)).square().sum().backward()
    first, last = model.blocks[0].token_mixing.fc2, model.blocks[-1].token_mixing.fc2
    assert first.weight.grad[1:].any()
    assert last.weight.grad[0].any()
    assert not last.weight.grad[1:].any()
    assert not last.bias.grad[1:].any()


def test_positions_are_interpolated():
    model = small(img_size=(32, 48), pos_grid=(8, 12))
    assert torch.allclose(model.positions(), F.avg_pool2d(model.pos_embed, 2), atol=1e-12)  # to half: means of 2 x 2
    model.set_input_size((64, 96))
    assert model.positions() is model.pos_embed


def test_token_maps_leave_the_class_token_out():
    model = small(img_size=(24, 40), depth=1)
    maps = model.token_maps()["block 1"]
    assert maps.shape == (64, 3, 5)
    assert torch.equal(maps[7, 1, 2], model.blocks[0].token_mixing.fc1.weight[7, 1 + 5 + 2])


# ---- folding


@pytest.mark.parametrize("kind", [FeedForwardOnly, AttentionOnly])
@pytest.mark.parametrize(
    "changes", [{}, {"img_size": (24, 40)}, {"num_classes": 0}, {"global_pool": ""}, {"global_pool": "avg"}]
)
def test_folded_equals_the_model(kind, changes):
    model = small(kind, **changes)
    x = torch.randn(2, 3, *model.arguments["img_size"], dtype=torch.double)
    folded = allmlp.fold(model)
    wanted = model(x)
    assert (folded(x) - wanted).abs().max() < 1e-10 * wanted.std()
    assert not any(".norm" in key for key in folded.state_dict())
    assert ("norm.weight" in folded.state_dict()) == (changes.get("num_classes") == 0)


@pytest.mark.parametrize("kind", [FeedForwardOnly, AttentionOnly])
def test_folding_saves_work(kind):
    """The last layer writes the class token alone; nothing gains a multiply-add."""
    model = small(kind)
    x = torch.randn(1, 3, 32, 32, dtype=torch.double)
    counts = []
    for form in (model, allmlp.fold(model)):
        with FlopCounterMode(display=False) as counter:
            form(x)
        counts.append(counter.get_total_flops() // 2)
    width = 68 if kind is FeedForwardOnly else 17
    assert counts[0] - counts[1] == 16 * 24 * width


# ---- image size


@pytest.mark.parametrize("size", [64, 48, (40, 24), 16])
@pytest.mark.parametrize("form", ["model", "folded"])
def test_a_constant_map_is_mixed_alike_at_every_size(size, form):
    """Of a normed map that is constant over the grid, the token MLP makes the same class token and the same map."""
    model = small(depth=1)
    model = allmlp.fold(model) if form == "folded" else model
    mixing = model.blocks[0].token_mixing

    def normed(grid):
        return torch.cat([first, rest.expand(2, 24, grid[0] * grid[1])], dim=2)

    first, rest = torch.randn(2, 2, 24, 1, dtype=torch.double)
    old = model.grid_size
    before = mixing(normed(old))
    model.set_input_size(size)
    after = mixing(normed(model.grid_size))
    assert torch.allclose(after[..., 0], before[..., 0], atol=1e-12)
    matrix = interpolation_matrix(old, model.grid_size)
    assert torch.allclose(after[..., 1:], before[..., 1:] @ matrix.T, atol=1e-12)


@pytest.mark.parametrize("size", [64, 48, (40, 24), 16])
def test_token_norms_are_resampled_as_maps(size):
    model = small()
    before = [block.norm2.weight.clone() for block in model.blocks]
    old = model.grid_size
    model.set_input_size(size)
    matrix = interpolation_matrix(old, model.grid_size)
    for block, weight in zip(model.blocks, before):
        assert torch.equal(block.norm2.weight[:1], weight[:1])
        assert torch.allclose(block.norm2.weight[1:], matrix @ weight[1:], atol=1e-12)
        assert block.norm2.normalized_shape == (len(block.norm2.weight),)


@pytest.mark.parametrize("kind", [FeedForwardOnly, AttentionOnly])
@pytest.mark.parametrize("size", [64, 48, (40, 24), 16])
def test_resizing_keeps_the_logits_of_equal_tokens(kind, size):
    """All through the model: tokens that are alike, and mixed alike, stay so at every size, class token included."""
    model = small(kind)
    model.stem.bias.data[:] = model.cls_token[0, 0]
    model.pos_embed.data[:] = model.cls_pos_embed.reshape(1, -1, 1, 1)
    for block in model.blocks:
        block.norm2.bias.data[1:] = block.norm2.bias.data[1]
        writes = block.get_submodule(model.writes_tokens)
        writes.weight.data[:] = writes.weight.data[:1]
        writes.bias.data[:] = writes.bias.data[0]
    before = model(torch.zeros(1, 3, 32, 32, dtype=torch.double))
    model.set_input_size(size)
    after = model(torch.zeros(1, 3, *model.arguments["img_size"], dtype=torch.double))
    assert torch.allclose(after, before, atol=1e-10)


@pytest.mark.parametrize("kind", [FeedForwardOnly, AttentionOnly])
def test_resizing_and_folding_commute_under_constant_token_norms(kind):
    model = small(kind)
    for block in model.blocks:
        for tensor in (block.norm2.weight, block.norm2.bias):
            tensor.data[1:] = tensor.data[1]
    folded = allmlp.fold(model)
    for form in (model, folded):
        form.set_input_size((48, 24))
    x = torch.randn(2, 3, 48, 24, dtype=torch.double)
    wanted = model(x)
    assert (folded(x) - wanted).abs().max() < 1e-10 * wanted.std()


def test_same_size_changes_nothing():
    model = small()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.set_input_size(32)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("kind", [FeedForwardOnly, AttentionOnly])
def test_loading_at_another_size_is_resizing(kind):
    base, other = small(kind), small(kind, img_size=(48, 16))
    report = allmlp.load_official(other, base.state_dict())
    assert len(report.resampled) == 5 * 3
    base.set_input_size((48, 16))
    x = torch.randn(1, 3, 48, 16, dtype=torch.double)
    assert torch.equal(other(x), base(x))
    assert other.arguments == base.arguments


def test_wrong_size_names_the_mend():
    model = small()
    with pytest.raises(InputError, match=r"set_input_size\(\(48, 40\)\)"):
        model(torch.randn(1, 3, 48, 40, dtype=torch.double))
    with pytest.raises(InputError, match="nearest that works is 32 x 40"):
        model.set_input_size((33, 41))
    with pytest.raises(InputError, match="resample"):
        model.set_input_size(64, method="tile")
    with pytest.raises(InputError, match="token"):
        FeedForwardOnly(img_size=32, embed_dim=8, depth=1, global_pool="max")
