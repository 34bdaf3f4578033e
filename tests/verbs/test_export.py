"""Exporting runs: what the folder holds, agreement, errors, and nothing left behind; predicting by other backends."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import allmlp
import dense_runs
from allmlp.backends import open_file
from allmlp.errors import InputError
from allmlp.export import int8, parity
from allmlp.runs import load_model
from allmlp.verbs._run import run_verb
from digit_files import save_digits


@pytest.fixture
def photos(tmp_path):
    """Three digits, three pictures each."""
    return save_digits(tmp_path / "photos", per_class=3)


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory):
    """The tiny run as ONNX."""
    return allmlp.export(tiny_run, out=tmp_path_factory.mktemp("exported") / "onnx", progress="none")


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_explains_itself(exported):
    folder = exported.folder
    assert leftovers(folder) == ["README.md", "export.json", "labels.txt", "model.onnx", "preprocessing.json", "run.py"]
    assert (folder / "labels.txt").read_text().split() == [str(digit) for digit in range(10)]
    facts = json.loads((folder / "export.json").read_text())
    assert facts["inputs"] == {"images": "float32 (batch, 3, 16, 16)"}
    assert facts["outputs"] == {"logits": "float32 (batch, 10)"}
    assert facts["compared_on"] == [16, "digits, val"]
    assert 0 < facts["differences"]["logits"] < 1e-4
    assert facts["bytes"] == (folder / "model.onnx").stat().st_size
    card = (folder / "README.md").read_text()
    assert "mixer_nano" in card
    assert facts["compared"] in card


def test_the_file_is_folded_and_takes_any_batch(exported, tiny_run):
    saved, runner = load_model(tiny_run), open_file(exported.folder / "model.onnx")
    for count in (1, 4):
        images = torch.randn(count, 3, 16, 16)
        with torch.inference_mode():
            wanted = saved.network(images)
        torch.testing.assert_close(torch.from_numpy(runner(images.numpy())[0]), wanted, rtol=1e-4, atol=1e-4)


def test_the_script_predicts_the_same_without_this_package_or_torch(exported, tiny_run, photos):
    files = [str(photos / "2" / f"{number}.png") for number in range(3)]
    probe = f"""
