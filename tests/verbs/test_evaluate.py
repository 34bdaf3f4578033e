"""Judging a run: on its own held-out images again, and on others beside them."""

import json
import re

import numpy as np
import pytest
from PIL import Image

import allmlp
from allmlp.errors import InputError
from allmlp.verbs._run import run_verb
from digit_files import save_digits


def read(path):
    return json.loads(path.read_text())


def test_its_own_images_give_its_own_numbers(run):
    before = read(run / "metrics.json")
    report = (run / "report.html").read_bytes()
    found = allmlp.evaluate(run, progress="none")
    assert found.folder == run / "evaluation"
    assert found.metrics == {key: before[key] for key in found.metrics if key != "skipped"} | {"skipped": 0}
    assert {"top1", "top5", "loss", "ece", "images", "per_class"} < found.metrics.keys()
    assert read(run / "evaluation" / "metrics.json") == found.metrics
    assert {path.name for path in (run / "evaluation").iterdir()} == {
        "metrics.json",
        "data.json",
        "predictions.npz",
        "predictions.csv",
        "confusion.json",
        "confusion_matrix.png",
        "calibration.png",
    }
    assert read(run / "metrics.json") == before
    assert (run / "report.html").read_bytes() == report


def test_other_images_are_judged_beside(run, tmp_path):
    """A folder that lacks some classes; names decide, not places."""
    photos = save_digits(tmp_path / "new digits", classes=(7, 3), per_class=20)
    own = {path: path.read_bytes() for path in (run / "evaluation").iterdir()}
    found = allmlp.evaluate(run, data=photos, progress="none")
    assert found.folder == run / "evaluation-new-digits"
    assert {path: path.read_bytes() for path in (run / "evaluation").iterdir()} == own
    counts = {row["name"]: row["count"] for row in found.metrics["per_class"]}
    assert {name: count for name, count in counts.items() if count} == {"3": 20, "7": 20}
    assert found.metrics["top1"] > 0.5
    labels = {line.split(",")[1] for line in (found.folder / "predictions.csv").read_text().splitlines()[1:]}
    assert labels == {"3", "7"}


def test_another_folder_for_the_results(run, tmp_path):
    found = allmlp.evaluate(run, out=tmp_path / "there", progress="none")
    assert found.folder == tmp_path / "there"
    assert (tmp_path / "there" / "confusion_matrix.png").exists()


def test_a_batch_of_any_size_and_any_number_of_workers_judges_the_same(run, tmp_path):
    numbers = [
        allmlp.evaluate(run, out=tmp_path / str(size), batch_size=size, progress="none", **more).metrics
        for size, more in ((7, {}), (512, {}), (64, {"data.workers": "1"}))
    ]
    assert numbers[0]["per_class"] == numbers[1]["per_class"] == numbers[2]["per_class"]
    assert numbers[1]["loss"] == pytest.approx(numbers[0]["loss"], rel=1e-5)


def test_unreadable_images_are_left_out_and_counted(run, tmp_path, capsys):
    photos = save_digits(tmp_path / "photos", classes=range(3))
    broken = photos / "1" / "2.png"
    noise = np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)
    Image.fromarray(noise).save(broken)
    broken.write_bytes(broken.read_bytes()[:900])
    (photos / "0" / "0.png").write_text("no image")
    found = allmlp.evaluate(run, data=str(photos))
    assert (found.metrics["images"], found.metrics["skipped"]) == (16, 2)
    assert "2 images could not be read and were left out; see" in capsys.readouterr().err
    skipped = read(found.folder / "data.json")["skipped"]
    assert {item["path"] for item in skipped} == {str(broken), str(photos / "0" / "0.png")}
    with pytest.raises(InputError, match=r"0\.png"):
        allmlp.evaluate(run, data=str(photos), progress="none", **{"data.on_bad_image": "stop"})


def test_the_command_line_shows_numbers_and_the_hardest_classes_first(run, capsys):
    assert run_verb("evaluate", [str(run)]) == 0
    out, told = capsys.readouterr()
    metrics = read(run / "metrics.json")
    assert re.search(rf"top1 +{100 * metrics['top1']:.2f} %", out)
    assert re.search(rf"loss +{metrics['loss']:.4f}", out)
    assert re.search(r"images +360", out)
    table = out[out.index("class") :].splitlines()[1:]
    recalls = [float(line.split()[-2]) for line in table]
    assert len(recalls) == 10
    assert recalls == sorted(recalls)
    assert f"details in {run}/evaluation" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.nam=x"], "Unknown key 'data.nam'. Did you mean data.name"),
        (
            ["epochs=3"],
            "Unknown key 'epochs'. Known: data, data.KEY, inference.KEY, out, device, batch_size, progress.",
        ),
        (["data=nowhere"], "there is no nowhere"),
        (["device=mps"], "device: wanted one that is there (auto, cpu"),
        (["batch_size=x"], "batch_size: wanted int; got 'x'."),
    ],
)
def test_wrong_words(tiny_run, words, message, capsys):
    assert run_verb("evaluate", [str(tiny_run), "progress=none", *words]) == 2
    out, told = capsys.readouterr()
    assert out == ""
    assert told.startswith("allmlp evaluate: ")
    assert message in told


def test_classes_that_the_model_does_not_know(tiny_run, tmp_path):
    photos = save_digits(tmp_path / "photos", classes=(0, 1))
    (photos / "1").rename(photos / "one")
    with pytest.raises(InputError, match=r"images of unknown classes: 'one'\. Known are '0', '1'"):
        allmlp.evaluate(tiny_run, data=photos, progress="none")


def test_labels_outside_the_range(tiny_run, tmp_path):
    photos = save_digits(tmp_path / "photos", classes=(0,))
    table = tmp_path / "labels.csv"
    table.write_text(f"path,label\n{photos}/0/0.png,3\n{photos}/0/1.png,12\n")
    with pytest.raises(InputError, match="12"):
        allmlp.evaluate(tiny_run, data=table, progress="none")
    table.write_text(f"path,label\n{photos}/0/0.png,-1\n")
    with pytest.raises(InputError, match=r"Labels are at least 0; row 1 of .*labels\.csv has -1"):
        allmlp.evaluate(tiny_run, data=table, progress="none")


def test_a_data_set_whose_classes_changed(run, tmp_path):
    """Without data= the run's own images are looked for where they were."""
    photos = save_digits(tmp_path / "photos", per_class=10)
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace("name: digits", f"name: {photos}"))
    with pytest.raises(InputError, match=r"Wanted the classes that .*run was trained on; .*photos now has others"):
        allmlp.evaluate(run, progress="none")


def test_a_run_that_was_not_trained_here(run):
    (run / "recipe.yaml").unlink()
    with pytest.raises(InputError, match=r"was not trained here; name labelled images: allmlp evaluate .*run data="):
        allmlp.evaluate(run, progress="none")
    assert allmlp.evaluate(run, data="digits", progress="none").metrics["top1"] > 0.7
