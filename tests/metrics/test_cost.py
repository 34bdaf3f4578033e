"""What networks cost, counted by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from allmlp.metrics.cost import count_macs, count_parameters


class Attention(nn.Module):
    """One head over the rows of an image: q = k = v = W x."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(8, 8, bias=False)

    def forward(self, x):
        rows = self.proj(x)
        return F.scaled_dot_product_attention(rows, rows, rows)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_attention_counts_on_every_device(device):
    network = Attention().to(device)
    assert count_parameters(network) == 64
    assert count_macs(network, (1, 5, 8)) == 5 * 8 * 8 + 2 * 5 * 5 * 8


def test_counting_leaves_the_network_as_it_was():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)).train()
    before = network[1].running_mean.clone()
    assert count_macs(network, (3, 6, 5)) == 4 * 3 * 4 * 3 * 9
    assert network.training
    assert torch.equal(network[1].running_mean, before)
