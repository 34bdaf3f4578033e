"""The embedded data set for detection and segmentation: scenes of handwritten digits on textured canvases.

The digits are real (scikit-learn's 8 x 8 images): each is enlarged, rotated, tinted and laid over the canvas, later
ones over earlier ones. Training scenes are made of the training digits of `open_digits` alone, held-out scenes of its
held-out digits, so no handwriting is in both. A scene is a function of (seed, split, index) and of nothing else.

Truth, exact by construction:
- an instance's mask is its *visible* ink: pixels of ink that no later digit's ink covers. Ink is where the enlarged,
  rotated digit is above `_INK` of its range;
- its box is the tight box of that mask;
- a digit of which less than `_LEAST_VISIBLE` would remain visible is not placed;
- the semantic mask is 0 for background and 1 + digit for ink.

Shapes: s the canvas's side in pixels.
"""

import functools
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from allmlp.data.digits import open_digits
from allmlp.data.randomness import sample_seed
from allmlp.data.rle import encode_mask
from allmlp.errors import InputError

VERSION = 1  # a change of what is drawn changes this, and with it the folder where scenes are kept
DIGITS = tuple(str(digit) for digit in range(10))
SEMANTIC_CLASSES = ("background", *DIGITS)
SPLITS = ("train", "val")
DEFAULT_SIZE, DEFAULT_TRAIN, DEFAULT_VAL = 128, 2000, 400

_INK = 0.35
_LEAST_VISIBLE = 0.6
_MOST_DIGITS = 5
_SIDES = (0.22, 0.5)  # of a digit's square, as parts of the canvas's side
_TILT = 25.0  # degrees: beyond that a 6 could be a 9
_LEAST_SIZE = 32


@dataclass(frozen=True)
class Instance:
    """One digit of a scene: class 0 to 9, visible mask (s, s) boolean, tight box x0, y0, x1, y1 in pixels."""

    label: int
    mask: np.ndarray
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Scene:
    """A picture and its truth: image uint8 (s, s, 3), semantic labels uint8 (s, s), instances from back to front."""

    image: UInt8[np.ndarray, "s s 3"]
    semantic: UInt8[np.ndarray, "s s"]
    instances: tuple[Instance, ...]


def draw_scene(split: str, index: int, size: int = DEFAULT_SIZE, seed: int = 0) -> Scene:
    """Scene number `index` of a split ("train" or "val"), `size` x `size` pixels, with 1 to 5 digits.

    Raises:
        InputError: an unknown split, or a size below 32 pixels, at which the digits cannot be told apart.
    """
    if split not in SPLITS:
        raise InputError(f"The digit scenes have the splits {', '.join(SPLITS)}; got {split!r}.")
    if size < _LEAST_SIZE:
        raise InputError(f"A digit scene has at least {_LEAST_SIZE} pixels a side; got {size}.")
    images, labels = _digits(split)
    rng = np.random.default_rng(sample_seed(seed, SPLITS.index(split), index))
    canvas = _texture(rng, size)
    owner = np.full((size, size), -1, dtype=np.int8)  # which digit's ink is seen at a pixel
    placed: list[int] = []
    areas: list[int] = []
    for _ in range(int(rng.integers(1, _MOST_DIGITS + 1))):
        number = int(rng.integers(len(images)))
        for _ in range(8):
            ink, window = _enlarged(rng, images[number], size)
            solid = ink > _INK
            if solid.any() and _leaves_others_visible(solid, window, owner, areas):
                owner[window][solid] = len(placed)
                placed.append(int(labels[number]))
                areas.append(int(solid.sum()))
                _paint(rng, canvas[window], ink)
                break
    instances = []
    semantic = np.zeros((size, size), dtype=np.uint8)
    for place, label in enumerate(placed):
        visible = owner == place
        semantic[visible] = 1 + label
        y, x = np.nonzero(visible)
        instances.append(Instance(label, visible, (int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1)))
    noisy = canvas * 255 + 4 * rng.standard_normal(canvas.shape, dtype=np.float32)
    return Scene(np.clip(np.rint(noisy), 0, 255).astype(np.uint8), semantic, tuple(instances))


