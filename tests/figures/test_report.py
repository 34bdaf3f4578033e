"""The report of a run: one page that needs nothing else, with everything on it that a person asks of a run."""

import base64
import csv
import html.parser
import io
import json
import shutil

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import allmlp
from allmlp.errors import InputError
from allmlp.figures import classification
from allmlp.figures.page import Page
from allmlp.figures.report import write_report
from allmlp.runs import RunFolder
from digit_files import save_digits
from tiny import train


class Reader(html.parser.HTMLParser):
    """Tags with their attributes, and the text of a page; complains of tags that do not match."""

    def __init__(self):
        super().__init__()
        self.tags, self.text, self.open = [], "", []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("img", "meta", "br", "!doctype"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data + "\n"


def read(path):
    reader = Reader()
    reader.feed(path.read_text())
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def page(tiny_run):
    return read(tiny_run / "report.html")


def test_it_needs_no_other_file(page, tiny_run):
    """It can be mailed, and opened without a network."""
    text = (tiny_run / "report.html").read_text()
    assert "http" not in text
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "base")
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:")
    assert "@import" not in text
    assert "url(" not in text
    assert len(text) < 3_000_000


def test_every_picture_can_be_seen_and_is_described(page):
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 7
    for attributes in pictures:
        with Image.open(io.BytesIO(base64.b64decode(attributes["src"].partition("base64,")[2]))) as picture:
            picture.load()
            assert picture.width > 300
            values = np.asarray(picture.convert("L"))
        assert values.std() > 5  # something is drawn
        assert len(attributes["alt"]) > 10


def test_it_says_what_a_person_asks_of_a_run(page, tiny_run):
    metrics = json.loads((tiny_run / "metrics.json").read_text())
    for words in (
        "mixer_nano on digits",
        f"{metrics['top1']:.2%} of 360 held-out images are classified right.",
        "averaged over training",
        f"{metrics['top5']:.2%}",
        f"{metrics['ece']:.2%}",
        "parameters",
        "multiply-adds an image",
        f"{metrics['latency_ms']:.2f} ms",
        "16 x 16 pixels, 3 channels",
        "10 classes, 1437 images to train on, 360 held out",
        "6 epochs, 64 images a step, seed 0",
        "adamw, peak learning rate 0.01",
        "Learning",
        "Where it is right and where it errs",
        "Counts of held-out images.",
        "support vector machine reaches",
        "not that MLPs beat an SVM on them",
        "Token-mixing weights",
        "most confident mistakes",
        "allmlp predict",
    ):
        assert words.lower() in page.text.lower() + " ".join(a.get("alt", "").lower() for _, a in page.tags), words


def test_the_figures_are_files_too(tiny_run):
    names = {path.name for path in (tiny_run / "figures").iterdir()}
    wanted = {"learning_curves", "confusion_matrix", "calibration", "predictions", "mistakes", "stem", "token_mixing"}
    assert names == {f"{name}.png" for name in wanted}


@pytest.fixture
def photos_run(tmp_path, no_report):
    """A run on a folder whose names would break a careless page, with a file that is no image."""
    photos = save_digits(tmp_path / "photos <b>&", per_class=10)
    (photos / "1").rename(photos / '<i>one & "two"')
    (photos / "0" / "0.png").write_text("no image")
    return train(tmp_path / "run", data=photos, batch_size=8, epochs=1).run, photos


def test_names_are_shown_as_they_are_and_unreadable_files_are_listed(photos_run):
    run, photos = photos_run
    page = read(write_report(run))
    assert '<i>one & "two"' in page.text
    assert f"mixer_nano on {photos.name}" in page.text
    assert not any(tag == "i" for tag, _ in page.tags)
    assert "Held-out images, drawn at random" in page.text
    assert "support vector machine" not in page.text  # that is for the digits
    assert "Files that could not be read" in page.text
    assert f"{photos}/0/0.png" in page.text


def test_without_the_images_the_rest_is_drawn(photos_run):
    run, photos = photos_run
    shutil.rmtree(photos)
    page = read(write_report(run))
    assert "The images are no longer where they were, so none are shown." in page.text
    assert "Counts of held-out images." in page.text
    assert "Held-out images, drawn at random" not in page.text


@pytest.fixture
def sheets(tiny_run, monkeypatch):
    """What the section about errors draws of images: title -> samples."""
    drawn = {}

    def keep(samples, title):
        drawn[title] = samples
        return Figure(figsize=(1, 1))

    monkeypatch.setattr(classification, "draw_samples", keep)

    def draw(run):
        facts = {name: json.loads((run / f"{name}.json").read_text()) for name in ("metrics", "data")}
        page = Page("page")
        classification.errors(page, RunFolder(run), facts)
        return drawn, page

    return draw


def test_the_mistakes_are_the_most_confident_ones(tiny_run, sheets):
    drawn, _ = sheets(tiny_run)
    assert len(drawn["Held-out images, drawn at random"]) == 32
    mistakes = drawn["The most confident mistakes"]
    assert len(mistakes) == 32
    assert all(sample.label != sample.prediction for sample in mistakes)
    with open(tiny_run / "evaluation" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    wrong = sorted((float(row["confidence"]) for row in rows if row["label"] != row["prediction"]), reverse=True)
    assert [sample.confidence for sample in mistakes] == pytest.approx(wrong[:32], abs=1e-5)


def test_the_images_are_those_of_their_predictions(tiny_run, sheets):
    drawn, _ = sheets(tiny_run)
    for sample in drawn["The most confident mistakes"][:3]:
        said = allmlp.predict(tiny_run, sample.image, progress="none")[0]
        assert said.top[0] == (sample.prediction, pytest.approx(sample.confidence, rel=1e-4))


def test_a_run_without_mistakes(tiny_run, tmp_path, sheets):
    """Nothing to be shown is said, not drawn."""
    run = shutil.copytree(tiny_run, tmp_path / "run")
    with np.load(run / "evaluation" / "predictions.npz") as file:
        arrays = dict(file)
    arrays["labels"] = arrays["probabilities"].argmax(1)
    np.savez(run / "evaluation" / "predictions.npz", **arrays)
    drawn, page = sheets(run)
    assert list(drawn) == ["Held-out images, drawn at random"]
    assert "The most confident mistakes: there are none." in page.html()


def test_the_support_vector_machine_is_trained_on_the_same_split():
    accuracy, seconds = classification.svm_on_digits()
    assert accuracy == pytest.approx(0.99, abs=0.006)
    assert seconds > 0


def test_a_run_that_is_not_finished(tmp_path):
    (tmp_path / "recipe.yaml").write_text("epochs: 1")
    with pytest.raises(InputError, match=r"Wanted a finished run; .* has no metrics\.json yet"):
        write_report(tmp_path)
