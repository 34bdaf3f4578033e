"""COCO files: what is read, where it is looked for, and that nothing wrong goes in unseen."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from allmlp.data.coco import class_counts, open_detection
from allmlp.data.dense_transforms import DetectionAugment, build_detection_transform
from allmlp.data.rle import decode_segmentation, encode_mask
from allmlp.data.spec import ImageSpec
from allmlp.errors import InputError

HEIGHT, WIDTH = 40, 60


def rectangle(x, y, w, h, height=HEIGHT, width=WIDTH):
    mask = np.zeros((height, width), bool)
    mask[y : y + h, x : x + w] = True
    return mask


def annotation(number, image, category, bbox, segmentation=None, **more):
    x, y, w, h = bbox
    polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    entry = {"id": number, "image_id": image, "category_id": category, "bbox": bbox, "area": w * h, "iscrowd": 0}
    return {**entry, "segmentation": segmentation or polygon, **more}


def content():
    """Five images: polygons; both kinds of run lengths; a crowd beside an object; a crowd alone; nothing."""
    mask = rectangle(5, 6, 10, 8)
    runs = {"size": [HEIGHT, WIDTH], "counts": [5 * 40 + 6, 8] + [32, 8] * 9 + [45 * 40 + 26]}
    return {
        "images": [
            {"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH}
            for number in (7, 3, 100, 5, 9)
        ],
        "annotations": [
            annotation(1, 7, 18, [10, 5, 20, 10]),
            annotation(2, 7, 90, [0, 0, 4.5, 6.25]),
            annotation(3, 3, 90, [5, 6, 10, 8], encode_mask(mask)),
            annotation(4, 3, 18, [5, 6, 10, 8], runs),
            annotation(5, 100, 18, [0, 0, 60, 40], encode_mask(rectangle(0, 0, 60, 20)), iscrowd=1),
            annotation(6, 100, 18, [30, 20, 10, 10]),
            annotation(7, 5, 90, [0, 0, 30, 30], encode_mask(rectangle(0, 0, 30, 30)), iscrowd=1),
        ],
        # 44 is in no image; ids are neither contiguous nor sorted
        "categories": [{"id": 90, "name": "cat"}, {"id": 18, "name": "dog"}, {"id": 44, "name": "owl"}],
    }


def write(root, train=None, val=None, images=True, folder="images/{}"):
    for split, data in (("train", train), ("val", val)):
        if data is None:
            continue
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(data))
        place = root / folder.format(split)
        place.mkdir(parents=True, exist_ok=True)
        for entry in data["images"] if images else []:
            size = (entry.get("width", WIDTH), entry.get("height", HEIGHT))
            Image.new("RGB", size, (200, 30, 30)).save(place / entry["file_name"])
    return root


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path, content(), content())


def test_reads_boxes_masks_crowds_and_ids(folder):
    data = open_detection(folder)
    assert data.classes == ("dog", "owl", "cat")  # by ascending id, the absent one among them
    assert data.has_masks
    assert len(data.val) == 5
    assert len(data.train) == 3  # a crowd alone and nothing at all are not trained on
    assert {(p.kind, p.split) for p in data.report.problems} == {("unused", "train")}
    assert len(data.report.problems) == 2

    image, target = data.train[0]
    assert isinstance(image, tv_tensors.Image)
    assert image.shape == (3, HEIGHT, WIDTH)
    assert image.dtype == torch.uint8
    assert target["boxes"].as_subclass(torch.Tensor).tolist() == [[10, 5, 30, 15], [0, 0, 4.5, 6.25]]
    assert isinstance(target["boxes"], tv_tensors.BoundingBoxes)
    assert target["boxes"].format.value == "XYXY"
    assert target["boxes"].canvas_size == (HEIGHT, WIDTH)
    assert target["labels"].tolist() == [0, 2]
    assert (target["image_id"], target["original_size"], target["index"]) == (7, (HEIGHT, WIDTH), 0)
    assert target["masks"].dtype == torch.uint8
    assert np.array_equal(target["masks"][0].numpy(), rectangle(10, 5, 20, 10))

    _, target = data.train[1]
    for mask in target["masks"]:  # compressed and uncompressed run lengths of the same rectangle
        assert np.array_equal(mask.numpy(), rectangle(5, 6, 10, 8))
    _, target = data.val[2]
    assert target["iscrowd"].tolist() == [True, False]
    _, empty = data.val[4]
    assert empty["boxes"].shape == (0, 4)
    assert empty["masks"].shape == (0, HEIGHT, WIDTH)
    assert empty["labels"].dtype == torch.int64
    assert class_counts(data.val, data.classes) == {"dog": 3, "owl": 0, "cat": 2}
    assert data.train.is_wide() == [True] * 3


def test_ground_truth_is_the_file(folder):
    truth = open_detection(folder).val.source.ground_truth()
    original = content()
    assert [image["id"] for image in truth["images"]] == [7, 3, 100, 5, 9]
    assert [c["id"] for c in truth["categories"]] == [18, 44, 90]
    key = lambda a: a["id"]  # noqa: E731
    for ours, theirs in zip(
        sorted(truth["annotations"], key=key), sorted(original["annotations"], key=key), strict=True
    ):
        assert ours == theirs


def test_boxes_alone(folder):
    data = open_detection(folder, masks=False)
    assert not data.has_masks
    assert "masks" not in data.train[0][1]
    assert "segmentation" not in data.val.source.ground_truth()["annotations"][0]
    bare = content()
    for entry in bare["annotations"]:
        del entry["segmentation"]
    write(folder, bare, bare)
    assert not open_detection(folder).has_masks  # noticed by itself
    with pytest.raises(InputError, match=r"none of its 7 annotations can be used.*it has none"):
        open_detection(folder, masks=True)


def test_images_without_objects_can_be_kept(folder):
    data = open_detection(folder, keep_empty=True)
    assert len(data.train) == 5
    assert not data.report.problems
    assert data.report.summary() == ""


@pytest.mark.parametrize("place", ["images/{}", "{}", "images", "."])
def test_images_are_found_where_people_put_them(tmp_path, place):
    write(tmp_path, content(), content(), folder=place)
    assert len(open_detection(tmp_path).val) == 5


def test_the_names_of_coco_itself(tmp_path):
    write(tmp_path, content(), content(), folder="{}2017")
    notes = tmp_path / "annotations"
    for split in ("train", "val"):
        (notes / f"instances_{split}.json").rename(notes / f"instances_{split}2017.json")
        (notes / f"captions_{split}2017.json").write_text("{}")
    assert len(open_detection(tmp_path).train) == 3


def test_json_beside_the_images(tmp_path):
    for split in ("train", "valid"):
        write(tmp_path / split, content(), folder=".")
        (tmp_path / split / "annotations" / "instances_train.json").rename(tmp_path / split / "_annotations.coco.json")
    assert len(open_detection(tmp_path).val) == 5


def test_explicit_files_and_a_single_file(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "a.json").write_text(json.dumps(content()))
    data = open_detection(
        train_json=elsewhere / "a.json",
        train_images=folder / "images" / "train",
        val_json=folder / "annotations" / "instances_val.json",
        val_images=folder / "images" / "val",
    )
    assert (len(data.train), len(data.val)) == (3, 5)

    one = folder / "annotations" / "instances_train.json"
    first, second = (
        open_detection(one, train_images=folder / "images" / "train", val_fraction=0.4, keep_empty=True) for _ in "ab"
    )
    ids = [{image.id for image in part.source.images} for part in (first.train, first.val)]
    assert [len(part) for part in ids] == [3, 2]
    assert ids[0] | ids[1] == {7, 3, 100, 5, 9}
    assert ids == [{image.id for image in part.source.images} for part in (second.train, second.val)]
    assert "2 of its images are held out" in first.report.notes[0]
    other = open_detection(one, train_images=folder / "images" / "train", val_fraction=0.4, keep_empty=True, seed=5)
    assert {image.id for image in other.val.source.images} != ids[1]


def test_validation_classes_are_matched_by_name(tmp_path):
    val = content()
    # other ids, another order, one class fewer
    val["categories"] = [{"id": 1, "name": "cat"}, {"id": 18, "name": "owl"}]
    val["annotations"] = [annotation(1, 7, 1, [10, 5, 20, 10])]
    data = open_detection(write(tmp_path, content(), val))
    assert data.val[0][1]["labels"].tolist() == [2]
    truth = data.val.source.ground_truth()
    assert [c["name"] for c in truth["categories"]] == ["dog", "owl", "cat"]
    ids = [c["id"] for c in truth["categories"]]
    assert ids[1:] == [18, 1]
    assert len(set(ids)) == 3
    val["categories"].append({"id": 4, "name": "hen"})
    with pytest.raises(InputError, match=r"has categories that .* has not: hen"):
        open_detection(write(tmp_path, content(), val))


BAD_ANNOTATIONS = [
    ({"bbox": [70, 5, 10, 10]}, "outside the image"),
    ({"bbox": [10, 5, 0, 10]}, "no area"),
    ({"bbox": [10, 5, -4, 10]}, "no area"),
    ({"bbox": [10, 5, 10]}, "not four finite numbers"),
    ({"bbox": None}, "not four finite numbers"),
    ({"bbox": [10, 5, float("nan"), 10]}, "not four finite numbers"),
    ({"category_id": 19}, "not in the list of categories"),
    ({"category_id": "dog"}, "not in the list of categories"),
    ({"image_id": 12345}, "no such image"),
    ({"iscrowd": "no"}, "iscrowd is neither"),
    ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "P137"}}, "segmentation cannot be used"),
    ({"segmentation": encode_mask(rectangle(1, 1, 3, 3, 20, 20))}, "segmentation cannot be used"),
    ({"segmentation": []}, "segmentation cannot be used"),
    ({"segmentation": [[1, 2, 3]]}, "segmentation cannot be used"),
]


@pytest.mark.parametrize(("change", "reason"), BAD_ANNOTATIONS)
def test_a_bad_annotation_is_skipped_and_listed(tmp_path, change, reason):
    train = content()
    train["annotations"][0].update(change)
    write(tmp_path, train, content())
    data = open_detection(tmp_path)
    (problem,) = data.report.skipped()
    assert reason in problem.reason
    assert "annotation 1" in problem.where
    assert "instances_train.json" in problem.where
    assert f"train: 1 skipped: {problem.reason}" in data.report.summary()
    assert data.train[0][1]["labels"].tolist() == [2]  # the sound one of that image remains
    with pytest.raises(InputError, match=reason):
        open_detection(tmp_path, on_bad="stop")


def test_a_box_that_sticks_out_is_clipped_and_listed_but_scored_as_it_is(tmp_path):
    train = content()
    train["annotations"][0]["bbox"] = [50, -3, 20, 10]
    data = open_detection(write(tmp_path, train, train))
    assert data.train[0][1]["boxes"][0].tolist() == [50, 0, 60, 7]
    (clipped,) = [p for p in data.report.problems if p.kind == "clipped" and p.split == "train"]
    assert "sticks out" in clipped.reason
    assert data.val.source.ground_truth()["annotations"][0]["bbox"] == [50, -3, 20, 10]


def test_missing_unreadable_and_resized_images_are_skipped_and_listed(folder):
    place = folder / "images" / "train"
    (place / "7.png").unlink()
    (place / "3.png").write_bytes((place / "3.png").read_bytes()[:60])
    data = open_detection(folder)
    assert len(data.train) == 1
    reasons = {problem.where.rsplit("/", 1)[-1]: problem.detail for problem in data.report.skipped("train")}
    assert set(reasons) == {"7.png", "3.png"}
    assert reasons["7.png"] == "no such file"
    with pytest.raises(InputError, match=r"7\.png: cannot read the image"):
        open_detection(folder, on_bad="stop")

    Image.new("RGB", (30, 30)).save(place / "7.png")
    (problem,) = [p for p in open_detection(folder).report.skipped() if p.where.endswith("7.png")]
    assert "said 60 x 40, found 30 x 30" in problem.detail

    for name in ("7.png", "3.png", "100.png", "5.png", "9.png"):
        (place / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"none of its 5 images can be used.*data\.train_images"):
        open_detection(folder)


def test_a_file_that_breaks_during_a_run_is_an_error_with_its_path(folder):
    data = open_detection(folder, check="headers")
    path = folder / "images" / "train" / "7.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match=r"7\.png.*data\.check=full"):
        data.train[0]
    Image.new("RGB", (30, 30)).save(path)
    with pytest.raises(InputError, match="did it change"):
        data.train[0]


def test_an_image_turned_by_its_exif_data(tmp_path):
    train = content()
    write(tmp_path, train, train)
    exif = Image.Exif()
    exif[0x0112] = 6
    # stored 40 x 60 (width x height), seen 60 x 40: annotated as seen
    path = tmp_path / "images" / "train" / "7.png"
    Image.new("RGB", (HEIGHT, WIDTH), "blue").save(path, exif=exif)
    assert open_detection(tmp_path).train[0][0].shape == (3, HEIGHT, WIDTH)
    # stored 60 x 40, seen 40 x 60: annotated without looking at EXIF
    Image.new("RGB", (WIDTH, HEIGHT), "blue").save(path, exif=exif)
    (problem,) = open_detection(tmp_path).report.skipped()
    assert "turned upright" in problem.detail


def test_one_pixel_grey_and_16_bit_images(tmp_path):
    train = content()
    train["images"][0].update(height=1, width=1)
    train["annotations"][:2] = [annotation(1, 7, 18, [0, 0, 1, 1])]
    write(tmp_path, train, content())
    place = tmp_path / "images" / "train"
    Image.fromarray(np.full((HEIGHT, WIDTH), 30000, np.uint16)).save(place / "3.png")
    Image.new("L", (WIDTH, HEIGHT), 77).save(place / "100.png")
    data = open_detection(tmp_path)
    assert not data.report.skipped()
    assert data.train[0][0].shape == (3, 1, 1)
    assert data.train[1][0].unique().tolist() == [round(30000 / 257)]
    assert data.train[2][0].unique().tolist() == [77]
    spec = ImageSpec(64, 64)
    for training in (True, False):
        transform = build_detection_transform(spec, DetectionAugment.small(64), training)
        for index in range(3):
            image, _ = data.train.with_transform(transform)[index]
            assert image.isfinite().all()
            assert 1 <= min(image.shape[1:]) <= max(image.shape[1:]) <= 64
    grey = open_detection(tmp_path, channels=1)
    assert grey.train[2][0].shape == (1, HEIGHT, WIDTH)
    with pytest.raises(InputError, match="grey"):
        open_detection(tmp_path, channels=4)


def broken(change):
    data = copy.deepcopy(content())
    change(data)
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"broken JSON: .* line 1"),
        (json.dumps(content())[:500], "broken JSON"),
        ("[]", "not a COCO file"),
        ('{"images": [], "annotations": []}', r"wanted the lists.*got the keys \['annotations', 'images'\]"),
        ('{"images": [], "annotations": [], "categories": []}', "Cannot find the images"),
        (broken(lambda d: d["images"].__setitem__(1, 5)), r"images\[1\] is 5"),
        (broken(lambda d: d["images"][1].update(id="x")), r"images\[1\] wants a whole number"),
        (broken(lambda d: d["images"][1].update(id=7)), "two images have the id 7"),
        (broken(lambda d: d["images"][1].update(file_name=None)), r"images\[1\] wants"),
        (broken(lambda d: d["categories"].clear()), "list of categories is empty"),
        (broken(lambda d: d["categories"][0].update(id=18)), "two categories have the id 18"),
        (broken(lambda d: d["categories"][0].update(name="dog")), "two categories have the name 'dog'"),
        (broken(lambda d: d["categories"][0].pop("name")), r"categories\[0\] wants"),
    ],
)
def test_broken_files_are_errors(folder, text, message):
    (folder / "annotations" / "instances_train.json").write_text(text)
    with pytest.raises(InputError, match=message):
        open_detection(folder)


def test_missing_data_are_errors(tmp_path):
    with pytest.raises(InputError, match="There is no data set at"):
        open_detection(tmp_path / "nowhere")
    with pytest.raises(InputError, match="found no JSON file"):
        open_detection(tmp_path)
    with pytest.raises(InputError, match="Wanted a data set"):
        open_detection()
    write(tmp_path, content(), content(), images=False)
    with pytest.raises(InputError, match=r"Cannot find the images.*looked in.*data\.train_images=FOLDER"):
        open_detection(tmp_path)
    (tmp_path / "annotations" / "instances_train_more.json").write_text("{}")
    with pytest.raises(InputError, match=r"several files for train.*data\.train_json=FILE"):
        open_detection(tmp_path)
    with pytest.raises(InputError, match="Cannot read the annotations"):
        open_detection(train_json=tmp_path / "no.json")
    with pytest.raises(InputError, match="on_bad is one of"):
        open_detection(tmp_path, train_json=tmp_path / "no.json", val_json=tmp_path / "no.json", on_bad="x")


def test_report_is_json_and_data_travel_to_workers(folder):
    (folder / "images" / "train" / "7.png").unlink()
    data = open_detection(folder)
    report = json.loads(json.dumps(data.report.to_dict()))
    assert report["problems"][0]["detail"] == "no such file"
    assert {(c["kind"], c["count"]) for c in report["counts"]} == {("skipped", 1), ("unused", 2)}
    copied = pickle.loads(pickle.dumps(data.val))
    assert torch.equal(copied[1][1]["masks"], data.val[1][1]["masks"])
    assert decode_segmentation(copied.source.images[0].annotations[0].segmentation, HEIGHT, WIDTH).any()
