"""From a recipe's model group to a network, its images, and its first weights."""

import pytest
import timm
import torch

from allmlp.errors import InputError
from allmlp.recipes.schema import DataGroup, ModelGroup
from allmlp.runs import create_network, image_spec, model_config, save_weights, start_from, write_json
from tiny import MODEL


def group(**changes):
    return ModelGroup(**{**MODEL, **changes})


def network_of(classes=3, **changes):
    """A tiny Mixer whose head is not zero, so that everything in it matters."""
    network = create_network(group(**changes), classes)
    torch.nn.init.normal_(network.head.weight)
    return network


CLASSES = ["a", "b", "c"]


def test_classes_come_from_the_data_unless_more_are_asked_for():
    assert create_network(group(), 7).num_classes == 7
    assert create_network(group(num_classes=9), 7).num_classes == 9
    assert create_network(group()).num_classes == 1000
    with pytest.raises(InputError, match="at least the 7 classes of the data; got 5"):
        create_network(group(num_classes=5), 7)


def test_rates_and_arguments_reach_the_constructor():
    network = create_network(group(drop_rate=0.1, drop_path_rate=0.2, in_chans=1), 3)
    given = {"drop_rate": 0.1, "drop_path_rate": 0.2, "in_chans": 1, "embed_dim": 16, "img_size": (16, 16)}
    assert given.items() <= network.arguments.items()


def test_the_head_bias_starts_where_it_is_told():
    assert torch.equal(create_network(group(head_bias=-6.9), 3).head.bias, torch.full((3,), -6.9))
    assert torch.equal(
        create_network(ModelGroup(name="timm/resnet18", head_bias=1.5), 3).fc.bias, torch.full((3,), 1.5)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "mixer_nan"}, r"got 'mixer_nan'\. Did you mean mixer_nano"),
        ({"name": "timm/resnet1"}, r"got 'resnet1'\. Nearest: resnet1"),
        ({"args": {"embed_dims": 3}}, r"unexpected keyword argument 'embed_dims'"),
        ({"name": "timm/resnet18", "args": {"embed_dims": 3}}, "timm/resnet18: .*embed_dims"),
        ({"img_size": 18}, "18 x 18"),
    ],
)
def test_what_cannot_be_built(changes, message):
    with pytest.raises(InputError, match=message):
        create_network(group(**changes), 3)


def spec_of(model, data=None):
    return image_spec(create_network(model, 3), model, DataGroup(**(data or {})))


def test_images_are_as_the_model_wants_them():
    spec = spec_of(group())
    assert (spec.size, spec.channels, spec.mean, spec.std) == ((16, 16), 3, (0.5,) * 3, (0.5,) * 3)
    assert (spec.crop_pct, spec.interpolation) == (1.0, "bicubic")
    assert spec_of(ModelGroup(name="mixer_nano")).size == (32, 32)
    rectangle = spec_of(group(img_size=(16, 24), in_chans=1))
    assert (rectangle.size, rectangle.channels, rectangle.mean) == ((16, 24), 1, (0.5,))
    bands = spec_of(group(in_chans=5))
    assert (bands.channels, bands.mean) == (5, (0.5,) * 5)


def test_the_recipe_overrides_how_images_are_prepared():
    data = {"crop_pct": 0.9, "crop_mode": "squash", "interpolation": "bilinear", "mean": [0.1, 0.2, 0.3], "std": [0.4]}
    spec = spec_of(group(), data)
    assert (spec.crop_pct, spec.crop_mode, spec.interpolation) == (0.9, "squash", "bilinear")
    assert (spec.mean, spec.std) == ((0.1, 0.2, 0.3), (0.4,) * 3)


def test_images_of_timm_models():
    spec = spec_of(ModelGroup(name="timm/resnet18"))
    cfg = timm.create_model("resnet18").pretrained_cfg
    assert (spec.size, spec.mean, spec.crop_pct) == (cfg["input_size"][1:], cfg["mean"], cfg["crop_pct"])
    assert spec_of(ModelGroup(name="timm/resnet18", img_size=64)).size == (64, 64)
    assert spec_of(ModelGroup(name="timm/vit_tiny_patch16_224", img_size=64)).size == (64, 64)


@pytest.mark.parametrize("name", ["plain_mlp", "lenet5", "vit_nano", "swin_nano", "resnet_nano", "mobilenet_nano"])
def test_controls_are_models_like_others(name):
    model = ModelGroup(name=name)
    network = create_network(model, 3).eval()
    spec = image_spec(network, model, DataGroup())
    assert spec.size == (32, 32)
    assert network(torch.zeros(1, spec.channels, *spec.size)).shape == (1, 3)
    larger = ModelGroup(name=name, img_size=64)
    network = create_network(larger, 3).eval()
    assert image_spec(network, larger, DataGroup()).size == (64, 64)
    assert network(torch.zeros(1, spec.channels, 64, 64)).shape == (1, 3)


