"""Partitions against loops over every cell; sizes when maps change."""

import pytest
import torch

from allmlp.errors import InputError
from allmlp.ops.partition import fit_partition, partition, partition_grid, rectangle_of, unpartition

CASES = [  # batch, channels, partition, grid
    (2, 6, (3, 3), (2, 2)),
    (1, 4, (2, 5), (3, 1)),
    (3, 2, (1, 4), (1, 3)),
    (2, 3, (5, 3), (1, 1)),
]


def maps(batch, channels, size, grid):
    return torch.randn(batch, channels, size[0] * grid[0], size[1] * grid[1])


@pytest.mark.parametrize(("batch", "channels", "size", "grid"), CASES)
def test_partition_cuts_where_it_says(batch, channels, size, grid):
    x = maps(batch, channels, size, grid)
    parts = partition(x, size)
    assert parts.shape == (batch * grid[0] * grid[1], channels, *size)
    for b in range(batch):
        for i in range(grid[0]):
            for j in range(grid[1]):
                piece = x[b, :, i * size[0] : (i + 1) * size[0], j * size[1] : (j + 1) * size[1]]
                assert torch.equal(parts[(b * grid[0] + i) * grid[1] + j], piece)


@pytest.mark.parametrize(("batch", "channels", "size", "grid"), CASES)
def test_unpartition_is_the_inverse(batch, channels, size, grid):
    x = maps(batch, channels, size, grid)
    assert torch.equal(unpartition(partition(x, size), x.shape[2:], channels), x)
    for num_sets in [s for s in range(1, channels + 1) if channels % s == 0]:
        rows = partition(x, size).unflatten(1, (-1, num_sets)).flatten(0, 1)
        assert torch.equal(unpartition(rows, x.shape[2:], channels), x)


@pytest.mark.parametrize("num_sets", [1, 2, 3, 6])
@pytest.mark.parametrize(("size", "grid"), [((2, 3), (2, 3)), ((4, 2), (1, 2)), ((3, 4), (1, 1))])
def test_the_authors_order_reads_rows_as_if_channel_groups_came_first(num_sets, size, grid):
    batch, channels, groups = 2, 6, 6 // num_sets
    x = maps(batch, channels, size, grid)
    rows = partition(x, size).unflatten(1, (groups, num_sets)).flatten(0, 1)
    got = unpartition(rows, x.shape[2:], channels, "authors")
    row = 0
    for b in range(batch):
        for m in range(groups):
            for i in range(grid[0]):
                for j in range(grid[1]):
                    piece = got[b, m * num_sets : (m + 1) * num_sets]
                    piece = piece[:, i * size[0] : (i + 1) * size[0], j * size[1] : (j + 1) * size[1]]
                    assert torch.equal(piece, rows[row])
                    row += 1
    assert torch.equal(got, x) == (groups == 1 or grid == (1, 1))


def test_one_partition_costs_no_copy():
    x = torch.randn(2, 6, 4, 5)
    assert partition(x, (4, 5)).data_ptr() == x.data_ptr()


def test_channels_last_maps_are_cut_alike():
    x = torch.randn(2, 6, 4, 6)
    assert torch.equal(partition(x.to(memory_format=torch.channels_last), (2, 3)), partition(x, (2, 3)))


@pytest.mark.parametrize("size", [(3, 2), (2, 4), (0, 2), (8, 6)])
def test_partitions_that_do_not_fill_the_map_are_refused(size):
    with pytest.raises(InputError, match="4 x 6"):
        partition(torch.randn(1, 2, 4, 6), size)
    with pytest.raises(InputError, match=f"{size[0]} x {size[1]}"):
        partition_grid((4, 6), size)


@pytest.mark.parametrize(
    ("old", "held", "new", "wanted"),
    [
        (56, 56, 56, 56),
        (56, 56, 112, 56),  # kept: it divides
        (56, 28, 84, 28),
        (56, 56, 64, 64),  # one partition as before
        (56, 28, 64, 32),  # two as before
        (56, 56, 28, 28),
        (56, 56, 84, 84),
        (56, 56, 200, 50),  # a canvas: the nearest divisor
        (56, 56, 128, 64),
        (12, 4, 13, 13),  # a prime side has no other divisor than 1
        (8, 8, 24, 8),
        (2, 2, 5, 5),
        (2, 2, 1, 1),
        (16, 8, 1, 1),
    ],
)
def test_partition_sides_follow_the_map(old, held, new, wanted):
    assert fit_partition(old, held, new) == wanted
    assert new % wanted == 0


def test_a_canvas_without_a_near_divisor_is_refused():
    with pytest.raises(InputError, match="divisor near the partitions' 7; got 101, whose nearest is 101"):
        fit_partition(14, 7, 101)
    with pytest.raises(InputError, match="got 202, whose nearest is 2"):
        fit_partition(14, 14, 202)


def test_a_rectangle_is_found_from_its_area():
    assert rectangle_of(12, (3, 4)) == (3, 4)
    assert rectangle_of(12, (2, 6)) == (2, 6)
    assert rectangle_of(49, (3, 4)) == (7, 7)
    assert rectangle_of(48, (3, 4)) == (6, 8)
    assert rectangle_of(1, (3, 4)) == (1, 1)
    with pytest.raises(InputError, match="20 cells"):
        rectangle_of(20, (3, 4))
