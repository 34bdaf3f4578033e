"""What a person may type or have that cannot work: each message says what was wanted, what came, what to type."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from allmlp.data import (
    AugmentSettings,
    ClassificationDataset,
    EpochBatchSampler,
    ImageSpec,
    build_transform,
    make_loader,
    open_classification,
)
from allmlp.errors import InputError
from digit_files import save_digits


def refused(name, **settings):
    with pytest.raises(InputError) as caught:
        open_classification(name, **settings)
    return str(caught.value)


WANTED = (
    "Wanted digits, a folder with one folder of images a class, a .csv or .parquet file, or torch/, hfds/, wds/ NAME; "
)


@pytest.mark.parametrize(
    ("name", "came"),
    [
        ("", "got no name."),
        ("Digits", "there is no Digits. Did you mean digits?"),
        ("flwers", "there is no flwers. Did you mean flowers?"),
        ("flowers/roses/x", "there is no flowers/roses/x."),
        ("mnist", "there is no mnist. Did you mean torch/mnist?"),
        ("hf/mnist", "there is no hf/mnist. Did you mean hfds/mnist?"),
        ("flowers.zip", "flowers.zip is an archive: unpack it and type its folder."),
        ("rose.jpg", "rose.jpg is one image."),
        ("notes.txt", "notes.txt is some other file."),
        (".gti", "there is no .gti."),
    ],
)
def test_names_of_nothing(tmp_path, monkeypatch, name, came):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flowers").mkdir()
    (tmp_path / ".git").mkdir()
    for file in ("flowers.zip", "rose.jpg", "notes.txt"):
        (tmp_path / file).write_bytes(b"x")
    assert refused(name) == WANTED + came


def test_missing_path_with_its_whole_place(tmp_path):
    (tmp_path / "flowers").mkdir()
    assert refused(tmp_path / "flower").endswith(f"there is no {tmp_path}/flower. Did you mean {tmp_path}/flowers?")


def test_empty_folder(tmp_path):
    assert refused(tmp_path) == (
        "Wanted one folder of images for each class, or train/ and val/ with such folders in them, "
        f"at {tmp_path}; it holds no files."
    )


def test_class_without_image(tmp_path):
    save_digits(tmp_path)
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "cat.heic").write_bytes(b"x")
    assert refused(tmp_path) == (
        f"Wanted images in every class folder of {tmp_path}; none in 'cats': it holds only other files (1 .heic); "
        "images end in .jpg, .png, .tif, .webp and the like. Add images or remove the folder."
    )


def test_one_class_only(tmp_path):
    save_digits(tmp_path, classes=[1])
    assert refused(tmp_path) == "Wanted at least two classes; got one: '1'. Add images of another."


def test_too_few_to_divide(tmp_path):
    save_digits(tmp_path, 2)
    message = refused(tmp_path)
    assert message == (
        "The class '0' has 2 images; val_fraction=0.2 leaves none for validation. "
        "Type data.val_fraction=0.25 or more, or add images of this class."
    )
    assert len(open_classification(tmp_path, val_fraction=0.25).val) == 3


def bomb(path):
    """A PNG file that says it has 60,000 x 60,000 pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


def test_unreadable_truncated_and_exploding_images(tmp_path):
    """All are listed by path; two show on opening, the truncated one when it is decoded; the run goes on."""
    save_digits(tmp_path)
    (tmp_path / "0/0.png").write_bytes(b"not an image")
    bomb(tmp_path / "0/1.png")
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    photo.save(tmp_path / "0/cut.jpg")
    (tmp_path / "0/cut.jpg").write_bytes((tmp_path / "0/cut.jpg").read_bytes()[:1500])
    data = open_classification(tmp_path, val_fraction=0.3)
    for part in (data.train, data.val):
        dataset = ClassificationDataset(part, build_transform(ImageSpec(16, 16), AugmentSettings(), training=True))
        for images, labels, _ in make_loader(dataset, EpochBatchSampler(len(dataset), 4)):
            assert len(images) == len(labels) > 0
            assert images.isfinite().all()
    assert {bad.path.removeprefix(f"{tmp_path}/"): bad.reason.split("(")[0] for bad in data.skipped} == {
        "0/0.png": "it is not an image in any format known here",
        "0/1.png": "a decompression bomb? Image size ",
        "0/cut.jpg": "the file is truncated ",
    }


def test_labels_outside_the_range(tmp_path):
    save_digits(tmp_path)
    (tmp_path / "labels.csv").write_text("path,label\n0/0.png,0\n1/0.png,1\n2/0.png,2\n")
    assert refused(tmp_path / "labels.csv", classes=["ape", "bat"]) == (
        f"Labels lie in 0 to 1; row 3 of {tmp_path}/labels.csv has 2."
    )
    (tmp_path / "labels.csv").write_text("path,label\n0/0.png,-1\n1/0.png,1\n")
    assert refused(tmp_path / "labels.csv") == f"Labels are at least 0; row 1 of {tmp_path}/labels.csv has -1."


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"crop_area": (0, 1)}, r"in \(0, 1\], for example \(0\.08, 1\); got \(0, 1\)"),
        ({"crop_area": (0.5, 0.4)}, "crop_area is"),
        ({"crop_ratio": (0, 1)}, "crop_ratio is"),
        ({"interpolation": "cubic"}, r"is one of random, nearest, bilinear, bicubic, lanczos; got 'cubic'"),
        ({"auto_augment": "best"}, r"such as rand-m9-mstd0\.5-inc1; got 'best'"),
    ],
)
def test_impossible_augmentation(wrong, message):
    with pytest.raises(InputError, match=message):
        build_transform(ImageSpec(32, 32), AugmentSettings("imagenet", **wrong), training=True)
