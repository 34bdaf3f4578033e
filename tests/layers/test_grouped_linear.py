"""The grouped layer equals a grouped 1x1 convolution over 1x1 maps, in values, gradients and initialisation."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from allmlp.layers import GroupedLinear


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("inputs", "outputs", "groups"), [(6, 6, 1), (12, 8, 4), (10, 15, 5)])
def test_equals_a_grouped_convolution(inputs, outputs, groups, bias):
    ours = GroupedLinear(inputs, outputs, groups, bias).double()
    theirs = nn.Conv2d(inputs, outputs, 1, groups=groups, bias=bias).double()
    theirs.load_state_dict({"weight": ours.weight[:, :, None, None]} | ({"bias": ours.bias} if bias else {}))
    x = torch.randn(7, inputs, dtype=torch.double)
    got, wanted = ours(x.unflatten(1, (groups, -1))).flatten(1), theirs(x[:, :, None, None]).flatten(1)
    assert torch.allclose(got, wanted, atol=1e-13)
    got.square().sum().backward()
    wanted.square().sum().backward()
    assert torch.allclose(ours.weight.grad, theirs.weight.grad[:, :, 0, 0], atol=1e-11)
    with FlopCounterMode(display=False) as counter:
        ours(x.unflatten(1, (groups, -1)))
    assert counter.get_total_flops() == 2 * 7 * inputs * outputs // groups


def test_starts_as_pytorchs_layers_do():
    layer = GroupedLinear(4096, 4096, 64, bias=True)
    bound = 1 / 64**0.5
    for tensor in (layer.weight, layer.bias):
        assert tensor.abs().max().item() == pytest.approx(bound, rel=0.01)
        assert tensor.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)
