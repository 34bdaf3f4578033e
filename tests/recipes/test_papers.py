"""The papers' recipes say what the papers say (reference numbers in each file's first lines)."""

import fnmatch
import math

import pytest
import torch
from timm.data.auto_augment import RandAugment
from timm.layers import DropPath
from timm.optim import Lamb

from allmlp.data import ImageSpec, build_transform
from allmlp.models import create_model, list_models
from allmlp.published import published
from allmlp.recipes import load_recipe, shipped
from allmlp.runs import create_network, image_spec
from allmlp.tasks.classify import augment_settings
from allmlp.tasks.optim import Schedule, create_optimizer, parameter_groups, peak_rate

IMAGENET = 1_281_167


def tiny_mixer(recipe, classes=10):
    """The recipe's network, small."""
    group = recipe.model.model_copy(
        update={"img_size": (32, 32), "args": {"embed_dim": 16, "depth": 3, "tokens_mlp_dim": 4}}
    )
    return create_network(group, classes)


def test_mixer_pretraining():
    recipe = load_recipe("mixer_pretrain_i1k")
    steps = IMAGENET // recipe.batch_size
    schedule = Schedule(recipe.schedule, recipe.optim.lr, steps, recipe.epochs)
    assert (schedule.warmup, schedule.peak) == (10_000, 1e-3)
    assert schedule.rate(10_000) == 1e-3
    middle = (10_000 + schedule.steps - 1) // 2
    assert schedule.rate(middle) == pytest.approx(0.5e-3, rel=1e-3)
    assert schedule.rate(schedule.steps - 1) == pytest.approx(1e-3 * 1e-5)
    network = tiny_mixer(recipe)
    assert [block.drop_path.drop_prob for block in network.blocks] == pytest.approx([0, 0.05, 0.1])
    assert torch.equal(network.head.bias, torch.full((10,), -6.9))
    assert torch.equal(network.head.weight, torch.zeros(10, 16))
    optimizer = create_optimizer(network, recipe)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {(group["betas"], group["weight_decay"]) for group in optimizer.param_groups} == {
        ((0.9, 0.999), 0.1),
        ((0.9, 0.999), 0.0),
    }


def test_mixer_pretraining_decays_kernels_alone():
    recipe = load_recipe("mixer_pretrain_i1k")
    network = create_model("mixer_s32", device="meta")
    spared = [
        name
        for name, _ in network.named_parameters()
        if any(fnmatch.fnmatch(name, pattern) for pattern in recipe.optim.no_decay)
    ]
    assert spared == [name for name, parameter in network.named_parameters() if parameter.ndim == 1]
    groups = parameter_groups(network, recipe.optim)
    assert sorted(len(group["params"]) for group in groups) == sorted((len(spared), 1 + 4 * 8 + 1))


def test_mixer_finetuning():
    recipe = load_recipe("mixer_finetune")
    steps = IMAGENET // recipe.batch_size
    schedule = Schedule(recipe.schedule, recipe.optim.lr, steps, recipe.epochs)
    assert schedule.steps == 20_016
    assert (schedule.warmup, schedule.peak, schedule.rate(schedule.steps - 1)) == (500, 0.03, 0)
    assert schedule.rate(249) == pytest.approx(0.015, rel=0.01)
    optimizer = create_optimizer(tiny_mixer(recipe), recipe)
    assert isinstance(optimizer, torch.optim.SGD)
    for group in optimizer.param_groups:
        assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, False, 0)


CLASSIFIERS = [name for name in shipped() if load_recipe(name).task == "classify"]

