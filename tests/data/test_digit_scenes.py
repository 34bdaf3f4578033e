"""The embedded scenes: exact truth, no handwriting in both splits, the same pictures for the same seed, real files."""

import json

import numpy as np
import pytest
from PIL import Image

from allmlp.data import digit_scenes
from allmlp.data.coco import open_detection
from allmlp.data.digit_scenes import SEMANTIC_CLASSES, cached_digit_scenes, draw_scene, write_digit_scenes
from allmlp.data.mask_folder import open_segmentation
from allmlp.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_digit_scenes(tmp_path_factory.mktemp("scenes") / "made", train=6, val=4, size=96)


def test_the_truth_of_a_scene_agrees_with_itself():
    counts = set()
    for index in range(60):
        scene = draw_scene("train", index, 96)
        assert scene.image.shape == (96, 96, 3)
        assert scene.image.dtype == np.uint8
        owners = np.zeros((96, 96), dtype=int)
        semantic = np.zeros((96, 96), dtype=np.uint8)
        for instance in scene.instances:
            owners += instance.mask
            semantic[instance.mask] = 1 + instance.label
            y, x = np.nonzero(instance.mask)
            assert instance.box == (x.min(), y.min(), x.max() + 1, y.max() + 1)
        assert owners.max() == 1  # a pixel is of one digit
        assert np.array_equal(semantic, scene.semantic)
        counts.add(len(scene.instances))
    assert counts == {1, 2, 3, 4, 5}


def test_a_scene_is_a_function_of_seed_split_and_index():
    first, again = draw_scene("val", 3, 64, seed=5), draw_scene("val", 3, 64, seed=5)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.semantic, again.semantic)
    for other in (
        draw_scene("val", 4, 64, seed=5),
        draw_scene("val", 3, 64, seed=6),
        draw_scene("train", 3, 64, seed=5),
    ):
        assert not np.array_equal(first.image, other.image)


def test_no_handwriting_is_in_both_splits():
    train, val = ({image.tobytes() for image in digit_scenes._digits(split)[0]} for split in ("train", "val"))
    assert len(train) + len(val) > 1700
    assert not train & val


def test_digits_are_in_sight_and_stand_out():
    for index in range(30):
        scene = draw_scene("val", index, 128)
        for instance in scene.instances:
            assert instance.mask.sum() > 60
            inside = scene.image[instance.mask].astype(float).mean(0)
            near = np.zeros_like(instance.mask)
            x0, y0, x1, y1 = instance.box
            near[y0:y1, x0:x1] = True
            around = near & (scene.semantic == 0)
            if around.sum() > 20:
                assert np.abs(inside - scene.image[around].astype(float).mean(0)).sum() > 60


def test_files_are_real_coco_json_and_masks(folder):
    content = json.loads((folder / "annotations" / "instances_val.json").read_text())
    assert [category["name"] for category in content["categories"]] == list("0123456789")
    assert len(content["images"]) == 4
    detection = open_detection(folder)
    segmentation = open_segmentation(folder)
    assert not detection.report.problems
    assert not segmentation.report.problems
    assert detection.classes == tuple("0123456789")
    assert segmentation.classes == SEMANTIC_CLASSES
    for split, count in (("train", 6), ("val", 4)):
        objects, labels = getattr(detection, split), getattr(segmentation, split)
        assert len(objects) == len(labels) == count
        for index in range(count):
            scene = draw_scene(split, index, 96)
            image, target = objects[index]
            same, mask = labels[index]
            assert np.array_equal(image.numpy().transpose(1, 2, 0), scene.image)
            assert np.array_equal(same.numpy(), image.numpy())
            assert target["labels"].tolist() == [instance.label for instance in scene.instances]
            assert target["boxes"].tolist() == [list(instance.box) for instance in scene.instances]
            assert np.array_equal(target["masks"].numpy(), np.stack([instance.mask for instance in scene.instances]))
            assert np.array_equal(mask["mask"].numpy(), scene.semantic)
    with Image.open(folder / "masks" / "val" / "000000.png") as mask:
        assert mask.mode == "P"


def test_scenes_are_written_once_to_a_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALLMLP_CACHE", str(tmp_path))
    found = cached_digit_scenes(2, 1, 64)
    assert found.parent == tmp_path
    before = (found / "classes.txt").stat().st_mtime_ns
    assert cached_digit_scenes(2, 1, 64) == found
    assert (found / "classes.txt").stat().st_mtime_ns == before
    assert cached_digit_scenes(2, 1, 64, seed=1) != found
    assert not list(tmp_path.glob(".*"))
    data = open_detection("digit_scenes", train_scenes=2, val_scenes=1, scene_size=64)
    assert (len(data.train), len(data.val)) == (2, 1)


def test_impossible_scenes_are_refused(tmp_path, folder):
    with pytest.raises(InputError, match="train, val"):
        draw_scene("test", 0)
    with pytest.raises(InputError, match="at least 32 pixels"):
        draw_scene("train", 0, 31)
    with pytest.raises(InputError, match="one held out"):
        write_digit_scenes(tmp_path / "x", val=0)
    with pytest.raises(InputError, match="not an empty folder"):
        write_digit_scenes(folder)
