"""Exported files of every family, of detectors and of segmenters agree with PyTorch for any number of images."""

import numpy as np
import onnx
import pytest
import torch

import allmlp
from allmlp.backends import open_file
from allmlp.backends.forms import DetectorForm, Form
from allmlp.dense import create_detector, create_segmenter
from allmlp.dense.postprocess import nms_mask
from allmlp.export import count_nodes, pt2, write_onnx, write_openvino, write_pt2
from allmlp.models import create_model, list_models
from dense_runs import BODY, DETECTOR
from exporting import FAMILIES, boxes_to_suppress, images, small, with_some_head

WRITERS = {"m.onnx": write_onnx, "m.xml": write_openvino, "m.pt2": write_pt2}
NANOS = [name for name in list_models() if name.endswith("_nano")] + ["plain_mlp", "lenet5"]
# One published size of every family, with the threads of a laptop some seconds each.
WHOLE = ["mixer_s32", "resmlp_s12", "ff_tiny", "eamlp_7", "as_mlp_mobile", "repmlpnet_t224", "repmlp_resnet50_light"]
WHOLE += ["vip_s14", "attn_only_tiny"]


def agree(network, path, size, counts=(1, 2, 3), backend=None):
    """Relative to the spread of the logits, 1e-4 at most."""
    runner = open_file(path, backend)
    for count in counts:
        x = images(count, size, seed=count)
        with torch.no_grad():
            wanted = network(x).numpy()
        assert wanted.std() > 0
        assert np.abs(runner(x.numpy())[0] - wanted).max() < 1e-4 * wanted.std()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * name.startswith("vip")) for name in FAMILIES]
)
def test_every_family_in_both_runtimes(name, tmp_path):
    network = small(name)
    size = 28 if name.startswith("vip") else 32
    path = write_onnx(network, images(1, size), tmp_path / "m.onnx")
    agree(network, path, size)
    agree(network, path, size, backend="openvino")
    assert count_nodes(path).total() == len(onnx.load(path).graph.node)


@pytest.mark.slow
@pytest.mark.parametrize("file", WRITERS)
@pytest.mark.parametrize("name", NANOS)
def test_every_nano_member(name, file, tmp_path):
    network = with_some_head(create_model(name, num_classes=10))
    if hasattr(network, "folded"):
        network = allmlp.fold(network)
    agree(network, WRITERS[file](network, images(1), tmp_path / file), 32)


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_a_published_size_of_every_family(name, tmp_path):
    network = allmlp.fold(with_some_head(create_model(name)))
    for file, write in (("m.onnx", write_onnx), ("m.xml", write_openvino)):
        agree(network, write(network, images(1, 224), tmp_path / file), 224, counts=(1, 2))


def test_half_precision_halves_the_file(tmp_path):
    network = small("resmlp_nano")
    whole = write_onnx(network, images(1), tmp_path / "whole.onnx").stat().st_size
    half = write_onnx(network, images(1), tmp_path / "half.onnx", half=True)
    assert half.stat().st_size < 0.7 * whole  # the graph itself stays
    x = images(3)
    with torch.no_grad():
        wanted = network(x).numpy()
    apart = np.abs(open_file(half)(x.numpy())[0] - wanted).max() / wanted.std()
    assert 1e-6 < apart < 1e-2


def test_fixed_batches_are_in_the_file(tmp_path):
    path = write_onnx(small("mixer_nano"), images(4), tmp_path / "m.onnx", dynamic_batch=False)
    shape = onnx.load(path).graph.input[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim] == [4, 3, 32, 32]


class Suppression(torch.nn.Module):
    def forward(self, boxes, scores):
        return nms_mask(boxes, scores, 0.4)


