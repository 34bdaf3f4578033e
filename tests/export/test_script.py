"""The script beside a file prepares pictures as the package does, in every crop mode, and is short."""

import ast

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from allmlp.data import ImageSpec, build_transform
from allmlp.export.folder import preprocessing
from allmlp.export.script import Script

PHOTO = Image.fromarray(load_sample_images().images[0])


def prepared(script, spec, task, image):
    """What the script's own lines make of a picture."""
    names = {"np": np, "Image": Image, "ImageOps": ImageOps, "spec": preprocessing(spec, task), "image": image}
    exec("\n".join([*script._place(), *script._pixels()]), names)
    return names["pixels"]


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize(("size", "crop_pct"), [((64, 64), 0.875), ((48, 80), 0.9), ((65, 65), 1.0)])
@pytest.mark.parametrize("picture", [PHOTO, PHOTO.crop((0, 0, 101, 320)), PHOTO.crop((0, 0, 40, 30))])
def test_pictures_are_prepared_as_in_the_package(crop_mode, size, crop_pct, picture):
    spec = ImageSpec(*size, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1), crop_pct=crop_pct, crop_mode=crop_mode)
    wanted = build_transform(spec)(picture).numpy()
    script = Script("onnx", "classify", crop_mode, size[0] == size[1], False, None)
    np.testing.assert_allclose(prepared(script, spec, "classify", picture)[0], wanted, atol=1e-5)


def test_grey_pictures():
    spec = ImageSpec(32, 32, channels=1)
    picture = PHOTO.convert("L")
    script = Script("onnx", "classify", "center", True, False, None)
    np.testing.assert_allclose(
        prepared(script, spec, "classify", picture)[0], build_transform(spec)(picture).numpy(), atol=1e-5
    )


@pytest.mark.parametrize("to", ["onnx", "openvino", "pt2"])
@pytest.mark.parametrize("task", ["classify", "detect", "segment"])
@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("batch", [None, 4])
def test_scripts_are_short_python(to, task, raw, batch):
    text = Script(to, task, "center", True, raw, batch).text()
    assert len(text.splitlines()) <= 28
    assert max(map(len, text.splitlines())) <= 120
    imported = {
        alias.name.partition(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in ([ast.alias(node.module)] if isinstance(node, ast.ImportFrom) else node.names)
    }
    own = {"onnx": {"onnxruntime"}, "openvino": {"openvino"}, "pt2": {"torch", "torchvision"}}
    assert imported == {"json", "sys", "pathlib", "numpy", "PIL"} | own[to]
