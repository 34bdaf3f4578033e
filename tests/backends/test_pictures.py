"""Networks that take pictures of any size: they see what the package prepares, and answer in the picture's pixels."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn

from allmlp.backends import open_file, open_network
from allmlp.backends.forms import Form, form_of
from allmlp.backends.pictures import PictureForm
from allmlp.data import ImageSpec, build_transform
from allmlp.export import write_onnx, write_openvino, write_pt2
from allmlp.tasks.samples import fitted, prepare
from exporting import images, small

PHOTO = Image.fromarray(load_sample_images().images[0])
PICTURES = [
    PHOTO,
    PHOTO.crop((0, 0, 320, 101)),
    PHOTO.crop((0, 0, 40, 30)),
    PHOTO.resize((700, 650)),
    PHOTO.crop((0, 0, 1, 1)),
]


def batch(picture):
    return torch.from_numpy(np.array(picture)).reshape(1, picture.height, picture.width, -1)


class Seen(Form):
    """Keeps what it sees, and gives it back; as a detector one box, the lower right quarter of the picture."""

    def __init__(self):
        super().__init__(nn.Identity())

    def forward(self, images, sizes=None):
        self.images, self.sizes = images, sizes
        if sizes is None:
            return images
        return torch.cat([sizes.flip(1) / 2, sizes.flip(1)], 1)[:, None], torch.ones(len(images), 1)


def plain(size, **more):
    return ImageSpec(*size, mean=(0.0,) * 3, std=(1 / 255,) * 3, **more)  # what is seen are bytes


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize(("size", "crop_pct"), [((64, 64), 0.875), ((48, 80), 0.9), ((65, 65), 1.0), ((33, 24), 0.8)])
def test_classifiers_see_the_pixels_that_the_package_prepares(interpolation, crop_mode, size, crop_pct):
    spec = plain(size, interpolation=interpolation, crop_mode=crop_mode, crop_pct=crop_pct)
    for picture in PICTURES:
        network = Seen()
        PictureForm(network, "classify", spec)(batch(picture))
        apart = (network.images[0] - build_transform(spec).prepare(picture)).abs()
        # Where the order of the axes is another one, overshoots beside sharp edges are cut at other places.
        assert apart.max() <= 10
        assert (apart > 1.01).float().mean() < 0.01
        if picture.height / size[0] < picture.width / size[1]:  # the order is Pillow's
            assert apart.max() <= 1.01
            assert (apart > 0.01).float().mean() < 0.01


def test_nearest_is_within_a_cell():
    columns = np.arange(200, dtype=np.uint8)[None, :, None].repeat(90, 0).repeat(3, 2)
    spec, network = plain((64, 64), interpolation="nearest"), Seen()
    PictureForm(network, "classify", spec)(torch.from_numpy(columns)[None])
    wanted = build_transform(spec).prepare(Image.fromarray(columns))
    assert (network.images[0] - wanted).abs().max() <= 1


@pytest.mark.parametrize("canvas", [(64, 64), (48, 96), (100, 31)])
@pytest.mark.parametrize("task", ["segment", "detect"])
def test_the_dense_tasks_see_pictures_at_the_top_left_of_their_canvas(canvas, task):
    spec = plain(canvas)
    rng = np.random.default_rng(0)
    for picture in [*PICTURES, *(PHOTO.crop((0, 0, *rng.integers(2, 400, 2).tolist())) for _ in range(30))]:
        network = Seen()
        PictureForm(network, task, spec)(batch(picture))
        wanted = prepare([picture], spec, task)
        height, width = fitted(picture.height, picture.width, canvas)
        if task == "detect":
            assert network.sizes.tolist() == [[height, width]] == wanted.sizes.tolist()
        apart = (network.images - wanted.images).abs()
        assert apart[..., :height, :width].max() <= 2.01  # rounded after each axis, there once
        assert not network.images[..., height:, :].any()
        assert not network.images[..., width:].any()


def test_padding_has_the_mean_colour():
    spec, network = ImageSpec(32, 32, mean=(0.2, 0.4, 0.6), std=(0.1, 0.1, 0.1)), Seen()
    PictureForm(network, "detect", spec)(batch(PHOTO))
    assert network.images[..., 31, :].abs().max() < 0.02


def test_boxes_are_in_pixels_of_the_picture():
    boxes, _ = PictureForm(Seen(), "detect", plain((64, 64)))(batch(PHOTO))
    torch.testing.assert_close(boxes[0, 0], torch.tensor([320, 213.5, 640, 427]))


@pytest.mark.parametrize("size", [(320, 240), (31, 55), (64, 64)])
def test_labels_have_the_size_of_the_picture(size):
    """A picture whose left third is red and whose right is blue, in logits that are the colours."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, : size[0] // 3, 0] = pixels[:, size[0] // 3 :, 2] = 255
    labels = PictureForm(Seen(), "segment", plain((64, 64)))(torch.from_numpy(pixels)[None])
    assert labels.shape == (1, size[1], size[0])
    assert labels.dtype == torch.uint8
    wanted = torch.from_numpy(pixels.argmax(2))
    assert (labels[0] != wanted).float().mean() <= 6 / min(size[0], 64)
    assert labels[0, 0, 0] == 0
    assert labels[0, -1, -1] == 2


@pytest.mark.parametrize("crop_mode", ["center", "border"])
@pytest.mark.parametrize("name", ["p.onnx", "p.xml", pytest.param("p.pt2", marks=pytest.mark.slow)])
def test_files_take_pictures_of_any_size_and_number(tmp_path, name, crop_mode):
    torch.manual_seed(0)
    network = small("mixer_nano")
    spec = ImageSpec(*images(1).shape[2:], crop_mode=crop_mode)
    form = PictureForm(form_of(network, "classify"), "classify", spec).eval()
    write = {"p.onnx": write_onnx, "p.xml": write_openvino, "p.pt2": write_pt2}[name]
    runner, reference = open_file(write(form, batch(PICTURES[2]), tmp_path / name), threads=1), open_network(form)
    for picture in PICTURES:
        pictures = np.concatenate([batch(picture)] * 2)
        (found,), (wanted,) = runner(pictures), reference(pictures)
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert runner(batch(PHOTO).numpy())[0].shape == wanted[:1].shape
