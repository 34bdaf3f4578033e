"""Whole detectors in the paper's size: counted sizes, and the authors' checkpoint layout against slow heads."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import allmlp
import dense_reference as slow
from allmlp.dense import create_detector
from allmlp.errors import InputError
from allmlp.metrics.cost import count_parameters

CHANNELS = (96, 192, 384, 768)
PROPOSALS = 24
DETECTORS = ("mask_rcnn", "cascade_mask_rcnn")


@pytest.mark.parametrize(
    ("name", "backbone", "parameters", "giga_macs"),
    [
        ("mask_rcnn", "as_mlp_t", 47_788_944, 259.76),
        ("mask_rcnn", "as_mlp_s", 69_100_944, 344.69),
        ("mask_rcnn", "as_mlp_b", 107_126_384, 480.65),
        ("cascade_mask_rcnn", "as_mlp_t", 85_624_146, 738.01),
        ("cascade_mask_rcnn", "as_mlp_s", 106_936_146, 822.94),
        ("cascade_mask_rcnn", "as_mlp_b", 144_961_586, 958.90),
    ],
)
def test_sizes_are_the_published_ones(name, backbone, parameters, giga_macs):
    """Multiply-adds of convolutions and matrix products at 800 x 1280, 1000 box regions and 100 mask regions."""
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), torch.no_grad():
        detector = create_detector(name, backbone).eval()
        with counter:
            detector.for_counting(torch.zeros(1, 3, 800, 1280))
    assert count_parameters(detector) == parameters
    assert counter.get_total_flops() / 2e9 == pytest.approx(giga_macs, rel=1e-3)


def test_faster_rcnn_is_mask_rcnn_without_the_mask():
    with torch.device("meta"):
        faster, mask = create_detector("faster_rcnn"), create_detector("mask_rcnn")
    mask_head = count_parameters(mask.roi_heads.mask_heads)
    assert count_parameters(faster) == count_parameters(mask) - mask_head
    assert {key for key in mask.state_dict() if "mask" not in key} == set(faster.state_dict())


def official(golden, name, case="asmlp_backbone_det"):
    """A generated checkpoint of the whole detector: the golden backbone, and heads that find something."""
    case = golden(case)
    entries = slow.detector_entries(CHANNELS, 80, name.startswith("cascade"))
    # Random class logits are nearly uniform over 81 classes; the gain lets some pass the threshold of 0.05.
    state = slow.generate(case.rule, entries, gains=[("fc_cls.weight", 25.0), ("fc_reg", 0.5), ("rpn_reg", 0.3)])
    return case, {f"backbone.{key}": value for key, value in case.weights().items()} | state


@pytest.fixture(scope="module", params=DETECTORS)
def loaded(request, golden):
    case, state = official(golden, request.param)
    changes = {"rpn": {"test_proposals": PROPOSALS, "train_proposals": 25, "samples": 10**6}}
    detector = create_detector(request.param, "as_mlp_t", **changes, roi={"samples": 10**6})
    wrapped = {"state_dict": {f"module.{k}": v for k, v in state.items()}, "meta": {"epoch": 12}, "amp": {"x": 1}}
    report = allmlp.load_official(detector, wrapped)
    assert report.layout == "mmdet"
    assert not report.unexpected
    assert not report.reinitialised
    double = {key: value.double() if value.is_floating_point() else value for key, value in state.items()}
    return request.param, detector.double().eval(), case, double


def test_detections_are_those_of_slow_heads(loaded):
    _, detector, case, state = loaded
    images, size = case.input().double(), (90, 151)  # the rest of the canvas is padding
    images[..., size[0] :, :] = 0
    images[..., size[1] :] = 0
    with torch.no_grad():
        wanted = slow.detect(state, detector.backbone(images), size, PROPOSALS)
        (mine,) = detector(images, [size])
    assert len(wanted["scores"]) > 12
    assert len(set(wanted["labels"].tolist())) > 5
    assert mine["labels"].tolist() == wanted["labels"].tolist()
    for key in ("boxes", "scores", "mask_probs"):
        assert mine[key].shape == wanted[key].shape
        assert np.abs(mine[key].numpy() - wanted[key]).max() < 1e-7, key
    assert mine["boxes"][:, 2].max() <= size[1]


def test_losses_are_those_of_slow_heads(loaded):
    name, detector, case, state = loaded
    cascade = name.startswith("cascade")
    sizes = [(96, 160), (70, 120)]
    images = torch.cat([case.input(), case.input().flip(-1)]).double()
    images[1, :, 70:] = 0
    images[1, :, :, 120:] = 0
    rng = np.random.default_rng(0)
    targets = []
    for height, width in sizes:
        boxes, masks = [[8.0, 10, 60, 66], [50, 20, width - 4, 60]], np.zeros((2, height, width), dtype=np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes):
            mask[int(y1) : int(y2), int(x1) : int(x2)] = rng.random((int(y2) - int(y1), int(x2) - int(x1))) < 0.7
        targets.append({"boxes": np.array(boxes), "labels": np.array([3, 79]), "masks": masks})
    with torch.no_grad():
        levels = slow.fpn(state, detector.backbone(images))
        rows = slow.rpn(state, levels)
        proposals = [slow.propose(rows, image, size, 2000, 25)[0] for image, size in enumerate(sizes)]
        truth = [target["boxes"] for target in targets]
        class_loss, box_loss = slow.rpn_losses(rows, sizes, truth, not cascade, 1 / 9 if cascade else 0)
        wanted = {"loss_rpn_cls": float(class_loss), "loss_rpn_box": float(box_loss)}
        for stage, parts in enumerate(slow.roi_losses(state, levels, proposals, sizes, targets, 80)):
            prefix = f"stage{stage}_" if cascade else ""
            wanted |= {f"{prefix}loss_{key}": float(v) for key, v in zip(("cls", "box", "mask"), parts)}
        mine = detector(images, sizes, [{k: torch.from_numpy(v) for k, v in target.items()} for target in targets])
    assert mine.keys() == wanted.keys()
    for key, value in wanted.items():
        assert value > 0
        # torchvision's generalised IoU adds 1e-7 to its denominators
        assert float(mine[key]) == pytest.approx(value, rel=1e-6), key


def test_a_file_of_another_detector_is_refused_with_every_key(golden):
    _, state = official(golden, "mask_rcnn")
    with pytest.raises(InputError, match=r"roi_heads\.box_heads\.2\.fcs\.0\.weight"):
        allmlp.load_official(create_detector("cascade_mask_rcnn"), state)
    _, cascade = official(golden, "cascade_mask_rcnn")
    with pytest.raises(InputError, match=r"roi_head\.bbox_head\.1\.fc_cls\.weight"):
        allmlp.load_official(create_detector("mask_rcnn"), cascade)


def test_only_the_backbone_of_a_whole_file_can_be_taken(golden):
    case, state = official(golden, "mask_rcnn")
    backbone = allmlp.create_backbone("as_mlp_t").eval()
    report = allmlp.load_official(backbone, state)
    assert any("heads were left out" in note for note in report.notes)
    alone = allmlp.create_backbone("as_mlp_t").eval()
    allmlp.load_official(alone, case.weights())
    x = torch.randn(1, 3, 64, 64)
    for mine, wanted in zip(backbone(x), alone(x)):
        assert torch.equal(mine, wanted)