import sys, runpy
sys.modules["torch"] = sys.modules["allmlp"] = None
sys.argv = ["run.py", *{files!r}]
runpy.run_path({str(exported.folder / "run.py")!r}, run_name="__main__")
"""
    told = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout.splitlines()
    for line, item in zip(told, allmlp.predict(tiny_run, *files, progress="none"), strict=True):
        path, first, *_ = line.split("  ")
        label, share = first.split()
        assert path == item.path
        assert label == item.label
        assert float(share) == pytest.approx(item.top[0][1], abs=2e-4)


@pytest.mark.parametrize("to", ["openvino", "safetensors"])
def test_other_formats(tiny_run, tmp_path, to):
    found = allmlp.export(tiny_run, to=to, out=tmp_path / to, progress="none")
    assert found.facts["differences"]["logits"] < 1e-4
    if to == "safetensors":
        assert load_model(found.folder).network.folded


@pytest.mark.slow
def test_half_precision_halves_the_weights(tiny_run, tmp_path, exported):
    found = allmlp.export(tiny_run, to="openvino", precision="fp16", out=tmp_path / "half", progress="none")
    assert found.facts["bytes"] < exported.facts["bytes"]
    assert 1e-6 < found.facts["differences"]["logits"] < 0.05


def test_pixels_in_probabilities_out_at_another_size_and_a_fixed_batch(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr("allmlp.tasks.samples._spread", lambda length, count: [0, 1, 2])  # fewer than a batch
    found = allmlp.export(tiny_run, raw=True, batch=5, img_size=24, out=tmp_path / "raw", progress="none")
    assert found.facts["inputs"] == {"images": "uint8 (5, 24, 24, 3)"}
    pixels = np.zeros((5, 24, 24, 3), np.uint8)
    (shares,) = open_file(found.folder / "model.onnx")(pixels)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)


def test_pictures_of_any_size_in(tiny_run, tmp_path, photos):
    found = allmlp.export(tiny_run, resize=True, out=tmp_path / "any", progress="none")
    assert found.facts["inputs"] == {"images": "uint8 (batch, height, width, 3)"}
    assert "takes pictures of any size" in (found.folder / "README.md").read_text()
    for number, size in enumerate([(40, 30), (16, 16), (100, 37)]):
        path = photos / "2" / f"{number}.png"
        Image.open(path).resize(size).save(path)
        done = subprocess.run(
            [sys.executable, str(found.folder / "run.py"), str(path)], capture_output=True, text=True, check=True
        )
        (item,) = allmlp.predict(tiny_run, str(path), progress="none")
        label, share = done.stdout.split("  ")[1].split()
        assert label == item.label
        assert float(share) == pytest.approx(item.top[0][1], abs=5e-3)  # a few pixels differ by a step


@pytest.mark.parametrize("to", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_integers_are_judged_before_and_after(tiny_run, tmp_path, to, monkeypatch):
    settings = {"to": to, "precision": "int8", "calibrate": "digits", "samples": 64, "progress": "none"}
    found = allmlp.export(tiny_run, **settings, max_drop=0.05, resize=to == "onnx", out=tmp_path / "int8")
    accuracy = found.facts["accuracy"]
    assert accuracy["metric"] == "top1"
    assert accuracy["images"] == 360
    assert accuracy["before"] == pytest.approx(json.loads((tiny_run / "metrics.json").read_text())["top1"], abs=0.004)
    assert accuracy["after"] > accuracy["before"] - 0.05
    assert "before and after quantisation" in (found.folder / "README.md").read_text()
    if to == "onnx":
        monkeypatch.setattr(int8, "WAYS", (0,))
        with pytest.raises(InputError, match="Wanted to lose at most"):
            allmlp.export(tiny_run, **settings, max_drop=-1.0, out=tmp_path / "worse")
        assert leftovers(tmp_path) == ["int8"]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"to": "onx"}, "onnx, openvino, pt2, safetensors"),
        ({"precision": "int8"}, "calibrate=DATA"),
        ({"calibrate": "digits"}, "precision=fp32. Leave it out"),
        ({"to": "pt2", "precision": "int8", "calibrate": "digits"}, "int8 is for to=onnx and to=openvino"),
        ({"precision": "fp8"}, "fp32, fp16, int8"),
        ({"batch": "many"}, "batch: wanted dynamic"),
        ({"batch": 0}, "batch: wanted dynamic"),
        ({"to": "safetensors", "raw": True}, "raw is for"),
        ({"to": "safetensors", "resize": True}, "resize is for"),
        ({"img_size": 33}, "33"),
        ({"img_size": 0}, "img_size"),
        ({"precision": "int8", "calibrate": "no/such/folder"}, "no/such/folder"),
        ({"precision": "int8", "calibrate": "digits", "samples": 0}, "samples"),
    ],
)
def test_bad_keys_are_answered_and_leave_nothing(tiny_run, tmp_path, keys, said):
    with pytest.raises(InputError, match=said):
        allmlp.export(tiny_run, **keys, out=tmp_path / "out", progress="none")
    assert leftovers(tmp_path) == []


def test_folders_that_exist_and_runs_without_weights(run, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match=r"there exists\. Name another: out="):
        allmlp.export(run, out=tmp_path / "there")
    (run / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        allmlp.export(run, out=tmp_path / "new")
    assert leftovers(tmp_path) == ["run", "there"]


def test_what_a_killed_export_left_is_removed_but_not_what_one_is_writing(tiny_run, tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, alive = (tmp_path / f".out.{number}.tmp" for number in (ended.pid, os.getppid()))
    for folder in (dead, alive):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
    allmlp.export(tiny_run, to="safetensors", out=tmp_path / "out", progress="none")
    assert leftovers(tmp_path) == [alive.name, "out"]


def test_a_file_that_disagrees_is_not_kept(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setitem(parity.TOLERANCES["fp32"], "logits", 0.0)
    with pytest.raises(InputError, match="to agree with PyTorch"):
        allmlp.export(tiny_run, out=tmp_path / "out", progress="none")
    assert leftovers(tmp_path) == []


def test_the_command_line(tiny_run, tmp_path, capsys):
    assert run_verb("export", [str(tiny_run), "to=onnx", f"out={tmp_path / 'out'}", "progress=none"]) == 0
    assert "largest difference" in capsys.readouterr().out
    assert run_verb("export", [str(tiny_run), "to=tflite"]) == 2
    assert "wanted one of onnx" in capsys.readouterr().err


def test_the_verb_stays_a_function_beside_the_package_of_its_name():
    import allmlp.export.graph

    assert callable(allmlp.export)
    assert allmlp.export.__module__ == "allmlp.verbs.export"


@pytest.fixture(scope="module")
def dense_run(tmp_path_factory):
    """A tiny run of each task."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("allmlp.figures.report.write_report", lambda path: path)
        folder = tmp_path_factory.mktemp("dense")
        return {task: dense_runs.train(folder / task, task, epochs=1).run for task in ("detect", "segment")}


