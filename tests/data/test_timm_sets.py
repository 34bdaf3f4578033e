"""Named data sets: torchvision's through files in its own formats, the hub's through timm's reader protocol."""

import io
import struct

import numpy as np
import pytest
from PIL import Image
from timm.data import ImageDataset

from allmlp.data import (
    ClassificationDataset,
    EpochBatchSampler,
    ImageSpec,
    build_transform,
    make_loader,
    open_classification,
    open_evaluation,
)
from allmlp.data.timm_sets import _collection, default_root
from allmlp.errors import InputError
from digit_files import digits, save_digits


def idx(path, values, kind):
    """The file format of MNIST: a magic number that says type and dimensions, the sizes, the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">I{values.ndim}I", kind << 8 | values.ndim, *values.shape)
    path.write_bytes(header + values.tobytes())


@pytest.fixture
def mnist(tmp_path):
    """The digits as MNIST's files: 5 of each class for training, 2 for testing."""
    for name, numbers in (("train", range(5)), ("t10k", range(5, 7))):
        images = np.stack([digits()[digit][number] for number in numbers for digit in range(10)])
        idx(tmp_path / "MNIST" / "raw" / f"{name}-images-idx3-ubyte", images, 8)
        idx(tmp_path / "MNIST" / "raw" / f"{name}-labels-idx1-ubyte", np.uint8([*range(10)] * len(numbers)), 8)
    return tmp_path


def test_torch_mnist(mnist):
    data = open_classification("torch/mnist", root=mnist)
    assert (data.kind, len(data.train), len(data.val)) == ("timm", 50, 20)
    assert data.classes[:2] == ["0 - zero", "1 - one"]
    assert data.train.labels.tolist() == [*range(10)] * 5
    assert np.array_equal(data.val.load(13, channels=1), digits()[3][6])
    assert data.val.load(13, channels=3).mode == "RGB"
    assert data.val.path(13) == "torch/mnist/validation/13"
    with pytest.raises(InputError, match="are grey or RGB; got a wish for 4 channels"):
        data.val.load(0, channels=4)


def test_the_training_part_can_be_divided_instead(mnist):
    data = open_classification("TORCH/mnist", root=mnist, options={"val_split": None}, val_fraction=0.2)
    assert np.bincount(data.train.labels).tolist() == [4] * 10
    assert np.bincount(data.val.labels).tolist() == [1] * 10
    assert data.fingerprint() != open_classification("torch/mnist", root=mnist).fingerprint()


def test_evaluation_takes_the_validation_part(mnist):
    classes = open_classification("torch/mnist", root=mnist).classes
    data = open_evaluation("torch/mnist", classes[::-1], root=mnist)
    assert (len(data.train), len(data.val)) == (0, 20)
    assert data.val.labels.tolist() == [9 - digit for digit in range(10)] * 2
    with pytest.raises(InputError, match=r"unknown classes: '9 - nine'\. Known are '0 - zero'"):
        open_evaluation("torch/mnist", classes[:9], root=mnist)


def test_torch_qmnist_has_eight_numbers_a_label(tmp_path):
    for what in ("train", "test"):
        images = np.stack([digits()[digit][number] for number in range(3) for digit in range(10)])
        labels = np.stack([np.arange(8) + digit for digit in [*range(10)] * 3]).astype(">i4")
        idx(tmp_path / "QMNIST" / "raw" / f"qmnist-{what}-images-idx3-ubyte", images, 8)
        idx(tmp_path / "QMNIST" / "raw" / f"qmnist-{what}-labels-idx2-int", labels, 12)
    data = open_classification("torch/qmnist", root=tmp_path)
    assert data.train.labels.tolist() == [*range(10)] * 3
    assert np.array_equal(data.train.load(13, channels=1), digits()[3][1])


def test_torch_image_folder_matches_classes_by_name(tmp_path):
    """Its numbers count the classes of each part for itself; ours must not."""
    save_digits(tmp_path / "train")
    save_digits(tmp_path / "val", 2, classes=(0, 2))
    data = open_classification("torch/image_folder", root=tmp_path)
    assert data.classes == ["0", "1", "2"]
    assert data.val.labels.tolist() == [0, 0, 2, 2]
    assert data.notes == ["Validation has no image of: '1'."]
    assert [data.val.name_of(0), data.val.path(0)] == ["0/0.png", str(tmp_path / "val/0/0.png")]
    save_digits(tmp_path / "val", 2, classes=(7,))
    with pytest.raises(InputError, match=r"unknown classes: '7'\. Known are '0', '1', '2'; names must agree"):
        open_classification("torch/image_folder", root=tmp_path)


def test_torch_image_folder_without_validation_is_divided(tmp_path):
    save_digits(tmp_path / "a")
    data = open_classification("torch/image_folder", root=tmp_path / "a")
    assert (data.classes, len(data.train), len(data.val)) == (["0", "1", "2"], 15, 3)
    save_digits(tmp_path / "b" / "train")
    data = open_classification("torch/image_folder", root=tmp_path / "b")
    assert (data.classes, len(data.train), len(data.val)) == (["0", "1", "2"], 15, 3)
    save_digits(tmp_path / "b" / "test", 2)
    data = open_classification("torch/image_folder", root=tmp_path / "b")
    assert (data.classes, len(data.train), len(data.val)) == (["0", "1", "2"], 18, 6)
    with pytest.raises(InputError, match="torch/image_folder has no part valid in"):
        open_classification("torch/image_folder", root=tmp_path / "b", options={"val_split": "valid"})


