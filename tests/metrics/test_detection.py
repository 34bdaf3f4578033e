"""Average precision against pycocotools on the same results, by hand, and over two processes."""

import contextlib
import copy
import io

import numpy as np
import pytest
import torch
import torch.multiprocessing

from allmlp.data.rle import encode_mask
from allmlp.errors import InputError
from allmlp.metrics.detection import COLUMNS, DetectionMetric, coco_results

CATEGORY_IDS = [3, 90, 17, 44]  # neither contiguous nor sorted; 44 is in no image


def random_mask(rng, height, width, kind=None):
    """An ellipse of a size COCO's area ranges all see."""
    ry, rx = rng.uniform(4, height / 2.2), rng.uniform(4, width / 2.2)
    cy, cx = rng.uniform(0, height), rng.uniform(0, width)
    y, x = np.mgrid[:height, :width]
    return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1


def tight_box(mask):
    y, x = np.nonzero(mask)
    return [int(x.min()), int(y.min()), int(x.max() + 1), int(y.max() + 1)]


def scenes(images=12, seed=0):
    """A truth with crowds and empty images, and detections: shifted, doubled, mislabelled, invented."""
    rng = np.random.default_rng(seed)
    truth = {
        "images": [],
        "annotations": [],
        "categories": [{"id": c, "name": f"class {c}"} for c in CATEGORY_IDS],
    }
    detections = {}
    for image_id in rng.permutation(images * 7)[:images].tolist():
        height, width = rng.integers(60, 260, size=2).tolist()
        truth["images"].append({"id": image_id, "height": height, "width": width, "file_name": f"{image_id}.png"})
        boxes, scores, labels, masks = [], [], [], []
        for _ in range(rng.integers(0, 7)):
            mask, label = random_mask(rng, height, width), int(rng.integers(3))
            if not mask.any():
                continue
            x0, y0, x1, y1 = tight_box(mask)
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]),
                    "image_id": image_id,
                    "category_id": CATEGORY_IDS[label],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": float(mask.sum()),
                    "iscrowd": int(rng.random() < 0.15),
                    "segmentation": encode_mask(mask),
                }
            )
            for _ in range(rng.integers(0, 3)):
                moved = np.roll(mask, rng.integers(-6, 7, size=2), axis=(0, 1))
                boxes.append(np.array(tight_box(moved)) + rng.normal(0, 2, 4))
                scores.append(round(rng.random(), 2))  # ties on purpose
                labels.append(label if rng.random() < 0.8 else int(rng.integers(4)))
                masks.append(moved)
        if rng.random() < 0.5:
            boxes.append([0.0, 0.0, 20.0, 30.0])
            scores.append(0.5)
            labels.append(0)
            masks.append(np.ones((height, width), bool))
        detections[image_id] = {
            "boxes": torch.tensor(np.array(boxes).reshape(-1, 4)),
            "scores": torch.tensor(scores, dtype=torch.float64),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "masks": torch.tensor(np.array(masks).reshape(-1, height, width)),
        }
    return truth, detections


def scored(truth, detections, masks=True):
    metric = DetectionMetric(truth, masks=masks)
    for image_id, found in detections.items():
        metric.add(image_id, found)
    return metric


