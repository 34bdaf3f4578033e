"""Detection and segmentation through training, evaluation and prediction."""

import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import allmlp
import dense_runs
from allmlp.data.dense_transforms import View
from allmlp.data.digit_scenes import write_digit_scenes
from allmlp.data.rle import decode_segmentation
from allmlp.errors import InputError
from allmlp.recipes import load_recipe
from allmlp.runs.dense import create_dense
from allmlp.tasks.callbacks.keeper import Keeper
from allmlp.tasks.dense import small_side
from allmlp.tasks.detect import DetectTask, detection_augment
from allmlp.tasks.detect_evaluation import PastedMasks, in_original_pixels, quality
from allmlp.tasks.detect_prediction import starts, window_side
from allmlp.tasks.optim import Schedule, create_optimizer
from allmlp.tasks.segment import SegmentTask, segmentation_augment
from dense_runs import SIZE

TASKS = ("detect", "segment")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A folder of real COCO JSON and masks."""
    return write_digit_scenes(tmp_path_factory.mktemp("data") / "scenes", 6, 4, SIZE)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run of each task, and the cache of scenes that they share."""
    place = tmp_path_factory.mktemp("dense")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALLMLP_CACHE", str(place / "cache"))
        patch.setattr("allmlp.tasks.session.Session._report", lambda self: None)
        yield {task: dense_runs.train(place / task, task).run for task in TASKS}


@pytest.fixture(params=TASKS)
def run(request, runs, tmp_path):
    """A copy of a run's folder, with its task."""
    return request.param, shutil.copytree(runs[request.param], tmp_path / "run")


# ---- what a run leaves


def test_a_run_says_what_it_did(runs):
    for task, names in (("detect", ("box_ap", "box_ap50", "mask_ap")), ("segment", ("miou", "pixel_accuracy"))):
        metrics = json.loads((runs[task] / "metrics.json").read_text())
        assert all(0 <= metrics[name] <= 1 for name in names)
        assert metrics["images"] == 4
        assert 100 < metrics["peak_memory_mb"] < 10_000
        assert len(metrics["per_class"]) == (10 if task == "detect" else 11)
        data = json.loads((runs[task] / "data.json").read_text())
        assert data["train"]["images"] == 8
        assert len(data["fingerprint"]) == 64
        header = (runs[task] / "metrics.csv").read_text().splitlines()[0]
        assert f"val_{names[0]}" in header
        assert "train_loss" in header


def test_a_saved_network_gives_the_numbers_it_was_judged_by(run):
    _, folder = run
    before = json.loads((folder / "metrics.json").read_text())
    found = allmlp.evaluate(folder, progress="none", device="cpu")
    for name, value in found.metrics.items():
        if isinstance(value, float):
            assert before[name] == pytest.approx(value, abs=1e-6), name
    assert (folder / "evaluation" / "images.png").is_file()
    assert (folder / "evaluation" / "classes.png").is_file()


def test_a_continued_run_ends_with_the_same_bits(tmp_path, runs, monkeypatch):
    for task in TASKS:
        stopped = Keeper.on_train_batch_end

        def stop(self, trainer, module, outputs, batch, batch_idx, stopped=stopped):
            if module.progress.total_batch == 2:
                self.interruption.signum = 2
            stopped(self, trainer, module, outputs, batch, batch_idx)

        with monkeypatch.context() as patch:
            patch.setattr(Keeper, "on_train_batch_end", stop)
            result = dense_runs.train(tmp_path / task, task)
        assert result.interrupted
        allmlp.train(resume=tmp_path / task)
        whole, continued = (load_file(folder / "model.safetensors") for folder in (runs[task], tmp_path / task))
        assert [key for key in whole if not torch.equal(whole[key], continued[key])] == []


@pytest.mark.parametrize("task", TASKS)
def test_own_data_train_like_the_embedded_scenes(task, scenes, tmp_path):
    result = dense_runs.train(tmp_path / "run", task, data=str(scenes), **{"data.workers": 1})
    assert result.metrics["images"] == 4


def test_the_small_recipe_soon_tells_classes_apart(tmp_path, monkeypatch):
    """After 48 steps; AdamW has by then told ink from background alone: mIoU 0.08 to 0.10."""
    monkeypatch.setattr("allmlp.tasks.session.Session._report", lambda self: None)
    scenes = write_digit_scenes(tmp_path / "scenes", 16, 1, SIZE)
    shown = {
        f"data.{split}_{kind}": str(scenes / kind / "train")
        for split in ("train", "val")
        for kind in ("images", "masks")
    }
    changes = {
        **shown,
        "data.classes": str(scenes / "classes.txt"),
        "model.img_size": SIZE,
        "epochs": 24,
        "augment.kind": "none",
        "ema.decay": 0.5,
        "device": "cpu",
        "progress": "none",
        "loggers": [],
    }
    assert allmlp.train(out=tmp_path / "run", task="segment", **changes).metrics["miou"] > 0.35