def test_torch_inaturalist_has_its_labels_in_its_index(tmp_path):
    for version in ("2021_train", "2021_valid"):
        for number in range(2):
            species = f"{number:05d}_Animalia_Chordata_Aves_Order_Family_Genus_kind{number}"
            save_digits(tmp_path / version, classes=[number])
            (tmp_path / version / str(number)).rename(tmp_path / version / species)
    data = open_classification("torch/inaturalist", root=tmp_path)
    assert [name[-5:] for name in data.classes] == ["kind0", "kind1"]
    assert data.train.labels.tolist() == [0] * 6 + [1] * 6
    assert data.train.load(7).size == (8, 8)


class Reader:
    """What timm's reader of the hub's data sets offers: bytes and labels by number, labels without bytes."""

    def __init__(self, labels, class_to_idx=None):
        self.labels, self.class_to_idx = labels, class_to_idx

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, number):
        if number == 4:
            raise KeyError("image")
        file = io.BytesIO()
        Image.fromarray(digits()[number % 10][0]).save(file, "png")
        return io.BytesIO(file.getvalue()), self.labels[number]

    def iter_targets(self):
        return iter(self.labels)

    def filename(self, number, **_):
        return str(number)


def hub(labels, classes=None):
    return _collection("hfds/x/train", ImageDataset(None, reader=Reader(labels, classes)), "skip")


def test_hub_labels_are_numbers_or_texts():
    named = hub([2, 0, 1, 1], {"cow": 2, "ape": 0, "bat": 1})
    assert named.classes == ["ape", "bat", "cow"]
    assert named.source.labels.tolist() == [2, 0, 1, 1]
    assert hub([2, 0, 1, 1], {}).classes == ["0", "1", "2"]
    texts = hub(["cow", "ape", "cow", "bat"])
    assert texts.classes == ["ape", "bat", "cow"]
    assert texts.source.labels.tolist() == [2, 0, 2, 1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, -1], r"Labels lie in 0 to 1; image 2 of hfds/x/train has -1\..*data\.options\.val_split=NAME"),
        ([0, 5, 1], r"Labels lie in 0 to 1; image 1 of hfds/x/train has 5"),
        ([0.5, 1.5], r"got 0\.5\. Type data\.options\.target_key=COLUMN"),
        ([None, 1], r"got None\."),
    ],
)
def test_hub_labels_that_are_not_classes(labels, message):
    with pytest.raises(InputError, match=message):
        hub(labels, {"ape": 0, "bat": 1})


def test_hub_images_are_decoded_here_and_bad_ones_listed():
    source = hub([*range(10)]).source
    assert np.array_equal(source.load(3, channels=1), digits()[3][0])
    dataset = ClassificationDataset(source, build_transform(ImageSpec(8, 8)))
    indices = [batch[2] for batch in make_loader(dataset, EpochBatchSampler(10, 10, shuffle=False), 0)]
    assert indices[0].tolist() == [0, 1, 2, 3, 5, 5, 6, 7, 8, 9]
    assert [(bad.path, bad.reason) for bad in source.bad] == [("hfds/x/train/4", "KeyError 'image'")]


def test_a_hub_data_set_on_disk(tmp_path):
    pytest.importorskip("datasets")
    save_digits(tmp_path / "train")
    save_digits(tmp_path / "test", 2, first=6)
    data = open_classification(f"hfds/{tmp_path}", root=tmp_path / "cache")
    assert data.classes == ["0", "1", "2"]
    assert (len(data.train), len(data.val)) == (18, 6)
    assert np.array_equal(data.val.load(5, channels=1), digits()[2][7])
    with pytest.raises(InputError, match=r"has no column 'kind'\. Type data\.options\.target_key=COLUMN"):
        open_classification(f"hfds/{tmp_path}", root=tmp_path / "cache", options={"target_key": "kind"})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torch/mnits", r"There is no data set torch/mnits\. Did you mean torch/mnist\?"),
        ("torch/coco", r"Known are cifar10, cifar100, mnist"),
        ("torch/cifar10", r"Cannot open the data set torch/cifar10 \(split train\).*data\.download=true.*data\.root="),
        ("tfds/mnist", r"can only be streamed, and a stream cannot be resumed exactly\. Wanted hfds/ or torch/"),
        ("hfids/mnist", "can only be streamed"),
    ],
)
def test_sets_that_cannot_be_opened(tmp_path, name, message):
    with pytest.raises(InputError, match=message):
        open_classification(name, root=tmp_path)


def test_a_set_that_is_half_there(mnist):
    (mnist / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(InputError, match=r"split train.*Dataset not found"):
        open_classification("torch/mnist", root=mnist)


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="wants the package datasets; type pip install datasets"):
        open_classification("hfds/mnist")


def test_where_named_sets_lie(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "allmlp" / "data"
