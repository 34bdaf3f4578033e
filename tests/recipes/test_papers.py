"""The papers' recipes say what the papers say (reference numbers in each file's first lines)."""

import fnmatch

import pytest
import torch

from allmlp.models import create_model
from allmlp.recipes import load_recipe
from allmlp.runs import create_network
from allmlp.tasks.optim import Schedule, create_optimizer, parameter_groups

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
