"""MLP-Mixer: the authors' numbers, layouts, sizes, initialisation."""

import math
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import allmlp
from allmlp.errors import InputError
from allmlp.models import MlpMixer
from golden_check import check_folded, check_gradients, check_outputs, check_stages, load_case, origin_of

PARAMETERS = {
    "mixer_s32": 19_104_624,
    "mixer_s16": 18_528_264,
    "mixer_b32": 60_293_428,
    "mixer_b16": 59_880_472,
    "mixer_l32": 206_939_264,
    "mixer_l16": 208_196_168,
    "mixer_h14": 432_350_952,
}


def build(case) -> MlpMixer:
    return MlpMixer(**case.manifest["allmlp"]["arguments"])


@pytest.mark.parametrize("name", ["mixer_tiny", "mixer_b16"])
def test_golden(golden, name):
    case = golden(name)
    model = build(case)
    report = load_case(model, case)
    assert report.layout == "google npz"
    check_outputs(model, case)
    check_gradients(model, case, origin_of(model, case))
    check_folded(model, case)


@pytest.mark.parametrize("name", ["mixer_tiny", "mixer_b16"])
def test_golden_stages(golden, name):
    case = golden(name)
    same = lambda x: x  # noqa: E731
    modules = {"stem": ("stem", lambda x: x.permute(0, 2, 3, 1)), "pre_head_layer_norm": ("norm", same)}
    ours = {
        "LayerNorm_0": ("norm1", same),
        "LayerNorm_1": ("norm2", same),
        "token_mixing": ("token_mixing", lambda x: x.transpose(1, 2)),
        "channel_mixing": ("channel_mixing", same),
    }
    for stage in case.manifest["stages"]:
        block, _, part = stage["name"].partition("/")
        if block.startswith("MixerBlock"):
            path, order = ours.get(part, ("", same))
            modules[stage["name"]] = (f"blocks.{block[11:]}" + (f".{path}" if path else ""), order)
    check_stages(build(case), case, modules)


def test_official_file(golden):
    case = golden("mixer_tiny")
    model = build(case).eval()
    path = Path(case.rule.__file__).parent / "mixer_tiny_checkpoint.npz"
    report = allmlp.load_official(model, path)
    assert report.transposed
    assert not report.resampled
    assert np.abs(model(case.input()).detach().numpy() - case.arrays["logits"]).max() < 1e-5


def other_names(state, root=""):
    """The weights of a file under big_vision's nesting."""
    return {root + key: value for key, value in state.items()}


def old_names(state):
    """The same weights under the older internal names, with the extra axes those files have."""
    renamed = {}
    for key, value in state.items():
        key = key.replace("stem/", "embedding/").replace("pre_head_layer_norm/", "Mixer/encoder_norm/")
        key = key.replace("MixerBlock_", "Mixer/encoderblock_")
        for ours, theirs in (("token_mixing", "token_mixing_phase_0"), ("channel_mixing", "channel_mixing_phase_0")):
            for index in (0, 1):
                for leaf in ("kernel", "bias"):
                    old = f"{ours}/Dense_{index}/{leaf}"
                    if key.endswith(old):
                        key = key.replace(old, f"{theirs}/{leaf}{index + 1}")
                        value = value[None]
        renamed[key] = value
    return renamed


@pytest.mark.parametrize("names", ["params/", "opt/target/", "old"])
def test_other_npz_layouts(golden, names):
    case = golden("mixer_tiny")
    state = old_names(case.weights()) if names == "old" else other_names(case.weights(), names)
    model = build(case).eval()
    allmlp.load_official(model, state)
    assert np.abs(model(case.input()).detach().numpy() - case.arrays["logits"]).max() < 1e-5


def test_timm_layout_sets_the_exact_gelu():
    torch.manual_seed(1)
    theirs = timm.create_model("mixer_s32_224", num_classes=7).eval()
    torch.nn.init.normal_(theirs.head.weight)
    ours = allmlp.create_model("mixer_s32", num_classes=7).eval()
    report = allmlp.load_official(ours, theirs.state_dict())
    assert any("erf" in note for note in report.notes)
    assert ours.arguments["gelu"] == "erf"
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), atol=1e-5)


def test_gelu_form_shows_in_the_logits(golden):
    case = golden("mixer_tiny")
    model = MlpMixer(**case.manifest["allmlp"]["arguments"], gelu="erf").double().eval()
    load_case(model, case)
    error = np.abs(model(case.input().double()).detach().numpy() - case.arrays["logits"]).max()
    assert error > 1e-6


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    model = allmlp.create_model(name, device="meta")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


def test_parameters_after_widening():
    model = allmlp.create_model("mixer_s16", device="meta", img_size=448, tokens_mlp_dim=1024)
    assert sum(p.numel() for p in model.parameters()) == 30_581_352


def test_nano_is_small():
    model = allmlp.create_model("mixer_nano", num_classes=10)
    assert sum(p.numel() for p in model.parameters()) <= 1_500_000


