"""What a segmenter of digit scenes gets wrong, by how much digits cover one another: a table in docs/results.md.

    python benchmarks/overlap_errors.py RUN

Of every held-out digit: the share of its visible ink that is called ink, and of that the share called by the right
class. Digits are sorted by the largest part of their box that the box of one other digit covers.
"""

import sys
from itertools import pairwise

import numpy as np
import torch

from allmlp.data.digit_scenes import Instance, draw_scene
from allmlp.runs import load_model

BOUNDS = (0.0, 1e-9, 0.1, 0.3, 1.1)
SCENES, SIDE = 200, 96  # the held-out scenes of the recipe small_segment


def covered(one: Instance, other: Instance) -> float:
    """The part of a digit's box that another's box covers."""
    (a, b, c, d), (e, f, g, h) = one.box, other.box
    shared = max(0, min(c, g) - max(a, e)) * max(0, min(d, h) - max(b, f))
    return shared / ((c - a) * (d - b))


def main() -> None:
    saved = load_model(sys.argv[1])
    spec = saved.spec
    mean, deviation = (torch.tensor(value)[:, None, None] for value in (spec.mean, spec.std))
    rows = []  # covered, ink, ink found, of that the right class
    for index in range(SCENES):
        scene = draw_scene("val", index, SIDE)
        pixels = torch.from_numpy(scene.image).permute(2, 0, 1) / 255
        with torch.inference_mode():
            found = saved.network(((pixels - mean) / deviation)[None]).argmax(1)[0].numpy()
        for one in scene.instances:
            part = max((covered(one, other) for other in scene.instances if other is not one), default=0.0)
            labels = found[one.mask]
            rows.append((part, labels.size, (labels > 0).sum(), (labels == 1 + one.label).sum()))
    table = np.array(rows, dtype=float)
    print("| part of the box covered | digits | share of the ink | ink found | right class of the ink found |")
    print("|---|---|---|---|---|")
    for low, high in pairwise(BOUNDS):
        these = table[(table[:, 0] >= low) & (table[:, 0] < high)]
        _, ink, seen, right = these.sum(0)
        title = "none" if high < 0.01 else f"up to {high:.1f}" if high <= 1 else f"{low:.1f} or more"
        print(f"| {title} | {len(these)} | {ink / table[:, 1].sum():.2f} | {seen / ink:.3f} | {right / seen:.3f} |")


if __name__ == "__main__":
    main()
