"""The embedded digits: all of scikit-learn's images, in the project's fixed division."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from allmlp.data import ImageSpec, build_transform, open_classification


@pytest.fixture(scope="module")
def data():
    return open_classification("digits")


def test_the_division_is_scikit_learns(data):
    """Stratified, 20 %, seed 0: the very images and labels that `train_test_split` gives."""
    original = load_digits()
    images = np.rint(original.images / 16 * 255).astype(np.uint8)
    _, val_images, _, val_labels = train_test_split(
        images, original.target, test_size=0.2, stratify=original.target, random_state=0
    )
    assert (len(data.train), len(data.val)) == (1437, 360)

    def content(pictures, labels):
        return sorted((label, picture.tobytes()) for picture, label in zip(pictures, labels.tolist()))

    assert content(data.val.images, data.val.labels) == content(val_images, val_labels)
    both = [np.concatenate([getattr(part, name) for part in (data.train, data.val)]) for name in ("images", "labels")]
    assert content(*both) == content(images, original.target)


def test_classes_are_the_digits_and_evenly_held_out(data):
    assert data.classes == list("0123456789")
    share = np.bincount(data.val.labels) / np.bincount(np.concatenate([data.train.labels, data.val.labels]))
    assert np.abs(share - 0.2).max() < 0.004


def test_no_argument_moves_the_division(data):
    other = open_classification("digits", val_fraction=0.5, seed=7)
    assert other.fingerprint() == data.fingerprint()


def test_every_image_has_a_name_of_its_own(data):
    names = [part.path(index) for part in (data.train, data.val) for index in range(len(part))]
    assert sorted(names, key=lambda name: int(name.removeprefix("digits/"))) == [f"digits/{n}" for n in range(1797)]


def test_eight_pixels_are_upsampled_by_the_transform(data):
    picture = data.train.load(0, channels=1)
    assert (picture.size, picture.mode) == ((8, 8), "L")
    image = build_transform(ImageSpec(32, 32, 1, crop_pct=1.0))(picture)
    blocks = image.reshape(8, 4, 8, 4).mean((1, 3)) * 127.5 + 127.5
    assert np.corrcoef(blocks.flatten(), np.asarray(picture).flatten())[0, 1] > 0.98
