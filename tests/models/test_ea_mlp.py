"""EAMLP: the authors' numbers, layouts, positions, sizes, initialisation, folding."""

import argparse
import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import allmlp
from allmlp.errors import InputError
from allmlp.models import EaMlp
from allmlp.models.ea_mlp import sinusoid
from golden_check import assert_close, check_folded, check_gradients, check_outputs, check_stages, load_case, origin_of

CASES = ["eamlp_7", "eamlp_7_small_image"]

# Parameters without the table of positions; multiply-adds of the linear maps at 224 x 224.
COUNTS = {
    "eamlp_7": (6_096_206, 1_465_194_496),
    "eamlp_10": (8_489_678, 2_007_439_360),
    "eamlp_12": (10_085_326, 2_368_935_936),
    "eamlp_14": (29_801_422, 6_450_351_104),
    "eamlp_19": (54_470_798, 11_597_669_888),
    "eamlp_24": (89_355_726, 18_820_366_336),
}


def build(case) -> EaMlp:
    return EaMlp(**case.manifest["allmlp"]["arguments"])


def small(**changes) -> EaMlp:
    """A small float64 model whose every parameter matters."""
    arguments = {
        "img_size": (40, 56),
        "embed_dim": 24,
        "depth": 3,
        "num_heads": 2,
        "mlp_ratio": 2.0,
        "memory_size": 12,
        "token_dim": 16,
        "num_classes": 5,
    }
    model = EaMlp(**{**arguments, **changes}).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def macs(model: EaMlp, size: tuple[int, int], device: str = "meta") -> int:
    x = torch.empty(1, model.in_chans, *size, device=device, dtype=next(model.parameters()).dtype)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops() // 2


def double_norm(logits: torch.Tensor) -> torch.Tensor:
    """(b, n, m): exponentials shared out over the tokens, then divided by their sum over the memory."""
    shares = logits.exp() / logits.exp().sum(1, keepdim=True)
    return shares / (1e-9 + shares.sum(2, keepdim=True))


