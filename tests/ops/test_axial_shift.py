"""The axial shift: against a slow loop in every setting, its gradient, its layouts, its errors."""

import itertools

import pytest
import torch

from allmlp.errors import InputError
from allmlp.ops.axial_shift import PADDINGS, _padded_slices, axial_shift
from slow_ops import slow_axial_shift

MAPS = [(4, 6), (5, 7), (6, 6), (7, 4), (1, 5), (5, 1), (1, 1), (2, 3)]
CHANNELS = [1, 2, 6, 7, 10, 24, 35]  # with 3, 5 and 7 groups: divisible, not divisible, fewer groups than shifts


def numbered(*shape: int) -> torch.Tensor:
    """A tensor whose every entry is another number."""
    count = torch.Size(shape).numel()
    return torch.arange(1, count + 1, dtype=torch.double).reshape(shape)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("shift_size", [1, 3, 5, 7])
def test_equals_the_slow_loop(shift_size, dilation, padding):
    for (height, width), channels, dim in itertools.product(MAPS, CHANNELS, (2, 3)):
        x = numbered(2, channels, height, width)
        wanted = slow_axial_shift(x, shift_size, dim, dilation, padding)
        assert torch.equal(axial_shift(x, shift_size, dim, dilation, padding), wanted), (channels, height, width, dim)


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("shift_size", [3, 5])
def test_the_form_for_graphs_equals_the_slow_loop(shift_size, dilation):
    for (height, width), channels, dim in itertools.product(MAPS, CHANNELS, (1, 2)):
        x = numbered(2, height, width, channels)
        wanted = slow_axial_shift(x, shift_size, dim, dilation, channel_dim=3)
        assert torch.equal(_padded_slices(x, shift_size, dim, dilation, "zeros", 3), wanted)
        assert torch.equal(axial_shift(x, shift_size, dim, dilation, channel_dim=3), wanted)


@pytest.mark.parametrize("padding", PADDINGS)
def test_compiled_and_exported_forms_are_the_same(padding):
    class Shift(torch.nn.Module):
        def forward(self, x):
            return axial_shift(x, 5, 2, 1, padding)

    x = torch.randn(2, 11, 6, 5)
    wanted = slow_axial_shift(x, 5, 2, 1, padding)
    assert torch.equal(torch.compile(Shift(), fullgraph=True, backend="aot_eager")(x), wanted)
    assert torch.equal(torch.export.export(Shift(), (x,)).module()(x), wanted)
    torch._dynamo.reset()


def test_group_offsets_of_the_published_widths():
    """The first group moves by 2 towards index 0, the middle one stays, the last, smaller one moves by 2 away."""
    x = numbered(1, 96, 1, 9)
    y = axial_shift(x, 5, dim=3)
    for start, count, offset in ((0, 20, -2), (20, 20, -1), (40, 20, 0), (60, 20, 1), (80, 16, 2)):
        group, source = y[0, start : start + count, 0], x[0, start : start + count, 0]
        assert torch.equal(group[:, 2:7], source[:, 2 - offset : 7 - offset])
    assert not y[0, :20, 0, 7:].any()
    assert not y[0, 80:, 0, :2].any()


def test_narrow_maps_lose_the_last_offsets():
    """6 channels in groups of 2 for 5 shifts: three groups, so nothing ever moves to the right."""
    y = axial_shift(torch.ones(1, 6, 1, 8), 5, dim=3)
    assert y[0, :, 0].sum(1).tolist() == [6, 6, 7, 7, 8, 8]
    assert not y[0, 0, 0, -2:].any()


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("shape", "dim", "channel_dim"), [((2, 7, 3, 4), 3, 1), ((1, 3, 1, 7), 1, 3)])
def test_gradients(shape, dim, channel_dim, padding):
    x = torch.randn(shape, dtype=torch.double, requires_grad=True)

    def shift(x):
        return axial_shift(x, 5, dim, 1, padding, channel_dim)

    assert torch.autograd.gradcheck(shift, (x,))
    assert torch.autograd.gradgradcheck(shift, (x,))


