"""Losses and averages against their definitions."""

import math

import pytest
import torch
from torch import nn

from allmlp.tasks.averaging import Average
from allmlp.tasks.losses import probabilities, sigmoid_loss, soft_targets, softmax_loss


def test_smoothed_labels():
    assert soft_targets(torch.tensor([2]), 4, 0.2)[0].tolist() == pytest.approx([0.05, 0.05, 0.85, 0.05])
    assert soft_targets(torch.tensor([1]), 3, 0.0).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_softmax_loss_by_hand(smoothing):
    logits, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    logs = [[x - math.log(sum(math.exp(y) for y in row)) for x in row] for row in logits.tolist()]
    targets = soft_targets(labels, 4, smoothing)
    wanted = [-sum(t * x for t, x in zip(row, log)) for row, log in zip(targets.tolist(), logs)]
    assert softmax_loss(logits, labels, smoothing).tolist() == pytest.approx(wanted, rel=1e-5)
    assert softmax_loss(logits, targets, 0.9).tolist() == pytest.approx(wanted, rel=1e-5)  # soft targets as they are


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_sigmoid_loss_by_hand(smoothing):
    """Summed over classes, not averaged."""
    logits, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    targets = soft_targets(labels, 4, smoothing)
    wanted = [
        sum(t * math.log1p(math.exp(-x)) + (1 - t) * math.log1p(math.exp(x)) for t, x in zip(row, scores))
        for row, scores in zip(targets.tolist(), logits.tolist())
    ]
    assert sigmoid_loss(logits, labels, smoothing).tolist() == pytest.approx(wanted, rel=1e-5)
    assert sigmoid_loss(logits, targets, 0.9).tolist() == pytest.approx(wanted, rel=1e-5)


def test_probabilities_of_half_precision_are_summed_in_single():
    shares = probabilities(torch.randn(3, 1000, dtype=torch.bfloat16))
    assert shares.dtype == torch.float32
    assert shares.sum(1).tolist() == pytest.approx([1, 1, 1], abs=1e-5)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, dtype=torch.double))
        self.register_buffer("count", torch.tensor(0))


@pytest.mark.parametrize("warmup", [False, True])
def test_average_by_hand(warmup):
    network = Net()
    average = Average(network, 0.75, warmup)
    wanted = 0.0
    for step in range(40):
        network.weight.data.fill_(step + 1.0)
        network.count.fill_(step)
        average.update(network)
        decay = min(0.75, (1 + step) / (10 + step)) if warmup else 0.75
        wanted = decay * wanted + (1 - decay) * (step + 1.0)
        assert average.network.weight.tolist() == pytest.approx([wanted] * 3, rel=1e-12)
    assert average.network.count == 39  # copied, not averaged
    assert [average.decay_at(step) for step in (0, 26, 27)] == ([0.1, 0.75, 0.75] if warmup else [0.75] * 3)


def test_average_is_a_copy_that_does_not_learn():
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    average = Average(network.train(), 0.9, True)
    assert network.training
    assert network[0].weight.requires_grad
    assert not average.network.training
    assert not average.network[0].weight.requires_grad
    again = Average(nn.Sequential(nn.Linear(2, 2), nn.Dropout()), 0.9, True)
    again.load_state_dict(average.state_dict(), updates=5)
    for one in (average, again):
        one.updates = 5
        one.update(network)
    assert torch.equal(average.network[0].weight, again.network[0].weight)
