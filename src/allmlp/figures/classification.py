"""The parts of a classification run's report."""

import json
import shlex
import time
from typing import Any

import numpy as np
from timm.models import get_model_input_config

from allmlp.data import ImageSource, open_classification
from allmlp.figures.confusion import draw_calibration, draw_confusion
from allmlp.figures.curves import draw_curves
from allmlp.figures.page import Page
from allmlp.figures.samples import Sample, draw_samples
from allmlp.figures.stem import draw_stem
from allmlp.figures.token_mixing import draw_token_mixing
from allmlp.recipes import load_recipe
from allmlp.runs import RunFolder, load_model

_SHEET = 32  # images on a sheet
_CLASS_ROWS = 40


def summary(page: Page, run: RunFolder, facts: dict[str, Any]) -> None:
    """What was trained on what, and the numbers that matter."""
    recipe, metrics, data = facts["recipe"], facts["metrics"], facts["data"]
    model, optim = recipe["model"], recipe["optim"]
    spec = facts["config"].get("pretrained_cfg", {})
    page.text(
        f"{metrics['top1']:.2%} of {metrics['images']} held-out images are classified right. "
        f"The weights are those of the {'best epoch' if metrics.get('kept') == 'best' else 'last step'}"
        + (", averaged over training." if recipe.get("ema", {}).get("decay") else "."),
        "lead",
    )
    page.cards(
        {
            "top-1": f"{metrics['top1']:.2%}",
            "top-5": f"{metrics['top5']:.2%}",
            "calibration error": f"{metrics['ece']:.2%}",
            "parameters": count(metrics["parameters"]),
            "multiply-adds an image": count(metrics["macs"]),
            "latency, one image": f"{metrics['latency_ms']:.2f} ms",
            "training": duration(metrics["train_seconds"]),
        }
    )
    size = spec.get("input_size", ("?", "?", "?"))
    page.table(
        [
            ("Model", f"{model['name']}, {size[1]} x {size[2]} pixels, {size[0]} channels"),
            ("Data", f"{recipe['data']['name']}: {_images(data)}"),
            ("Training", f"{metrics['epochs']} epochs, {recipe['batch_size']} images a step, seed {recipe['seed']}"),
            (
                "Optimiser",
                f"{optim['opt']}, peak learning rate {optim['lr']:g}, weight decay {optim['weight_decay']:g}",
            ),
            ("Time", f"{duration(metrics['train_seconds'])} training, {duration(metrics['cpu_seconds'])} of CPU time"),
            ("Machine", machine(facts["environment"])),
        ]
    )
    if facts["rows"]:
        page.heading("Learning")
        page.figure(
            "learning_curves",
            draw_curves(facts["rows"], "top1", "Top-1"),
            "Held-out images are never trained on; nothing was selected on them unless keep=best was asked for. The "
            "training loss is that of augmented images and of smoothed labels, so it can lie above the other.",
        )


def baseline(page: Page, run: RunFolder, facts: dict[str, Any]) -> None:
    """For the embedded digits: what a support vector machine does on the same split."""
    if facts["recipe"]["data"]["name"] != "digits":
        return
    accuracy, seconds = svm_on_digits()
    page.heading("An honest comparison")
    page.text(
        f"scikit-learn's support vector machine reaches {accuracy:.2%} on the same held-out digits after "
        f"{seconds:.2f} s. These 8 x 8 digits prove that the machinery works, not that MLPs beat an SVM on them."
    )


def svm_on_digits() -> tuple[float, float]:
    """(accuracy, seconds of fitting and predicting) of an RBF support vector machine on the embedded split."""
    from sklearn.svm import SVC

    data = open_classification("digits", check_images=False)

    def arrays(source: ImageSource) -> tuple[np.ndarray, np.ndarray]:
        pixels = [np.asarray(source.load(i, channels=1), dtype=np.float64).reshape(-1) for i in range(len(source))]
        return np.stack(pixels) / 255 * 16, source.labels

    train, test = arrays(data.train), arrays(data.val)
    start = time.perf_counter()
    accuracy = SVC(C=10).fit(*train).score(*test)
    return float(accuracy), time.perf_counter() - start