def write_digit_scenes(
    out: str | os.PathLike[str],
    train: int = DEFAULT_TRAIN,
    val: int = DEFAULT_VAL,
    size: int = DEFAULT_SIZE,
    seed: int = 0,
) -> Path:
    """Write scenes as a person's own data would lie there; gives back the folder.

    images/SPLIT/000000.png and masks/SPLIT/000000.png (semantic labels, with a palette to look at),
    annotations/instances_SPLIT.json (COCO), classes.txt (of the masks), README.txt.

    Raises:
        InputError: `out` exists and is not an empty folder, or a number is not positive.
    """
    out = Path(out)
    if min(train, val) < 1:
        raise InputError(f"Wanted at least one scene for training and one held out; got train={train} val={val}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not an empty folder; choose another with out=DIR.")
    for split, count in zip(SPLITS, (train, val), strict=True):
        for folder in ("images", "masks"):
            (out / folder / split).mkdir(parents=True, exist_ok=True)
        content: dict[str, Any] = {
            "info": {"description": f"allmlp digit scenes, {split}, size {size}, seed {seed}, version {VERSION}"},
            "images": [],
            "annotations": [],
            "categories": [{"id": 1 + label, "name": name} for label, name in enumerate(DIGITS)],
        }
        for index in range(count):
            scene = draw_scene(split, index, size, seed)
            name = f"{index:06d}.png"
            # the noise does not compress; trying to would take as long as drawing
            Image.fromarray(scene.image).save(out / "images" / split / name, compress_level=0)
            mask = Image.fromarray(scene.semantic).convert("P")
            mask.putpalette(_palette())
            mask.save(out / "masks" / split / name)
            content["images"].append({"id": 1 + index, "file_name": name, "height": size, "width": size})
            for instance in scene.instances:
                content["annotations"].append(_annotation(instance, 1 + len(content["annotations"]), 1 + index))
        (out / "annotations").mkdir(exist_ok=True)
        (out / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
    (out / "classes.txt").write_text("\n".join(SEMANTIC_CLASSES) + "\n", encoding="utf-8")
    (out / "README.txt").write_text(
        f"{train} + {val} scenes of handwritten digits (scikit-learn's), {size} x {size} pixels, seed {seed}.\n"
        "Masks and boxes are of visible ink. Made by allmlp data digit_scenes.\n",
        encoding="utf-8",
    )
    return out


def cached_digit_scenes(
    train: int = DEFAULT_TRAIN, val: int = DEFAULT_VAL, size: int = DEFAULT_SIZE, seed: int = 0
) -> Path:
    """The folder of `write_digit_scenes` with these arguments, written on first use (the default takes half a minute).

    It lies in ALLMLP_CACHE, else in $XDG_CACHE_HOME/allmlp, else in ~/.cache/allmlp, else in the system's folder for
    temporary files, and appears whole or not at all, whichever process is first.
    """
    name = f"digit_scenes-v{VERSION}-{train}+{val}-{size}px-seed{seed}"
    folder = _cache_folder() / name
    if folder.is_dir():
        return folder
    unfinished = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    try:
        write_digit_scenes(unfinished, train, val, size, seed)
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was first, with the same scenes
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _cache_folder() -> Path:
    named = os.environ.get("ALLMLP_CACHE")
    if named:
        folders = [Path(named)]
    else:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folders = [home / "allmlp", Path(tempfile.gettempdir()) / "allmlp"]
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise InputError(f"Cannot write to {folders[0]}; name a folder for generated data with ALLMLP_CACHE=DIR.")


@functools.cache
def _digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """(images in [0, 1] float32 (n, 8, 8), labels) of a split."""
    digits: Any = open_digits()
    chosen = digits.is_val == (split == "val")
    return digits.source.images[chosen].astype(np.float32) / 255, digits.source.labels[chosen]


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """A background float32 (s, s, 3) in [0, 1]: waves and coarse noise that mix two similar colours."""
    places = np.linspace(0, 1, size, endpoint=False, dtype=np.float32)
    cells = int(rng.integers(3, 17))
    coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    pattern = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)) - 0.5
    for _ in range(3):
        angle, frequency = rng.uniform(0, np.pi), rng.uniform(0.3, 9) * 2 * np.pi
        phase = rng.uniform(0, 2 * np.pi) + frequency * np.float32(np.sin(angle)) * places[:, None]
        across = np.float32(frequency * np.cos(angle)) * places
        pattern = pattern + np.float32(rng.uniform(0.1, 0.5)) * np.sin((phase + across).astype(np.float32))
    share = np.clip(0.5 + 0.5 * pattern, 0, 1)[..., None]
    first = rng.uniform(0.0, 1.0, 3)
    second = np.clip(first + rng.uniform(-0.35, 0.35, 3), 0, 1)
    return (share * first + (1 - share) * second).astype(np.float32)


