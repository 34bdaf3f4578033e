"""What a training run leaves behind, what it starts from, and that the settings do what they say."""

import csv
import io
import json
import math
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from timm.models.mlp_mixer import MlpMixer as TimmMixer

import allmlp
from allmlp.errors import InputError
from allmlp.recipes import load_recipe
from allmlp.runs import load_model
from allmlp.tasks.checkpoint_io import read_training_state
from allmlp.verbs import verb_module
from tiny import ARGS, BATCHES, MODEL, RECIPE, assert_same_weights, history, train, weights

STILL = 1e-12  # a learning rate that moves nothing


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A run that learned something, with averaged weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("allmlp.figures.report.write_report", lambda path: path)
        changes = {"epochs": 6, "batch_size": 64, "lr": 0.01, "ema.decay": 0.9}
        return train(tmp_path_factory.mktemp("learned") / "run", **changes)


@pytest.fixture
def three_classes(tmp_path):
    """A folder of 3 x 10 noisy images, 20 x 24 pixels, each class of its own colour."""
    rng = np.random.default_rng(0)
    for label, colour in enumerate(("red", "green", "blue")):
        for number in range(10):
            pixels = rng.integers(0, 60, (24, 20, 3), dtype=np.uint8)
            pixels[..., label] += 150
            path = tmp_path / "photos" / colour / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return tmp_path / "photos"


# ---- the run folder


def test_a_run_learns(learned):
    rows = learned.history
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["train_loss"] < 0.5 * rows[0]["train_loss"]
    assert rows[-1]["val_loss"] < rows[0]["val_loss"]
    assert learned.metrics["top1"] > 0.7
    assert learned.metrics["top1"] <= learned.metrics["top5"] <= 1


def test_the_folder_holds_what_it_promises(learned):
    names = {str(path.relative_to(learned.run)) for path in learned.run.rglob("*") if path.is_file()}
    assert names == {
        "recipe.yaml",
        "config.json",
        "model.safetensors",
        "metrics.csv",
        "metrics.json",
        "environment.json",
        "data.json",
        "checkpoints/last.ckpt",
        "checkpoints/best.safetensors",
        "evaluation/predictions.npz",
        "evaluation/predictions.csv",
        "evaluation/confusion.json",
    }
    assert all(path.stat().st_size for path in learned.run.rglob("*"))


