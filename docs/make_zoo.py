"""Write docs/zoo.md: what every model costs, counted on the meta device, beside what is published of it.

Run by `make zoo`. The parity figures are measured where the golden numbers are (ALLMLP_GOLDENS, or ../shared/goldens
beside the project); elsewhere those of the present page stay.
"""

import importlib.util
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

import allmlp
import allmlp.models
from allmlp.metrics.cost import count_macs, count_parameters
from allmlp.models._registry import entry
from allmlp.published import Published, published

ZOO = Path(__file__).with_name("zoo.md")
GOLDENS = Path(os.environ.get("ALLMLP_GOLDENS", Path(__file__).parents[2] / "shared" / "goldens"))
Row = tuple[str, ...]
Parity = Mapping[str, tuple[str, str]]  # class -> (its golden cases, the largest difference)

CLASSIFIERS = """# Model zoo

Written by `make zoo`; do not edit.

Parameters and MACs (multiply-accumulates of one image, half of the FLOPs of matrix products and convolutions) are
counted on this code, with 1000 classes and in the form that trains. "Published" numbers and their sources are those of
[published.toml](../src/allmlp/published.toml): top-1 in percent on ImageNet-1k, the headline here and the others below.
None of them was reproduced here, for that takes ImageNet. "From memory" says that the source could not be read and the
number may be wrong. Parity is our own measurement, by class: the largest difference of a logit from the authors' code,
both in float64 and with the same weights, in standard deviations of the logits ([cases](#parity)).

## Classifiers
"""
OTHERS = "## Other published accuracies\n"
DENSE = """## Detectors and segmenters

Counted as the papers count: detectors on 800 x 1280 pixels with 80 classes, 1000 box and 100 mask regions; UPerNet on
512 x 2048 with 150 classes, its auxiliary head in the parameters but not in the MACs; EANet on 513 x 513 with 21.
"""
DENSE_RESULTS = "Published results, in percent; 1x and 3x are schedules of 12 and 36 epochs on COCO:\n"
PARITY = "## Parity\n"


def page(parity: Parity) -> str:
    """The whole page."""
    size = "published size"
    sections = (
        (
            CLASSIFIERS,
            ("model", "image", "parameters", "MACs", size, "top-1", "trained on", "source", "status", "parity"),
        ),
        (OTHERS, ("model", "top-1", "setting", "source", "status")),
        (DENSE, ("model", "parameters", "MACs", size)),
        (DENSE_RESULTS, ("model", "kind", "value", "setting", "source", "status")),
        (PARITY, ("class", "golden cases", "parity")),
    )
    rows = classifiers(parity), others(), dense(), dense_results(), ((name, *found) for name, found in parity.items())
    return "\n".join(f"{text}\n{table(titles, body)}" for (text, titles), body in zip(sections, rows, strict=True))


def table(titles: Row, rows: Iterable[Row]) -> str:
    """A Markdown table."""
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (titles, ("---",) * len(titles), *rows))


def classifiers(parity: Parity) -> Iterator[Row]:
    """What each name costs, and its headline."""
    for name in allmlp.list_models():
        known = entry(name)
        model = allmlp.create_model(name, num_classes=1000, device="meta")
        headline = [described(number) for number in published(name, "top1")[:1]] or [("",) * 4]
        yield (
            name,
            " x ".join(map(str, known.img_size)),
            *costs(model, (3, *known.img_size)),
            published_size(name, "models"),
            *headline[0],
            parity.get(known.model_class.__name__, ("", ""))[1],
        )


def costs(model: nn.Module, image: Sequence[int]) -> tuple[str, str]:
    """Parameters and MACs."""
    return f"{count_parameters(model):,}", f"{count_macs(model, image):,}"


def published_size(name: str, group: str) -> str:
    """Parameters and MACs as published, the first of each."""
    numbers = (*published(name, "parameters", group)[:1], *published(name, "macs", group)[:1])
    return ", ".join(f"{number.value} {number.unit}" for number in numbers)


def described(number: Published) -> Row:
    """A number's cells."""
    return str(number.value), number.setting, number.source, number.status


def others() -> Iterator[Row]:
    """Every published top-1 but the headlines."""
    for name in allmlp.list_models():
        for number in published(name, "top1")[1:]:
            yield name, *described(number)


def dense_names() -> Iterator[tuple[str, str, str]]:
    """(group, head, backbone) of the models that papers have."""
    for head in ("mask_rcnn", "cascade_mask_rcnn", "upernet"):
        for backbone in ("as_mlp_t", "as_mlp_s", "as_mlp_b"):
            yield "segmenters" if head == "upernet" else "detectors", head, backbone
    yield "segmenters", "eanet", "resnet101"


class Counted(nn.Module):
    """A detector that runs every layer on fixed numbers of regions, whatever it finds."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, x: torch.Tensor) -> None:
        self.detector.for_counting(x)


def dense() -> Iterator[Row]:
    """What each detector and segmenter costs."""
    for group, head, backbone in dense_names():
        with torch.device("meta"):
            if group == "detectors":
                model: nn.Module = Counted(allmlp.create_detector(head, backbone))
                image = (3, 800, 1280)
            else:
                model = allmlp.create_segmenter(head, backbone, num_classes=21 if head == "eanet" else 150)
                image = (3, 513, 513) if head == "eanet" else (3, 512, 2048)
        name = f"{head} {backbone}"
        yield name, *costs(model, image), published_size(name, group)


def dense_results() -> Iterator[Row]:
    """Published accuracies of the same."""
    for group, head, backbone in dense_names():
        name = f"{head} {backbone}"
        for kind in ("box_ap", "mask_ap", "miou"):
            for number in published(name, kind, group):
                yield name, kind, *described(number)


def measured_parity() -> Parity:
    """Over the golden cases that hold logits."""
    spec = importlib.util.spec_from_file_location("golden_weights", GOLDENS / "weights.py")
    rule = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rule)
    found: dict[str, dict[str, float]] = {}
    for path in sorted(GOLDENS.glob("*.json")):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        with np.load(path.with_suffix(".npz")) as arrays:
            if "logits" not in arrays:
                continue
            truth = arrays["logits"]
        name = manifest["allmlp"]["class"]
        model = getattr(allmlp.models, name)(**manifest["allmlp"]["arguments"]).double().eval()
        weights = {key: torch.from_numpy(value) for key, value in rule.official_weights(manifest).items()}
        allmlp.load_official(model, weights)
        with torch.no_grad():
            mine = model(torch.from_numpy(rule.official_input(manifest)).double()).numpy()
        found.setdefault(name, {})[path.stem] = np.abs(mine - truth).max() / truth.std()
    return {name: (", ".join(cases), f"{max(cases.values()):.0e}") for name, cases in found.items()}


def kept_parity() -> Parity:
    """The figures of the present page; none if there is no page."""
    text = ZOO.read_text(encoding="utf-8") if ZOO.is_file() else ""
    lines = text.partition(PARITY)[2].strip().splitlines()[2:]
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {name: (cases, largest) for name, cases, largest in cells}


if __name__ == "__main__":
    ZOO.write_text(page(measured_parity() if GOLDENS.is_dir() else kept_parity()), encoding="utf-8")