@pytest.mark.slow
@pytest.mark.parametrize("resize", [False, True])
@pytest.mark.parametrize("task", ["detect", "segment"])
def test_detectors_and_segmenters_with_their_scripts(dense_run, tmp_path, task, resize):
    found = allmlp.export(dense_run[task], raw=True, resize=resize, out=tmp_path / task, progress="none")
    assert found.facts["compared_on"][1] == "digit_scenes, val"
    inputs = ["images", "sizes"] if task == "detect" and not resize else ["images"]
    outputs = {"detect": ["boxes", "scores", "labels", "counts", "masks"], "segment": ["labels"]}[task]
    assert list(found.facts["inputs"]) == inputs
    assert list(found.facts["outputs"]) == outputs
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    picture.save(tmp_path / "noise.png")
    done = subprocess.run(
        [sys.executable, str(found.folder / "run.py"), "noise.png"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    if task == "segment":
        shares = [float(part.split()[-1]) for part in done.stdout.strip().split("  ")[1:]]
        assert sum(shares) == pytest.approx(1, abs=0.01)
        with Image.open(tmp_path / "noise.labels.png") as labels:
            assert labels.size == (70, 50)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detect", "segment"])
def test_dense_predictions_by_another_backend(dense_run, tmp_path, task):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, size, dtype=np.uint8) for size in ((64, 64, 3), (64, 64, 3), (48, 64, 3))]
    options = {"score": 0.0} if task == "detect" else {}
    wanted = allmlp.predict(dense_run[task], *pictures, progress="none", **options)
    got = allmlp.predict(dense_run[task], *pictures, progress="none", backend="onnxruntime", **options)
    for mine, theirs in zip(got, wanted, strict=True):
        if task == "detect":
            assert mine.labels == theirs.labels
            np.testing.assert_allclose(mine.boxes, theirs.boxes, atol=1e-2)
        else:
            assert (mine.labels != theirs.labels).mean() < 1e-3


def test_predictions_by_the_fastest_backend_are_remembered(run, photos, capsys):
    wanted = [item.top for item in allmlp.predict(run, photos, progress="none")]
    for _ in range(2):
        found = allmlp.predict(run, photos, backend="auto")
        assert "the fastest that agrees" in capsys.readouterr().err
        for item, top in zip(found, wanted, strict=True):
            assert [name for name, _ in item.top] == [name for name, _ in top]
            assert [share for _, share in item.top] == pytest.approx([share for _, share in top], abs=1e-4)
    record = run / "backends" / "3x16x16" / "choice.json"
    first = json.loads(record.read_text())
    assert set(first["milliseconds"]["8"]) == {"eager", "onnxruntime", "openvino"}
    made = (record.parent / "model.onnx").stat().st_mtime_ns
    allmlp.predict(run, photos, backend="onnxruntime", progress="none")
    assert (record.parent / "model.onnx").stat().st_mtime_ns == made
    os.utime(run / "model.safetensors")  # as if trained on
    allmlp.predict(run, photos, backend="onnxruntime", progress="none")
    assert (record.parent / "model.onnx").stat().st_mtime_ns > made
    assert json.loads(record.read_text())["milliseconds"] == {}


def test_a_backend_that_disagrees_is_not_used(run, photos, monkeypatch, capsys):
    monkeypatch.setitem(parity.TOLERANCES["fp32"], "logits", -1.0)
    with pytest.raises(InputError, match="differ from PyTorch's"):
        allmlp.predict(run, photos, backend="openvino", progress="none")
    monkeypatch.setitem(parity.TOLERANCES["fp32"], "logits", 0.0)  # eager agrees with itself
    allmlp.predict(run, photos, backend="auto")
    assert "backend eager" in capsys.readouterr().err


def test_backends_that_do_not_fit(run, photos):
    with pytest.raises(InputError, match="wanted auto or one of eager"):
        allmlp.predict(run, photos, backend="tensorrt", progress="none")
    with pytest.raises(InputError, match="runs on the CPU"):
        allmlp.predict(run, photos, backend="auto", device="cuda", progress="none")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mixer_nano", "resmlp_nano", "ff_nano", "eamlp_nano", "as_mlp_nano", "repmlpnet_nano"]
)
def test_integers_lose_at_most_half_a_point(name, tmp_path, no_report):
    run = allmlp.train(data="digits", model=name, epochs=5, out=tmp_path / "run", device="cpu", progress="none").run
    for to in ("onnx", "openvino"):
        found = allmlp.export(run, to=to, precision="int8", calibrate="digits", progress="none")
        assert found.facts["accuracy"]["after"] >= found.facts["accuracy"]["before"] - 0.005
        assert found.facts["bytes"] < 0.5 * found.facts["bytes_before"]