def pycocotools_evaluation(truth, results, iou_type):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, results = copy.deepcopy(truth), copy.deepcopy(results)
    for number, annotation in enumerate(truth["annotations"]):
        annotation["id"] = number + 1
    if iou_type == "segm":
        for result in results:
            del result["bbox"]
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = truth
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(results), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_twelve_columns_equal_pycocotools(seed):
    truth, detections = scenes(seed=seed)
    metric = scored(truth, detections)
    scores = metric.compute()
    assert list(scores) == ["box", "mask"]
    for kind, iou_type in (("box", "bbox"), ("mask", "segm")):
        reference = pycocotools_evaluation(truth, metric.results(), iou_type)
        ours = np.array([scores[kind].columns[name] for name in COLUMNS])
        assert np.nan_to_num(ours, nan=-1.0) == pytest.approx(reference.stats, abs=1e-6)
        assert 0.05 < scores[kind].columns["ap"] < 0.95  # the case says something
        by_id = reference.eval["precision"][:, :, :, 0, -1]
        for label, category in enumerate(CATEGORY_IDS):
            theirs = by_id[:, :, sorted(CATEGORY_IDS).index(category)]
            if category == 44:
                assert (theirs == -1).all()
                assert np.isnan(scores[kind].class_ap[label])
            else:
                assert scores[kind].precision[:, :, label] == pytest.approx(theirs, abs=1e-6)
                assert scores[kind].class_ap[label] == pytest.approx(theirs.mean(), abs=1e-6)


def test_columns_equal_pycocotools_for_polygons_and_boxes_alone():
    truth, detections = scenes(seed=3)
    for annotation in truth["annotations"]:
        x, y, w, h = annotation["bbox"]
        if not annotation["iscrowd"]:
            annotation["segmentation"] = [[x, y, x + w, y, x + w / 2, y + h]]
    metric = scored(truth, detections)
    scores = metric.compute()
    for kind, iou_type in (("box", "bbox"), ("mask", "segm")):
        stats = pycocotools_evaluation(truth, metric.results(), iou_type).stats
        ours = np.array(list(scores[kind].columns.values()))
        assert np.nan_to_num(ours, nan=-1.0) == pytest.approx(stats, abs=1e-6)
    for annotation in truth["annotations"]:
        del annotation["segmentation"]
    boxes_alone = scored(truth, detections, masks=False)
    assert "segmentation" not in boxes_alone.results()[0]
    assert list(boxes_alone.compute()) == ["box"]
    alone, beside = boxes_alone.compute()["box"], scores["box"]
    assert np.array_equal(list(alone.columns.values()), list(beside.columns.values()), equal_nan=True)
    with pytest.raises(InputError, match="has no segmentation"):
        DetectionMetric(truth, masks=True)


def one_object(box=(10, 10, 50, 40)):
    x0, y0, x1, y1 = box
    mask = np.zeros((60, 80), bool)
    mask[y0:y1, x0:x1] = True
    truth = {
        "images": [{"id": 5, "height": 60, "width": 80}, {"id": 9, "height": 60, "width": 80}],
        "annotations": [
            {
                "id": 1,
                "image_id": 5,
                "category_id": 3,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": (x1 - x0) * (y1 - y0),
                "iscrowd": 0,
                "segmentation": encode_mask(mask),
            }
        ],
        "categories": [{"id": 3, "name": "thing"}, {"id": 1, "name": "other"}],
    }
    return truth, {"boxes": [list(box)], "scores": [0.9], "labels": [0], "masks": mask[None]}


def test_by_hand():
    truth, perfect = one_object()
    nothing = {"boxes": [], "scores": [], "labels": [], "masks": []}
    box = scored(truth, {5: perfect, 9: nothing}).compute()["box"]
    assert (box.columns["ap"], box.columns["ap50"], box.columns["ar100"]) == (1.0, 1.0, 1.0)
    assert np.isnan(box.columns["ap_large"])
    assert "box_ap_large" not in box.metrics()
    assert box.metrics()["box_ap"] == 1.0
    assert box.images == 2
    assert box.instances.tolist() == [1, 0]
    assert box.per_class()[1] == {"class": "other", "ap": None, "ap50": None, "instances": 0}
    assert box.curve(0.75) == pytest.approx(np.ones(101))

    # A better-scored invented object in the other image halves the precision everywhere.
    invented = {"boxes": [[0, 0, 9, 9]], "scores": [0.95], "labels": [0]}
    assert scored(truth, {5: perfect, 9: invented}, masks=False).compute()["box"].columns["ap"] == pytest.approx(0.5)

    # 30 of 40 columns: IoU 0.75, so AP is 1 at the six thresholds up to 0.75 and 0 at the other four.
    narrow = {"boxes": [[10, 10, 40, 40]], "scores": [0.9], "labels": [0]}
    columns = scored(truth, {5: narrow, 9: nothing}, masks=False).compute()["box"].columns
    assert columns["ap"] == pytest.approx(0.6)
    assert columns["ap75"] == 1.0


