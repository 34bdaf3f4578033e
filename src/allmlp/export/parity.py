"""How far an exported file's results are from PyTorch's, and whether that is near enough.

Shapes: b images, d detections.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Largest difference allowed of each result: of logits in standard deviations, of boxes in pixels, of labels the share
# of pixels with another class, of a mask the mean over its grid, of others as they are. Half precision rounds weights
# to 11 bits.
TOLERANCES = {
    "fp32": {"logits": 1e-4, "probabilities": 1e-4, "labels": 1e-3, "boxes": 1e-2, "scores": 1e-4, "masks": 1e-3},
    "fp16": {"logits": 5e-2, "probabilities": 2e-2, "labels": 2e-2, "boxes": 1.0, "scores": 5e-2, "masks": 0.1},
}
_MATCHED = {"fp32": 1.0, "fp16": 0.9}
"""Share of detections that must have a partner."""


@dataclass(frozen=True)
class Parity:
    """The largest differences by result, in the units of `TOLERANCES`; those above the tolerance are in `wrong`.

    images: how many were compared. unmatched: detections without a partner, of all.
    """

    images: int
    differences: dict[str, float]
    wrong: list[str]
    unmatched: tuple[int, int] | None = None

    def __str__(self) -> str:
        units = {"logits": "standard deviations", "boxes": "pixels", "labels": "of the pixels"}
        parts = [f"{name} {value:.1e} {units.get(name, '')}".rstrip() for name, value in self.differences.items()]
        partners = [] if self.unmatched is None else ["{} of {} detections without a partner".format(*self.unmatched)]
        return ", ".join(parts + partners)


def merged(parts: Sequence[Parity]) -> Parity:
    """What several comparisons of the same results say together."""
    differences = {name: max(part.differences[name] for part in parts) for name in parts[0].differences}
    alone = [part.unmatched for part in parts if part.unmatched is not None]
    return Parity(
        sum(part.images for part in parts),
        differences,
        sorted({name for part in parts for name in part.wrong}),
        (sum(found[0] for found in alone), sum(found[1] for found in alone)) if alone else None,
    )


def compare(names: Sequence[str], wanted: Sequence[np.ndarray], got: Sequence[np.ndarray], precision: str) -> Parity:
    """Compare all results of a batch.

    Args:
        names: of the results, as the forms have them.
        wanted, got: PyTorch's and the file's.
        precision: whose tolerances hold: "fp32" or "fp16".
    """
    tolerances = TOLERANCES[precision]
    unmatched = None
    if "boxes" in names:
        differences, unmatched = _compare_detections(dict(zip(names, wanted)), dict(zip(names, got)))
    else:
        differences = {name: _difference(name, w, g) for name, w, g in zip(names, wanted, got)}
    # A NaN is no number below a tolerance.
    wrong = [name for name, value in differences.items() if not value <= tolerances[name]]
    if unmatched is not None and unmatched[0] > (1 - _MATCHED[precision]) * unmatched[1]:
        wrong.append("partners")
    return Parity(len(wanted[0]), differences, wrong, unmatched)


def _difference(name: str, wanted: np.ndarray, got: np.ndarray) -> float:
    if wanted.shape != got.shape:
        return float("inf")
    if name == "labels":
        return float((wanted != got).mean())
    largest = np.abs(wanted.astype(np.float64) - got).max(initial=0.0)
    return float(largest / max(float(wanted.std()), 1e-12)) if name == "logits" else float(largest)


def _compare_detections(
    wanted: dict[str, np.ndarray], got: dict[str, np.ndarray]
) -> tuple[dict[str, float], tuple[int, int]]:
    """Differences between detections and their partners: of the same image and class, the nearest box.

    Detections of nearly equal score may change places, so places in the list do not matter.
    """
    results: list[str] = [name for name in ("boxes", "scores", "masks") if name in wanted]
    differences: dict[str, float] = dict.fromkeys(results, 0.0)
    alone = total = 0
    for image in range(len(wanted["counts"])):
        count, other = int(wanted["counts"][image]), int(got["counts"][image])
        free = list(range(other))
        total += max(count, other)
        for place in range(count):
            box, label = wanted["boxes"][image, place], wanted["labels"][image, place]
            same = [index for index in free if got["labels"][image, index] == label]
            distances = [float(np.abs(got["boxes"][image, index] - box).max()) for index in same]
            if not same or not min(distances) <= max(2.0, 0.1 * float(np.abs(box[2:] - box[:2]).max())):
                alone += 1
                continue
            partner = same[int(np.argmin(distances))]
            free.remove(partner)
            for name in results:
                apart = np.abs(got[name][image, partner].astype(np.float64) - wanted[name][image, place])
                differences[name] = max(differences[name], float(apart.mean() if name == "masks" else apart.max()))
        alone += max(0, other - count)
    return differences, (alone, total)