def test_config_says_what_the_network_is():
    model = group(num_classes=4)
    network = create_network(model, 3)
    config = model_config(network, model, image_spec(network, model, DataGroup()), CLASSES, "classify")
    assert config["architecture"] == "allmlp_mixer_nano"
    assert (config["num_classes"], config["label_names"]) == (4, ["a", "b", "c", "class 3"])
    assert config["pretrained_cfg"]["input_size"] == [3, 16, 16]
    assert config["model_args"]["tokens_mlp_dim"] == 8
    assert config["allmlp"]["classes"] == CLASSES
    assert config["allmlp"]["task"] == "classify"


# ---- starting from other weights


def saved_run(path, network, model, classes):
    """What of a run folder `start_from` looks at."""
    path.mkdir()
    config = model_config(network, model, image_spec(network, model, DataGroup()), classes, "classify")
    write_json(path / "config.json", config)
    save_weights(path / "model.safetensors", network.state_dict())
    return str(path)


def test_from_a_run_of_the_same_classes_everything_is_copied(tmp_path):
    old, new = network_of(), network_of()
    report = start_from(new, group(), saved_run(tmp_path / "run", old, group(), CLASSES), [], CLASSES)
    assert all(torch.equal(value, new.state_dict()[key]) for key, value in old.state_dict().items())
    assert sorted(report.copied) == sorted(old.state_dict())


def test_from_a_run_of_as_many_other_classes_the_head_starts_anew(tmp_path):
    old, new = network_of(), network_of()
    before = new.head.weight.clone()
    report = start_from(new, group(), saved_run(tmp_path / "run", old, group(), CLASSES), [], ["x", "y", "z"])
    assert report.reinitialised == ["head.weight", "head.bias"]
    assert torch.equal(new.head.weight, before)
    assert torch.equal(new.stem.weight, old.stem.weight)


def test_from_a_file_of_another_number_of_classes_the_head_starts_anew(tmp_path):
    old, new = network_of(5), network_of(3)
    save_weights(tmp_path / "w.safetensors", old.state_dict())
    report = start_from(new, group(), str(tmp_path / "w.safetensors"), [], CLASSES)
    assert report.reinitialised == ["head.weight", "head.bias"]


def test_more_tensors_may_start_anew(tmp_path):
    old, new = network_of(), network_of()
    before = new.stem.weight.clone()
    run = saved_run(tmp_path / "run", old, group(), CLASSES)
    report = start_from(new, group(), run, ["stem.*"], CLASSES)
    assert report.reinitialised == ["stem.weight", "stem.bias"]
    assert torch.equal(new.stem.weight, before)
    assert torch.equal(new.head.weight, old.head.weight)


def test_from_a_timm_file_for_a_timm_model(tmp_path):
    model = ModelGroup(name="timm/resnet10t")
    old, new = timm.create_model("resnet10t", num_classes=5), create_network(model, 3)
    torch.save(old.state_dict(), tmp_path / "w.pth")
    report = start_from(new, model, str(tmp_path / "w.pth"), [], CLASSES)
    assert report.reinitialised == ["fc.weight", "fc.bias"]
    assert torch.equal(new.conv1[0].weight, old.conv1[0].weight)
    assert len(report.copied) == len(old.state_dict()) - 2


def test_from_a_timm_file_at_another_size(tmp_path):
    """timm's own filter resamples the position embedding."""
    name = "vit_tiny_patch16_224"
    model = ModelGroup(name=f"timm/{name}", img_size=32, args={"depth": 1})
    old, new = timm.create_model(name, img_size=64, depth=1, num_classes=3), create_network(model, 3)
    torch.save({"model": old.state_dict()}, tmp_path / "w.pth")
    start_from(new, model, str(tmp_path / "w.pth"), [], CLASSES)
    assert new.pos_embed.shape == (1, 5, 192)
    assert torch.equal(new.head.weight, old.head.weight)
    assert torch.equal(new.pos_embed[:, 0], old.pos_embed[:, 0])


def test_from_the_file_of_another_timm_model(tmp_path):
    model = ModelGroup(name="timm/resnet10t")
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"weights for timm/resnet10t from .*missing or of another shape: conv1\.0"):
        start_from(create_network(model, 3), model, str(tmp_path / "w.pth"), [], CLASSES)