# How the rate moves by the fact sheets: peak, first, epochs of warm-up, epochs of the curve under it, least.
RATES = {
    "resmlp_i1k": (5e-3, 1e-6, 5, 400, 1e-5),
    "ff_only_i1k": (1e-3, 1e-6, 5, 300, 1e-5),
    "eamlp_i1k": (1e-3, 1e-6, 5, 300, 1e-5),
    "as_mlp_i1k": (1e-3, 1e-6, 20, 300, 1e-5),
    "repmlpnet_i1k": (1e-3, 5e-7, 10, 100, 0),
    "vip_i1k": (2e-3, 1e-6, 20, 300, 1e-5),
}
# The sizes that a recipe is for, and which parameters of more than one axis its decay spares.
SPARED = {
    "resmlp_i1k": ("resmlp_*", set()),
    "ff_only_i1k": ("ff_*", {"cls_token"}),
    "eamlp_i1k": ("eamlp_*", {"cls_token"}),
    "as_mlp_i1k": ("as_mlp_*", set()),
    "repmlpnet_i1k": ("repmlpnet_*", set()),
    "vip_i1k": ("vip_*", set()),
}
# What the networks of `step` are built with.
SMALL = {
    "resmlp_i1k": {"img_size": (32, 32), "args": {"embed_dim": 16, "depth": 2}},
    "ff_only_i1k": {"img_size": (32, 32), "args": {"embed_dim": 16, "depth": 3}},
    "eamlp_i1k": {"img_size": (32, 32), "args": {"embed_dim": 16, "depth": 3, "num_heads": 2}},
    "as_mlp_i1k": {"img_size": (32, 32), "args": {"embed_dim": 10, "depths": (1, 2)}},
    "repmlpnet_i1k": {
        "img_size": (32, 32),
        "args": {"channels": (8, 16), "depths": (1, 1), "num_sharesets": (2, 4)},
    },
    "vip_i1k": {
        "img_size": (28, 28),
        "args": {
            "depths": (1, 2),
            "embed_dims": (16, 16),
            "segment_dims": (4, 4),
            "transitions": (False, False),
            "mlp_ratios": (3, 3),
        },
    },
}


def small_network(name):
    recipe = load_recipe(name)
    return recipe, create_network(recipe.model.model_copy(update=SMALL[name]), 10)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_recipe_builds_its_network(name):
    recipe = load_recipe(name)
    with torch.device("meta"):
        network = create_network(recipe.model, 1000)
        spec = image_spec(network, recipe.model, recipe.data)
        assert network.eval()(torch.zeros(2, 3, *spec.size)).shape == (2, 1000)
    for pattern in recipe.optim.no_decay or ():
        assert fnmatch.filter([key for key, _ in network.named_parameters()], pattern), pattern


@pytest.mark.parametrize("name", SPARED)
def test_decay_spares_what_the_authors_spare(name):
    recipe = load_recipe(name)
    sizes, more = SPARED[name]
    for size in list_models(sizes):
        parameters = dict(create_model(size, device="meta").named_parameters())
        spared = {key for key in parameters if any(fnmatch.fnmatch(key, pattern) for pattern in recipe.optim.no_decay)}
        assert spared == {key for key, parameter in parameters.items() if parameter.ndim == 1} | more, size


