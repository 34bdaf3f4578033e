"""One number of a network on the held-out images of the data that its model was trained on."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allmlp.data import ImageSpec
from allmlp.data.dense_transforms import View
from allmlp.recipes.schema import InferenceGroup
from allmlp.runs import SavedModel
from allmlp.runs.dense_data import open_label_maps, open_objects
from allmlp.tasks.samples import classification_of


@dataclass(frozen=True)
class Judge:
    """Held-out images, and the number by which a network is judged on them: top1, box_ap or miou, in [0, 1]."""

    metric: str
    images: int
    measure: Callable[[Any], float]


def own_judge(saved: SavedModel, spec: ImageSpec) -> Judge | None:
    """The judge of a trained model's own evaluation split, or None if it was not trained here.

    Args:
        spec: the size at which images are seen; detectors and segmenters see them on a canvas of it.

    Raises:
        InputError: the data cannot be read any more.
    """
    if not saved.folder.recipe.is_file():
        return None
    group = saved.folder.read_recipe().data
    if saved.task == "classify":
        from allmlp.tasks.classify_evaluation import classify_source

        source = classification_of(group).val

        def top1(network: Any) -> float:
            labels, shares, _ = classify_source(network, source, spec, workers=0)
            return float((shares.argmax(axis=1) == labels).mean())

        return Judge("top1", len(source), top1)
    # On an oblong canvas only the square in it is sure to hold every picture.
    side = (min(spec.size), max(spec.size) if len(set(spec.size)) == 1 else min(spec.size))
    view = View(*side, antialias=saved.config["allmlp"]["view"]["antialias"])
    if saved.task == "detect":
        from allmlp.tasks.detect_evaluation import evaluate_source as judge_boxes

        objects = open_objects(group, "mask" in saved.config["model_args"]["name"], spec.channels)

        def box_ap(network: Any) -> float:
            with tempfile.TemporaryDirectory() as folder:
                return judge_boxes(network, objects, spec, view, Path(folder))["box_ap"]

        return Judge("box_ap", len(objects.val), box_ap)
    from allmlp.tasks.segment_evaluation import evaluate_source as judge_labels

    maps = open_label_maps(group, spec.channels)

    def miou(network: Any) -> float:
        with tempfile.TemporaryDirectory() as folder:
            return judge_labels(network, maps, spec, view, InferenceGroup(), Path(folder))["miou"]

    return Judge("miou", len(maps.val), miou)