def errors(page: Page, run: RunFolder, facts: dict[str, Any]) -> None:
    """Confusion, calibration, classes, test images and the most confident mistakes."""
    confusion = json.loads((run.evaluation / "confusion.json").read_text())
    with np.load(run.evaluation / "predictions.npz") as file:
        labels, shares, indices = file["labels"], file["probabilities"], file["indices"]
    names = confusion["labels"]
    page.heading("Where it is right and where it errs")
    page.figure("confusion_matrix", draw_confusion(np.array(confusion["matrix"]), names), "Counts of held-out images.")
    page.figure("calibration", draw_calibration(labels, shares), "How far the stated confidence can be believed.")
    rows = sorted(facts["metrics"]["per_class"], key=lambda row: (row["recall"] is None, row["recall"]))
    page.heading("Classes, the hardest first")
    page.table(
        [
            (row["name"], str(row["count"]), percent(row["precision"]), percent(row["recall"]))
            for row in rows[:_CLASS_ROWS]
        ],
        ("class", "images", "precision", "recall"),
        numbers_from=1,
    )
    source = _source(run, facts)
    if source is None:
        page.text("The images are no longer where they were, so none are shown.", "note")
        return
    predictions, confidence = shares.argmax(1), shares.max(1)
    rng = np.random.default_rng(0)
    some = np.sort(rng.permutation(len(labels))[:_SHEET])
    wrong = np.flatnonzero(predictions != labels)
    worst = wrong[np.argsort(-confidence[wrong])][:_SHEET]
    for name, title, chosen in (
        ("predictions", "Held-out images, drawn at random", some),
        ("mistakes", "The most confident mistakes", worst),
    ):
        if not len(chosen):
            page.text(f"{title}: there are none.")
            continue
        samples = [
            Sample(source.load(int(indices[i])), names[labels[i]], names[predictions[i]], float(confidence[i]))
            for i in chosen
        ]
        caption = f"{title}: green is right, orange is wrong with the truth in brackets."
        page.figure(name, draw_samples(samples, title), caption)


def inside(page: Page, run: RunFolder, facts: dict[str, Any]) -> None:
    """The weights that a person can look at, if the network has any."""
    network: Any = load_model(run.path).network
    maps = network.token_maps() if hasattr(network, "token_maps") else {}
    stem = get_model_input_config(network).get("first_conv")
    weight = network.get_submodule(stem if isinstance(stem, str) else stem[0]).weight if stem else None
    has_filters = weight is not None and weight.ndim == 4 and min(weight.shape[2:]) > 1
    if maps or has_filters:
        page.heading("What it has learned to look at")
    if maps:
        page.figure(
            "token_mixing",
            draw_token_mixing({name: value.detach().cpu().numpy() for name, value in maps.items()}),
            "Token-mixing weights: each small image is one unit, each pixel one place of the token grid that it reads "
            "with that weight (red positive, blue negative), low spatial frequencies first.",
        )
    if has_filters and weight is not None:
        page.figure("stem", draw_stem(weight.detach().cpu().numpy()), "The first layer's filters on the image.")


def files(page: Page, run: RunFolder, facts: dict[str, Any]) -> None:
    """How to go on from here."""
    page.heading("Use it")
    folder = shlex.quote(str(run))
    page.commands(
        {
            f"allmlp predict {folder} FILES_OR_FOLDERS... out=-": "JSON lines; out=DIR for annotated images",
            f"allmlp evaluate {folder} data=OTHER": "on other labelled images",
            f"allmlp train init={folder} data=MORE": "start from these weights",
        }
    )
    skipped = facts["data"].get("skipped") or []
    if skipped:
        page.heading("Files that could not be read")
        page.table([(str(item["path"]), str(item["reason"])) for item in skipped[:50]], ("file", "reason"))


SECTIONS = (summary, baseline, errors, inside, files)


def _source(run: RunFolder, facts: dict[str, Any]) -> ImageSource | None:
    """The run's held-out images, or None if they cannot be found again."""
    group = load_recipe(run.recipe).data
    try:
        data = open_classification(
            group.name,
            val_fraction=group.val_fraction,
            seed=group.split_seed,
            on_bad_image="skip",
            root=group.root,
            options=group.options or None,
        )
    except (ValueError, OSError):
        return None
    return data.val if data.fingerprint() == facts["data"].get("fingerprint") else None


def _images(data: dict[str, Any]) -> str:
    if not data:
        return "not recorded"
    return (
        f"{len(data['classes'])} classes, {data['train']['images']} images to train on, "
        f"{data['val']['images']} held out"
    )


def machine(environment: dict[str, Any]) -> str:
    """Processor, cores, GPUs and versions in a few words."""
    machine = environment.get("machine", {})
    versions = environment.get("versions", {})
    words = [str(machine[key]) for key in ("processor",) if machine.get(key)]
    if machine.get("cores"):
        words.append(f"{machine['cores']} cores")
    words += machine.get("gpus") or []
    words += [f"{name} {versions[name]}" for name in ("torch", "timm") if name in versions]
    return ", ".join(words)


def count(number: float) -> str:
    """A count with its magnitude: 1.26 M."""
    for limit, mark in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= limit:
            return f"{number / limit:.3g}{mark}"
    return f"{number:g}"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def percent(share: float | None) -> str:
    """A share as a percentage, or a dash where it is not defined."""
    return "–" if share is None else f"{share:.1%}"
