"""Predicting on files, folders, globs and pictures in memory."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import allmlp
from allmlp.errors import InputError
from allmlp.runs import load_model
from allmlp.verbs._run import run_verb
from digit_files import digits, save_digits


@pytest.fixture
def photos(tmp_path):
    """The folder photos/ with photos/0/0.png ... photos/2/5.png."""
    return save_digits(tmp_path / "photos")


def test_predictions_are_what_the_network_says(tiny_run, photos):
    found = allmlp.predict(tiny_run, photos / "1" / "0.png", photos / "2", progress="none")
    assert [item.path for item in found] == [
        str(photos / "1" / "0.png"),
        *(str(photos / f"2/{n}.png") for n in range(6)),
    ]
    saved = load_model(tiny_run)
    pixels = Image.fromarray(digits()[1][0]).convert("RGB").resize((16, 16), Image.Resampling.BICUBIC)
    image = torch.from_numpy(np.asarray(pixels).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        shares = saved.network(image).softmax(1)[0]
    assert [name for name, _ in found[0].top] == [str(index) for index in shares.argsort(descending=True)[:5].tolist()]
    assert [share for _, share in found[0].top] == pytest.approx(shares.sort(descending=True)[0][:5].tolist(), rel=1e-4)
    assert found[0].label == found[0].top[0][0]


def test_most_predictions_are_right(tiny_run, photos):
    found = allmlp.predict(tiny_run, photos, progress="none")
    right = [item.label == item.path.split("/")[-2] for item in found]
    assert len(right) == 18
    assert sum(right) > 12


@pytest.mark.parametrize("top", [1, 3, 50])
def test_how_many_classes_are_named(tiny_run, photos, top):
    found = allmlp.predict(tiny_run, photos, top=top, progress="none")
    assert {len(item.top) for item in found} == {min(top, 10)}
    assert sum(share for _, share in found[0].top) <= 1 + 1e-6


def test_batches_of_any_size_say_the_same(tiny_run, photos):
    one, other = (allmlp.predict(tiny_run, photos, batch_size=size, progress="none") for size in (5, 100))
    assert [item.path for item in one] == [item.path for item in other]
    for a, b in zip(one, other):
        assert [name for name, _ in a.top] == [name for name, _ in b.top]
        assert [p for _, p in a.top] == pytest.approx([p for _, p in b.top], rel=1e-4)


def test_pictures_in_memory(tiny_run, photos):
    """Pillow images and arrays, grey and in colour, give what their file gives."""
    path = photos / "1" / "0.png"
    with Image.open(path) as grey:
        grey.load()
    colour = grey.convert("RGB")
    array = np.asarray(grey)
    forms = [grey, colour, colour.convert("RGBA"), array, array[..., None], np.asarray(colour)]
    wanted = allmlp.predict(tiny_run, path, progress="none")[0].top
    found = allmlp.predict(tiny_run, *forms, progress="none")
    assert [item.path for item in found] == [f"image {place}" for place in range(len(forms))]
    for item in found:
        assert [name for name, _ in item.top] == [name for name, _ in wanted]
        assert [share for _, share in item.top] == pytest.approx([share for _, share in wanted], rel=1e-5)


def test_pictures_in_memory_are_seen_as_files_are(tiny_run, photos, tmp_path):
    """What is transparent is white, and a camera held sideways is turned."""
    pixels = digits()[1][0]
    seen_through = Image.fromarray(np.dstack([pixels, pixels, pixels, 255 - pixels]))
    seen_through.save(tmp_path / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "b.png", exif=exif)
    files = allmlp.predict(tiny_run, tmp_path / "a.png", tmp_path / "b.png", progress="none")
    with Image.open(tmp_path / "b.png") as turned:
        found = allmlp.predict(tiny_run, seen_through, turned, progress="none")
    plain = allmlp.predict(tiny_run, pixels, progress="none")
    assert [item.top for item in found] == [item.top for item in files]
    assert plain[0].top not in [item.top for item in found]


def test_a_picture_that_was_opened_and_not_decoded(tiny_run, photos, capsys):
    path = photos / "1" / "0.png"
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8))
    noise.save(path)
    path.write_bytes(path.read_bytes()[:900])
    with Image.open(path) as broken, Image.open(photos / "1" / "1.png") as whole:
        found = allmlp.predict(tiny_run, broken, whole)
    assert [item.path for item in found] == ["image 1"]
    assert "cannot be read: image 0: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (np.zeros((8, 8)), r"uint8.*got float64"),
        (np.zeros(8, np.uint8), r"uint8.*\(8,\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"uint8.*\(2, 8, 8, 3\)"),
        (torch.zeros(3, 8, 8), "Tensor"),
        (3, "int"),
    ],
)
def test_things_that_are_no_pictures(tiny_run, thing, message):
    with pytest.raises(InputError, match=message):
        allmlp.predict(tiny_run, thing, progress="none")


def test_files_and_pictures_together(tiny_run, photos):
    with pytest.raises(InputError, match="either files or pictures in memory"):
        allmlp.predict(tiny_run, photos, np.zeros((8, 8), np.uint8), progress="none")


def test_bad_files_are_named_and_counted(tiny_run, photos, capsys):
    (photos / "0" / "0.png").write_text("no image")
    found = allmlp.predict(tiny_run, photos)
    assert len(found) == 17
    assert [bad.path for bad in found.bad] == [str(photos / "0" / "0.png")]
    told = capsys.readouterr().err
    assert f"cannot be read: {photos}/0/0.png: " in told
    assert "1 of 18 files could not be read" in told


def test_nothing_but_bad_files(tiny_run, tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(InputError, match="none of the 1 files can be read"):
        allmlp.predict(tiny_run, tmp_path / "a.png", progress="none")


def test_a_table(tiny_run, photos, capsys):
    assert run_verb("predict", [str(tiny_run), str(photos / "1"), "top=2"]) == 0
    out, told = capsys.readouterr()
    lines = out.splitlines()
    assert re.match(r"file +prediction +probability +next", lines[0])
    assert re.match(rf"{re.escape(str(photos))}/1/0\.png +\d +[\d.]+% +\d [\d.]+%", lines[1])
    assert len(lines) == 7
    assert told == ""


def test_json_lines(tiny_run, photos, capsys):
    assert run_verb("predict", [str(tiny_run), str(photos / "1"), "top=2", "out=-"]) == 0
    out, told = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["path"] for row in rows] == [str(photos / f"1/{number}.png") for number in range(6)]
    for row in rows:
        assert [set(entry) for entry in row["top"]] == [{"class", "probability"}] * 2
        assert 0 <= row["top"][1]["probability"] <= row["top"][0]["probability"] <= 1
    assert told == ""


def test_annotated_pictures(tiny_run, photos, tmp_path, capsys):
    out = tmp_path / "out"
    found = allmlp.predict(tiny_run, photos / "1", photos / "2", out=out)
    assert {path.name for path in out.iterdir()} == {
        "predictions.jsonl",
        *(f"{number}.png" for number in range(6)),
        *(f"{number}-2.png" for number in range(6)),
    }
    with Image.open(out / "3.png") as picture:
        assert picture.width >= 224
        assert picture.height > 224  # the picture itself and bars under it
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert rows == [item.to_dict() for item in found]
    assert f"pictures and predictions.jsonl in {out}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Wanted image files, folders or globs after the run folder; got none."),
        (["nothing.png"], "there is none at nothing.png"),
        (["nothing*.png"], "Wanted images that match nothing*.png; none do."),
        (["a.png", "top=0"], "top: wanted at least 1 class to name; got 0."),
        (["a.png", "top=x"], "top: wanted int; got 'x'."),
        (["a.png", "tpo=1"], "Unknown key 'tpo'. Did you mean top?"),
    ],
)
def test_wrong_words(tiny_run, words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (8, 8)).save("a.png")
    assert run_verb("predict", [str(tiny_run), *words]) == 2
    assert message in capsys.readouterr().err


def test_runs_that_are_not_there(tmp_path, capsys):
    assert run_verb("predict", [str(tmp_path / "nothing"), "a.png"]) == 2
    assert "Wanted a run folder; there is none at" in capsys.readouterr().err
    assert run_verb("predict", []) == 2
    assert "Wanted RUN; got nothing for it." in capsys.readouterr().err