def by_the_equations(model: EaMlp, images: torch.Tensor) -> torch.Tensor:
    """The whole network with explicit patches, heads and sums, from the model's weights."""
    p = model.state_dict()

    def linear(x, name):
        bias = p.get(f"{name}.bias")
        y = x @ p[f"{name}.weight"].flatten(1).T
        return y if bias is None else y + bias

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * p[f"{name}.weight"] + p[f"{name}.bias"]

    def gelu(x):
        return 0.5 * x * (1 + torch.erf(x / 2**0.5))

    def cut(maps, kernel, stride, padding):
        padded = F.pad(maps, [padding] * 4)
        rows = range(0, padded.shape[2] - kernel + 1, stride)
        columns = range(0, padded.shape[3] - kernel + 1, stride)
        patches = [padded[:, :, r : r + kernel, c : c + kernel].flatten(1) for r in rows for c in columns]
        return torch.stack(patches, 1), (len(rows), len(columns))

    maps = images
    for split, kernel, stride, padding in (("split1", 7, 4, 2), ("split2", 3, 2, 1)):
        path = f"stem.{split}"
        patches, grid = cut(maps, kernel, stride, padding)
        query = linear(norm(patches, f"{path}.norm1"), f"{path}.attention.query")
        read = linear(double_norm(linear(query, f"{path}.attention.memory_key")), f"{path}.attention.memory_value")
        y = query + linear(read, f"{path}.attention.project")
        y = y + linear(gelu(linear(norm(y, f"{path}.norm2"), f"{path}.fc1")), f"{path}.fc2")
        maps = y.transpose(1, 2).unflatten(2, grid)
    x = linear(cut(maps, 3, 2, 1)[0], "stem.project")
    x = torch.cat([p["cls_token"].expand(len(x), -1, -1), x], 1)
    width = x.shape[2]
    for place in range(x.shape[1]):
        for j in range(width):
            angle = place / 10000 ** (2 * (j // 2) / width)
            x[:, place, j] += math.sin(angle) if j % 2 == 0 else math.cos(angle)
    for i in range(len(model.blocks)):
        path, heads = f"blocks.{i}", []
        z = linear(norm(x, f"{path}.norm1"), f"{path}.attention.expand")
        for head in z.split(width // model.arguments["num_heads"], dim=2):
            weights = double_norm(linear(head, f"{path}.attention.memory_key"))
            heads.append(linear(weights, f"{path}.attention.memory_value"))
        assert len(heads) == 4 * model.arguments["num_heads"]
        x = x + linear(torch.cat(heads, 2), f"{path}.attention.project")
        x = x + linear(gelu(linear(norm(x, f"{path}.norm2"), f"{path}.mlp.fc1")), f"{path}.mlp.fc2")
    return linear(norm(x, "norm")[:, 0], "head")


@pytest.mark.parametrize("name", CASES)
def test_golden(golden, name):
    case = golden(name)
    model = build(case)
    report = load_case(model, case)
    assert report.layout == "EAMLP, performer tokenizer"
    assert torch.equal(model.pos_embed, case.weights()["pos_embed"])  # the case fills it by its own rule
    assert sum(p.numel() for p in model.parameters()) + model.pos_embed.numel() == case.manifest["parameters"]
    check_outputs(model, case)
    check_gradients(model, case, origin_of(model, case))
    check_folded(model, case)


@pytest.mark.parametrize("name", CASES)
def test_golden_stages(golden, name):
    case = golden(name)

    def same(x):
        return x

    def tokens(x):
        return x.flatten(2).transpose(1, 2)

    modules = {
        "tokens_to_token.soft_split0": ("stem.split1.patches", same),
        "tokens_to_token.attention1.norm1": ("stem.split1.norm1", same),
        "tokens_to_token.attention1.attn.q_linear": ("stem.split1.attention.query", same),
        "tokens_to_token.attention1.attn": ("stem.split1.attention", same),
        "tokens_to_token.attention1": ("stem.split1", tokens),
        "tokens_to_token.attention2": ("stem.split2", tokens),
        "tokens_to_token.soft_split2": ("stem.split2", lambda x: F.unfold(x, 3, padding=1, stride=2)),
        "tokens_to_token": ("stem", tokens),
        "blocks.0.attn": ("blocks.0.attention", same),
    }
    names = [stage["name"] for stage in case.manifest["stages"]]
    check_stages(build(case), case, {stage: modules.get(stage, (stage, same)) for stage in names})


def test_positions_are_the_authors(golden):
    mean, std, *values = golden("eamlp_7").arrays["sinusoid"]
    table = allmlp.create_model("eamlp_7").pos_embed
    mine = golden("eamlp_7").rule.probe(table.numpy(), 64)
    assert mine[0] == pytest.approx(mean, rel=1e-12)
    assert mine[1] == pytest.approx(std, rel=1e-12)
    assert mine[2].tolist() == values


@pytest.mark.parametrize("changes", [{}, {"img_size": 32, "in_chans": 1, "num_heads": 3}, {"num_heads": 12}])
def test_equals_the_equations(changes):
    model = small(**changes)
    x = torch.randn(2, model.in_chans, *model.arguments["img_size"], dtype=torch.double)
    wanted = by_the_equations(model, x)
    # The model keeps its table in single precision, as the authors do.
    assert (model(x) - wanted).abs().max() < 1e-5 * wanted.std()
    model.pos_embed += by_place(model) - model.pos_embed
    assert (model(x) - wanted).abs().max() < 1e-11 * wanted.std()


def by_place(model: EaMlp) -> torch.Tensor:
    """The sinusoid in double precision, value by value."""
    table = torch.empty_like(model.pos_embed)
    for place in range(table.shape[1]):
        for j in range(table.shape[2]):
            angle = place / 10000 ** (2 * (j // 2) / table.shape[2])
            table[0, place, j] = math.sin(angle) if j % 2 == 0 else math.cos(angle)
    return table


# ---- sizes


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_and_macs(name):
    model = allmlp.create_model(name, device="meta")
    parameters, multiply_adds = COUNTS[name]
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert macs(model, (224, 224)) == multiply_adds
    c, depth, hidden = model.num_features, len(model.blocks), model.blocks[0].mlp.fc1.out_features
    memory = 2 * 64 * 128 + 3 * 64 * 64
    tokenizer = 56**2 * (147 * 64 + memory) + 28**2 * (576 * 64 + memory) + 14**2 * 576 * c
    assert multiply_adds == tokenizer + 197 * depth * (8 * c**2 + 8 * c * 64 + 2 * c * hidden) + 1000 * c
    assert model.arguments["embed_dim"] // model.arguments["num_heads"] == 64  # in every published size


def test_the_published_model_at_384():
    """71.7 % top-1 is this model's; the authors count its table of positions among the parameters."""
    model = allmlp.create_model("eamlp_7", img_size=384, device="meta")
    assert sum(p.numel() for p in model.parameters()) + model.pos_embed.numel() == 6_243_918
    assert macs(model, (384, 384)) == pytest.approx(4.293e9, rel=2e-4)


def test_nano_is_small():
    model = allmlp.create_model("eamlp_nano")
    assert sum(p.numel() for p in model.parameters()) <= 1_500_000
    assert model.arguments["img_size"] == (32, 32)
    assert model.grid_size == (8, 8)


# ---- training


def test_initialisation():
    model = EaMlp(img_size=64, embed_dim=256, depth=2, num_heads=4)
    block, split = model.blocks[1], model.stem.split2
    for linear in (
        model.stem.split1.attention.query,
        split.attention.query,
        split.attention.memory_value,
        split.attention.project,
        split.fc1,
        split.fc2,
        model.stem.project,
        block.attention.expand,
        block.attention.project,
        block.mlp.fc1,
        block.mlp.fc2,
        model.head,
    ):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert not linear.bias.any()
    assert model.cls_token.std().item() == pytest.approx(0.02, rel=0.2)
    for part in (model.stem.split1.attention, split.attention):
        assert torch.equal(part.memory_key.weight, part.memory_value.weight.T)
        assert part.memory_key.bias is None
    heads = block.attention
    assert not torch.equal(heads.memory_key.weight, heads.memory_value.weight.T)
    for norm in (model.norm, block.norm1, block.norm2, split.norm1, split.norm2):
        assert norm.eps == 1e-5
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
        assert not norm.bias.any()


def test_each_memory_of_the_tokenizer_moves_by_its_own_gradient():
    model = small()
    model.stem.init_weights()
    attention = model.stem.split1.attention
    model(torch.randn(2, 3, 40, 56, dtype=torch.double)).square().sum().backward()
    key, value = attention.memory_key.weight, attention.memory_value.weight
    assert key.data_ptr() != value.data_ptr()
    assert not torch.allclose(key.grad, value.grad.T)


def test_stochastic_depth_rises_linearly():
    model = EaMlp(img_size=32, embed_dim=16, depth=5, num_heads=2, drop_path_rate=0.4)
    assert [block.drop_path.drop_prob for block in model.blocks] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    out = model.blocks[4].drop_path.train()(torch.ones(4000, 1, 1))
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.6])  # kept branches are divided by the keep probability
    assert (out > 0).float().mean().item() == pytest.approx(0.6, abs=0.04)


def test_dropouts():
    def rates(model: EaMlp) -> dict[str, float]:
        dropouts = {key: m.p for key, m in model.named_modules() if isinstance(m, torch.nn.Dropout)}
        return {key: rate for key, rate in dropouts.items() if rate}

    tokenizer = {f"stem.split{i}.attention.{name}" for i in (1, 2) for name in ("attn_drop", "drop")}
    assert rates(EaMlp(img_size=32, embed_dim=16, depth=1, num_heads=2)) == dict.fromkeys(tokenizer, 0.1)
    assert not rates(EaMlp(img_size=32, embed_dim=16, depth=1, num_heads=2, tokenizer="transformer"))
    model = EaMlp(img_size=32, embed_dim=16, depth=1, num_heads=2, tokenizer="transformer", drop_rate=0.3)
    assert rates(model) == dict.fromkeys(["pos_drop", "blocks.0.attention.drop", "blocks.0.mlp.drop"], 0.3)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model.eval()(x), model(x))
    assert not torch.equal(model.train()(x), model(x))


def test_decay_spares_the_class_token_and_all_vectors():
    model = small()
    decayed = set(dict(model.named_parameters())) - model.no_weight_decay()
    assert decayed == {key for key, p in model.named_parameters() if p.ndim >= 2 and key != "cls_token"}
    assert "pos_embed" not in dict(model.named_parameters())


# ---- image size and positions


def test_any_size_has_its_own_positions():
    """What a model gives at another size is what one built for that size gives."""
    model = small()
    for size in ((64, 64), (33, 95), (3, 3), (40, 72)):
        other = small(img_size=size)
        other.load_state_dict(dict(model.state_dict()) | {"pos_embed": other.pos_embed})
        x = torch.randn(2, 3, *size, dtype=torch.double)
        with torch.no_grad():
            wanted = other(x)
            assert torch.equal(model(x), wanted)
            maps = model.forward_intermediates(x, indices=1, intermediates_only=True)
            assert maps[0].shape[2:] == other.grid_size
            model.set_input_size(size)
            assert torch.equal(model(x), wanted)
            assert torch.equal(model.pos_embed, other.pos_embed)


@pytest.mark.parametrize(("size", "grid"), [(224, (14, 14)), (384, (24, 24)), ((64, 96), (4, 6)), ((35, 50), (3, 3))])
def test_the_grid_of_a_size(size, grid):
    model = small(img_size=size)
    assert model.grid_size == grid
    height, width = model.arguments["img_size"]
    assert model.embed(torch.randn(1, 3, height, width, dtype=torch.double)).shape[1] == 1 + grid[0] * grid[1]


def test_a_files_positions_are_copied_at_equal_length_and_made_anew_otherwise(golden):
    case = golden("eamlp_7_small_image")
    arguments = case.manifest["allmlp"]["arguments"]
    flat = EaMlp(**{**arguments, "img_size": (32, 128)})  # 2 x 8 tokens, as many as 4 x 4
    report = allmlp.load_official(flat, case.weights())
    assert not report.resampled
    assert torch.equal(flat.pos_embed, case.weights()["pos_embed"])
    larger = EaMlp(**{**arguments, "img_size": 96})
    report = allmlp.load_official(larger, case.weights())
    assert report.resampled == ["pos_embed"]
    assert "64 x 64" in report.notes[0]
    assert torch.equal(larger.pos_embed, sinusoid(37, 256))
    larger.set_input_size((48, 192))  # 3 x 12 tokens: the same number
    assert torch.equal(larger.pos_embed, sinusoid(37, 256))


def test_a_rectangles_file_loads_at_any_size():
    source, target = small(), small(img_size=64)
    report = allmlp.load_official(target, source.state_dict())
    assert report.resampled == ["pos_embed"]
    x = torch.randn(1, 3, 64, 64, dtype=torch.double)
    assert torch.equal(target(x), source(x))


def test_too_small_and_unknown():
    with pytest.raises(InputError, match="at least 3 x 3"):
        small(img_size=2)
    with pytest.raises(InputError, match="transformer"):
        EaMlp(tokenizer="performers")
    with pytest.raises(InputError, match="divides dim 384"):
        EaMlp(num_heads=7)
    with pytest.raises(InputError, match="avg"):
        small(global_pool="max")


# ---- layouts


def transformer_names(state):
    """The weights of a file under the other tokenizer's names."""
    renamed = {}
    for key, value in state.items():
        if key.startswith("tokens_to_token."):
            key = key.replace("linear_1.", "linear_2.").replace("linear_0.", "linear_1.")
        renamed[key] = value
    return renamed


@pytest.mark.parametrize("tokenizer", ["performer", "transformer"])
@pytest.mark.parametrize("names", ["performer", "transformer"])
def test_both_tokenizers_files_load_into_both(golden, names, tokenizer):
    case = golden("eamlp_7_small_image")
    state = transformer_names(case.weights()) if names == "transformer" else case.weights()
    model = EaMlp(**{**case.manifest["allmlp"]["arguments"], "tokenizer": tokenizer}).double().eval()
    report = allmlp.load_official(model, state)
    assert report.layout == f"EAMLP, {names} tokenizer"
    assert not report.unexpected
    assert len(report.transposed) == 3  # kernels of the three cuts
    with torch.no_grad():
        assert_close(model(case.input().double()), case.arrays["logits"], 1e-9)
    assert model.arguments["tokenizer"] == tokenizer


def test_the_averaged_weights_of_a_training_file_are_taken(golden, tmp_path):
    case = golden("eamlp_7_small_image")
    raw = {key: torch.zeros_like(value) for key, value in case.weights().items()}
    contents = {
        "epoch": 309,
        "arch": "T2t_vit_7",
        "state_dict": {f"module.{key}": value for key, value in raw.items()},
        "optimizer": {"state": {}, "param_groups": []},
        "args": argparse.Namespace(model="T2t_vit_7", lr=1e-3),
        "state_dict_ema": {f"module.{key}": value for key, value in case.weights().items()},
        "metric": 71.658,
    }
    torch.save(contents, tmp_path / "model_best.pth.tar")
    model = build(case).double().eval()
    allmlp.load_official(model, tmp_path / "model_best.pth.tar")
    with torch.no_grad():
        assert_close(model(case.input().double()), case.arrays["logits"], 1e-9)
    del contents["state_dict_ema"]
    torch.save(contents, tmp_path / "raw.pth.tar")
    allmlp.load_official(model, tmp_path / "raw.pth.tar")
    assert not model.head.weight.any()


def test_every_key_must_match(golden):
    case = golden("eamlp_7_small_image")
    state = case.weights()
    for extra in ("tokens_to_token.attention1.attn.linear_9.weight", "blocks.0.attn.qkv.weight", "blocks.0.ls1"):
        with pytest.raises(InputError, match=extra.replace(".", r"\.")):
            allmlp.load_official(build(case), state | {extra: torch.zeros(3)})
    for theirs, ours in (
        ("tokens_to_token.project.bias", "stem.project.bias"),
        ("tokens_to_token.attention1.attn.q_linear.weight", "stem.split1.attention.query.weight"),
        ("pos_embed", "pos_embed"),
    ):
        missing = {key: value for key, value in state.items() if key != theirs}
        with pytest.raises(InputError, match=rf"not in the file \(1\): {ours}"):
            allmlp.load_official(build(case), missing)
    with pytest.raises(InputError, match="it looks like EaMlp"):
        allmlp.load_official(allmlp.create_model("mixer_nano"), state)
    with pytest.raises(InputError, match="does not fit this MlpMixer"):  # a mixer's mark, but no mixer's file
        allmlp.load_official(allmlp.create_model("mixer_nano"), {"blocks.0.norm2.weight": torch.zeros(128)})


@pytest.mark.parametrize("channels", [1, 4, 13])
def test_official_file_for_other_image_channels(golden, channels):
    """A grey image gives what its three equal colours gave, though the first norm has a weight for each of them."""
    case = golden("eamlp_7_small_image")
    arguments = case.manifest["allmlp"]["arguments"]
    source, target = EaMlp(**arguments).double().eval(), EaMlp(**arguments, in_chans=channels).double().eval()
    load_case(source, case)
    report = allmlp.load_official(target, case.weights())
    first = "stem.split1"
    assert set(report.resampled) == {
        *(f"{first}.norm1.{leaf}" for leaf in ("weight", "bias")),
        *(f"{first}.attention.query.{leaf}" for leaf in ("weight", "bias")),
    }
    grey = torch.randn(2, 1, 64, 64, dtype=torch.double)
    with torch.no_grad():
        if channels == 1:
            wanted = source(grey.expand(-1, 3, -1, -1))
            assert (target(grey) - wanted).abs().max() < 1e-6 * wanted.std()  # timm sums kernels in single precision
        else:
            assert torch.isfinite(target(grey.expand(-1, channels, -1, -1))).all()


def test_a_folded_file_for_other_image_channels():
    folded, grey = allmlp.fold(small()), allmlp.fold(small(in_chans=1))
    allmlp.load_official(grey, folded.state_dict())
    x = torch.randn(2, 1, 40, 56, dtype=torch.double)
    wanted = folded(x.expand(-1, 3, -1, -1))
    assert (grey(x) - wanted).abs().max() < 1e-6 * wanted.std()  # timm sums kernels in single precision


def test_dense_backbones_take_official_files_and_other_channels(golden):
    case = golden("eamlp_7_small_image")
    backbone = allmlp.create_backbone("eamlp_7", in_chans=1).eval()
    report = allmlp.load_official(backbone, case.weights())
    assert all(key.startswith("pyramid.") for key in report.reinitialised)
    maps = backbone(torch.randn(1, 1, 64, 96))
    assert [tuple(y.shape[2:]) for y in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    grey = EaMlp(**case.manifest["allmlp"]["arguments"], in_chans=1)
    allmlp.load_official(grey, case.weights())
    assert torch.equal(backbone.model.stem.split1.attention.query.weight, grey.stem.split1.attention.query.weight)


# ---- folding


@pytest.mark.parametrize(
    "changes", [{}, {"num_heads": 4}, {"num_classes": 0}, {"global_pool": "avg"}, {"global_pool": ""}]
)
def test_folded_equals_the_model(changes):
    model = small(**changes)
    x = torch.randn(2, 3, 40, 56, dtype=torch.double)
    folded = allmlp.fold(model)
    with torch.no_grad():
        wanted = model(x)
        assert (folded(x) - wanted).abs().max() < 1e-10 * wanted.std()
        other = torch.randn(2, 3, 33, 48, dtype=torch.double)
        assert (folded(other) - model(other)).abs().max() < 1e-10 * wanted.std()
    heads_are_wide = model.arguments["num_heads"] * 12 <= 24 + 12
    assert folded.blocks[0].attention.merged == heads_are_wide
    assert heads_are_wide == (changes.get("num_heads") != 4)


@pytest.mark.parametrize(("name", "share"), [("eamlp_7", 1 / 5), ("eamlp_14", 1 / 7), ("eamlp_24", 1 / 9)])
def test_folding_saves_work(name, share):
    """One layer's attention costs a seventh less at width 384, and the last layer serves the class token alone."""
    model = allmlp.create_model(name, device="meta").eval()
    folded = EaMlp(**{**model.arguments, "folded": True}, device="meta").eval()
    c, depth, hidden = model.num_features, len(model.blocks), model.blocks[0].mlp.fc1.out_features
    attention = 197 * 8 * c * (c + 64)
    saved = attention - 197 * 8 * c * c
    assert saved / attention == pytest.approx(share)
    tokenizer = (56**2 + 28**2) * 64 * 64  # the projection after each memory
    last = 196 * (4 * c * c + 2 * c * hidden)  # what no other token needs: reading the memory and the MLP
    assert macs(model, (224, 224)) - macs(folded, (224, 224)) == depth * saved + tokenizer + last