# ---- starting from other weights


def test_the_backbone_starts_from_a_classifier_and_a_detector_from_a_detector(runs, tmp_path):
    classifier = allmlp.create_model("as_mlp_nano", num_classes=5, embed_dim=8, depths=(1, 1, 1, 1))
    torch.save(classifier.state_dict(), tmp_path / "classifier.pth")
    task = DetectTask(load_recipe(None, dense_runs.recipe("detect", init=str(tmp_path / "classifier.pth"))))
    task.open_data()
    network, report = task.build_network()
    assert torch.equal(network.backbone.model.stem.proj.weight, classifier.stem.proj.weight)
    assert "backbone.norms.0.weight" in report.reinitialised
    assert "rpn.conv.weight" in report.reinitialised
    task = DetectTask(load_recipe(None, dense_runs.recipe("detect", init=str(runs["detect"]))))
    task.open_data()
    network, report = task.build_network()
    assert not report.reinitialised
    saved = load_file(runs["detect"] / "model.safetensors")
    assert all(torch.equal(value, saved[key]) for key, value in network.state_dict().items())


def test_other_classes_start_the_last_layers_anew(runs, tmp_path, scenes):
    folder = shutil.copytree(scenes, tmp_path / "other")
    (folder / "classes.txt").write_text("\n".join(["ground", *"0123456789", "more"]))
    task = SegmentTask(load_recipe(None, dense_runs.recipe("segment", data=str(folder), init=str(runs["segment"]))))
    task.open_data()
    _, report = task.build_network()
    assert report.reinitialised
    assert all("conv_seg" in key for key in report.reinitialised)


# ---- predicting


def test_predictions_are_in_pixels_of_the_file(runs, tmp_path, scenes):
    photos = tmp_path / "photos"
    photos.mkdir()
    with Image.open(scenes / "images" / "val" / "000000.png") as image:
        image.resize((200, 150)).save(photos / "a.png")
        image.convert("L").save(photos / "b.png")
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(photos / "d.png")
    Image.new("RGB", (1, 1)).save(photos / "c.png")
    (photos / "e.png").write_bytes(b"no image")
    found = allmlp.predict(runs["detect"], photos, out=tmp_path / "out", progress="none", score=0.0)
    assert [item.size for item in found] == [(150, 200), (SIZE, SIZE), (1, 1), (SIZE, SIZE)]
    assert [bad.path for bad in found.bad] == [str(photos / "e.png")]
    assert len(found[0].boxes) > 0
    assert np.array(found[0].boxes).max() > SIZE  # larger than what the network saw
    results = json.loads((tmp_path / "out" / "detections.json").read_text())
    first = next(result for result in results if result["file_name"].endswith("a.png"))
    assert decode_segmentation(first["segmentation"], 150, 200).shape == (150, 200)
    assert first["image_id"] == 1
    with Image.open(tmp_path / "out" / "a.png") as drawn:
        assert drawn.size == (200, 150)
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert [line["height"] for line in lines] == [150, SIZE, 1, SIZE]
    found = allmlp.predict(runs["segment"], photos, out=tmp_path / "labels", progress="none")
    assert [item.labels.shape for item in found] == [(150, 200), (SIZE, SIZE), (1, 1), (SIZE, SIZE)]
    with Image.open(tmp_path / "labels" / "a.mask.png") as mask:
        assert np.array_equal(np.asarray(mask), found[0].labels)
    assert sum(found[0].shares.values()) == pytest.approx(1)


@pytest.mark.parametrize(("height", "width"), [(600, 800), pytest.param(3000, 4000, marks=pytest.mark.slow)])
def test_a_large_photograph_is_looked_through_in_windows(runs, scenes, height, width):
    with Image.open(scenes / "images" / "val" / "000001.png") as image:
        tile = np.asarray(image).repeat(4, 0).repeat(4, 1)
    photo = np.tile(tile, (12, 16, 1))[:height, :width]
    assert photo.shape == (height, width, 3)
    (found,) = allmlp.predict(runs["detect"], photo, progress="none", score=0.0)
    boxes = np.array(found.boxes)
    assert len(boxes) > 20
    assert (boxes[:, 2:] - boxes[:, :2]).min() < 2 * SIZE  # in a view of the whole a few pixels
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= width
    assert boxes[:, 3].max() <= height
    (found,) = allmlp.predict(runs["segment"], photo, progress="none")
    assert found.labels.shape == (height, width)