def test_the_gradient_is_the_opposite_shift():
    x = torch.randn(2, 10, 6, 5, dtype=torch.double, requires_grad=True)
    y = torch.randn(2, 10, 6, 5, dtype=torch.double)
    axial_shift(x, 5, 2, dilation=2).backward(y)
    # Exchanging the groups' order exchanges the signs of their offsets.
    assert torch.equal(x.grad, axial_shift(y.flip(1), 5, 2, dilation=2).flip(1))


def test_maps_over_a_batch_of_batches():
    x = torch.randn(3, 2, 10, 6, 5, dtype=torch.double)
    mapped = torch.func.vmap(lambda y: axial_shift(y, 5, 3))(x)
    assert torch.equal(mapped, torch.stack([axial_shift(y, 5, 3) for y in x]))


@pytest.mark.parametrize("padding", PADDINGS)
def test_any_memory_layout_and_type(padding):
    x = torch.randn(2, 10, 6, 7)
    wanted = slow_axial_shift(x, 5, 3, 1, padding)
    last = x.to(memory_format=torch.channels_last)
    assert torch.equal(axial_shift(last, 5, 3, 1, padding), wanted)
    strided = torch.randn(2, 20, 12, 7)[:, ::2, ::2].copy_(x)
    assert not strided.is_contiguous()
    assert torch.equal(axial_shift(strided, 5, 3, 1, padding), wanted)
    for kind in (torch.bfloat16, torch.float16, torch.int64):
        y = axial_shift((100 * x).to(kind), 5, 3, 1, padding)
        assert y.dtype == kind
        assert torch.equal(y, slow_axial_shift((100 * x).to(kind), 5, 3, 1, padding))
    assert torch.equal(axial_shift(x, 5, -1, 1, padding, channel_dim=-3), wanted)


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("shift_size", [3, 5])
def test_the_forms_by_convolution_equal_the_slow_loop(shift_size, dilation):
    """On a CPU for channels-last maps, backwards too, and in exported graphs."""

    class Shift(torch.nn.Module):
        def __init__(self, dim):
            super().__init__()
            self.dim = dim

        def forward(self, x):
            return axial_shift(x, shift_size, self.dim, dilation)

    for (height, width), channels, dim in itertools.product(MAPS, CHANNELS, (2, 3)):
        shift = Shift(dim)
        x = numbered(2, channels, height, width).float().to(memory_format=torch.channels_last)
        wanted = slow_axial_shift(x, shift_size, dim, dilation)
        assert torch.equal(shift(x), wanted)
        by_slices, by_convolution = torch.func.vjp(shift, x.double())[1], torch.func.vjp(shift, x)[1]
        assert torch.equal(by_convolution(x)[0], by_slices(x.double())[0].float())
        if channels == 7:
            assert torch.equal(torch.export.export(shift, (x,)).module()(x), wanted)


def test_the_layout_is_kept_without_padding():
    x = torch.randn(2, 10, 6, 7).to(memory_format=torch.channels_last)
    assert axial_shift(x, 5, 3).is_contiguous(memory_format=torch.channels_last)


def test_wrong_settings_say_what_to_type():
    x = torch.zeros(1, 4, 3, 3)
    for arguments, match in (
        ({"shift_size": 4, "dim": 2}, "odd shift_size"),
        ({"shift_size": 0, "dim": 2}, "Use 3, 5 or 7"),
        ({"shift_size": -3, "dim": 2}, "odd shift_size"),
        ({"shift_size": 3, "dim": 2, "dilation": 0}, "dilation of 1 or more"),
        ({"shift_size": 3, "dim": 2, "padding": "zero"}, "zeros, reflect, replicate, circular"),
        ({"shift_size": 3, "dim": 1}, "axis 1 for both"),
        ({"shift_size": 3, "dim": -3}, "axis 1 for both"),
    ):
        with pytest.raises(InputError, match=match):
            axial_shift(x, **arguments)
