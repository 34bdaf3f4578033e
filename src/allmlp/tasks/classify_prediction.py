"""Predict the classes of image files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from allmlp.data import BadImage, UnreadableImageError, build_transform
from allmlp.errors import InputError
from allmlp.runs import SavedModel, replacing
from allmlp.tasks.losses import probabilities
from allmlp.tasks.pictures import Picture, open_pictures


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image: (class, probability) pairs, the most probable first."""

    path: str
    top: list[tuple[str, float]]

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.top[0][0]

    def to_dict(self) -> dict[str, Any]:
        """What a line of JSON says."""
        return {"path": self.path, "top": [{"class": name, "probability": round(p, 6)} for name, p in self.top]}


@dataclass
class Predictions:
    """Predictions in the order of the images, and the files that could not be read."""

    items: list[Prediction] = field(default_factory=list)
    bad: list[BadImage] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self.items)

    def __getitem__(self, place: int) -> Prediction:
        return self.items[place]


def predict_files(
    saved: SavedModel,
    inputs: Sequence[Any],
    out: Path | None = None,
    device: str = "cpu",
    batch_size: int = 32,
    begin: Callable[[int], Callable[[int], None]] | None = None,
    top: int = 5,
) -> Predictions:
    """Classify files, folders, globs and pictures in memory.

    Args:
        inputs: see `open_pictures`.
        out: a folder for annotated copies, named like their files; None draws none.
        begin: called with the number of images; returns what to call with the number of each batch.
        top: how many classes to name.

    Raises:
        InputError: nothing there, or top is below 1.
    """
    if top < 1:
        raise InputError(f"top: wanted at least 1 class to name; got {top}.")
    names, load = open_pictures(inputs, saved.spec.channels)
    step = begin(len(names)) if begin is not None else None
    transform = build_transform(saved.spec)
    network = saved.network.to(device).eval()
    found = Predictions()
    targets = targets_of(names, out) if out is not None else {}
    for start in range(0, len(names), batch_size):
        batch: list[tuple[str, Picture, torch.Tensor]] = []
        places = range(start, min(start + batch_size, len(names)))
        for place in places:
            try:
                picture = load(place)
                batch.append((names[place], picture, transform(picture)))
            except UnreadableImageError as error:
                found.bad.append(BadImage(error.path, error.reason))
        if batch:
            with torch.inference_mode():
                logits = network(torch.stack([image for _, _, image in batch]).to(device))
                shares, order = probabilities(logits).cpu().sort(dim=1, descending=True)
            for (name, picture, _), row, classes in zip(batch, shares.tolist(), order.tolist()):
                best = [(saved.classes[index], share) for index, share in zip(classes[:top], row)]
                found.items.append(Prediction(name, best))
                if out is not None:
                    _draw(picture, best, targets[name])
        if step is not None:
            step(len(places))
    return found


def targets_of(names: Sequence[str], out: Path) -> dict[str, Path]:
    """Where the annotated copy of each file goes; equal names get a number."""
    taken: set[Path] = set()
    targets: dict[str, Path] = {}
    for name in names:
        stem, number = Path(name).stem, 1
        path = out / f"{stem}.png"
        while path in taken:
            number += 1
            path = out / f"{stem}-{number}.png"
        taken.add(path)
        targets[name] = path
    return targets


def _draw(picture: Picture, top: Sequence[tuple[str, float]], path: Path) -> None:
    from allmlp.figures.annotate import annotate

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        annotate(picture, top).save(temporary, format="PNG")
