"""Proposals and heads where the numbers are not the paper's; what detectors refuse; training steps."""

import numpy as np
import pytest
import torch

import dense_reference as slow
from allmlp.dense import create_detector
from allmlp.dense.box_head import box_losses
from allmlp.dense.mask_head import mask_loss, mask_targets
from allmlp.dense.roi_heads import RoiHeads, RoiSettings
from allmlp.dense.rpn import RpnHead, RpnOutput, RpnSettings
from allmlp.errors import InputError

STDS = (0.1, 0.1, 0.2, 0.2)


def targets_for(images, count=2, masks=True):
    found = []
    for _ in range(images):
        corner = torch.rand(count, 2) * 40
        boxes = torch.cat([corner, corner + 10 + torch.rand(count, 2) * 30], dim=1)
        target = {"boxes": boxes, "labels": torch.randint(3, (count,))}
        if masks:
            target["masks"] = torch.zeros(count, 96, 96, dtype=torch.uint8)
            for mask, (x1, y1, x2, y2) in zip(target["masks"], boxes.long().tolist()):
                mask[y1:y2, x1:x2] = 1
        found.append(target)
    return found


@pytest.mark.parametrize("name", ["faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn"])
@pytest.mark.parametrize("class_agnostic", [False, True])
def test_every_detector_trains_and_detects(name, class_agnostic):
    detector = create_detector(name, num_classes=3, size="small", class_agnostic=class_agnostic).train()
    images, sizes = torch.randn(2, 3, 96, 96), [(96, 96), (70, 96)]
    losses = detector(images, sizes, targets_for(2))
    stages = ("stage0_", "stage1_", "stage2_") if "cascade" in name else ("",)
    parts = ("loss_cls", "loss_box", "loss_mask") if "mask" in name else ("loss_cls", "loss_box")
    assert losses.keys() == {"loss_rpn_cls", "loss_rpn_box"} | {stage + part for stage in stages for part in parts}
    sum(losses.values()).backward()
    without = [key for key, parameter in detector.named_parameters() if parameter.grad is None]
    assert not without
    assert all(parameter.grad.isfinite().all() for parameter in detector.parameters())
    results = detector.eval()(images, sizes)
    assert len(results) == 2
    for result in results:
        assert result.keys() == {"boxes", "scores", "labels"} | ({"mask_probs"} if "mask" in name else set())
        assert len(result["boxes"]) <= 30
    shape = detector.detect(images, sizes)
    assert shape.boxes.shape == (2, 30, 4)
    assert shape.masks is None or shape.masks.shape == (2, 30, 28, 28)


def test_images_without_objects_train_too():
    detector = create_detector("cascade_mask_rcnn", num_classes=3, size="small").train()
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "masks": torch.zeros(0, 96, 96)}
    images = torch.randn(2, 3, 96, 96)
    losses = detector(images, None, [empty, empty])
    assert all(value.isfinite() for value in losses.values())
    assert losses["loss_rpn_box"] == 0
    assert losses["stage2_loss_mask"] == 0
    assert losses["stage0_loss_cls"] > 0
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in detector.parameters())
    sum(detector(images, None, [empty, targets_for(1)[0]]).values()).backward()


def test_detections_lie_in_the_image_and_padding_has_none():
    detector = create_detector("mask_rcnn", num_classes=3, size="small", roi={"score_threshold": 0.0}).eval()
    (result,) = detector(torch.randn(1, 3, 96, 128), [(50, 77)])
    assert len(result["boxes"]) > 10
    assert bool((result["boxes"] >= 0).all())
    assert result["boxes"][:, 2].max() <= 77
    assert result["boxes"][:, 3].max() <= 50


def test_trimming_changes_nothing_that_is_real():
    detector = create_detector("mask_rcnn", num_classes=3, size="small", roi={"score_threshold": 0.29}).eval()
    images = torch.randn(2, 3, 96, 96)
    whole, trimmed = detector.detect(images), detector.detect(images, trim=True)
    most = int(whole.counts.max())
    assert 0 < most < 30
    assert trimmed.boxes.shape[1] == trimmed.masks.shape[1] == most
    for mine, wanted in zip(trimmed, whole):
        torch.testing.assert_close(mine, wanted if wanted.ndim == 1 else wanted[:, :most])


