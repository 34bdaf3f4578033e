"""Backbones: the authors' numbers, every size, every family, files of classifiers."""

import numpy as np
import pytest
import torch

import allmlp
import golden_check
from allmlp.dense import create_backbone
from allmlp.dense.pyramid import SimplePyramid, pick_strides
from allmlp.errors import InputError

CASES = ("asmlp_backbone_det", "asmlp_backbone_det_padded", "asmlp_backbone_seg_odd")
PARTS = {
    "conv1": "proj_in",
    "conv2_1": "along_width",
    "conv2_2": "along_height",
    "norm1": "norm1",
    "norm2": "norm2",
}


def ours(stage: str) -> str:
    """The submodule of the backbone that an official stage name means."""
    if stage == "patch_embed":
        return "model.stem"
    _, layer, kind, *rest = stage.split(".")
    if kind == "downsample":
        return f"model.downsamples.{layer}"
    block, *inside = rest
    if inside[1:]:
        inside = [inside[0], PARTS[inside[1]]]
    return ".".join(["model.stages", layer, block, *inside])


@pytest.fixture(scope="module", params=CASES)
def case(request, golden):
    return golden(request.param)


@pytest.fixture(scope="module")
def backbone(case):
    return create_backbone(**case.manifest["allmlp"]["arguments"])


def test_outputs_are_the_authors(backbone, case):
    for dtype in ("float32", "float64"):
        golden_check.load_case(backbone.to(getattr(torch, dtype)).eval(), case)
        with torch.no_grad():
            outputs = backbone(case.input().to(getattr(torch, dtype)))
        assert len(outputs) == 4
        for index, output in enumerate(outputs):
            arrays = {key: case.arrays[f"output{index}_{key}"] for key in ("values", "channel_mean", "position_mean")}
            flat = output.double().flatten().numpy()
            mine = {
                "values": flat[case.rule.probe_indices(flat.size, 256)],
                "channel_mean": output.double().mean((2, 3)).numpy(),
                "position_mean": output.double().mean(1).numpy(),
            }
            _, std = case.arrays[f"output{index}_mean_std"]
            for key, truth in arrays.items():
                assert mine[key].shape == truth.shape
                assert np.abs(mine[key] - truth).max() < case.manifest["tolerance"][dtype] * std, (dtype, index, key)


def test_inner_maps_are_the_authors(backbone, case):
    names = [stage["name"] for stage in case.manifest["stages"]]
    golden_check.check_stages(backbone, case, {name: (ours(name), lambda x: x) for name in names})


def test_gradients_are_the_authors(backbone, case):
    def loss(model, x):
        return golden_check.outputs_loss(case, model(x))

    golden_check.check_gradients(backbone, case, golden_check.origin_of(backbone, case), loss)


def test_a_classification_file_loads_without_its_head_and_with_new_norms():
    classifier = allmlp.create_model("as_mlp_nano", num_classes=7)
    backbone = create_backbone("as_mlp_nano")
    report = allmlp.load_official(backbone, classifier.state_dict())
    assert sorted(report.reinitialised) == sorted(f"norms.{i}.{leaf}" for i in range(4) for leaf in ("weight", "bias"))
    assert any("classifier" in note and "head.weight" in note for note in report.notes)
    x = torch.randn(1, 3, 48, 80)
    maps = classifier.eval().forward_intermediates(x, intermediates_only=True)
    for mine, theirs in zip(backbone.eval()(x), maps):
        wanted = torch.nn.functional.group_norm(theirs, 1)
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-5)


def test_an_official_classification_file_loads(golden):
    case = golden("asmlp_tiny_small")
    backbone = create_backbone("as_mlp_t", **case.manifest["allmlp"]["arguments"])
    report = allmlp.load_official(backbone, case.weights())
    assert len(report.reinitialised) == 2 * len(backbone.channels)


def test_another_architectures_file_is_refused():
    mixer = allmlp.create_model("mixer_nano", num_classes=3)
    with pytest.raises(InputError, match="Wanted a checkpoint of AsMlpBackbone"):
        allmlp.load_official(create_backbone("as_mlp_nano"), mixer.state_dict())