def _enlarged(rng: np.random.Generator, digit: np.ndarray, size: int) -> tuple[np.ndarray, tuple[slice, slice]]:
    """The digit's ink in [0, 1], enlarged and rotated, and the window of the canvas that it fills.

    Its square lies wholly inside the canvas.
    """
    side = float(rng.uniform(*_SIDES)) * size
    turn = np.deg2rad(rng.uniform(-_TILT, _TILT))
    extent = side / 2 * (abs(np.cos(turn)) + abs(np.sin(turn)))
    centre = rng.uniform(extent, size - extent, 2)
    x0, y0 = (max(0, int(middle - extent) - 2) for middle in centre)
    x1, y1 = (min(size, int(middle + extent) + 3) for middle in centre)
    # From the window's pixels to the digit's, as Pillow wants it: x' = a x + b y + c, y' = d x + e y + f at pixel
    # centres. A border of zeros lets ink fade out where it touches the edge of its 8 x 8 square.
    padded = np.pad(digit, 2)
    a, b = np.cos(turn) * 8 / side, np.sin(turn) * 8 / side
    x, y = centre[0] - x0, centre[1] - y0
    numbers = (a, b, padded.shape[1] / 2 - a * x - b * y, -b, a, padded.shape[0] / 2 + b * x - a * y)
    drawn = Image.fromarray(padded).transform(
        (x1 - x0, y1 - y0), Image.Transform.AFFINE, numbers, Image.Resampling.BICUBIC
    )
    return np.clip(np.asarray(drawn), 0, 1), (slice(y0, y1), slice(x0, x1))


def _leaves_others_visible(solid: np.ndarray, window: tuple[slice, slice], owner: np.ndarray, areas: list[int]) -> bool:
    """Whether enough of every digit beneath (whose whole ink covers `areas` pixels) stays visible under new ink."""
    hidden = np.bincount(owner[window][solid].astype(np.int64) + 1, minlength=len(areas) + 1)[1:]
    seen = np.bincount(owner.ravel().astype(np.int64) + 1, minlength=len(areas) + 1)[1:]
    return bool(np.all(seen - hidden >= _LEAST_VISIBLE * np.array(areas)))


def _paint(rng: np.random.Generator, canvas: np.ndarray, ink: np.ndarray) -> None:
    """Lay ink over the canvas (in place), of a colour that stands out from what is beneath; edges are soft."""
    opacity = np.clip((ink - _INK) / 0.25 + 0.5, 0, 1)[..., None]
    beneath = canvas[ink > _INK].mean(axis=0)
    colour = rng.uniform(0, 1, 3)
    while np.abs(colour - beneath).sum() < 0.9:
        colour = rng.uniform(0, 1, 3)
    canvas[:] = opacity * colour + (1 - opacity) * canvas


def _annotation(instance: Instance, number: int, image: int) -> dict[str, Any]:
    x0, y0, x1, y1 = instance.box
    return {
        "id": number,
        "image_id": image,
        "category_id": 1 + instance.label,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": int(instance.mask.sum()),
        "iscrowd": 0,
        "segmentation": encode_mask(instance.mask),
    }


def _palette() -> list[int]:
    """Black for background, ten colours that differ, white for the rest; only for looking at the masks."""
    hues = Image.merge(
        "HSV",
        [
            Image.fromarray(np.array([v], dtype=np.uint8))
            for v in ([25 * n for n in range(10)], [200] * 10, [255 - 60 * (n % 2) for n in range(10)])
        ],
    )
    colours = np.asarray(hues.convert("RGB")).reshape(-1).tolist()
    return [0, 0, 0, *colours, *([255] * (768 - 33))]