def test_proposals_equal_loops_in_other_settings():
    settings = RpnSettings(scale=4.0, test_per_level=30, test_proposals=20, train_per_level=9, train_proposals=12)
    head = RpnHead(8, (8, 16), settings).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    maps = [torch.randn(2, 8, 6, 7).double(), torch.randn(2, 8, 3, 4).double()]
    sizes = torch.tensor([[48.0, 56], [30, 40]]).double()
    with torch.no_grad():
        output = head(maps)
        for training, per_level, keep in ((True, 9, 12), (False, 30, 20)):
            found = head.propose(output, sizes, training)
            for image in range(2):
                levels = [(a, b, c.numpy()) for a, b, c in zip(*output)]
                boxes, scores = slow.propose(levels, image, sizes[image].tolist(), per_level, keep)
                real = int(found.valid[image].sum())
                assert real == len(boxes)
                assert found.valid[image, :real].all()
                np.testing.assert_allclose(found.boxes[image, :real].numpy(), np.array(boxes), atol=1e-9)
                np.testing.assert_allclose(found.scores[image, :real].numpy(), scores, atol=1e-12)


def test_proposals_that_are_all_sure_keep_their_order():
    """A sigmoid makes 1 of both logits; the box of the greater one stays, though it comes later."""
    anchors = torch.tensor([[10.0, 10, 30, 30], [10, 10, 30, 31], [50, 50, 60, 70]])
    head = RpnHead(4, (4,), RpnSettings(ratios=(1.0,)))
    output = RpnOutput([torch.tensor([[30.0, 30.5, 31]])], [torch.zeros(1, 3, 4)], [anchors])
    found = head.propose(output, torch.tensor([[80.0, 80]]), training=False)
    assert found.valid.tolist() == [[True, True, False]]
    torch.testing.assert_close(found.boxes[0, :2], anchors[[2, 1]])
    assert found.scores[0].tolist() == [1.0, 1.0, 0.0]


def test_the_border_rules():
    head = RpnHead(4, (8, 16), RpnSettings(scale=2.0))
    inside = RpnHead(4, (8, 16), RpnSettings(scale=2.0, keep_border_anchors=False))
    maps = [torch.zeros(1, 4, 16, 16), torch.zeros(1, 4, 8, 8)]
    output, size = head(maps), torch.tensor([40.0, 100.0])
    anchors = torch.cat(output.anchors)
    usable = head._usable(anchors, output, size)
    # The image is padded to 64 x 128 on its own; cells beyond that belong to larger images of the batch.
    assert int(usable.sum()) == 3 * (8 * 16 + 4 * 8)
    within = inside._usable(anchors, output, size)
    wanted = [x1 >= 0 and y1 >= 0 and x2 < 100 and y2 < 40 for x1, y1, x2, y2 in anchors.tolist()]
    assert within.tolist() == wanted
    assert 0 < int(within.sum()) < int(usable.sum())


def test_box_losses_by_hand():
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 5, 25, 15], [0, 0, 4, 4]])
    truth = torch.tensor([[1.0, 1, 11, 11], [5, 5, 25, 25], [0, 0, 0, 0]])
    labels = torch.tensor([0, 1, 2])  # two classes; the last region is background
    logits, deltas = torch.randn(3, 3), torch.randn(3, 2, 4) * 0.1
    losses = box_losses(logits, deltas, boxes, labels, truth, STDS, "l1")
    wanted = sum(
        np.abs(deltas[i, i].numpy() - slow.encode(boxes[i].tolist(), truth[i].tolist(), STDS)).sum() for i in (0, 1)
    )
    assert losses["loss_box"].item() == pytest.approx(wanted / 3, rel=1e-5)
    assert losses["loss_cls"].item() == pytest.approx(-logits.log_softmax(1).diag().mean().item(), rel=1e-5)
    losses = box_losses(logits, deltas, boxes, labels, truth, STDS, "giou")
    parts = [slow.giou(slow.decode(boxes[i].tolist(), deltas[i, i].numpy(), STDS), truth[i].tolist()) for i in (0, 1)]
    assert losses["loss_box"].item() == pytest.approx(10 * (2 - sum(parts)) / 3, rel=1e-5)
    agnostic = box_losses(logits, deltas[:, :1], boxes, labels, truth, STDS, "l1")
    wanted = sum(
        np.abs(deltas[i, 0].numpy() - slow.encode(boxes[i].tolist(), truth[i].tolist(), STDS)).sum() for i in (0, 1)
    )
    assert agnostic["loss_box"].item() == pytest.approx(wanted / 3, rel=1e-5)


def test_background_deltas_learn_nothing():
    deltas = torch.randn(2, 3, 4, requires_grad=True)
    boxes = torch.tensor([[0.0, 0, 10, 10]] * 2)
    losses = box_losses(torch.randn(2, 4), deltas, boxes, torch.tensor([1, 3]), boxes + 1, STDS, "l1")
    losses["loss_box"].backward()
    assert deltas.grad[0, 1].abs().min() > 0
    assert not deltas.grad[1].any()
    assert not deltas.grad[0, [0, 2]].any()


