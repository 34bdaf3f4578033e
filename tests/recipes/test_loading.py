"""Recipes from files and names, with changes on top, and what wrong ones are told."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from allmlp.errors import InputError
from allmlp.recipes import Recipe, dump_recipe, load_recipe, shipped
from allmlp.recipes.loading import DEFAULTS, read_yaml
from allmlp.tasks import TASKS


def recipe_file(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_load_and_say_what_to_expect(name):
    path = shipped()[name]
    recipe = load_recipe(name)
    assert recipe == load_recipe(path)
    head = path.read_text().splitlines()[:12]
    for word in ("Command   allmlp train", "Hardware", "Time", "Expect"):
        assert any(line.startswith(f"# {word}") for line in head), word


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_come_back_as_they_were_written(name, tmp_path):
    recipe = load_recipe(name)
    path = recipe_file(tmp_path, dump_recipe(recipe, "two\nlines"))
    assert path.read_text().startswith("# two\n# lines\n")
    assert load_recipe(path) == recipe
    assert read_yaml(path).keys() == Recipe.model_fields.keys()


def test_the_default_of_every_task_that_there_is():
    assert DEFAULTS.keys() == TASKS.keys()
    assert load_recipe() == load_recipe("small")
    for task, name in DEFAULTS.items():
        if name in shipped():
            assert load_recipe(None, {"task": task}).task == task
    with pytest.raises(InputError, match="task: wanted one of classify, detect, segment; got 'clasify'"):
        load_recipe(None, {"task": "clasify"})


def test_a_run_folder_is_a_recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text("epochs: 7")
    assert load_recipe(tmp_path).epochs == 7


def test_loading_needs_neither_torch_nor_timm():
    code = "import sys, allmlp.recipes as r; r.load_recipe('small'); print({'torch', 'timm', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("overrides", "path", "value"),
    [
        ({"epochs": "5"}, "epochs", 5),
        ({"lr": "1e-3"}, "optim.lr", 1e-3),
        ({"optim": {"lr": 0.5}}, "optim.lr", 0.5),
        ({"optim.lr": 0.5}, "optim.lr", 0.5),
        ({"data": "photos"}, "data.name", "photos"),
        ({"data": Path("photos")}, "data.name", "photos"),
        ({"init": Path("runs/a")}, "init", "runs/a"),
        ({"data": {"name": "photos", "workers": "2"}}, "data.workers", 2),
        ({"data.workers": "auto"}, "data.workers", "auto"),
        ({"model": "mixer_s16"}, "model.name", "mixer_s16"),
        ({"img_size": "24"}, "model.img_size", (24, 24)),
        ({"img_size": "24x16"}, "model.img_size", (24, 16)),
        ({"img_size": "[24, 16]"}, "model.img_size", (24, 16)),
        ({"img_size": 24}, "model.img_size", (24, 24)),
        ({"img_size": "none"}, "model.img_size", None),
        ({"model.args.depth": "4"}, "model.args", {"depth": 4}),
        ({"model.args.rate": "1e-3"}, "model.args", {"rate": 1e-3}),
        ({"model.args.kind": "none"}, "model.args", {"kind": None}),
        ({"model.args": {"depth": 4}}, "model.args", {"depth": 4}),
        ({"model.args": "{depth: 4, name: a1}"}, "model.args", {"depth": 4, "name": "a1"}),
        ({"freeze": "stem.*"}, "freeze", ["stem.*"]),
        ({"freeze": "stem.*,blocks.0.*"}, "freeze", ["stem.*", "blocks.0.*"]),
        ({"freeze": "['stem.*']"}, "freeze", ["stem.*"]),
        ({"loggers": "[]"}, "loggers", []),
        ({"optim.no_decay": "[]"}, "optim.no_decay", []),
        ({"optim.no_decay": "none"}, "optim.no_decay", None),
        ({"optim.clip": "null"}, "optim.clip", None),
        ({"ema.decay": "none"}, "ema.decay", None),
        ({"augment.auto_augment": "none"}, "augment.auto_augment", None),
        ({"augment.auto_augment": "rand-m15-n2"}, "augment.auto_augment", "rand-m15-n2"),
        ({"augment.kind": "none"}, "augment.kind", "none"),
        ({"progress": "none"}, "progress", "none"),
        ({"ema.warmup": "false"}, "ema.warmup", False),
        ({"device": "gpu"}, "device", "cuda"),
        ({"optim.betas": "[0.9, 0.95]"}, "optim.betas", (0.9, 0.95)),
    ],
    ids=str,
)
def test_overrides(overrides, path, value):
    found = load_recipe(None, overrides)
    for part in path.split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_overrides_leave_the_rest_of_a_group_alone(tmp_path):
    path = recipe_file(tmp_path, "model: {name: mixer_s16, args: {depth: 2, gelu: erf}}\noptim: {lr: 1e-2, clip: null}")
    recipe = load_recipe(path, {"model.args.depth": "4", "optim": {"weight_decay": 0}})
    assert recipe.model.args == {"depth": 4, "gelu": "erf"}
    assert (recipe.model.name, recipe.optim.lr, recipe.optim.clip, recipe.optim.weight_decay) == (
        "mixer_s16",
        0.01,
        None,
        0,
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"epoch": "3"}, "Unknown key 'epoch'. Did you mean epochs"),
        ({"optim.weightdecay": "3"}, "Unknown key 'optim.weightdecay'. Did you mean optim.weight_decay"),
        ({"batch": "3"}, "Unknown key 'batch'. Did you mean batch_size"),
        ({"weight_decay": "3"}, "Unknown key 'weight_decay'. Did you mean optim.weight_decay?"),
        ({"mixup": "0.2"}, "Unknown key 'mixup'. Did you mean augment.mixup?"),
        ({"optim": {"wd": 3}}, "Unknown key 'optim.wd'."),
        ({"zzzzqq": "3"}, "Unknown key 'zzzzqq'. Known: data, model, lr, img_size, task, model.name"),
        ({"epochs": "many"}, "epochs: wanted a whole number; got 'many'."),
        ({"epochs": "2.5"}, "epochs: wanted a whole number"),
        ({"epochs": "0"}, "epochs: wanted greater than or equal to 1; got '0'."),
        ({"epochs": "none"}, "epochs: wanted a whole number; got 'none'."),
        ({"lr": "fast"}, "optim.lr: wanted a number; got 'fast'."),
        ({"lr": "nan"}, "optim.lr: wanted a finite number; got 'nan'."),
        ({"lr": "-1"}, "optim.lr: wanted greater than 0; got '-1'."),
        ({"img_size": "big"}, "model.img_size: wanted a side in pixels, or height and width, such as 224 or 224x192"),
        ({"img_size": "0"}, "model.img_size: wanted greater than 0; got 0."),
        ({"img_size": "1x2x3"}, "model.img_size: wanted a side in pixels"),
        ({"keep": "bset"}, "keep: wanted 'last' or 'best'; got 'bset'."),
        ({"data.workers": "many"}, "data.workers: wanted"),
        ({"device": "cpu2"}, "device: wanted auto, cpu, cuda, mps or tpu; how many go into devices=N; got 'cpu2'."),
        ({"devices": "3"}, "batch_size counts over all devices: wanted a multiple of 3, got 64."),
        ({"optim": "adamw"}, "optim: wanted keys inside it (optim.opt, optim.lr, optim.lr_batch ...); got 'adamw'."),
        ({"epochs": {"a": 1}}, "epochs: wanted a whole number; got keys inside it."),
        ({"epochs.a": "1"}, "epochs: wanted a whole number; got keys inside it."),
        ({"epochs": None}, "epochs: wanted a whole number; got nothing."),
        ({"model.name": None}, "model.name: wanted a word; got nothing."),
        ({"augment.crop_area": "0.1"}, "augment.crop_area: wanted a list such as [1, 2]; got '0.1'."),
        ({"model.args": "3"}, "model.args: wanted a mapping such as {depth: 4}; got '3'."),
        ({"loggers": "[tensorbord]"}, "loggers: wanted 'tensorboard', 'wandb' or 'mlflow'; got 'tensorbord'."),
        ({"freeze": "[stem"}, "Wanted one value such as 3, 0.1, name or [1, 2]; got '[stem', which is no YAML."),
        ({"label_smoothing": "1"}, "label_smoothing: wanted less than 1; got '1'."),
        ({"data": {"name": "x"}, "data.name.more": "y"}, "data.name.more: name already has the value 'x'"),
    ],
    ids=str,
)
def test_wrong_overrides(overrides, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load_recipe(None, overrides)
    assert "pydantic" not in str(caught.value)


def test_all_problems_are_told_at_once():
    with pytest.raises(InputError) as caught:
        load_recipe(None, {"epoch": "3", "lr": "fast"})
    assert "'epoch'" in str(caught.value)
    assert "optim.lr" in str(caught.value)
    assert str(caught.value).startswith("In the command: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: [3", r"Wanted a recipe in YAML; .*mine\.yaml cannot be read: .*line 1"),
        ("epochs: 3\nseed: 1\nepochs: 4", r"cannot be read: the key 'epochs' is given twice.*line 3"),
        ("optim:\n  lr: 1\n  lr: 2", r"the key 'lr' is given twice.*line 3"),
        ("- a\n- b", r"Wanted keys and values in .*mine\.yaml; got list"),
        ("epohcs: 3", r"In .*mine\.yaml: Unknown key 'epohcs'\. Did you mean epochs"),
        ("epochs: !!python/object/apply:os.system ['true']", "cannot be read: .*python/object"),
        ("epochs: 3\noptim: adamw", r"In .*mine\.yaml: optim: wanted keys inside it"),
    ],
)
def test_wrong_files(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        load_recipe(recipe_file(tmp_path, text))


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="Wanted a recipe in YAML"):
        load_recipe(path)


def test_a_wrong_file_is_told_apart_from_a_wrong_word(tmp_path):
    path = recipe_file(tmp_path, "epohcs: 3")
    with pytest.raises(InputError, match=r"In .*mine\.yaml: Unknown key 'epohcs'"):
        load_recipe(path, {"seed": 1})


def test_an_empty_file_is_all_defaults(tmp_path):
    assert load_recipe(recipe_file(tmp_path, "# nothing\n")) == Recipe()


def test_missing_recipes(tmp_path):
    with pytest.raises(InputError, match=r"a YAML file, or one of .*small.*; got 'smal'"):
        load_recipe("smal")
    with pytest.raises(InputError, match=re.escape(f"Images to train on are given as data={tmp_path}")):
        load_recipe(tmp_path)


def test_setting_a_value_checks_it():
    with pytest.raises(ValueError, match="greater than"):
        Recipe().epochs = 0
