"""Folders of images: where the classes, the training and the validation images are found, and what is said of it."""

import numpy as np
import pytest
from PIL import Image

from allmlp.data import open_classification
from allmlp.data.image_folder import open_folder
from allmlp.errors import InputError
from digit_files import save_digits


def part(source):
    """(path below the root, label) of every image."""
    return [(source.name_of(index), source.label(index)) for index in range(len(source))]


@pytest.mark.parametrize("names", [("train", "val"), ("Train", "Validation"), ("training", "valid"), ("train", "test")])
def test_train_and_val_folders(tmp_path, names):
    save_digits(tmp_path / names[0], 3)
    save_digits(tmp_path / names[1], 2, first=3)
    (tmp_path / "annotations").mkdir()
    data = open_classification(tmp_path)
    assert (data.kind, data.classes) == ("folder", ["0", "1", "2"])
    assert part(data.train) == [(f"{names[0]}/{c}/{n}.png", c) for c in range(3) for n in range(3)]
    assert part(data.val) == [(f"{names[1]}/{c}/{n}.png", c) for c in range(3) for n in (3, 4)]
    assert data.notes == (["test/ is taken for validation."] if names[1] == "test" else [])


def test_one_folder_is_split_class_by_class(tmp_path):
    save_digits(tmp_path, 10)
    data = open_classification(tmp_path, val_fraction=0.3)
    assert np.bincount(data.train.labels).tolist() == [7, 7, 7]
    assert np.bincount(data.val.labels).tolist() == [3, 3, 3]
    assert len({*part(data.train), *part(data.val)}) == 30
    assert part(open_classification(tmp_path, val_fraction=0.3).val) == part(data.val)
    assert part(open_classification(tmp_path, val_fraction=0.3, seed=1).val) != part(data.val)


def test_the_split_moves_with_the_folder(tmp_path):
    for name in ("here", "there"):
        save_digits(tmp_path / name)
    here, there = (open_classification(tmp_path / name) for name in ("here", "there"))
    assert part(here.val) == part(there.val)
    assert here.fingerprint() == there.fingerprint()


def test_a_train_folder_alone_is_split(tmp_path):
    save_digits(tmp_path / "train")
    data = open_classification(tmp_path)
    assert data.classes == ["0", "1", "2"]
    assert len(data.val) == 3


def test_validation_may_lack_a_class_and_that_is_noted(tmp_path):
    save_digits(tmp_path / "train")
    save_digits(tmp_path / "val", classes=(0, 2))
    (tmp_path / "val" / "1").mkdir()
    data = open_classification(tmp_path)
    assert set(data.val.labels.tolist()) == {0, 2}
    assert any("Validation has no image of: '1'" in note for note in data.notes)


def test_the_first_of_several_validation_folders_is_taken(tmp_path):
    for name in ("train", "test", "val"):
        save_digits(tmp_path / name)
    data = open_classification(tmp_path)
    assert all(name.startswith("val/") for name, _ in part(data.val))
    assert data.notes == ["val/ is taken for validation; test is left aside."]


def test_names_are_kept_in_natural_order(tmp_path):
    for name in ("b2", "B10", "Äpfel und Birnen", "a.b"):
        save_digits(tmp_path, classes=[0])
        (tmp_path / "0").rename(tmp_path / name)
    assert open_classification(tmp_path).classes == ["a.b", "b2", "B10", "Äpfel und Birnen"]


def test_folders_within_classes_and_links(tmp_path):
    save_digits(tmp_path / "data")
    (tmp_path / "data" / "0" / "deep" / "er").mkdir(parents=True)
    (tmp_path / "data" / "0" / "0.png").rename(tmp_path / "data" / "0" / "deep" / "er" / "x.png")
    (tmp_path / "data" / "again").symlink_to(tmp_path / "data" / "1")
    data = open_folder(tmp_path / "data")
    assert data.classes == ["0", "1", "2", "again"]
    assert ("0/deep/er/x.png", 0) in part(data.source)
    assert np.bincount(data.source.labels).tolist() == [6, 6, 6, 6]


def test_other_files_are_passed_over_and_counted(tmp_path):
    save_digits(tmp_path)
    (tmp_path / "1" / "notes.txt").write_text("x")
    (tmp_path / "1" / "phone.heic").write_text("x")
    (tmp_path / "1" / ".DS_Store").write_text("x")
    (tmp_path / ".cache").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "loose.png")
    data = open_classification(tmp_path)
    assert len(data.train) + len(data.val) == 18
    assert data.notes == [
        f"1 images that lie directly in {tmp_path} belong to no class and were left out.",
        "Files that are not images by their names were left out: 1 .txt, 1 .heic.",
    ]


def refused(folder):
    with pytest.raises(InputError) as caught:
        open_classification(folder)
    return str(caught.value)


def test_nothing_there(tmp_path):
    assert refused(tmp_path).endswith(f"at {tmp_path}; it holds no files.")
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "a.txt").write_text("x")
    assert "there is no image in its folders. 'cats': it holds only other files (1 .txt)" in refused(tmp_path)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("a.png", "it holds 1 images and no folders. Make a folder for each class and move the images there."),
        ("0000.tar", "it holds tar shards. Type wds/{folder}."),
        ("labels.csv", "it holds a table. Type {folder}/labels.csv."),
        ("a.doc", "it holds only other files (1 .doc)"),
    ],
)
def test_files_without_folders_get_advice(tmp_path, name, advice):
    (tmp_path / name).write_bytes(b"x")
    assert advice.format(folder=tmp_path) in refused(tmp_path)


def test_a_class_without_images(tmp_path):
    save_digits(tmp_path)
    (tmp_path / "cats").mkdir()
    assert "none in 'cats': it holds no files. Add images or remove the folder." in refused(tmp_path)


def test_one_class(tmp_path):
    save_digits(tmp_path, classes=[4])
    assert refused(tmp_path) == "Wanted at least two classes; got one: '4'. Add images of another."


def test_a_folder_around_the_classes(tmp_path):
    """What an unpacked archive often is; typing the folder within helps, and the message says so."""
    save_digits(tmp_path / "flowers")
    message = refused(tmp_path)
    assert message.endswith(
        f"got one: 'flowers'. Add images of another. If 0, 1, 2 are the classes, type {tmp_path}/flowers."
    )
    assert open_classification(tmp_path / "flowers").classes == ["0", "1", "2"]


def test_a_class_that_only_validation_has(tmp_path):
    save_digits(tmp_path / "train")
    save_digits(tmp_path / "val", classes=(0, 1, 2, 3))
    assert "has not: '3'. Add training images of them or remove them; names must agree letter by letter." in refused(
        tmp_path
    )


def test_validation_alone_is_for_evaluation(tmp_path):
    save_digits(tmp_path / "test")
    assert refused(tmp_path).startswith("Wanted training images; all 18 that can be read here are for validation.")
