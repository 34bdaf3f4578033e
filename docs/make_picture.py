"""README's picture, from a finished run: `python docs/make_picture.py runs/quickstart`."""

import sys
from pathlib import Path

from PIL import Image

WIDTH = 1000


def main(run: Path) -> None:
    """Put the run's held-out images over its token-mixing weights, in docs/figures/quickstart.png."""
    parts = [Image.open(run / "figures" / f"{name}.png").convert("RGB") for name in ("predictions", "token_mixing")]
    parts[0] = parts[0].crop((0, 0, parts[0].width, round(parts[0].height * 0.52)))  # two of its four rows
    parts = [part.resize((WIDTH, round(part.height * WIDTH / part.width)), Image.Resampling.LANCZOS) for part in parts]
    sheet = Image.new("RGB", (WIDTH, sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    target = Path(__file__).parent / "figures" / "quickstart.png"
    target.parent.mkdir(exist_ok=True)
    sheet.quantize(64).save(target, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
