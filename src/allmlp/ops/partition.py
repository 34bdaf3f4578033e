"""Partitions: a map cut into equal rectangles that a fully-connected layer reads one at a time.

Channels are dealt out to sets in turn (channel c belongs to set c mod s), so that a rectangle gives c / s rows, each
with one channel of every set.

Source: Ding et al., "RepMLP", arXiv 2105.01883, section 3.1 (one row a rectangle: s = c), and arXiv 2112.11081,
section 3 (sets).
Shapes: b batch, c channels, H x W the map, h x w a partition, s sets, r = b * (c / s) * (H / h) * (W / w) rows.
"""

import math

from jaxtyping import Float
from torch import Tensor

from allmlp.errors import InputError

ORDERS = ("aligned", "authors")
Size = tuple[int, int]


def partition_grid(map_size: Size, size: Size) -> Size:
    """How many partitions of `size` lie below and beside each other in a map.

    Raises:
        InputError: they do not fill it.
    """
    if min(size) < 1 or map_size[0] % size[0] or map_size[1] % size[1]:
        raise InputError(
            f"Wanted partitions whose sides divide the map of {map_size[0]} x {map_size[1]}; got {size[0]} x {size[1]}."
        )
    return map_size[0] // size[0], map_size[1] // size[1]


def partition(
    x: Float[Tensor, "b c H W"], size: Size, num_sets: int, order: str = "aligned"
) -> Float[Tensor, "r s h w"]:
    """Cut a map into rows. A view where there is one partition and x is contiguous.

    Example:
        `unpartition(partition(x, (7, 7), 4), (14, 14), x.shape[1])` is x for maps of 14 x 14.

    Args:
        x: the map.
        size: height and width of a partition, divisors of the map's.
        num_sets: a divisor of c.
        order: of the rows. "aligned": by image, channel group, partition row, partition column, which is how
            `unpartition` reads them. "authors": by image, partition row, partition column, channel group. The authors'
            code cuts so and then reads "aligned", which moves rows to other places unless there is one partition or
            one group.

    Raises:
        InputError: the partitions do not fill the map.
    """
    channels, *map_size = x.shape[1:]
    rows, columns = partition_grid((map_size[0], map_size[1]), size)
    x = x.reshape(-1, channels // num_sets, num_sets, rows, size[0], columns, size[1])
    axes = (0, 1, 3, 5, 2, 4, 6) if order == "aligned" else (0, 3, 5, 1, 2, 4, 6)
    return x.permute(axes).reshape(-1, num_sets, *size)


def unpartition(x: Float[Tensor, "r s h w"], map_size: Size, channels: int) -> Float[Tensor, "b c H W"]:
    """Put rows in "aligned" order together to a map of these sides and channels: the inverse of `partition`."""
    num_sets, height, width = x.shape[1:]
    rows, columns = partition_grid(map_size, (height, width))
    x = x.reshape(-1, channels // num_sets, rows, columns, num_sets, height, width)
    return x.permute(0, 1, 4, 2, 5, 3, 6).reshape(-1, channels, *map_size)


def fit_partition(old_side: int, partition_side: int, new_side: int) -> int:
    """The side of a partition along one axis when the map's side changes.

    The same if it divides the new map. Else, while the map grows to less than twice its side, the side that keeps the
    number of partitions, if whole. Else, for a canvas, the divisor of the new side that is nearest in ratio.
    """
    if new_side % partition_side == 0:
        return partition_side
    count = old_side // partition_side
    if new_side < 2 * old_side and new_side % count == 0:
        return new_side // count
    divisors = [side for side in range(1, new_side + 1) if new_side % side == 0]
    return min(divisors, key=lambda side: (abs(math.log(side / partition_side)), -side))


def rectangle_of(area: int, like: Size) -> Size:
    """Height and width of a rectangle of which only the area is known: `like` if it fits, else a square, else scaled.

    Raises:
        InputError: none of the three has this area.
    """
    if area == like[0] * like[1]:
        return like
    side = math.isqrt(area)
    if side * side == area:
        return side, side
    height = round(math.sqrt(area * like[0] / like[1]))
    if height and area % height == 0 and height * like[1] == like[0] * (area // height):
        return height, area // height
    raise InputError(
        f"The file's partitions hold {area} cells, which is neither a square nor of this model's shape "
        f"({like[0]} x {like[1]}). Build the model with the file's image and partition sizes, load, then call "
        "set_input_size."
    )
