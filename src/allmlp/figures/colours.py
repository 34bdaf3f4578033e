"""Colours of classes, and pictures with boxes, masks and label maps on them; pixels only, no plots."""

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GOLDEN = 0.618033988749895  # steps of hue by the golden ratio never come close to an earlier one
_OPACITY = 0.45


def class_colour(label: int) -> tuple[int, int, int]:
    """An RGB colour for a class number: neighbours differ strongly, the same number always gets the same."""
    hue = (0.58 + label * _GOLDEN) % 1
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.75 + 0.25 * (label % 2), 0.95))  # type: ignore[return-value]


def palette(classes: int) -> list[int]:
    """A palette for mask PNGs: the class colours, 255 (ignored) white."""
    colours = [part for label in range(classes) for part in class_colour(label)]
    return (colours + [0] * 768)[:765] + [255, 255, 255]


def as_rgb(picture: Image.Image | np.ndarray) -> np.ndarray:
    """A picture as uint8 (h, w, 3)."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    return np.array(image.convert("RGB"))


def draw_objects(
    picture: Image.Image | np.ndarray,
    boxes: Any,
    labels: Sequence[int],
    names: Sequence[str],
    scores: Sequence[float] | None = None,
    masks: Sequence[Any] | None = None,
) -> Image.Image:
    """The picture, in its own size, with each object's box, mask and name; the first ones on top.

    Args:
        boxes: (n, 4) x0, y0, x1, y1 in pixels.
        masks: n boolean (h, w), or None.
    """
    canvas = as_rgb(picture)
    order = range(len(labels) - 1, -1, -1)
    for place in order if masks is not None else ():
        shown: np.ndarray = np.asarray(masks[place]).astype(bool)  # type: ignore[index]
        canvas[shown] = (1 - _OPACITY) * canvas[shown] + _OPACITY * np.array(class_colour(labels[place]))
    image = Image.fromarray(canvas)
    pen = ImageDraw.Draw(image)
    size = max(9, min(image.size) // 22)
    font = ImageFont.load_default(size)
    for place in order:
        x0, y0, x1, y1 = (float(value) for value in boxes[place])
        colour = class_colour(labels[place])
        pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colour, width=max(1, size // 8))
        words = names[labels[place]] + ("" if scores is None else f" {scores[place]:.0%}")
        left, top, right, bottom = pen.textbbox((x0 + 1, max(0.0, y0 - size - 2)), words, font=font)
        pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), fill=colour)
        bright = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2] > 110
        pen.text((x0 + 1, max(0.0, y0 - size - 2)), words, fill="black" if bright else "white", font=font)
    return image


def draw_labels(picture: Image.Image | np.ndarray, labels: np.ndarray, opacity: float = 0.55) -> Image.Image:
    """The picture under a label map (h, w); ignored pixels (255) stay as they are."""
    canvas = as_rgb(picture)
    for label in np.unique(labels):
        if label != 255:
            shown = labels == label
            canvas[shown] = (1 - opacity) * canvas[shown] + opacity * np.array(class_colour(int(label)))
    return Image.fromarray(canvas)


def draw_legend(names: Mapping[int, str], width: int, size: int = 14) -> Image.Image:
    """A strip with a square of each class's colour and its name, in rows that fit `width` pixels."""
    font = ImageFont.load_default(size)
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    placed, x, y = [], 4, 4
    for label, name in names.items():
        step = size + 6 + int(measure.textlength(name, font=font)) + 12
        if x > 4 and x + step > width:
            x, y = 4, y + size + 8
        placed.append((x, y, label, name))
        x += step
    strip = Image.new("RGB", (width, y + size + 8), "white")
    pen = ImageDraw.Draw(strip)
    for x, y, label, name in placed:
        pen.rectangle((x, y, x + size, y + size), fill=class_colour(label))
        pen.text((x + size + 6, y - 1), name, fill="black", font=font)
    return strip


def under(picture: Image.Image, strip: Image.Image) -> Image.Image:
    """Two pictures of one width, the second under the first."""
    sheet = Image.new("RGB", (max(picture.width, strip.width), picture.height + strip.height), "white")
    sheet.paste(picture, (0, 0))
    sheet.paste(strip, (0, picture.height))
    return sheet
