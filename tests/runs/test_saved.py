"""A model goes to disk and comes back as it was, through our loader and through timm's."""

import json

import pytest
import timm
import torch

import allmlp
import allmlp.models
from allmlp.errors import InputError
from allmlp.recipes import Recipe
from allmlp.recipes.schema import DataGroup, ModelGroup
from allmlp.runs import (
    RunFolder,
    create_network,
    create_run,
    image_spec,
    load_model,
    model_config,
    save_weights,
    write_json,
)
from tiny import ARGS, MODEL

CLASSES = ["a", "b", "c"]


def save(folder, **model):
    """A run folder with a new network whose every number is drawn anew, and the network."""
    group = ModelGroup(**model)
    network = create_network(group, 3).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    run = RunFolder(folder)
    folder.mkdir()
    spec = image_spec(network, group, DataGroup())
    write_json(run.config, model_config(network, group, spec, CLASSES, "classify"))
    save_weights(run.weights, network.state_dict())
    return network, spec


@pytest.mark.parametrize(
    "model",
    [
        MODEL,
        {**MODEL, "img_size": (24, 16), "in_chans": 1, "num_classes": 5, "drop_rate": 0.1, "drop_path_rate": 0.1},
        {"name": "resmlp_nano", "args": {"depth": 2}},
        {"name": "as_mlp_nano", "img_size": 24},
        {"name": "vit_nano"},
        {"name": "vit_nano", "img_size": 16},
        {"name": "swin_nano"},
        {"name": "plain_mlp", "img_size": 16},
        {"name": "lenet5"},
        {"name": "timm/resnet10t"},
        {"name": "timm/resnet10t", "img_size": 64, "in_chans": 1},
        {"name": "timm/vit_tiny_patch16_224", "img_size": 32, "args": {"depth": 1}},
    ],
    ids=lambda model: model["name"],
)
def test_round_trip(tmp_path, model):
    network, spec = save(tmp_path / "run", **model)
    saved = load_model(tmp_path / "run")
    images = torch.randn(2, spec.channels, *spec.size)
    with torch.inference_mode():
        wanted = network(images)
        assert wanted.std() > 0
        assert torch.equal(saved.network(images), wanted)
        assert torch.equal(timm.create_model(f"local-dir:{tmp_path}/run", pretrained=True).eval()(images), wanted)
    assert (saved.spec, saved.name, saved.task) == (spec, model["name"], "classify")
    assert saved.classes[:3] == CLASSES
    assert len(saved.classes) == wanted.shape[1]
    assert not saved.network.training


def test_timm_adapts_a_run_to_other_classes_and_channels(tmp_path):
    network, _ = save(tmp_path / "run", **MODEL)
    other = timm.create_model(f"local-dir:{tmp_path}/run", pretrained=True, num_classes=7, in_chans=1)
    assert other.head.weight.shape == (7, 16)
    assert torch.allclose(other.stem.weight, network.stem.weight.sum(1, keepdim=True), atol=1e-6)


def test_a_folded_model_comes_back_folded(tmp_path):
    network, spec = save(tmp_path / "run", **MODEL)
    small = allmlp.fold(network)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["model_args"] = {**config["model_args"], **small.arguments}
    write_json(tmp_path / "run" / "config.json", config)
    save_weights(tmp_path / "run" / "model.safetensors", small.state_dict())
    images = torch.randn(2, 3, *spec.size)
    with torch.inference_mode():
        assert torch.equal(load_model(tmp_path / "run").network(images), small(images))


def test_before_there_are_weights_the_way_on_is_named(tmp_path):
    run = create_run(Recipe(), tmp_path / "run")
    with pytest.raises(InputError, match=r"has no config\.json.*allmlp train resume=.*run"):
        load_model(run.path)
    save(tmp_path / "other", **MODEL)
    (tmp_path / "other" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no model\.safetensors yet.*allmlp train resume=.*other"):
        load_model(tmp_path / "other")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"Wanted JSON in .*config\.json"),
        ('{"architecture": "resnet18"}', "another program's.*allmlp convert FILE model=NAME out=DIR"),
    ],
)
def test_a_config_that_is_not_ours(tmp_path, text, message):
    save(tmp_path / "run", **MODEL)
    (tmp_path / "run" / "config.json").write_text(text)
    with pytest.raises(InputError, match=message):
        load_model(tmp_path / "run")


def test_weights_that_do_not_fit_their_config(tmp_path):
    save(tmp_path / "run", **MODEL)
    save(tmp_path / "other", **{**MODEL, "args": {**ARGS, "depth": 1}})
    (tmp_path / "other" / "model.safetensors").replace(tmp_path / "run" / "model.safetensors")
    with pytest.raises(InputError, match=r"(?s)does not fit .*config\.json.*blocks\.1"):
        load_model(tmp_path / "run")


def test_truncated_weights(tmp_path):
    save(tmp_path / "run", **MODEL)
    path = tmp_path / "run" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"model\.safetensors \(1,000 bytes\) is truncated"):
        load_model(tmp_path / "run")
