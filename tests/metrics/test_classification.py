"""Accuracy, cross-entropy, confusion and calibration against scikit-learn, and against the definition by hand."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import log_loss, precision_score, recall_score, top_k_accuracy_score

from allmlp.errors import InputError
from allmlp.metrics.classification import (
    classification_metrics,
    confusion_matrix,
    cross_entropy,
    expected_calibration_error,
    per_class,
    top_k_accuracy,
)

NAMES = [f"c{index}" for index in range(7)]


@pytest.fixture
def case():
    """300 labels of seven classes, one of them without images, and probabilities that are right about half the time."""
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 3, 4, 6], 300)
    scores = rng.normal(size=(300, 7))
    scores[np.arange(300), labels] += 1.5
    shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    return labels, shares


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_accuracy(case, k):
    labels, shares = case
    assert top_k_accuracy(labels, shares, k) == pytest.approx(
        top_k_accuracy_score(labels, shares, k=k, labels=range(7)), abs=1e-12
    )


def test_top_k_of_few_classes_is_always_right():
    assert top_k_accuracy(np.array([0, 1]), np.array([[0.1, 0.9], [0.9, 0.1]]), 5) == 1.0


def test_among_equals_the_lower_class_comes_first():
    shares = np.full((4, 4), 0.25)
    labels = np.arange(4)
    assert [top_k_accuracy(labels, shares, k) for k in (1, 2, 3, 4)] == [0.25, 0.5, 0.75, 1.0]
    assert top_k_accuracy(labels, shares, 1) == np.mean(shares.argmax(1) == labels)


def test_cross_entropy(case):
    labels, shares = case
    assert cross_entropy(labels, shares) == pytest.approx(log_loss(labels, shares, labels=range(7)), rel=1e-12)


def test_cross_entropy_of_a_certain_mistake_is_finite():
    shares = np.array([[1.0, 0.0]], dtype=np.float32)
    assert cross_entropy(np.array([1]), shares) == pytest.approx(-np.log(np.finfo(np.float32).tiny))


def test_confusion_matrix(case):
    labels, shares = case
    predictions = shares.argmax(1)
    found = confusion_matrix(labels, predictions, 7)
    assert found.tolist() == sklearn_confusion(labels, predictions, labels=range(7)).tolist()
    assert found[2, 3] == sum(1 for a, b in zip(labels, predictions) if (a, b) == (2, 3))


def test_classes_one_by_one(case):
    labels, shares = case
    predictions = shares.argmax(1)
    predictions[predictions == 4] = 3  # a class that is never predicted
    rows = per_class(confusion_matrix(labels, predictions, 7), NAMES)
    assert [row["name"] for row in rows] == NAMES
    assert [row["count"] for row in rows] == np.bincount(labels, minlength=7).tolist()
    precision = precision_score(labels, predictions, labels=range(7), average=None, zero_division=0)
    recall = recall_score(labels, predictions, labels=range(7), average=None, zero_division=0)
    assert rows[4]["precision"] is None  # never predicted
    assert rows[5]["recall"] is None  # no image
    assert [row["precision"] or 0 for row in rows] == pytest.approx(precision)
    assert [row["recall"] or 0 for row in rows] == pytest.approx(recall)


def ece_by_hand(labels, shares, bins):
    """Guo et al., equation 3, one image and one bin at a time."""
    total = 0.0
    for index in range(bins):
        inside = [i for i in range(len(labels)) if index / bins < shares[i].max() <= (index + 1) / bins]
        if inside:
            accuracy = sum(shares[i].argmax() == labels[i] for i in inside) / len(inside)
            confidence = sum(shares[i].max() for i in inside) / len(inside)
            total += len(inside) / len(labels) * abs(accuracy - confidence)
    return total


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error(case, bins):
    assert expected_calibration_error(*case, bins) == pytest.approx(ece_by_hand(*case, bins), abs=1e-12)


def test_calibration_error_of_known_cases():
    certain = np.array([[1.0, 0.0]] * 4)
    assert expected_calibration_error(np.array([0, 0, 0, 0]), certain) == 0
    assert expected_calibration_error(np.array([0, 0, 0, 1]), certain) == pytest.approx(0.25)
    edge = np.array([[0.6, 0.4], [0.6, 0.4]])  # 0.6 belongs to the bin that ends there, not to the next
    assert expected_calibration_error(np.array([0, 1]), edge, bins=5) == pytest.approx(0.1)
    mixed = np.concatenate([edge[:1], np.array([[0.7, 0.3]])])
    assert expected_calibration_error(np.array([0, 1]), mixed, bins=5) == pytest.approx(0.5 * 0.4 + 0.5 * 0.7)


def test_all_together(case):
    labels, shares = case
    found = classification_metrics(labels, shares, NAMES)
    assert found["images"] == 300
    assert found["top1"] == np.mean(shares.argmax(1) == labels)
    assert found["top1"] < found["top5"] < 1
    assert sum(row["count"] * (row["recall"] or 0) for row in found["per_class"]) / 300 == pytest.approx(found["top1"])


@pytest.mark.parametrize(
    ("labels", "shape", "message"),
    [
        ([0, 1], (3, 4), r"labels \(N,\) and probabilities \(N, K\) of at least one image; got \(2,\) and \(3, 4\)"),
        ([], (0, 4), "at least one image"),
        ([0, 1], (2,), r"got \(2,\) and \(2,\)"),
        ([0, 4, 7, -1], (4, 4), r"labels from 0 to 3; got \[-1, 4, 7\] in 3 images"),
    ],
)
def test_what_does_not_belong_together(labels, shape, message):
    with pytest.raises(InputError, match=message):
        classification_metrics(np.array(labels, dtype=int), np.full(shape, 0.25), NAMES)