@pytest.mark.parametrize("name", RATES)
def test_rates(name):
    recipe = load_recipe(name)
    peak, first, warmup, epochs, least = RATES[name]
    assert peak_rate(recipe) == peak
    steps = IMAGENET // recipe.batch_size
    schedule = Schedule(recipe.schedule, peak, steps, recipe.epochs)
    middle = [least + (peak - least) * (1 + math.cos(math.pi * epoch / epochs)) / 2 for epoch in (warmup, epochs // 2)]
    assert schedule.rate(0) == first
    assert schedule.rate((warmup - 1) * steps) == pytest.approx(first + (peak - first) * (warmup - 1) / warmup)
    assert schedule.rate(warmup * steps) == pytest.approx(middle[0], rel=1e-5)
    assert schedule.rate(epochs // 2 * steps) == pytest.approx(middle[1], rel=1e-4)
    moves_inside = schedule.rate((warmup - 1) * steps) != schedule.rate(warmup * steps - 1)
    assert moves_inside == (name in ("as_mlp_i1k", "repmlpnet_i1k"))
    cooldown = recipe.epochs - epochs
    assert cooldown == (10 if name in ("eamlp_i1k", "vip_i1k") else 0)
    if cooldown:
        assert {schedule.rate(step) for step in range(epochs * steps, recipe.epochs * steps)} == {least}
    else:
        assert schedule.rate(recipe.epochs * steps - 1) == pytest.approx(least, abs=peak * 1e-4)


@pytest.mark.parametrize("name", RATES)
def test_a_step_of_each(name):
    """The network in training form, with the recipe's rates of dropout, takes a step of its optimiser."""
    recipe, network = small_network(name)
    optimizer = create_optimizer(network, recipe)
    kinds = {"lamb": Lamb, "adamw": torch.optim.AdamW}
    assert isinstance(optimizer, kinds[recipe.optim.opt])
    decays = {"resmlp_i1k": 0.2, "eamlp_i1k": 0.03, "repmlpnet_i1k": 0.1}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0, decays.get(name, 0.05)}
    before = {key: value.clone() for key, value in network.state_dict().items()}
    torch.nn.functional.cross_entropy(network(torch.randn(4, 3, *SMALL[name]["img_size"])), torch.arange(4)).backward()
    optimizer.step()
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())
    assert any(not torch.equal(before[key], value) for key, value in network.named_parameters())


def test_stochastic_depth_and_dropout():
    def rates(name, kind, attribute):
        network = small_network(name)[1]
        return [getattr(module, attribute) for module in network.modules() if isinstance(module, kind)]

    assert rates("resmlp_i1k", DropPath, "drop_prob") == [0.05, 0.05]
    assert rates("ff_only_i1k", DropPath, "drop_prob") == pytest.approx([0, 0.05, 0.1])
    assert rates("eamlp_i1k", DropPath, "drop_prob") == pytest.approx([0, 0.05, 0.1])
    assert rates("as_mlp_i1k", DropPath, "drop_prob") == pytest.approx([0, 0.1, 0.2])
    assert rates("vip_i1k", DropPath, "drop_prob") == pytest.approx([0, 0.05, 0.1])
    assert set(rates("ff_only_i1k", torch.nn.Dropout, "p")) == {0.1}
    assert set(rates("eamlp_i1k", torch.nn.Dropout, "p")) == {0, 0.1}  # 0.1 in the tokenizer
    for name in ("resmlp_i1k", "as_mlp_i1k", "repmlpnet_i1k", "vip_i1k"):
        assert set(rates(name, torch.nn.Dropout, "p")) <= {0}


def test_layer_scale_belongs_to_the_size():
    recipe = load_recipe("resmlp_i1k")
    for size, start in {"resmlp_s12": 0.1, "resmlp_s24": 1e-5, "resmlp_s36": 1e-6, "resmlp_b24_8": 1e-6}.items():
        with torch.device("meta"):
            network = create_network(load_recipe("resmlp_i1k", {"model": size}).model, 10)
        assert network.arguments["layer_scale_init"] == start
    assert recipe.augment.repeats == load_recipe("ff_only_i1k").augment.repeats == 3


def test_averages():
    decays = {name: (load_recipe(name).ema.decay, load_recipe(name).ema.warmup) for name in RATES}
    assert decays.pop("eamlp_i1k") == (0.99996, False)
    assert {decay for decay, _ in decays.values()} == {None}


def test_repmlpnets_two_operations_of_any_strength():
    recipe = load_recipe("repmlpnet_i1k")
    steps = build_transform(ImageSpec(64, 64), augment_settings(recipe), training=True)._pictures.transforms
    policy = next(step for step in steps if isinstance(step, RandAugment))
    assert (policy.num_layers, len(policy.ops)) == (2, 15)
    for operation in policy.ops:
        assert (operation.prob, operation.magnitude, operation.magnitude_max) == (1, 14, 14)
        assert operation.magnitude_std == float("inf")  # uniform from 0
        assert "Increasing" not in operation.name


@pytest.mark.parametrize("name", RATES)
def test_headers_expect_what_is_published(name):
    head = shipped()[name].read_text().partition("\ntask:")[0]
    for size in list_models(SPARED[name][0]):
        for number in published(size, "top1")[:1]:
            if f"model={size}" in head or size == load_recipe(name).model.name:
                assert f"{number.value} %" in head, size