def test_mask_targets_and_loss_equal_loops():
    masks = (torch.rand(2, 40, 50) < 0.5).to(torch.uint8)
    boxes = torch.tensor([[3.0, 4.5, 20, 30], [10, 2, 48, 39], [0, 0, 9, 9]]).double()
    which = torch.tensor([1, 0, 1])
    targets = mask_targets(masks, boxes, which, 28)
    for target, box, index in zip(targets, boxes.tolist(), which.tolist()):
        wanted = slow.roi_align(masks[index][None].numpy().astype(float), box, 1, 28)[0]
        clear = np.abs(wanted - 0.5) > 1e-9
        assert clear.mean() > 0.5
        assert np.array_equal(target.numpy()[clear], (wanted >= 0.5)[clear])
    logits, labels = torch.randn(3, 4, 28, 28).double(), torch.tensor([2, 0, 3])
    own = torch.stack([logits[i, label] for i, label in enumerate(labels)])
    prob = own.sigmoid()
    wanted = -(targets * prob.log() + (1 - targets) * (1 - prob).log()).mean()
    assert mask_loss(logits, labels, targets).item() == pytest.approx(wanted.item())
    assert mask_loss(logits[:0], labels[:0], targets[:0]) == 0


def test_true_boxes_are_always_among_the_positive_regions():
    heads = RoiHeads(8, (4, 8, 16, 32), 3, RoiSettings(samples=8, masks=False, box_hidden=8))
    target = {"boxes": torch.tensor([[0.0, 0, 9, 9], [20, 20, 60, 60]]), "labels": torch.tensor([2, 0])}
    proposals = torch.tensor([[0.0, 0, 8, 9], [100, 100, 120, 120], [21, 20, 60, 60], [70, 0, 90, 9]])
    drawn = heads._draw(proposals, target, heads.settings.stages[0])
    positive = len(drawn.which)
    assert positive == 2  # a quarter of 8
    assert drawn.labels[:positive].tolist() == [[2, 0][i] for i in drawn.which]
    assert (drawn.labels[positive:] == 3).all()
    assert drawn.is_truth.sum() <= positive
    assert torch.equal(drawn.truth[:positive], target["boxes"][drawn.which])


def test_bad_targets_and_settings_are_refused():
    detector = create_detector("mask_rcnn", num_classes=3, size="small").train()
    images, (good,) = torch.zeros(1, 3, 96, 96), targets_for(1)
    with pytest.raises(InputError, match=r"\.eval\(\)"):
        detector(images)
    for change, message in (
        ({"boxes": good["boxes"][:, [2, 1, 0, 3]]}, "no area"),
        ({"labels": good["labels"] + 3}, "labels from 0 to 2"),
        ({"labels": good["labels"] * 0 - 1}, "labels from 0 to 2"),
        ({"boxes": good["boxes"][:1]}, "as many boxes"),
        ({"masks": good["masks"][:1]}, "as many boxes"),
    ):
        with pytest.raises(InputError, match=message):
            detector(images, None, [{**good, **change}])
    with pytest.raises(InputError, match="masks"):
        detector(images, None, [{key: value for key, value in good.items() if key != "masks"}])
    with pytest.raises(InputError, match="1 images; got 2"):
        detector(images, None, [good, good])
    for arguments, message in (
        ({"name": "yolo"}, "mask_rcnn"),
        ({"name": "mask_rcnn", "size": "big"}, "'paper' or 'small'"),
        ({"name": "mask_rcnn", "num_classes": 0}, "at least one class"),
        ({"name": "mask_rcnn", "rpn": {"sample": 3}}, "rpn.sample: no such setting. Did you mean samples"),
        ({"name": "mask_rcnn", "roi": {"stages": [{"iuo": 0.5}]}}, "Did you mean iou"),
        ({"name": "mask_rcnn", "drop_path": 0.1}, "drop_path"),
    ):
        with pytest.raises(InputError, match=message):
            create_detector(**arguments)


def test_settings_can_be_changed_one_by_one_and_are_remembered():
    stages = [{"iou": 0.4}, {"iou": 0.8, "weight": 0.3}]
    detector = create_detector("cascade_mask_rcnn", num_classes=2, size="small", roi={"stages": stages}, channels=32)
    assert len(detector.roi_heads.box_heads) == 2
    assert detector.settings.roi.stages[1].weight == 0.3
    again = create_detector(**detector.arguments)
    again.load_state_dict(detector.state_dict())
    assert again.settings == detector.settings