def test_nothing_found_is_zero_and_nothing_to_find_is_nan():
    truth, _ = one_object()
    nothing = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
    missed = scored(truth, {5: nothing}).compute()
    assert missed["box"].columns["ap"] == missed["mask"].columns["ap"] == 0.0
    unmeasured = scored(truth, {9: nothing}).compute()["box"]
    assert np.isnan(unmeasured.columns["ap"])
    assert unmeasured.metrics() == {}
    assert np.isnan(unmeasured.curve()).all()


def test_bad_detections_are_refused():
    truth, good = one_object()
    metric = DetectionMetric(truth, masks=True)
    with pytest.raises(InputError, match="No image to score"):
        metric.compute()
    with pytest.raises(InputError, match="Image 6 is not among"):
        metric.add(6, good)
    for change, message in (
        ({"scores": [float("nan")]}, "not finite"),
        ({"boxes": [[0, 0, float("inf"), 4]]}, "not finite"),
        ({"labels": [2]}, "labels go from 2 to 2, of 2"),
        ({"labels": [-1]}, "labels go from -1"),
        ({"scores": [0.5, 0.4]}, "differ in number"),
        ({"masks": np.ones((1, 30, 40), bool)}, r"a mask of \(30, 40\)"),
        ({"masks": None}, "the detections hold none"),
    ):
        with pytest.raises(InputError, match=message):
            metric.add(5, {**good, **change})
    with pytest.raises(InputError, match="Curves exist at IoU"):
        scored(truth, {5: good}).compute()["box"].curve(0.52)


def test_results_are_plain_json_in_original_pixels():
    import json

    _, good = one_object()
    (result,) = json.loads(json.dumps(coco_results(5, good, [3, 1])))
    assert result["bbox"] == [10, 10, 40, 30]
    assert (result["category_id"], result["image_id"], result["score"]) == (3, 5, 0.9)
    assert result["segmentation"]["size"] == [60, 80]


def _two_process_scores(rank, store, out):
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    from allmlp.metrics.segmentation import ConfusionMatrix

    truth, detections = scenes()
    metric = DetectionMetric(truth, masks=True)
    # the last image goes to both, as a distributed sampler that fills up does
    images = list(detections)
    for image_id in images[rank::2] + images[-1:]:
        metric.add(image_id, detections[image_id])
    metric.gather()
    matrix = ConfusionMatrix(["a", "b", "c"])
    matrix.add(*label_maps()[rank])
    matrix.all_reduce()
    found = {kind: (s.columns, s.images) for kind, s in metric.compute().items()}
    torch.save((found, matrix.counts), f"{out}/{rank}.pt")
    torch.distributed.destroy_process_group()


def label_maps():
    generator = torch.Generator().manual_seed(3)
    return [tuple(torch.randint(3, (2, 9, 7), generator=generator) for _ in "pt") for _ in range(2)]


def test_two_processes_score_like_one(tmp_path):
    from allmlp.metrics.segmentation import ConfusionMatrix

    torch.multiprocessing.spawn(_two_process_scores, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    alone = {kind: (s.columns, s.images) for kind, s in scored(*scenes()).compute().items()}
    matrix = ConfusionMatrix(["a", "b", "c"])
    for prediction, truth in label_maps():
        matrix.add(prediction, truth)
    for rank in range(2):
        found, counts = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for kind, (columns, images) in alone.items():
            assert found[kind][1] == images
            assert np.array_equal(list(found[kind][0].values()), list(columns.values()), equal_nan=True)
        assert torch.equal(counts, matrix.counts)
