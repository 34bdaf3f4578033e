"""Learning rates, parameter groups and what they train, by hand."""

import math

import pytest
import torch
from timm.optim import Muon
from torch import nn

from allmlp.errors import InputError
from allmlp.models import create_model
from allmlp.recipes import Recipe, load_recipe
from allmlp.recipes.schema import OptimGroup, ScheduleGroup
from allmlp.tasks.optim import Schedule, create_optimizer, freeze, parameter_groups, peak_rate


def rates(epochs=2, steps=5, peak=1.0, **settings):
    schedule = Schedule(ScheduleGroup(**settings), peak, steps, epochs)
    return [schedule.rate(step) for step in range(schedule.steps)]


def test_cosine_from_peak_to_end():
    found = rates(min_lr=0.1)
    assert (found[0], found[-1]) == (1.0, pytest.approx(0.1))
    assert found == pytest.approx([0.1 + 0.9 * (1 + math.cos(math.pi * step / 9)) / 2 for step in range(10)])


def test_linear_and_poly():
    assert rates(kind="linear", min_lr=0.1) == pytest.approx([1 - 0.1 * step for step in range(10)])
    assert rates(kind="poly", power=2) == pytest.approx([(1 - step / 9) ** 2 for step in range(10)])


def test_a_small_peak_is_not_left_upwards():
    assert rates(peak=0.01, min_lr=0.1) == [0.01] * 10


def test_steps_and_constant():
    found = rates(epochs=4, steps=2, kind="step", milestones=[1, 2.5], gamma=0.1)
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01])
    assert rates(kind="constant") == [1.0] * 10


def test_warmup_rises_from_zero_and_the_curve_takes_over_at_the_peak():
    found = rates(kind="linear", warmup_steps=4)
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert found[5:] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0])
    assert rates(epochs=10, kind="constant", warmup_epochs=1)[:6] == pytest.approx(
        [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1]
    )


def test_warmup_epochs_give_way_in_a_short_run():
    """A fifth of the run at most, so that a recipe of 300 epochs can be tried with two."""
    assert rates(kind="constant", warmup_epochs=20)[:3] == pytest.approx([1 / 3, 2 / 3, 1])


def test_warmup_steps_are_taken_at_their_word():
    with pytest.raises(InputError, match=r"warmup_steps: wanted fewer than the run's 10 steps; got 10"):
        rates(warmup_steps=10)


def test_the_rate_may_be_for_a_number_of_images():
    recipe = load_recipe(None, {"lr": 0.5, "batch_size": 64, "accumulate": 2})
    assert peak_rate(recipe) == 0.5
    recipe.optim.lr_batch = 512
    assert peak_rate(recipe) == 0.5 * 128 / 512


def network():
    return create_model("mixer_nano", img_size=16, embed_dim=16, depth=3, tokens_mlp_dim=8, num_classes=3)


def test_what_is_spared_decay():
    model = network()
    groups = parameter_groups(model, OptimGroup(weight_decay=0.1))
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert {name: decay[id(p)] for name, p in model.named_parameters()} == {
        name: 0.1 if p.ndim > 1 else 0.0 for name, p in model.named_parameters()
    }
    everything = parameter_groups(model, OptimGroup(weight_decay=0.1, no_decay=[]))
    assert [group["weight_decay"] for group in everything] == [0.1]
    by_name = parameter_groups(model, OptimGroup(weight_decay=0.1, no_decay=["head.*", "*.norm?.*"]))
    spared = next(group for group in by_name if group["weight_decay"] == 0)
    assert len(spared["params"]) == 2 + 3 * 4


def test_position_embeddings_are_spared_as_the_network_says():
    model = create_model("timm/vit_tiny_patch16_224", img_size=32, depth=1)
    groups = parameter_groups(model, OptimGroup(weight_decay=0.1))
    spared = {id(p) for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    assert id(model.pos_embed) in spared
    assert id(model.head.weight) not in spared


def test_earlier_layers_learn_more_slowly():
    model = network()
    groups = parameter_groups(model, OptimGroup(layer_decay=0.5))
    scale = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    names = ("stem.weight", "blocks.0.norm1.weight", "blocks.1.token_mixing.fc1.weight", "blocks.2.norm2.bias")
    found = [scale[id(model.get_parameter(name))] for name in names]
    assert found == [0.5 ** (4 - place) for place in range(4)]
    assert scale[id(model.head.weight)] == 1
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    recipe = Recipe(optim=OptimGroup(layer_decay=0.5, lr=0.8))
    optimizer = create_optimizer(model, recipe)
    Schedule(ScheduleGroup(kind="linear"), 0.8, 5, 1).apply(optimizer, 2)
    stem = next(g for g in optimizer.param_groups if any(p is model.stem.weight for p in g["params"]))
    assert stem["lr"] == pytest.approx(0.4 * 0.5**4)


def test_layer_decay_of_a_network_without_layers():
    with pytest.raises(InputError, match=r"optim\.layer_decay: this network does not say how its layers are grouped"):
        parameter_groups(nn.Linear(2, 2), OptimGroup(layer_decay=0.5))


def test_freezing():
    model = network()
    frozen = freeze(model, ["stem.*", "blocks.0.*"])
    assert frozen == [name for name, _ in model.named_parameters() if name.startswith(("stem.", "blocks.0."))]
    learning = {id(p) for group in parameter_groups(model, OptimGroup()) for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad is (name not in frozen)
        assert (id(parameter) in learning) is (name not in frozen)
    with pytest.raises(InputError, match=r"no parameter matches 'blokcs\.\*'; the names begin stem\.weight"):
        freeze(network(), ["blokcs.*"])
    with pytest.raises(InputError, match=r"leaves nothing to learn"):
        freeze(network(), ["*"])


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, torch.optim.AdamW),
        ({"opt": "momentum", "momentum": 0.8}, torch.optim.SGD),
        ({"opt": "adam", "betas": (0.8, 0.9), "eps": 1e-3}, torch.optim.Adam),
        ({"opt": "nmuon", "momentum": 0.9}, Muon),
    ],
)
def test_optimisers_take_their_settings(settings, kind):
    optimizer = create_optimizer(network(), Recipe(optim=OptimGroup(lr=0.25, **settings)))
    assert isinstance(optimizer, kind)
    for group in optimizer.param_groups:
        assert group["lr"] == 0.25
        assert {key: group[key] for key in settings if key != "opt"} == {
            k: v for k, v in settings.items() if k != "opt"
        }


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"opt": "adamm"}, "adamm"),
        ({"opt": "momentum", "betas": (0.9, 0.9)}, "it has no betas"),
        ({"opt": "adamw", "momentum": 0.9}, "it has no momentum"),
    ],
)
def test_wrong_optimisers(settings, reason):
    with pytest.raises(InputError, match=rf"optim\.opt={settings['opt']}: .*{reason}.*such as adamw, momentum or lamb"):
        create_optimizer(network(), Recipe(optim=OptimGroup(**settings)))