def test_windows_cover_a_side_and_overlap_by_a_third():
    for length, window in ((100, 30), (31, 30), (30, 30), (12, 30), (4000, 256)):
        found = starts(length, window)
        assert found[0] == 0
        assert found[-1] == max(0, length - window)
        assert all(0 < later - first <= window * 2 // 3 for first, later in itertools.pairwise(found))
    assert window_side((3000, 4000), View(96, 96), None) == 384
    assert window_side((300, 380), View(96, 96), None) == 0  # shrunk four times at most
    assert window_side((3000, 4000), View(800, 1333), None) == 0
    assert window_side((3000, 4000), View(96, 96), 0) == 0
    assert window_side((3000, 4000), View(96, 96), 500) == 500


def test_several_scales_and_mirror_images_are_averaged(runs, tmp_path):
    folder = shutil.copytree(runs["segment"], tmp_path / "run")
    state = load_file(folder / "model.safetensors")
    torch.nn.init.normal_(state["decode_head.conv_seg.weight"])  # after four steps it would see background alone
    save_file(state, folder / "model.safetensors")

    def score(name, **options):
        found = allmlp.evaluate(folder, out=tmp_path / name, progress="none", device="cpu", **options)
        return found.metrics["miou"]

    once = score("once")
    assert score("same", **{"inference.scales": [1.0]}) == once
    assert score("scales", **{"inference.scales": "[0.5, 1.0, 1.5]", "inference.flip": "true"}) != once
    assert score("larger", **{"data.short_side": 80, "data.long_side": 80}) != once
    with pytest.raises(InputError, match="inference is for segmenters"):
        allmlp.evaluate(runs["detect"], progress="none", **{"inference.flip": True})
    with pytest.raises(InputError, match=r"inference\.scales"):
        score("bad", **{"inference.scales": []})


# ---- other data


def test_evaluation_on_other_data_matches_classes_by_name(runs, tmp_path, scenes):
    folder = shutil.copytree(scenes, tmp_path / "other")
    path = folder / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    for category in content["categories"]:
        category["id"] = 900 - category["id"]
    for annotation in content["annotations"]:
        annotation["category_id"] = 900 - annotation["category_id"]
    path.write_text(json.dumps(content))
    metrics = [
        allmlp.evaluate(runs["detect"], data=data, out=tmp_path / str(n), progress="none", device="cpu").metrics
        for n, data in enumerate((scenes, folder, path))
    ]
    assert metrics[0] == metrics[1] == metrics[2]
    names = ["background", *"0123456789"]
    order = np.array([0, 3, 1, 2, 4, 5, 6, 7, 8, 9, 10])  # new label of each old one
    for mask in (folder / "masks" / "val").iterdir():
        Image.fromarray(order[np.asarray(Image.open(mask))].astype(np.uint8)).save(mask)
    (folder / "classes.txt").write_text("\n".join(names[int(np.flatnonzero(order == n)[0])] for n in range(11)))
    found = [
        allmlp.evaluate(runs["segment"], data=data, out=tmp_path / f"s{n}", progress="none", device="cpu").metrics
        for n, data in enumerate((scenes, folder))
    ]
    assert found[0] == found[1]
    content["categories"].append({"id": 901, "name": "cat"})
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="cat"):
        allmlp.evaluate(runs["detect"], data=folder, progress="none")
    (folder / "classes.txt").write_text("\n".join([*names, "cat"]))
    with pytest.raises(InputError, match="cat"):
        allmlp.evaluate(runs["segment"], data=folder, progress="none")


# ---- recipes


def test_the_papers_augmentation_and_sizes():
    detection = detection_augment(load_recipe(None, {"task": "detect", "augment.kind": "paper"}))
    assert detection.short_sides == tuple(range(480, 801, 32))
    assert detection.flip == 0.5
    assert (detection.view.short_side, detection.view.long_side, detection.view.antialias) == (800, 1333, False)
    segmentation = segmentation_augment(load_recipe(None, {"task": "segment", "augment.kind": "paper"}))
    assert (segmentation.crop, segmentation.most_of_crop, segmentation.flip) == ((512, 512), 0.75, 0.5)
    assert (segmentation.view.short_side, segmentation.view.long_side) == (512, 2048)
    changed = detection_augment(
        load_recipe(None, {"task": "detect", "augment.args": {"crop_chance": 0.0}, "data.short_side": 50})
    )
    assert (changed.crop_chance, changed.test_short_side) == (0.0, 50)
    assert small_side(load_recipe(None, {"task": "detect", "img_size": "100x120"})) == 100