def test_initialisation():
    model = MlpMixer(img_size=224, patch_size=16, embed_dim=256, depth=2, tokens_mlp_dim=128, channels_mlp_dim=1024)
    assert not model.head.weight.any()
    for weight in (
        model.stem.weight,
        model.blocks[0].token_mixing.fc1.weight,
        model.blocks[1].token_mixing.fc2.weight,
        model.blocks[1].channel_mixing.fc1.weight,
    ):
        fan_in = weight[0].numel()
        assert weight.std().item() == pytest.approx(1 / math.sqrt(fan_in), rel=0.03)
        assert weight.abs().max().item() <= 2.2738 / math.sqrt(fan_in)
    assert all(not p.any() for name, p in model.named_parameters() if name.endswith("bias"))


def test_stochastic_depth_is_linear_and_unscaled():
    model = MlpMixer(img_size=32, patch_size=16, embed_dim=16, depth=5, drop_path_rate=0.4)
    assert [block.drop_path.drop_prob for block in model.blocks] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    drop = model.blocks[4].drop_path.train()
    out = drop(torch.ones(4000, 1, 1))
    assert set(out.unique().tolist()) == {0.0, 1.0}  # kept branches keep their size
    assert out.mean().item() == pytest.approx(0.6, abs=0.04)


def small(**changes) -> MlpMixer:
    arguments = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 24,
        "depth": 3,
        "tokens_mlp_dim": 12,
        "channels_mlp_dim": 48,
        "num_classes": 5,
    }
    model = MlpMixer(**{**arguments, **changes}).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("factors", [(2, 2), (2, 3), (3, 1)])
def test_tiled_image_gives_the_base_logits(factors):
    model = small(img_size=(32, 24))
    x = torch.randn(2, 3, 32, 24, dtype=torch.double)
    before = model(x)
    model.set_input_size((32 * factors[0], 24 * factors[1]))
    assert model.arguments["tokens_mlp_dim"] == 12 * factors[0] * factors[1]
    assert torch.allclose(model(x.repeat(1, 1, *factors)), before, atol=1e-12)


def test_tiling_pools_the_mean_of_the_tiles():
    model = small()
    x = torch.randn(1, 3, 64, 64, dtype=torch.double)
    tiles = torch.cat([x[..., r : r + 32, c : c + 32] for r in (0, 32) for c in (0, 32)])
    wanted = model.forward_head(model.forward_features(tiles), pre_logits=True).mean(0)
    model.set_input_size(64, method="tile")
    got = model.forward_head(model.forward_features(x), pre_logits=True)[0]
    assert torch.allclose(got, wanted, atol=1e-12)


def test_block_diagonal_without_the_tile_order_is_wrong():
    model = small()
    x = torch.randn(1, 3, 32, 32, dtype=torch.double)
    before = model(x)
    plain = {
        k: torch.block_diag(v, v, v, v) for k, v in model.state_dict().items() if "token_mixing.fc" in k and v.ndim == 2
    }
    model.set_input_size(64)
    model.load_state_dict(plain, strict=False)
    assert (model(x.repeat(1, 1, 2, 2)) - before).abs().max() > 1e-3


@pytest.mark.parametrize("size", [64, 48, (40, 24), 16])
def test_resampling_keeps_constant_images(size):
    model = small()
    x = torch.randn(2, 3, 1, 1, dtype=torch.double)
    # A constant token map needs a token MLP whose output is constant: give it one row for all tokens.
    for block in model.blocks:
        mixing = block.token_mixing
        mixing.fc2.weight.data[:] = mixing.fc2.weight.data.mean(0, keepdim=True)
        mixing.fc2.bias.data[:] = mixing.fc2.bias.data.mean()
    before = model(x.expand(2, 3, 32, 32))
    model.set_input_size(size, method="resample")
    assert model.arguments["tokens_mlp_dim"] == 12
    assert torch.allclose(model(x.expand(2, 3, *model.arguments["img_size"])), before, atol=1e-12)


def test_same_size_changes_nothing():
    model = small()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.set_input_size(32)
    model.set_input_size(32, method="resample")
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_loading_at_another_size():
    base = small()
    wide = small(img_size=64, tokens_mlp_dim=48)
    report = allmlp.load_official(wide, base.state_dict())
    x = torch.randn(1, 3, 32, 32, dtype=torch.double)
    assert torch.allclose(wide(x.repeat(1, 1, 2, 2)), base(x), atol=1e-12)
    assert len(report.resampled) == 4 * 3
    narrow = small(img_size=64)
    report = allmlp.load_official(narrow, base.state_dict())
    assert "resample" in report.notes[0]


def test_wrong_size_names_the_mend():
    model = small()
    with pytest.raises(InputError, match=r"set_input_size\(\(48, 40\)\)"):
        model(torch.randn(1, 3, 48, 40, dtype=torch.double))
    with pytest.raises(InputError, match="nearest that works is 32 x 40"):
        model.set_input_size((33, 41))
    with pytest.raises(InputError, match="resample"):
        model.set_input_size((48, 40), method="tile")


def test_head_of_another_size_is_refused_then_allowed():
    base, model = small(), small(num_classes=9)
    with pytest.raises(InputError, match=r"reinit=\('head\.\*',\)"):
        allmlp.load_official(model, base.state_dict())
    report = allmlp.load_official(model, base.state_dict(), reinit=("head.*",))
    assert report.reinitialised == ["head.weight", "head.bias"]


def test_another_architecture_is_named():
    theirs = timm.create_model("resmlp_12_224")
    with pytest.raises(InputError, match="MlpMixer"):
        allmlp.load_official(small(), theirs.state_dict())
