"""Every backend runs the same network with the same results."""

import sys

import numpy as np
import pytest
import torch

from allmlp.backends import open_file, open_network, set_threads
from allmlp.backends.forms import Form, RawForm
from allmlp.backends.open_vino import import_openvino
from allmlp.backends.stand_in import StandIn
from allmlp.errors import InputError
from allmlp.export import write_onnx, write_openvino, write_pt2
from exporting import images, small

SUFFIXES = {"m.onnx": write_onnx, "m.xml": write_openvino}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return small("mixer_nano")


@pytest.fixture(scope="module")
def files(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return {name: write(network, images(1), folder / name) for name, write in SUFFIXES.items()}


@pytest.mark.parametrize(("name", "backend"), [("m.onnx", None), ("m.onnx", "openvino"), ("m.xml", None)])
def test_files_take_any_number_of_images(network, files, name, backend):
    runner = open_file(files[name], backend, threads=1)
    assert runner.name == (backend or {"m.onnx": "onnxruntime", "m.xml": "openvino"}[name])
    assert runner.inputs == ["images"]
    for count in (1, 2, 5):
        x = images(count, seed=count)
        (found,) = runner(x.numpy())
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), network(x), rtol=1e-4, atol=1e-5)


def test_eager_keeps_the_network_and_its_memory_format_suits_it(network):
    convolutions = torch.nn.Sequential(*[torch.nn.Conv2d(3, 3, 3) for _ in range(4)])
    assert open_network(convolutions).channels_last
    runner = open_network(network)
    assert not runner.channels_last
    with torch.no_grad():
        assert np.array_equal(runner(images(2).numpy())[0], network(images(2)).numpy())


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["compile", "pt2"])
def test_compiled_forms_agree(network, tmp_path, backend):
    if backend == "pt2":
        runner = open_file(write_pt2(network, images(1), tmp_path / "m.pt2"))
    else:
        runner = open_network(network, "compile")
    for count in (1, 3):
        with torch.no_grad():
            wanted = network(images(count))
        torch.testing.assert_close(torch.from_numpy(runner(images(count).numpy())[0]), wanted, rtol=1e-4, atol=1e-5)


def test_bad_arguments_are_named(network, files, tmp_path):
    with pytest.raises(InputError, match="eager or compile"):
        open_network(network, "onnxruntime")
    with pytest.raises(InputError, match="none at"):
        open_file(tmp_path / "absent.onnx")
    with pytest.raises(InputError, match="exported file"):
        open_file(tmp_path / "m.h5")
    with pytest.raises(InputError, match=r"wanted openvino for a \.xml"):
        open_file(files["m.xml"], "onnxruntime")
    with pytest.raises(InputError, match="at least 1"):
        set_threads(0)


def test_openvino_sends_no_statistics():
    import_openvino()
    assert sys.modules["openvino_telemetry"] is None or "openvino_telemetry" not in sys.modules


def test_a_stand_in_fills_fixed_batches_and_leaves_other_shapes_to_the_network(network, tmp_path):
    form = Form(network)
    runner = open_file(write_onnx(form, images(2), tmp_path / "two.onnx", dynamic_batch=False))
    assert runner.outputs == ["logits"]
    stand_in = StandIn(network, runner, (3, 32, 32), "classify", batch=2)
    with torch.no_grad():
        torch.testing.assert_close(stand_in(images(5)), network(images(5)), rtol=1e-4, atol=1e-5)
    assert stand_in(images(5)).shape == (5, 10)
    with pytest.raises(InputError, match="32 x 32"):  # the network's own words
        stand_in(images(1, size=40))


def test_raw_forms_normalise_pixels(network):
    pixels = torch.randint(256, (2, 32, 32, 3), dtype=torch.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
    normalised = (pixels / 255 - torch.tensor(mean)) / torch.tensor(std)
    raw = RawForm(Form(network), "classify", mean, std)
    with torch.no_grad():
        torch.testing.assert_close(raw(pixels), network(normalised.permute(0, 3, 1, 2)).softmax(1))