@pytest.mark.parametrize("size", [(1, 1), (37, 53), (100, 100), (64, 96)])
def test_as_mlp_takes_any_size_and_rounds_up_at_each_step(size):
    maps = create_backbone("as_mlp_nano").eval()(torch.randn(1, 3, *size))
    wanted = [-(-side // 4) for side in size]
    for features in maps:
        assert list(features.shape[-2:]) == wanted
        wanted = [-(-side // 2) for side in wanted]


def test_padding_an_image_changes_features_everywhere():
    backbone = create_backbone("as_mlp_nano").eval()
    x = torch.randn(1, 3, 64, 64)
    alone, padded = backbone(x)[0], backbone(torch.nn.functional.pad(x, (0, 32, 0, 0)))[0]
    assert (alone - padded[..., :16])[..., 0].abs().min() > 0


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("mixer_nano", {"img_size": (96, 160), "depth": 2}),
        ("resmlp_nano", {"img_size": 64, "depth": 2}),
        ("mixer_s16", {"img_size": 64, "depth": 1, "embed_dim": 32, "tokens_mlp_dim": 8, "channels_mlp_dim": 8}),
        ("mixer_s32", {"img_size": 64, "depth": 1, "embed_dim": 32, "tokens_mlp_dim": 8, "channels_mlp_dim": 8}),
        ("mixer_h14", {"img_size": 112, "depth": 1, "embed_dim": 32, "tokens_mlp_dim": 8, "channels_mlp_dim": 8}),
        ("timm/resnet10t", {}),
        ("timm/swin_tiny_patch4_window7_224", {"embed_dim": 24, "depths": (1, 1, 1, 1)}),
        ("timm/vit_tiny_patch16_224", {"embed_dim": 32, "num_heads": 2}),
        ("timm/resmlp_12_224", {"img_size": 64}),
    ],
)
def test_every_family_gives_four_strides(name, arguments):
    backbone = create_backbone(name, **arguments)
    height, width = backbone.canvas or (64, 96)
    maps = backbone.train()(torch.randn(2, 3, height, width))
    assert backbone.strides == (4, 8, 16, 32)
    for features, stride, channels in zip(maps, backbone.strides, backbone.channels, strict=True):
        assert features.shape == (2, channels, -(-height // stride), -(-width // stride))
    sum(features.sum() for features in maps).backward()


def test_token_weights_are_resampled_to_the_canvas():
    classifier = allmlp.create_model("mixer_nano", num_classes=3)
    backbone = create_backbone("mixer_nano", img_size=64)
    report = allmlp.load_official(backbone, classifier.state_dict())
    assert any("token_mixing.fc1.weight" in key for key in report.resampled)
    assert all(key.startswith("pyramid.") for key in report.reinitialised)
    at_canvas = allmlp.create_model("mixer_nano", num_classes=3)
    at_canvas.load_state_dict(classifier.state_dict())
    at_canvas.set_input_size(64, method="resample")
    for key, value in backbone.model.state_dict().items():
        torch.testing.assert_close(value, at_canvas.state_dict()[key], rtol=0, atol=0)


def test_a_canvas_can_change_later():
    backbone = create_backbone("mixer_nano", img_size=64).eval()
    backbone.set_input_size((32, 96))
    assert backbone.canvas == (32, 96)
    assert backbone(torch.randn(1, 3, 32, 96))[3].shape[-2:] == (1, 3)


def test_the_simple_pyramid_halves_channels_with_each_doubling():
    assert SimplePyramid(64, 16).channels == (16, 32, 64, 64)
    assert SimplePyramid(64, 4).channels == (64, 64, 64, 64)
    assert SimplePyramid(64, 32).channels == (8, 16, 32, 64)


def test_strides_are_picked_from_what_there_is():
    assert pick_strides([2, 4, 8, 16, 32]) == [1, 2, 3, 4]
    assert pick_strides([16, 16, 16]) is None


def test_unknown_names_and_arguments_are_refused():
    with pytest.raises(InputError, match="as_mlp_t"):
        create_backbone("as_mlp_tt")
    with pytest.raises(InputError, match="resnet50"):
        create_backbone("timm/resnet50x")
    with pytest.raises(InputError, match="embed_dimm"):
        create_backbone("as_mlp_nano", embed_dimm=3)
