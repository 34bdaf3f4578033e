"""One way in for every kind of data, and what is reported of it: counts, what was left out, a fingerprint."""

import json

import numpy as np
import pytest
from PIL import Image

from allmlp.data import (
    ClassificationDataset,
    EpochBatchSampler,
    ImageSpec,
    build_transform,
    make_loader,
    open_classification,
    open_evaluation,
)
from allmlp.errors import InputError
from digit_files import save_digits


@pytest.fixture
def folder(tmp_path):
    save_digits(tmp_path / "train", 4)
    save_digits(tmp_path / "val", 2, first=4)
    return tmp_path


def break_files(folder, *names, content=b"not an image"):
    for name in names:
        (folder / name).write_bytes(content)


def test_what_a_report_says(folder):
    break_files(folder, "train/1/2.png")
    data = open_classification(folder)
    report = data.describe()
    assert json.loads(json.dumps(report)) == report
    assert report["train"] == {"images": 11, "per_class": {"0": 4, "1": 3, "2": 4}}
    assert report["val"] == {"images": 6, "per_class": {"0": 2, "1": 2, "2": 2}}
    assert report["skipped"] == [
        {"path": str(folder / "train/1/2.png"), "reason": "it is not an image in any format known here"}
    ]
    assert {"name": str(folder), "kind": "folder", "classes": ["0", "1", "2"]}.items() <= report.items()


def test_what_loading_finds_unreadable_is_reported_too(folder):
    whole = (folder / "train/0/1.png").read_bytes()
    break_files(folder, "train/0/1.png", content=whole[:60])
    data = open_classification(folder)
    assert data.skipped == []
    dataset = ClassificationDataset(data.train, build_transform(ImageSpec(8, 8)))
    assert sum(len(batch[0]) for batch in make_loader(dataset, EpochBatchSampler(12, 4), 1)) == 12
    assert [bad.path for bad in data.skipped] == [str(folder / "train/0/1.png")]


def test_checking_may_be_left_out(folder):
    break_files(folder, "train/1/2.png")
    data = open_classification(folder, check_images=False)
    assert len(data.train) == 12
    assert data.skipped == []
    assert data.notes == ["The 18 files were not checked beforehand."]


def test_skip_goes_on_and_stop_stops(folder):
    break_files(folder, "train/1/2.png", "val/0/5.png")
    assert len(open_classification(folder, on_bad_image="skip").skipped) == 2
    with pytest.raises(InputError) as caught:
        open_classification(folder, on_bad_image="stop")
    assert str(caught.value).startswith("2 of 18 images cannot be read: ")
    assert str(folder / "train/1/2.png") in str(caught.value)
    assert str(caught.value).endswith("or type data.on_bad_image=skip to leave them out.")
    with pytest.raises(InputError, match='"skip" or "stop"; got \'ignore\''):
        open_classification(folder, on_bad_image="ignore")


def test_a_part_or_class_that_nothing_readable_is_left_of(folder):
    break_files(folder, *(f"train/1/{number}.png" for number in range(4)))
    with pytest.raises(InputError, match=r"Validation has images of classes that training has none of: \'1\'"):
        open_classification(folder)
    break_files(folder, "val/1/4.png", "val/1/5.png")
    with pytest.raises(InputError, match=r"none that can be read of: \'1\'\. Add images or remove the class"):
        open_classification(folder)
    break_files(folder, *(f"val/{digit}/{number}.png" for digit in range(3) for number in (4, 5)))
    with pytest.raises(InputError, match="Wanted validation images; all 8 that can be read here are for training"):
        open_classification(folder)
    break_files(folder, *(f"train/{digit}/{number}.png" for digit in range(3) for number in range(4)))
    with pytest.raises(InputError, match="None of the 18 images can be read"):
        open_classification(folder)


def test_the_fingerprint_is_of_names_labels_classes_and_division(folder):
    first = open_classification(folder).fingerprint()
    assert len(first) == 16
    assert open_classification(folder).fingerprint() == first
    seen = {first}
    (folder / "val/0/5.png").rename(folder / "val/0/6.png")
    seen.add(open_classification(folder).fingerprint())
    (folder / "val/0/6.png").rename(folder / "val/1/6.png")
    seen.add(open_classification(folder).fingerprint())
    (folder / "val/1/6.png").rename(folder / "train/1/6.png")
    seen.add(open_classification(folder).fingerprint())
    for part in ("train", "val"):
        (folder / part / "2").rename(folder / part / "two")
    seen.add(open_classification(folder).fingerprint())
    assert len(seen) == 5
    Image.new("L", (8, 8)).save(folder / "val/1/4.png")  # contents do not count
    assert open_classification(folder).fingerprint() in seen


def test_evaluation_labels_are_the_models(folder):
    data = open_evaluation(folder, ["2", "1", "0", "9"])
    assert (len(data.train), len(data.val), data.classes) == (0, 6, ["2", "1", "0", "9"])
    assert data.val.labels.tolist() == [2, 2, 1, 1, 0, 0]
    assert data.describe()["val"]["per_class"] == {"2": 2, "1": 2, "0": 2, "9": 0}
    with pytest.raises(InputError, match=r"unknown classes: \'0\', \'2\'\. Known are \'1\', \'3\'; names must agree"):
        open_evaluation(folder, ["1", "3"])


def test_evaluation_takes_the_validation_part_or_everything(folder):
    assert len(open_evaluation(folder, ["0", "1", "2"]).val) == 6
    assert len(open_evaluation(folder / "train", ["0", "1", "2"]).val) == 12
    save_digits(folder / "alone" / "test", 2, classes=[1])
    data = open_evaluation(folder / "alone", ["0", "1", "2"])  # one class is enough here
    assert data.val.labels.tolist() == [1, 1]
    assert len(open_evaluation("digits", list("0123456789")).val) == 360


def test_evaluation_of_tables(folder):
    lines = [f"train/{digit}/{number}.png,{digit},train" for digit in range(3) for number in range(4)]
    (folder / "labels.csv").write_text("\n".join(["path,label,split", *lines]))
    assert len(open_evaluation(folder / "labels.csv", ["0", "1", "2"]).val) == 12
    named = open_evaluation(folder / "labels.csv", ["ape", "bat", "cow"])  # numbers are places
    assert np.bincount(named.val.labels).tolist() == [4, 4, 4]
    with pytest.raises(InputError, match="Labels lie in 0 to 1; row 9 of"):
        open_evaluation(folder / "labels.csv", ["ape", "bat"])


def test_evaluation_without_a_readable_image(folder):
    break_files(folder, *(f"val/{digit}/{number}.png" for digit in range(3) for number in (4, 5)))
    with pytest.raises(InputError, match=r"none of the validation part of .* can be read"):
        open_evaluation(folder, ["0", "1", "2"])
