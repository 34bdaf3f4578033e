"""The axial shift: move channel groups along one axis, each by its own number of cells.

A shift costs no multiplication, so its price is its copies, and which way of copying is cheap depends on the layout and
on who runs it; all of them give the same numbers:

- a depthwise convolution whose kernels hold a single 1, one pass over the map: for channels-last maps on a CPU through
  oneDNN (a third of the time of sliced copies, whose runs are only as long as a group), and in exported graphs, where
  every runtime has a quick one and keeps the layout of the 1x1 convolutions around it;
- one sliced copy a group, written straight into the result: otherwise in eager mode;
- padding, slices and a concatenation, a graph without writes: where a graph is compiled, since compilers fuse it, and
  for paddings other than zeros.

Source: Lian et al., "AS-MLP", arXiv 2107.08391, section 3.2; svip-lab/AS-MLP @ dd1eb4f, models/as_mlp.py.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from allmlp.errors import InputError

PADDINGS = ("zeros", "reflect", "replicate", "circular")


def axial_shift(
    x: Tensor, shift_size: int, dim: int, dilation: int = 1, padding: str = "zeros", channel_dim: int = 1
) -> Tensor:
    """Shift groups of channels along the axis `dim`.

    Channels are cut into groups of ceil(channels / shift_size), the last one smaller, so that narrow maps can have
    fewer groups than `shift_size`. Group g moves by dilation * (g - shift_size // 2) cells towards higher indices:

        result[.., c, .., j] = x[.., c, .., j - dilation * (c // width - shift_size // 2)]

    Example:
        A map (b, c, h, w) along its width is `axial_shift(x, 5, dim=3)`, along its height `axial_shift(x, 5, dim=2)`; a
        channels-last one (b, h, w, c) is `axial_shift(x, 5, dim=2, channel_dim=3)`.

    Args:
        x: any floating or integer tensor, in any memory layout.
        shift_size: number of groups aimed at, odd; 1 changes nothing.
        dim: the axis to move along.
        dilation: cells between neighbouring groups.
        padding: what stands beyond the border: "zeros", "reflect" (mirrored without repeating the border cell; at a
            map of one cell, that cell), "replicate" (the border cell) or "circular" (the other end).
        channel_dim: the axis of the channels.

    Returns:
        A tensor of x's shape and dtype.

    Raises:
        InputError: an even or non-positive shift_size, a non-positive dilation, an unknown padding, or equal axes.
    """
    check_shift(shift_size, dilation, padding)
    dim, channel_dim = dim % x.ndim, channel_dim % x.ndim
    if dim == channel_dim:
        raise InputError(f"Wanted two axes, one to shift along and the channels; got axis {dim} for both.")
    if shift_size == 1:
        return x
    if torch.compiler.is_exporting() and padding == "zeros" and channel_dim == 1 and x.ndim == 4:
        return F.conv2d(x, **_taps(x, shift_size, dim, dilation))
    if padding != "zeros" or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return _padded_slices(x, shift_size, dim, dilation, padding, channel_dim)
    return _Shift.apply(x, shift_size, dim, dilation, channel_dim)


def check_shift(shift_size: int, dilation: int, padding: str) -> None:
    """Raise InputError unless a shift can have these settings."""
    if shift_size < 1 or shift_size % 2 == 0:
        raise InputError(
            f"Wanted an odd shift_size, so that one group stays in place; got {shift_size}. Use 3, 5 or 7."
        )
    if dilation < 1:
        raise InputError(f"Wanted a dilation of 1 or more; got {dilation}.")
    if padding not in PADDINGS:
        raise InputError(f"Wanted a padding out of {', '.join(PADDINGS)}; got {padding!r}.")


def _groups(channels: int, shift_size: int, dilation: int) -> Iterator[tuple[int, int, int]]:
    """(first channel, number of channels, offset in cells) of every group."""
    width = -(-channels // shift_size)
    for index, start in enumerate(range(0, channels, width)):
        yield start, min(width, channels - start), dilation * (index - shift_size // 2)


def _taps(x: Tensor, shift_size: int, dim: int, dilation: int) -> dict[str, Any]:
    """Arguments of the depthwise convolution that shifts x (b, c, h, w); each channel's kernel is 1 at one tap."""
    channels = x.shape[1]
    group = torch.arange(channels, device=x.device) // -(-channels // shift_size)
    taps = torch.arange(shift_size, device=x.device)
    if dilation > 0:  # cell j reads cell j - offset, and the last tap is the one furthest ahead
        taps = shift_size - 1 - taps
    kernels = (group[:, None] == taps).to(x.dtype)
    weight = kernels[:, None, :, None] if dim == 2 else kernels[:, None, None, :]
    reach, step = shift_size // 2 * abs(dilation), abs(dilation)
    return {
        "weight": weight,
        "padding": (reach, 0) if dim == 2 else (0, reach),
        "dilation": (step, 1) if dim == 2 else (1, step),
        "groups": channels,
    }


def _is_for_onednn(x: Tensor, channel_dim: int) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.ndim == 4
        and channel_dim == 1
        and x.numel() > 0
        and x.is_contiguous(memory_format=torch.channels_last)
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
    )


class _Shift(torch.autograd.Function):
    """The zero-padded shift, into a new tensor of x's layout. Its adjoint is the opposite shift."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, shift_size: int, dim: int, dilation: int, channel_dim: int) -> Tensor:
        if _is_for_onednn(x, channel_dim):
            return torch.mkldnn_convolution(x, bias=None, stride=(1, 1), **_taps(x, shift_size, dim, dilation))
        result, size = torch.empty_like(x), x.shape[dim]
        for start, width, offset in _groups(x.shape[channel_dim], shift_size, abs(dilation)):
            offset = offset if dilation > 0 else -offset
            source, target = x.narrow(channel_dim, start, width), result.narrow(channel_dim, start, width)
            gap = min(abs(offset), size)
            kept = size - gap
            target.narrow(dim, max(offset, 0) if kept else 0, kept).copy_(
                source.narrow(dim, max(-offset, 0) if kept else 0, kept)
            )
            if gap:
                target.narrow(dim, 0 if offset > 0 else kept, gap).zero_()
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.settings = inputs[1:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        shift_size, dim, dilation, channel_dim = ctx.settings
        return _Shift.apply(gradients[0], shift_size, dim, -dilation, channel_dim), None, None, None, None


def _padded_slices(x: Tensor, shift_size: int, dim: int, dilation: int, padding: str, channel_dim: int) -> Tensor:
    """The same as a graph without writes: pad the axis on both sides, take each group at its place, concatenate."""
    size, reach = x.shape[dim], dilation * (shift_size // 2)
    if padding == "zeros":
        padded = F.pad(x, [0, 0] * (x.ndim - 1 - dim) + [reach, reach])
    else:
        padded = x.index_select(dim, _source_cells(size, reach, padding, x.device))
    return torch.cat(
        [
            padded.narrow(channel_dim, start, width).narrow(dim, reach - offset, size)
            for start, width, offset in _groups(x.shape[channel_dim], shift_size, dilation)
        ],
        dim=channel_dim,
    )


def _source_cells(size: int, reach: int, padding: str, device: torch.device) -> Tensor:
    """For the cells -reach to size + reach - 1, the cell inside the map that each one shows."""
    cells = torch.arange(-reach, size + reach, device=device)
    if padding == "replicate":
        return cells.clamp(0, size - 1)
    if padding == "circular":
        return cells % size
    period = max(2 * (size - 1), 1)
    folded = cells % period
    return torch.minimum(folded, period - folded) if size > 1 else torch.zeros_like(cells)