@pytest.mark.parametrize("seed", range(3))
def test_suppression_in_plain_operations_is_the_operator(seed, tmp_path):
    boxes, scores = boxes_to_suppress(2, 80, seed)
    wanted = nms_mask(boxes, scores, 0.4)
    assert 0 < int(wanted.sum()) < wanted.numel()
    # Eagerly PyTorch compiles `while_loop`; its rounds are the same in Python.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pt2, "while_loop", python_loop)
        assert torch.equal(pt2.suppression(boxes, scores, 0.4), wanted)
    module = Suppression()
    module.input_names = ("boxes", "scores")
    runner = open_file(write_onnx(module, (boxes, scores), tmp_path / "nms.onnx"))
    for count in (1, 2):
        assert np.array_equal(runner(boxes[:count].numpy(), scores[:count].numpy())[0], wanted[:count].numpy())
    (found,) = open_file(tmp_path / "nms.onnx", "openvino")(boxes.numpy(), scores.numpy())
    assert np.array_equal(found, wanted.numpy())


def python_loop(condition, body, state):
    while bool(condition(*state)):
        state = body(*state)
    return state


def tiny_detector(kind="mask_rcnn", backbone="as_mlp_nano"):
    """Untrained, with a threshold that lets everything through."""
    settings = {**DETECTOR, "roi": {**DETECTOR["roi"], "score_threshold": 0.0, "mask_side": 7}}
    body = BODY if backbone == "as_mlp_nano" else {"img_size": 64}
    return create_detector(kind, backbone, 3, "small", **settings, **body).eval()


def check_detector(detector, path, sizes, backend=None):
    form, runner = DetectorForm(detector), open_file(path, backend)
    assert runner.outputs == list(form.output_names)
    for count in (1, 2, 3):
        x = images(count, 64, seed=count)
        s = torch.tensor(sizes)[torch.arange(count) % len(sizes)]
        with torch.no_grad():
            wanted = [part.numpy() for part in form(x, s)]
        got = runner(x.numpy(), s.numpy())
        assert int(wanted[3].min()) > 3
        assert np.array_equal(got[2], wanted[2])
        assert np.array_equal(got[3], wanted[3])
        for mine, theirs in zip(got, wanted, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-3)


SIZES = [[64.0, 64.0], [40.0, 64.0]]


def example(size=64):
    return images(2, size), torch.tensor(SIZES)


def test_a_mask_rcnn_with_its_post_processing(tmp_path):
    detector = allmlp.fold(tiny_detector())
    path = write_onnx(DetectorForm(detector), example(), tmp_path / "m.onnx")
    check_detector(detector, path, SIZES)
    check_detector(detector, path, SIZES, backend="openvino")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["faster_rcnn", "cascade_mask_rcnn"])
@pytest.mark.parametrize("backbone", ["mixer_nano", "repmlpnet_nano"])
def test_other_detectors(kind, backbone, tmp_path):
    detector = allmlp.fold(tiny_detector(kind, backbone))
    check_detector(detector, write_onnx(DetectorForm(detector), example(), tmp_path / "m.onnx"), SIZES)


@pytest.mark.slow
def test_a_detector_as_a_package(tmp_path):
    detector = allmlp.fold(tiny_detector())
    path = write_pt2(DetectorForm(detector), example(), tmp_path / "m.pt2")
    runner = open_file(path)
    form = DetectorForm(detector)
    for count in (1, 3):
        x, s = images(count, 64, seed=9), torch.tensor(SIZES)[torch.arange(count) % 2]
        with torch.no_grad():
            for mine, theirs in zip(runner(x.numpy(), s.numpy()), form(x, s), strict=True):
                np.testing.assert_allclose(mine, theirs.numpy(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "backbone"), [pytest.param("upernet", "as_mlp_nano", marks=pytest.mark.slow), ("eanet", "mixer_nano")]
)
def test_segmenters(kind, backbone, tmp_path):
    arguments = BODY if backbone == "as_mlp_nano" else {"img_size": 64, **FAMILIES["mixer_nano"]}
    network = allmlp.fold(create_segmenter(kind, backbone, 4, "small", **arguments).eval())
    path = write_onnx(Form(network), images(1, 64), tmp_path / "m.onnx")
    agree(network, path, 64)
