"""Segmentation scores against counting pixel by pixel."""

import math

import pytest
import torch

from allmlp.errors import InputError
from allmlp.metrics.segmentation import ConfusionMatrix


def brute_force(predictions, truths, k, ignore):
    """(IoU, accuracy) of each class and the pixel accuracy, by sets of pixels."""
    predicted, true = [set() for _ in range(k)], [set() for _ in range(k)]
    for n, (prediction, truth) in enumerate(zip(predictions, truths)):
        for y in range(truth.shape[0]):
            for x in range(truth.shape[1]):
                if int(truth[y, x]) != ignore:
                    predicted[int(prediction[y, x])].add((n, y, x))
                    true[int(truth[y, x])].add((n, y, x))
    iou = [len(p & t) / len(p | t) if p | t else math.nan for p, t in zip(predicted, true)]
    accuracy = [len(p & t) / len(t) if t else math.nan for p, t in zip(predicted, true)]
    return iou, accuracy, sum(len(p & t) for p, t in zip(predicted, true)) / sum(map(len, true))


def mean(values):
    values = [value for value in values if not math.isnan(value)]
    return sum(values) / len(values)


@pytest.mark.parametrize("ignore", [255, 4])
def test_equals_counting_pixels(ignore):
    generator = torch.Generator().manual_seed(1)
    # class 3 is predicted but never true, class 5 is neither
    truths = [torch.randint(3, size, generator=generator) for size in ((7, 5), (1, 1), (4, 9))]
    predictions = [torch.randint(4, t.shape, generator=generator) for t in truths]
    for truth in truths:
        truth[0, : truth.shape[1] // 2] = ignore
    names = ["sky", "road", "tree", "cat", "dog", "sea"]
    matrix = ConfusionMatrix(names, ignore_label=ignore)
    for prediction, truth in zip(predictions, truths):
        matrix.add(prediction, truth.to(torch.uint8))
    scores = matrix.compute()
    iou, accuracy, pixel_accuracy = brute_force(predictions, truths, 6, ignore)
    assert scores.iou.tolist() == pytest.approx(iou, nan_ok=True)
    assert scores.accuracy.tolist() == pytest.approx(accuracy, nan_ok=True)
    assert scores.metrics() == pytest.approx(
        {"miou": mean(iou), "mean_accuracy": mean(accuracy), "pixel_accuracy": pixel_accuracy}
    )
    assert scores.iou[3] == 0  # invented: counts against the mean
    assert math.isnan(scores.iou[5])  # absent: does not count
    assert scores.per_class()[5] == {"class": "sea", "iou": None, "accuracy": None, "pixels": 0}
    assert int(scores.confusion.sum()) == sum(int((t != ignore).sum()) for t in truths)


def test_batches_and_merging_equal_one_by_one():
    generator = torch.Generator().manual_seed(2)
    prediction, truth = (torch.randint(5, (4, 6, 6), generator=generator) for _ in "pt")
    whole, left, right = (ConfusionMatrix("abcde") for _ in range(3))
    whole.add(prediction, truth)
    left.add(prediction[:1], truth[:1])
    right.add(prediction[1:], truth[1:])
    left.merge(right)
    left.all_reduce()  # no process group: nothing to add
    assert torch.equal(whole.counts, left.counts)
    assert torch.equal(whole.counts.sum(1), torch.bincount(truth.flatten(), minlength=5))


def test_bad_label_maps_are_refused():
    matrix = ConfusionMatrix("ab")
    with pytest.raises(InputError, match="differ in size"):
        matrix.add(torch.zeros(4, 4), torch.zeros(4, 5))
    with pytest.raises(InputError, match="label map holds 0 to 2; wanted class numbers 0 to 1 or 255"):
        matrix.add(torch.zeros(1, 3), torch.tensor([[0, 1, 2]]))
    with pytest.raises(InputError, match="prediction holds -1"):
        matrix.add(torch.tensor([[-1, 0, 1]]), torch.tensor([[0, 1, 1]]))
    with pytest.raises(InputError, match="same classes"):
        matrix.merge(ConfusionMatrix("ac"))
    matrix.add(torch.zeros(2, 2), torch.full((2, 2), 255))
    with pytest.raises(InputError, match="No labelled pixel"):
        matrix.compute()
