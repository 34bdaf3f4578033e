"""Images with mask files: every layout, every label rule, and that nothing wrong goes in unseen."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from allmlp.data.label_map import CITYSCAPES_IDS, VOC_CLASSES, LabelMap
from allmlp.data.mask_folder import open_segmentation
from allmlp.errors import InputError

NAMES = ["ground", "tree", "house"]
SIZE = (10, 14)  # height, width


def save(path, numbers, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(numbers))
    if mode == "P":
        image = image.convert("P")
        image.putpalette(list(range(255, -1, -1)) * 3)
    image.save(path)


def picture(path, size=SIZE):
    save(path, np.full((*size, 3), 90, np.uint8))


def numbers(values, size=SIZE, dtype=np.uint8):
    return np.resize(np.array(values, dtype), size)


def write(root, images="images/{}", masks="masks/{}", splits=("train", "val"), values=(0, 1, 2, 255), count=3):
    for split in splits:
        for index in range(count):
            picture(root / images.format(split) / f"{index}.jpg")
            save(root / masks.format(split) / f"{index}.png", numbers(values))
    (root / "classes.txt").write_text("\n".join(NAMES) + "\n")
    return root


@pytest.mark.parametrize(
    ("images", "masks", "splits"),
    [
        ("images/{}", "masks/{}", ("train", "val")),
        ("{}/images", "{}/masks", ("train", "val")),
        ("{}/images", "{}/labels", ("train", "valid")),
        ("images/{}", "annotations/{}", ("train", "validation")),
    ],
)
def test_layouts_of_folders(tmp_path, images, masks, splits):
    data = open_segmentation(write(tmp_path, images, masks, splits))
    assert data.classes == tuple(NAMES)
    assert (len(data.train), len(data.val), data.ignore_label) == (3, 3, 255)
    assert data.report.summary() == ""
    image, target = data.train[1]
    assert image.shape == (3, *SIZE)
    assert isinstance(target["mask"], tv_tensors.Mask)
    assert target["mask"].dtype == torch.uint8
    assert np.array_equal(target["mask"].numpy(), numbers([0, 1, 2, 255]))
    assert target["path"].endswith("1.jpg")
    assert (target["index"], target["original_size"]) == (1, SIZE)


def test_ade20k(tmp_path):
    write(tmp_path, "images/{}", "annotations/{}", ("training", "validation"), values=(0, 1, 3, 2, 255))
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "objectInfo150.txt").write_text(
        "Idx\tRatio\tTrain\tVal\tName\n1\t0.1\t1\t1\twall\n2\t0.1\t1\t1\tbuilding, edifice\n3\t0.1\t1\t1\tsky\n"
    )
    data = open_segmentation(tmp_path)
    assert data.classes == ("wall", "building", "sky")
    assert np.array_equal(data.train[0][1]["mask"].numpy(), numbers([255, 0, 2, 1, 255]))
    assert "0 is ignored" in data.report.notes[0]
    with pytest.raises(InputError, match=r"holds 3, which is beyond the list of 3 classes: wanted 0 to 2 and 255"):
        open_segmentation(tmp_path, label_rule="plain")
    save(tmp_path / "annotations" / "training" / "1.png", numbers([0, 4]))
    with pytest.raises(InputError, match=r"1\.png holds 4, .*wanted 0 and 255 \(ignored\) and 1 to 3"):
        open_segmentation(tmp_path)


def test_voc(tmp_path):
    for name in ("a", "b", "c"):
        picture(tmp_path / "JPEGImages" / f"{name}.jpg")
        save(tmp_path / "SegmentationClass" / f"{name}.png", numbers([0, 15, 20, 255]), "P")
    sets = tmp_path / "ImageSets" / "Segmentation"
    sets.mkdir(parents=True)
    (sets / "train.txt").write_text("a\nb\n")
    (sets / "val.txt").write_text("c\n")
    data = open_segmentation(tmp_path)
    assert data.classes == tuple(VOC_CLASSES)
    assert len(data.classes) == 21
    assert (len(data.train), len(data.val)) == (2, 1)
    assert np.array_equal(data.train[0][1]["mask"].numpy(), numbers([0, 15, 20, 255]))  # indices, not colours


def test_cityscapes(tmp_path):
    for split in ("train", "val"):
        for city in ("bonn", "ulm"):
            stem = f"{city}_000000_000019"
            picture(tmp_path / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
            save(tmp_path / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png", numbers([7, 26, 33, 3, 8]))
    data = open_segmentation(tmp_path)
    assert len(data.classes) == 19
    assert len(data.train) == len(data.val) == 2
    assert np.array_equal(data.train[0][1]["mask"].numpy(), numbers([0, 13, 18, 255, 1]))
    assert sorted(set(CITYSCAPES_IDS.values())) == [*range(19), 255]
    assert sorted(CITYSCAPES_IDS) == list(range(-1, 34))


def test_id_map_from_a_file_16_bit_and_1_bit_masks(tmp_path):
    write(tmp_path, values=(0, 1))
    for index, mask in enumerate(
        (numbers([1000, 7, 2000], dtype=np.uint16), numbers([7, 1000], dtype=np.uint16), numbers([0, 7]))
    ):
        save(tmp_path / "masks" / "train" / f"{index}.png", mask)
    (tmp_path / "map.json").write_text(json.dumps({"0": 0, "1": 1, "7": 1, "1000": 2, "2000": 255}))
    data = open_segmentation(tmp_path, id_map=tmp_path / "map.json")
    assert np.array_equal(data.train[0][1]["mask"].numpy(), numbers([2, 1, 255]))
    with pytest.raises(InputError, match="holds 1000, 2000, which are not in the id map"):
        open_segmentation(tmp_path, id_map={0: 0, 1: 1, 7: 1})
    with pytest.raises(InputError, match="sends 7 to 3; there are 3 classes"):
        open_segmentation(tmp_path, id_map={7: 3})
    with pytest.raises(InputError, match="Cannot read the id map"):
        open_segmentation(tmp_path, id_map=tmp_path / "no.json")
    with pytest.raises(InputError, match="whole numbers"):
        open_segmentation(tmp_path, id_map={"road": 1})
    for index in range(3):
        Image.fromarray(numbers([0, 1]).astype(bool)).save(tmp_path / "masks" / "train" / f"{index}.png")
    assert open_segmentation(tmp_path).train[0][1]["mask"].unique().tolist() == [0, 1]


def test_unsplit_folders_are_split_once_and_for_all(tmp_path):
    write(tmp_path, "images", "masks", ("all",), count=10)
    first, second = (open_segmentation(tmp_path, val_fraction=0.3) for _ in "ab")
    paths = [{image.path for image in part.source.images} for part in (first.train, first.val)]
    assert [len(part) for part in paths] == [7, 3]
    assert not paths[0] & paths[1]
    assert paths[1] == {image.path for image in second.val.source.images}
    assert "3 images are held out" in first.report.summary()


def test_named_folders_and_classes(tmp_path):
    write(tmp_path, "x/{}", "y/{}")
    folders = {f"{s}_{k}": tmp_path / n / s for s in ("train", "val") for k, n in (("images", "x"), ("masks", "y"))}
    with pytest.raises(InputError, match="Wanted images and masks in"):
        open_segmentation(tmp_path)
    with pytest.raises(InputError, match=r"classes\.txt"):
        open_segmentation(**folders)
    (tmp_path / "names.json").write_text(json.dumps({"0": "a", "2": "c", "1": "b"}))
    assert open_segmentation(**folders, classes=tmp_path / "names.json").classes == ("a", "b", "c")
    assert open_segmentation(**folders, classes=["p", "q", "r"]).classes == ("p", "q", "r")
    with pytest.raises(InputError, match="go together"):
        open_segmentation(train_images=tmp_path / "x" / "train", classes=NAMES)
    for content, message in (
        ('{"0": "a", "2": "b"}', "without gaps"), ("[]", "names no class"), ("[1]", "list of names"),
                             ('["a", "a"]', "'a' twice"), ("{", "Cannot read the list")):  # fmt: skip
        (tmp_path / "names.json").write_text(content)
        with pytest.raises(InputError, match=message):
            open_segmentation(**folders, classes=tmp_path / "names.json")


def spoiled(tmp_path):
    """One of each fault that is skipped, in the training split of five."""
    write(tmp_path, count=7)
    train, masks = tmp_path / "images" / "train", tmp_path / "masks" / "train"
    (masks / "0.png").unlink()
    (train / "1.jpg").write_bytes((train / "1.jpg").read_bytes()[:200])
    (masks / "2.png").write_bytes(b"nothing")
    save(masks / "3.png", numbers([0, 1], (9, 14)))
    save(masks / "4.png", np.zeros((*SIZE, 3), np.uint8))
    return tmp_path


def test_faults_are_skipped_and_listed(tmp_path):
    data = open_segmentation(spoiled(tmp_path))
    assert len(data.train) == 2
    found = {problem.where[-5:]: problem for problem in data.report.skipped("train")}
    assert found["0.jpg"].reason == "the image has no mask"
    assert found["1.jpg"].reason == "cannot read the image"
    assert found["2.png"].reason == "cannot read the mask"
    assert found["3.png"].detail == "mask 14 x 9, image 14 x 10"
    assert "colour picture" in found["4.png"].detail
    assert len(found) == len(data.report.problems) == 5
    with pytest.raises(InputError, match=r"data\.on_bad_image=skip"):
        open_segmentation(tmp_path, on_bad="stop")
    for index in (5, 6):
        (tmp_path / "masks" / "train" / f"{index}.png").unlink()
    with pytest.raises(InputError, match="no image of the train split can be used"):
        open_segmentation(tmp_path)


def test_labels_beyond_the_list_stop_even_during_a_run(tmp_path):
    write(tmp_path, count=40)
    bad = tmp_path / "masks" / "train" / "5.png"
    save(bad, numbers([0, 3, 77]))
    with pytest.raises(InputError, match=r"5\.png holds 3, 77, which are beyond the list of 3 classes"):
        open_segmentation(tmp_path)
    data = open_segmentation(tmp_path, check="headers")  # looks at some masks only
    (index,) = [i for i, image in enumerate(data.train.source.images) if image.mask_path == str(bad)]
    with pytest.raises(InputError, match=r"5\.png holds 3, 77"):
        data.train[index]


def test_one_pixel_grey_and_16_bit_images(tmp_path):
    write(tmp_path)
    train = tmp_path / "images" / "train"
    picture(train / "0.jpg", (1, 1))
    save(tmp_path / "masks" / "train" / "0.png", numbers([2], (1, 1)))
    (train / "1.jpg").unlink()
    save(train / "1.png", np.full(SIZE, 60000, np.uint16))
    data = open_segmentation(tmp_path)
    assert data.train[0][0].shape == (3, 1, 1)
    assert data.train[1][0].unique().tolist() == [round(60000 / 257)]
    assert open_segmentation(tmp_path, channels=1).train[1][0].shape == (1, *SIZE)


def test_missing_data_are_errors(tmp_path):
    with pytest.raises(InputError, match="There is no folder at"):
        open_segmentation(tmp_path / "nowhere")
    with pytest.raises(InputError, match="found nothing"):
        open_segmentation(tmp_path)
    with pytest.raises(InputError, match="Wanted a data set"):
        open_segmentation()
    write(tmp_path)
    with pytest.raises(InputError, match="label_rule is one of"):
        open_segmentation(tmp_path, label_rule="ade")
    with pytest.raises(InputError, match="check is one of"):
        open_segmentation(tmp_path, check="no")
    with pytest.raises(InputError, match="val_fraction"):
        open_segmentation(write(tmp_path / "b", "images", "masks", ("all",)), val_fraction=1.0)
    save(tmp_path / "masks" / "train" / "0.bmp", numbers([0]))
    with pytest.raises(InputError, match="Two masks have the name 0"):
        open_segmentation(tmp_path)


def test_label_maps_of_any_number_type():
    labels = LabelMap(("a", "b"), id_map={-1: 255, 5: 1, 70000: 0})
    for dtype in (np.int32, np.int64):
        found = labels.labels(np.array([[5, -1, 70000]], dtype), "x.png")
        assert found.tolist() == [[1, 255, 0]]
        assert found.dtype == np.uint8
    with pytest.raises(InputError, match="at most 255 classes"):
        LabelMap(tuple(map(str, range(256))))
