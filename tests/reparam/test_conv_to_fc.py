"""A convolution's matrix against the sum that defines it, and against the convolution; merging beside a norm."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from allmlp.errors import InputError
from allmlp.layers import ConvNorm, GroupedLinear
from allmlp.reparam.conv_to_fc import conv_to_fc, merge_parallel_convs
from allmlp.reparam.state_dict import merge_conv_norms

KERNELS = [(1, 1), (3, 3), (5, 5), (3, 1), (1, 5), (7, 3)]
SIZES = [(1, 1), (4, 5), (2, 7), (6, 1)]  # some smaller than the kernels


def slow_matrix(kernel, size):
    """Entry by entry, as the docstring defines it."""
    outputs, inputs, kh, kw = kernel.shape
    h, w = size
    matrix = torch.zeros(outputs, h, w, inputs, h, w, dtype=kernel.dtype)
    for y in range(h):
        for x in range(w):
            for v in range(h):
                for u in range(w):
                    row, column = v - y + kh // 2, u - x + kw // 2
                    if 0 <= row < kh and 0 <= column < kw:
                        matrix[:, y, x, :, v, u] = kernel[:, :, row, column]
    return matrix.reshape(outputs * h * w, inputs * h * w)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_matrix_is_its_definition(kernel, size):
    weight = torch.randn(3, 2, *kernel, dtype=torch.double)
    assert torch.equal(conv_to_fc(weight, size), slow_matrix(weight, size))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("inputs", "outputs", "groups"), [(3, 5, 1), (4, 6, 2), (6, 3, 3), (4, 4, 4)])
def test_the_matrix_computes_the_convolution(inputs, outputs, groups, kernel, size):
    weight = torch.randn(outputs, inputs // groups, *kernel, dtype=torch.double)
    x = torch.randn(2, inputs, *size, dtype=torch.double)
    wanted = F.conv2d(x, weight, padding=(kernel[0] // 2, kernel[1] // 2), groups=groups)
    blocks = conv_to_fc(weight, size).unflatten(0, (groups, -1))
    got = torch.einsum("goi,rgi->rgo", blocks, x.flatten(1).unflatten(1, (groups, -1)))
    assert torch.allclose(got.reshape(wanted.shape), wanted, atol=1e-12)


@pytest.mark.parametrize("kernel", [(2, 3), (3, 4)])
def test_even_kernels_are_refused(kernel):
    with pytest.raises(InputError, match=f"{kernel[0]} x {kernel[1]}"):
        conv_to_fc(torch.randn(1, 1, *kernel), (4, 4))


class Parallel(nn.Module):
    """norm(fc(x)) + sum of norm_k(conv_k(x)) with a norm of so many entries."""

    def __init__(self, inputs, outputs, groups, size, entries, kernels):
        super().__init__()
        cells = size[0] * size[1]
        self.groups, self.outputs, self.size = groups, outputs, size
        self.fc = GroupedLinear(inputs * cells, outputs * cells, groups, bias=False)
        self.norm = nn.BatchNorm1d(entries)
        self.local = nn.ModuleDict(
            {str(k): ConvNorm(inputs, outputs, k, padding=k // 2, groups=groups) for k in kernels}
        )

    def forward(self, x):
        y = self.fc(x.flatten(1).unflatten(1, (self.groups, -1))).flatten(1)
        y = self.norm(y.unflatten(1, (self.norm.num_features, -1)))
        return y.reshape(-1, self.outputs, *self.size) + sum(conv(x) for conv in self.local.values())


@pytest.mark.parametrize(
    ("inputs", "outputs", "groups", "size", "entries", "kernels"),
    [
        (4, 6, 2, (3, 5), 6 * 15, (1, 3, 5)),  # a norm for each output, other widths out than in
        (6, 3, 3, (4, 2), 3 * 8, (3,)),
        (4, 4, 4, (3, 3), 4, (1, 3, 7)),  # a norm a channel
        (2, 2, 2, (2, 2), 2, ()),
    ],
)
def test_parallel_convolutions_merge(inputs, outputs, groups, size, entries, kernels):
    module = Parallel(inputs, outputs, groups, size, entries, kernels).double()
    for key, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5) if key.endswith("var") else nn.init.normal_(tensor)
    x = torch.randn(3, inputs, *size, dtype=torch.double)
    wanted = module.eval()(x)
    state = {f"block.{key}": value for key, value in module.state_dict().items()}
    merge_conv_norms(state)
    merge_parallel_convs(state, "block.", size)
    assert state.keys() == {"block.fc.weight", "block.fc.bias"}
    merged = GroupedLinear(inputs * size[0] * size[1], outputs * size[0] * size[1], groups, bias=True).double()
    merged.load_state_dict({key.removeprefix("block.fc."): value for key, value in state.items()})
    got = merged(x.flatten(1).unflatten(1, (groups, -1))).reshape(wanted.shape)
    assert torch.allclose(got, wanted, rtol=0, atol=1e-12 * wanted.abs().max().item())
