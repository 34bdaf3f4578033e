"""A picture with what the model says of it written under it."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from allmlp.figures.samples import as_picture
from allmlp.figures.style import COLOURS, INK, short

_LEAST_SIDE = 224  # small images are enlarged, so that the words fit


def annotate(picture: Image.Image | np.ndarray, top: Sequence[tuple[str, float]]) -> Image.Image:
    """The picture, unchanged or enlarged by a whole factor, over bars of the most probable classes."""
    array = as_picture(picture)
    if array.dtype != np.uint8:
        array = (array * 255).round().astype(np.uint8)
    image = Image.fromarray(array).convert("RGB")
    factor = max(1, -(-_LEAST_SIDE // max(image.size)))
    image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    width = max(image.width, _LEAST_SIDE)
    size = max(13, width // 36)
    row = round(1.6 * size)
    font = ImageFont.load_default(size)
    sheet = Image.new("RGB", (width, image.height + row * len(top) + row // 2), "white")
    sheet.paste(image, ((width - image.width) // 2, 0))
    pen = ImageDraw.Draw(sheet)
    for place, (name, share) in enumerate(top):
        y = image.height + row // 4 + row * place
        pen.rectangle((0, y + row - 4, round(width * share), y + row - 2), fill=COLOURS[0] if place == 0 else "#BBBBBB")
        number = f"{share:.1%}"
        room = width - pen.textlength(number, font) - size
        letters = len(name)
        while letters > 3 and pen.textlength(short(name, letters), font) > room:
            letters -= 1
        pen.text((4, y), short(name, letters), INK, font)
        pen.text((width - pen.textlength(number, font) - 4, y), number, INK, font)
    return sheet
