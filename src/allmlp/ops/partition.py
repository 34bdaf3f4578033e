"""Partitions: a map cut into equal rectangles that a fully-connected layer reads one at a time.

Source: Ding et al., "RepMLP", arXiv 2105.01883, section 3.1.
Shapes: b batch, c channels, H x W the map, h x w a partition, r = b * (H / h) * (W / w) partitions, in the order image,
    row, column; s sets of channels, q = r * (c / s) rows.
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


def partition(x: Float[Tensor, "b c H W"], size: Size) -> Float[Tensor, "r c h w"]:
    """Cut a map into partitions. A view where there is only one and x is contiguous.

    Example:
        `unpartition(partition(x, (7, 7)), (14, 14), x.shape[1])` is x for maps of 14 x 14.

    Raises:
        InputError: partitions of this size do not fill the map.
    """
    channels, *map_size = x.shape[1:]
    rows, columns = partition_grid((map_size[0], map_size[1]), size)
    x = x.reshape(-1, channels, rows, size[0], columns, size[1])
    return x.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, *size)


def unpartition(
    x: Float[Tensor, "q s h w"], map_size: Size, channels: int, order: str = "aligned"
) -> Float[Tensor, "b c H W"]:
    """Put partitions together to maps; of "aligned" ones, the inverse of `partition`.

    Args:
        x: partitions of all channels (s = c), or of s channels, the c / s groups of channels of a partition one after
            the other.
        map_size: height and width of the map.
        channels: of the map.
        order: "aligned" as said. "authors" takes x for partitions in the order image, channel group, row, column, as
            the authors' code does with such partitions as `partition` makes. They come to other places by that, unless
            a map has one partition or a partition one group.

    Raises:
        InputError: partitions of this size do not fill the map.
    """
    num_sets, height, width = x.shape[1:]
    rows, columns = partition_grid(map_size, (height, width))
    if order == "authors":
        x = x.reshape(-1, channels // num_sets, rows, columns, num_sets, height, width).permute(0, 1, 4, 2, 5, 3, 6)
    else:
        x = x.reshape(-1, rows, columns, channels, height, width).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(-1, channels, *map_size)


def fit_partition(old_side: int, partition_side: int, new_side: int) -> int:
    """The side of a partition along one axis when the map's side changes.

    The same if it divides the new map. Else, while the map grows to less than twice its side, the side that keeps the
    number of partitions, if whole. Else, for a canvas, the divisor of the new side that is nearest in ratio, but not 1,
    which would mix nothing.

    Raises:
        InputError: that divisor of a larger map is not within a factor of 4.
    """
    if new_side % partition_side == 0:
        return partition_side
    count = old_side // partition_side
    if new_side < 2 * old_side and new_side % count == 0:
        return new_side // count
    divisors = [side for side in range(2, new_side + 1) if new_side % side == 0] or [1]
    nearest = min(divisors, key=lambda side: (abs(math.log(side / partition_side)), -side))
    if new_side > old_side and not partition_side <= 4 * nearest <= 16 * partition_side:
        raise InputError(
            f"Wanted a map whose side has a divisor near the partitions' {partition_side}; got {new_side}, whose "
            f"nearest is {nearest}. Take an image size whose maps {partition_side} divides, such as a whole multiple "
            "of the present one."
        )
    return nearest


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