def test_the_numbers_are_those_of_the_predictions(learned):
    metrics = read(learned.run / "metrics.json")
    assert metrics == learned.metrics
    with open(learned.run / "evaluation" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == metrics["images"] == 360
    assert metrics["top1"] == pytest.approx(sum(row["label"] == row["prediction"] for row in rows) / 360)
    assert metrics["top1"] == pytest.approx(learned.history[-1]["val_top1"])
    assert metrics["loss"] == pytest.approx(learned.history[-1]["val_loss"], rel=1e-4)
    matrix = np.array(read(learned.run / "evaluation" / "confusion.json")["matrix"])
    assert matrix.sum() == 360
    assert np.trace(matrix) == sum(row["label"] == row["prediction"] for row in rows)
    with np.load(learned.run / "evaluation" / "predictions.npz") as file:
        assert file["probabilities"].sum(1) == pytest.approx(np.ones(360), abs=1e-5)
        assert file["indices"].tolist() == list(range(360))
    best = max(learned.history, key=lambda row: row["val_top1"])
    assert (metrics["best_epoch"], metrics["best_top1"]) == (best["epoch"], best["val_top1"])
    assert (metrics["kept"], metrics["epochs"], metrics["stopped_early"]) == ("last", 6, False)
    network = load_model(learned.run).network
    assert metrics["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert metrics["train_seconds"] > 0
    assert metrics["cpu_seconds"] > 0


def test_the_data_and_the_machine_are_described(learned):
    data = read(learned.run / "data.json")
    assert (data["name"], data["train"]["images"], data["val"]["images"]) == ("digits", 1437, 360)
    assert data["classes"] == [str(digit) for digit in range(10)]
    assert sum(data["train"]["per_class"].values()) == 1437
    environment = read(learned.run / "environment.json")
    assert environment["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert environment["machine"]["threads"] == torch.get_num_threads()


def test_the_recipe_is_written_whole_and_trains_the_same_again(learned, tmp_path):
    recipe = load_recipe(learned.run)
    assert recipe.optim.lr == 0.01
    assert recipe.model.args == ARGS
    again = allmlp.train(learned.run / "recipe.yaml", out=tmp_path / "again")
    assert_same_weights(again.run, learned.run)
    assert history(again.run) == history(learned.run)


def test_averaged_weights_are_what_is_saved(learned, tmp_path):
    state = read_training_state(learned.run / "checkpoints" / "last.ckpt")
    for key, value in weights(learned.run).items():
        assert torch.equal(value, state["allmlp"]["average"][key])
    assert not torch.equal(state["state_dict"]["network.head.weight"], weights(learned.run)["head.weight"])
    assert [float(row["ema"]) for row in learned.history] == pytest.approx(
        [min(0.9, 22 * epoch / (22 * epoch + 9)) for epoch in range(1, 7)], abs=1e-6
    )
    plain = train(tmp_path / "plain", **{"ema.decay": None}).run
    state = read_training_state(plain / "checkpoints" / "last.ckpt")
    assert torch.equal(state["state_dict"]["network.head.weight"], weights(plain)["head.weight"])
    assert {row["ema"] for row in history(plain)} == {""}


def test_rates_in_the_history_are_those_of_the_schedule(tmp_path):
    run = train(tmp_path / "run", lr=0.01, schedule={"kind": "linear", "warmup_epochs": 0, "min_lr": 0}).run
    assert [float(row["lr"]) for row in history(run)] == pytest.approx([0.01 * 5 / 9, 0])
    assert [int(row["step"]) for row in history(run)] == [BATCHES, 2 * BATCHES]


# ---- where things go


def test_an_existing_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").touch()
    with pytest.raises(InputError, match=r"run exists\."):
        train(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_default_folders(tmp_path, monkeypatch, three_classes):
    monkeypatch.chdir(tmp_path)
    changes = {"data": "photos", "epochs": 1, "batch_size": 8}
    runs = [str(train(None, **changes).run) for _ in range(2)]
    assert runs == ["runs/classify/mixer_nano-photos", "runs/classify/mixer_nano-photos-2"]
    assert load_recipe(runs[0]).data.name == str(three_classes)  # absolute: it can be continued from elsewhere


def test_a_mistake_leaves_no_folder(tmp_path):
    with pytest.raises(InputError, match="there is none at nothing"):
        train(tmp_path / "run", init="nothing")
    assert not (tmp_path / "run").exists()


def test_recipes_as_objects_files_and_names(tmp_path):
    recipe = load_recipe(None, {"model": MODEL, **RECIPE, "epochs": 1})
    one = allmlp.train(recipe, out=tmp_path / "one").run
    other = allmlp.train(recipe, out=tmp_path / "other", lr=0.5).run
    assert load_recipe(one) == recipe
    assert load_recipe(other).optim.lr == 0.5
    assert recipe.optim.lr != 0.5


# ---- what to keep, when to stop


def test_keeping_the_best(tmp_path, monkeypatch):
    # Nothing is saved before the end, so that a best epoch gives way to a better one in memory.
    monkeypatch.setattr("allmlp.tasks.callbacks.keeper._SAVING_SHARE", 1e-9)
    # A rate so high that the network gets worse after an epoch.
    changes = {"lr": 0.03, "epochs": 6, "batch_size": 64, "ema.decay": None, "schedule.kind": "constant", "seed": 3}
    result = train(tmp_path / "run", **changes, keep="best")
    metrics, rows = result.metrics, result.history
    assert metrics["best_epoch"] < 6
    assert metrics["kept"] == "best"
    assert metrics["top1"] == pytest.approx(max(row["val_top1"] for row in rows))
    assert metrics["top1"] > rows[-1]["val_top1"]
    checkpoints = result.run / "checkpoints"
    assert (checkpoints / "best.safetensors").read_bytes() == (result.run / "model.safetensors").read_bytes()
    monkeypatch.undo()
    monkeypatch.setattr("allmlp.figures.report.write_report", lambda path: path)
    last = train(tmp_path / "last", **changes).run
    assert (checkpoints / "last.safetensors").read_bytes() == (last / "model.safetensors").read_bytes()
    assert (last / "checkpoints" / "best.safetensors").read_bytes() == (checkpoints / "best.safetensors").read_bytes()


def test_stopping_early(learned, tmp_path):
    """At a rate of nearly nothing the first epoch stays the best."""
    result = train(tmp_path / "run", init=str(learned.run), lr=STILL, epochs=9, early_stop=2)
    assert (result.metrics["epochs"], result.metrics["best_epoch"], result.metrics["stopped_early"]) == (3, 1, True)
    assert len(result.history) == 3
    assert allmlp.train(resume=result.run).metrics == result.metrics


# ---- losses and settings reach the training step


@pytest.mark.parametrize(
    ("changes", "loss"),
    [
        ({"loss": "ce"}, math.log(10)),
        ({"loss": "bce"}, 10 * math.log(2)),
        ({"loss": "bce", "model.head_bias": -6.9}, 9 * math.log1p(math.exp(-6.9)) + math.log1p(math.exp(6.9))),
        (
            {"loss": "bce", "model.head_bias": -6.9, "label_smoothing": 0.1},
            0.91 * math.log1p(math.exp(6.9)) + 0.09 * math.log1p(math.exp(-6.9))
            + 9 * (0.01 * math.log1p(math.exp(6.9)) + 0.99 * math.log1p(math.exp(-6.9))),
        ),
    ],
)  # fmt: skip
def test_the_loss_of_a_head_of_zeros(tmp_path, changes, loss):
    result = train(tmp_path / "run", epochs=1, lr=STILL, **changes)
    assert result.history[0]["train_loss"] == pytest.approx(loss, rel=1e-5)


def test_frozen_parameters_stay_and_the_others_learn(learned, tmp_path):
    changes = {"init": str(learned.run), "freeze": ["stem.*", "blocks.0.*"], "ema.decay": 0.9, "epochs": 1}
    before, after = weights(learned.run), weights(train(tmp_path / "run", **changes).run)
    for key, value in after.items():
        assert torch.equal(value, before[key]) is key.startswith(("stem.", "blocks.0.")), key


def test_layers_learn_at_different_rates(learned, tmp_path):
    changes = {"init": str(learned.run), "optim.layer_decay": 0.3, "ema.decay": None, "epochs": 1}
    before, after = weights(learned.run), weights(train(tmp_path / "run", **changes).run)
    moved = {key: (after[key] - before[key]).abs().mean() for key in ("stem.bias", "blocks.0.norm1.bias", "head.bias")}
    assert 0 < 2 * moved["stem.bias"] < moved["blocks.0.norm1.bias"]
    assert 2 * moved["blocks.0.norm1.bias"] < moved["head.bias"]


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"},
        {"augment.repeats": 2},
        {"augment": {"kind": "imagenet"}, "epochs": 1},
        {"batch_size": 5000},
        {"model": {**MODEL, "in_chans": 1, "num_classes": 12}},
        {"model": {"name": "timm/test_resnet", "img_size": 32}, "ema.decay": 0.5, "epochs": 1},
        {"optim.opt": "lamb", "optim.clip": None},
    ],
    ids=str,
)
def test_settings_that_train(tmp_path, changes):
    result = train(tmp_path / "run", **changes)
    assert math.isfinite(result.history[-1]["train_loss"])
    assert result.history[-1]["train_loss"] < 1.1 * result.history[0]["train_loss"]
    saved = load_model(result.run)
    classes = changes.get("model", {}).get("num_classes", 10)
    assert len(saved.classes) == classes
    with torch.inference_mode():
        assert saved.network(torch.zeros(1, saved.spec.channels, *saved.spec.size)).shape == (1, classes)


# ---- starting from other weights


def official_file(path, classes=5, tokens=16):
    """A checkpoint in Google's layout: `.npz` with Flax's names and axes, for 16 pixels and patches of 4."""
    rng = np.random.default_rng(0)
    width, tokens_mlp, channels_mlp = (ARGS[key] for key in ("embed_dim", "tokens_mlp_dim", "channels_mlp_dim"))
    shapes = {"stem/kernel": (4, 4, 3, width), "stem/bias": (width,), "head/kernel": (width, classes)}
    shapes |= {"head/bias": (classes,), "pre_head_layer_norm/scale": (width,), "pre_head_layer_norm/bias": (width,)}
    for index in range(ARGS["depth"]):
        block = f"MixerBlock_{index}"
        for norm in ("LayerNorm_0", "LayerNorm_1"):
            shapes |= {f"{block}/{norm}/{name}": (width,) for name in ("scale", "bias")}
        for mlp, outer, inner in (("token_mixing", tokens, tokens_mlp), ("channel_mixing", width, channels_mlp)):
            for dense, first, second in (("Dense_0", outer, inner), ("Dense_1", inner, outer)):
                shapes |= {f"{block}/{mlp}/{dense}/kernel": (first, second), f"{block}/{mlp}/{dense}/bias": (second,)}
    arrays = {key: rng.normal(0, 0.3, shape).astype(np.float32) for key, shape in shapes.items()}
    np.savez(path, **arrays)
    return arrays


def test_from_a_run_at_another_size_and_class_count(learned, three_classes, tmp_path, capsys):
    changes = {"data": str(three_classes), "img_size": 32, "init": str(learned.run), "batch_size": 8, "epochs": 1}
    result = train(tmp_path / "run", **changes, progress="lines", lr=STILL)
    report = read(result.run / "init.json")
    assert report["reinitialised"] == ["head.weight", "head.bias"]
    assert sorted(report["resampled"]) == sorted(
        f"blocks.{block}.token_mixing.{name}" for block in (0, 1) for name in ("fc1.weight", "fc2.bias", "fc2.weight")
    )
    assert report["source"] == str(learned.run)
    told = capsys.readouterr().err
    assert f"started from {learned.run}\nlayout: allmlp\n" in told
    assert re.search(r"resampled: 6 .*\nre-initialised: 2 \(head\.weight, head\.bias\)", told)
    assert "the file is for 16 x 16 pixels, the model for 32 x 32: token weights were resampled" in told
    before, after = weights(learned.run), weights(result.run)
    assert torch.allclose(after["stem.weight"], before["stem.weight"], atol=1e-6)
    assert after["head.weight"].shape == (3, 16)
    assert load_model(result.run).classes == ["blue", "green", "red"]


def test_from_an_official_file(tmp_path):
    arrays = official_file(tmp_path / "Mixer.npz")
    run = train(tmp_path / "run", init=str(tmp_path / "Mixer.npz"), lr=STILL, epochs=1).run
    found = weights(run)
    wanted = torch.from_numpy(arrays["MixerBlock_1/token_mixing/Dense_0/kernel"].T)
    assert torch.allclose(found["blocks.1.token_mixing.fc1.weight"], wanted, atol=1e-6)
    report = read(run / "init.json")
    assert report["reinitialised"] == ["head.weight", "head.bias"]
    assert len(report["copied"] + report["transposed"]) == len(found) - 2
    assert load_model(run).network.arguments["gelu"] == "tanh"


def test_from_a_timm_file(tmp_path):
    """Their Mixers use the exact GELU; the run remembers."""
    theirs = TimmMixer(img_size=16, patch_size=4, embed_dim=16, num_blocks=2, mlp_ratio=(0.5, 1), num_classes=10)
    torch.nn.init.normal_(theirs.head.weight)
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    run = train(tmp_path / "run", init=str(tmp_path / "w.pth"), lr=STILL, epochs=1, **{"ema.decay": None}).run
    saved = load_model(run)
    assert saved.network.arguments["gelu"] == "erf"
    images = torch.randn(4, 3, 16, 16)
    with torch.inference_mode():
        assert torch.allclose(saved.network(images), theirs.eval()(images), atol=1e-5)


# ---- images that cannot be read


@pytest.fixture
def with_a_bad_image(three_classes):
    """The same, one file truncated in the middle of its pixels, so that a look at its header finds nothing wrong."""
    path = three_classes / "green" / "3.png"
    contents = path.read_bytes()
    path.write_bytes(contents[: len(contents) // 2])
    return path


def test_unreadable_images_are_skipped_and_listed(with_a_bad_image, tmp_path):
    photos = str(with_a_bad_image.parents[1])
    result = train(tmp_path / "run", data=photos, epochs=1, batch_size=8)
    skipped = read(result.run / "data.json")["skipped"]
    assert [item["path"] for item in skipped] == [str(with_a_bad_image)]
    assert "truncated" in skipped[0]["reason"]


def test_unreadable_images_stop_the_run_if_asked(with_a_bad_image, tmp_path):
    photos = str(with_a_bad_image.parents[1])
    with pytest.raises(InputError, match=r"3\.png.*truncated"):
        train(tmp_path / "run", data=photos, epochs=3, batch_size=8, **{"data.on_bad_image": "stop"})


def test_images_that_changed_since_are_noticed(three_classes, tmp_path, monkeypatch):
    train(tmp_path / "run", data=str(three_classes), epochs=1, batch_size=8)
    (tmp_path / "run" / "metrics.json").unlink()
    (three_classes / "red" / "0.png").rename(three_classes / "red" / "new.png")
    with pytest.raises(InputError, match=r"Wanted the images that .*run began with; .*photos holds others now"):
        allmlp.train(resume=tmp_path / "run")


# ---- what a person sees


def test_a_line_an_epoch(tmp_path, capsys):
    train(tmp_path / "run", progress="lines")
    out, told = capsys.readouterr()
    assert out == ""
    lines = told.splitlines()
    assert lines[0] == f"run {tmp_path / 'run'}"
    assert lines[1].startswith(
        "digits: 1,437 images to train on, 360 to evaluate on, 10 classes (0, 1, 2, 3, 4, 5 ...)"
    )
    assert re.fullmatch(r"mixer_nano: [\d,]+ parameters", lines[2])
    pattern = (
        r"epoch (\d)/2  loss \d\.\d{3}  top1 [\d.]+ %  val loss \d\.\d{3}  val top1 [\d.]+ %  [\d,]+ images/s  "
        r"\d+:\d\d left(  \(best\))?"
    )
    assert [re.fullmatch(pattern, line)[1] for line in lines[3:5]] == ["1", "2"]


def test_silence(tmp_path, capsys):
    train(tmp_path / "run", progress="none")
    assert capsys.readouterr() == ("", "")


def test_tensorboard(tmp_path):
    run = train(tmp_path / "run", loggers=["tensorboard"], batch_size=32).run
    events = EventAccumulator(str(run / "logs" / "tensorboard"))
    events.Reload()
    assert [event.value for event in events.Scalars("epoch/val_top1")] == pytest.approx(
        [float(row["val_top1"]) for row in history(run)]
    )
    assert [event.step for event in events.Scalars("train/loss")] == [50]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "mps"}, "device=mps devices=1 strategy=auto: .*MPS"),
        ({"strategy": "ddpp"}, "device=cpu devices=1 strategy=ddpp: .*ddpp"),
        ({"loggers": ["wandb"]}, r"wandb needs the package wandb, which is not installed.*loggers=\[\]"),
        ({"optim.opt": "adamm"}, "optim.opt=adamm"),
        ({"freeze": ["nothing.*"]}, "freeze: no parameter matches"),
        ({"schedule.warmup_steps": 100}, "wanted fewer than the run's 10 steps; got 100"),
        ({"task": "clasify"}, "task: wanted one of classify"),
    ],
    ids=str,
)
def test_settings_that_cannot_be(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        train(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_a_bar_on_a_terminal(tmp_path, monkeypatch):
    """Loss, speed and time left while an epoch runs; a line stays of each epoch."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr(verb_module("train"), "make_console", lambda progress: console)
    monkeypatch.setattr("allmlp.tasks.callbacks.display._EVERY", 0)
    train(tmp_path / "run", progress="auto")
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", screen.getvalue())
    assert re.search(r"epoch 1/2 .*batch \d/5  loss \d\.\d{3}  [\d,]+ images/s  \d+:\d\d left", shown)
    assert re.search(r"epoch 2/2  loss .* val top1 [\d.]+ %", shown)


def test_training_in_a_thread(tmp_path):
    """As notebooks and services do; Python takes signals in the main thread only."""
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(train, tmp_path / "run").result().metrics["epochs"] == 2
