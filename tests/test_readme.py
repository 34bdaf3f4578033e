"""Every command and every line of Python in README is run, in the order in which a person would type them."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from allmlp.data import open_classification
from allmlp.verbs._run import run_verb

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", README, re.DOTALL)


FEW_SCENES = ["epochs=1", "data.train_scenes=8", "data.val_scenes=4"]  # minutes of training else
COMMANDS = [line for block in blocks("console") for line in block.splitlines() if line]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with `photos` in three classes and `new_photos`, as README assumes them."""
    folder = tmp_path_factory.mktemp("readme")
    digits = open_classification("digits").train
    for label in range(3):
        target = folder / "photos" / f"kind {label}"
        target.mkdir(parents=True)
        for index in np.flatnonzero(digits.labels == label)[:8]:
            digits.load(int(index)).save(target / f"{index}.png")
    (folder / "new_photos").mkdir()
    Image.fromarray(np.zeros((40, 30, 3), np.uint8)).save(folder / "new_photos" / "one.jpg")
    return folder


def test_make_targets_exist():
    targets = [line.split()[1] for line in COMMANDS if line.startswith("make ")]
    assert targets == ["quickstart", "test"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_commands(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    typed = [shlex.split(line) for line in COMMANDS if not line.startswith("make ")]
    assert {words[0] for words in typed} == {"allmlp"}
    assert {words[1] for words in typed} >= {
        "train",
        "evaluate",
        "predict",
        "list",
        "info",
        "compare",
        "fold",
        "doctor",
    }
    for words in typed:
        if any(word.startswith("task=") for word in words):
            words += FEW_SCENES
        assert run_verb(words[1], words[2:]) == 0, (words, capsys.readouterr().err)
    assert (place / "runs/photos/report.html").is_file()
    assert (place / "predictions/one.png").is_file()
    assert (place / "runs/compare/pareto.png").is_file()


def test_python(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    accuracy, label = capsys.readouterr().out.split()[:2]
    assert 0 < float(accuracy) <= 1
    assert label in "0123456789"


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert "://" not in target
        assert (ROOT / target).is_file(), target