def test_bad_recipes_and_data_are_refused(tmp_path, scenes):
    def started(task, **changes):
        made = (DetectTask if task == "detect" else SegmentTask)(
            load_recipe(None, dense_runs.recipe(task, **{"data": str(scenes), **changes}))
        )
        made.open_data()
        made.build_network()
        return made

    with pytest.raises(InputError, match="Did you mean crop_chance"):
        started("detect", **{"augment.args": {"crop_chnce": 0.1}})
    for task in TASKS:
        with pytest.raises(InputError, match="paper, small or none"):
            started(task, **{"augment.kind": "imagenet"})
        with pytest.raises(InputError, match=r"at least the 1[01] classes"):
            started(task, **{"model.num_classes": 3})
    with pytest.raises(InputError, match="mask_rcnn"):
        started("detect", **{"model.head": "yolo"})
    with pytest.raises(InputError, match=r"model\.img_size=1333"):
        started("detect", **{"model.name": "mixer_nano", "augment.kind": "paper", "model.args": {}})
    content = json.loads((scenes / "annotations" / "instances_train.json").read_text())
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    boxes = {"data.train_json": str(tmp_path / "boxes.json"), "data.train_images": str(scenes / "images" / "train")}
    with pytest.raises(InputError, match=r"model\.head=faster_rcnn"):
        started("detect", **boxes)
    assert started("detect", **boxes, **{"model.head": "faster_rcnn"}).data.has_masks is False
    with pytest.raises(InputError, match="at least 2 images a batch"):
        started("segment", batch_size=1).train_loader()


@pytest.mark.parametrize(
    ("name", "steps", "checks"),
    [
        ("as_mlp_coco_mask_1x", 7330, {0: 1e-7, 250: 5.005e-5, 500: 1e-4, 8 * 7330: 1e-5, 11 * 7330: 1e-6}),
        ("as_mlp_coco_cascade_3x", 7330, {27 * 7330 - 1: 1e-4, 27 * 7330: 1e-5, 33 * 7330: 1e-6}),
        ("as_mlp_ade20k_upernet", 1263, {1500: 6e-5 * (1 - 1500 / 160_401), 80_200: 3e-5, 160_400: 0.0}),
    ],
)
def test_the_rates_of_the_papers_recipes(name, steps, checks):
    loaded = load_recipe(name)
    schedule = Schedule(loaded.schedule, loaded.optim.lr, steps, loaded.epochs)
    for step, rate in checks.items():
        assert schedule.rate(step) == pytest.approx(rate, rel=1e-4, abs=1e-9), step
    assert schedule.rate(0) < 1e-6


def test_weight_decay_spares_norms_of_the_backbone_alone_in_the_papers_recipes():
    for name in ("as_mlp_coco_cascade_1x", "as_mlp_ade20k_upernet"):
        loaded = load_recipe(name)
        small = loaded.model.model_copy(
            update={"name": "as_mlp_nano", "args": {**dense_runs.BODY}, "size": "small", "drop_path_rate": 0.0}
        )
        network = create_dense(loaded.task, small, 4)
        optimizer = create_optimizer(network, loaded)
        names = {id(parameter): key for key, parameter in network.named_parameters()}
        spared = {
            names[id(p)] for group in optimizer.param_groups if not group["weight_decay"] for p in group["params"]
        }
        assert spared == {key for key in names.values() if "norm" in key}
        assert not any(".bn." in key or key.endswith("fc_cls.bias") for key in spared)


# ---- small parts


def test_quality_counts_matches_of_a_class_once():
    target = {
        "boxes": torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]]),
        "labels": torch.tensor([1, 2, 3]),
        "iscrowd": torch.tensor([False, False, True]),
    }
    found = {
        "boxes": torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [70, 70, 80, 80]]),
        "labels": torch.tensor([1, 1, 1, 2]),
        "scores": torch.tensor([0.9, 0.8, 0.7, 0.2]),
    }
    assert quality(found, target) == pytest.approx(2 * 1 / (3 + 2))
    nothing = {key: value[:0] for key, value in found.items()}
    assert quality(nothing, {key: value[2:] for key, value in target.items()}) == 1
    assert quality(nothing, target) == 0


def test_masks_are_pasted_when_asked_for():
    result = {
        "boxes": torch.tensor([[1.0, 2, 5, 6]]),
        "scores": torch.ones(1),
        "labels": torch.zeros(1).long(),
        "mask_probs": torch.ones(1, 28, 28),
    }
    found = in_original_pixels(result, (10, 10), (20, 40))
    assert found["boxes"].tolist() == [[4, 4, 20, 12]]
    assert isinstance(found["masks"], PastedMasks)
    assert found["masks"][0].shape == (20, 40)
    assert int(found["masks"][0].sum()) == 16 * 8
