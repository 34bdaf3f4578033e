"""Bad input through the command line: exit status 2, what was wanted, what came, what to type; and no folder left."""

import os
import struct
import zlib

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from allmlp.runs import save_weights
from allmlp.verbs._run import run_verb
from digit_files import save_digits
from tiny import words


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working folder, so that messages are the same everywhere."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fails(here, capsys):
    """Run `allmlp train` with these words after the tiny recipe's; give the message, after what all have in common."""

    def run(*more, verb="train", lines=1):
        arguments = words(here / "run", *more) if verb == "train" else list(more)
        before = sorted(os.listdir(here))
        assert run_verb(verb, arguments) == 2
        out, told = capsys.readouterr()
        assert out == ""
        assert told.startswith(f"allmlp {verb}: ")
        assert "Traceback" not in told
        assert len(told.splitlines()) == lines
        assert sorted(os.listdir(here)) == before
        return told

    return run


# ---- images


def test_missing_path(here, fails):
    save_digits(here / "photos")
    assert "there is no photo. Did you mean photos?" in fails("data=photo")
    assert "Did you mean digits?" in fails("data=digts")


def test_empty_folder(here, fails):
    (here / "photos").mkdir()
    told = fails("data=photos")
    assert "Wanted one folder of images for each class" in told
    assert f"at {here}/photos; it holds no files." in told


def test_a_class_without_images(here, fails):
    save_digits(here / "photos")
    (here / "photos" / "3").mkdir()
    told = fails("data=photos")
    assert f"Wanted images in every class folder of {here}/photos; none in '3'" in told
    assert "Add images or remove the folder." in told


def test_one_class_only(here, fails):
    save_digits(here / "photos", classes=(1,))
    assert "Wanted at least two classes; got one: '1'. Add images of another." in fails("data=photos")


def test_images_without_class_folders(here, fails):
    save_digits(here / "photos", classes=(1,))
    told = fails("data=photos/1")
    assert "Make a folder for each class and move the images there." in told


def test_too_few_images_to_divide(here, fails):
    save_digits(here / "photos", per_class=2)
    assert "Type data.val_fraction=0.25 or more, or add images of this class." in fails("data=photos")


def test_unreadable_images_stop_the_run_if_asked(here, fails):
    save_digits(here / "photos")
    (here / "photos" / "0" / "0.png").write_text("no image")
    told = fails("data=photos", "data.on_bad_image=stop")
    assert "photos/0/0.png: it is not an image in any format known here" in told
    assert "type data.on_bad_image=skip to leave them out" in told


def bomb(path, side=60_000):
    """A PNG file of a few bytes that claims 3.6 gigapixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def test_a_decompression_bomb(here, fails):
    save_digits(here / "photos")
    bomb(here / "photos" / "0" / "0.png")
    assert "photos/0/0.png: a decompression bomb?" in fails("data=photos", "data.on_bad_image=stop")


def test_bad_images_are_listed_and_the_run_goes_on(here, capsys, no_report):
    save_digits(here / "photos", per_class=12)
    (here / "photos" / "0" / "0.png").write_text("no image")
    bomb(here / "photos" / "1" / "0.png")
    assert run_verb("train", words(here / "run", "data=photos", "batch_size=8", "progress=lines")) == 0
    told = capsys.readouterr().err
    assert "2 images cannot be read and are left out (listed in data.json):" in told
    assert "photos/0/0.png: it is not an image" in told
    assert "photos/1/0.png: a decompression bomb?" in told


def test_labels_outside_the_range(here, fails):
    save_digits(here / "photos")
    (here / "labels.csv").write_text("path,label\nphotos/0/0.png,0\nphotos/1/0.png,-1\n")
    assert f"Labels are at least 0; row 2 of {here}/labels.csv has -1." in fails("data=labels.csv")


def test_more_classes_than_the_model_may_have(here, fails):
    save_digits(here / "photos")
    assert "at least the 3 classes of the data; got 2" in fails("data=photos", "model.num_classes=2")


# ---- recipes and models


def test_unknown_keys_and_wrong_types(here, fails):
    assert "Unknown key 'epoch'. Did you mean epochs" in fails("epoch=3")
    assert "epochs: wanted a whole number; got 'many'." in fails("epochs=many")
    (here / "mine.yaml").write_text("optim: {weightdecay: 3}")
    told = fails("mine.yaml")
    assert "In mine.yaml: Unknown key 'optim.weightdecay'. Did you mean optim.weight_decay" in told
    assert "Images to train on are given as data=" in fails(str(here))


def test_unknown_models(fails):
    told = fails("model=mixer_naon")
    assert "Wanted the name of a model; got 'mixer_naon'. Did you mean mixer_nano" in told
    assert "Nearest: resnet18" in fails("model=timm/resnet81")


def test_a_size_that_the_patch_does_not_divide(fails):
    told = fails("img_size=18")
    assert "18 x 18" in told
    assert "16 x 16" in told or "20 x 20" in told  # what would work


def test_an_existing_folder(here, fails):
    (here / "run").mkdir()
    assert f"{here}/run exists. To go on with what is in it: resume={here}/run." in fails()


# ---- weights


def test_a_missing_file(fails):
    assert "Wanted a checkpoint file; there is none at nowhere.npz. Check the path." in fails("init=nowhere.npz")


def test_a_checkpoint_of_another_architecture(here, fails):
    torch.save(timm.create_model("resmlp_12_224", num_classes=10).state_dict(), "resmlp.pth")
    told = fails("init=resmlp.pth")
    assert "MlpMixer" in told
    assert "ResMlp" in told


def test_a_checkpoint_of_other_widths(here, fails, tiny_run):
    told = fails(f"init={tiny_run}", "model.args.embed_dim=24", lines=3)  # every tensor is listed
    assert "stem.weight: file (16, 3, 4, 4), model (24, 3, 4, 4)" in told


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.npz"])
def test_a_truncated_checkpoint(here, fails, name):
    state = {"stem.weight": torch.ones(100, 100)}
    if name.endswith(".npz"):
        np.savez(name, **{key: value.numpy() for key, value in state.items()})
    elif name.endswith(".pth"):
        torch.save(state, name)
    else:
        save_weights(here / name, state)
    contents = (here / name).read_bytes()
    (here / name).write_bytes(contents[: len(contents) // 2])
    told = fails(f"init={name}")
    assert f"{name} ({len(contents) // 2:,} bytes) is truncated" in told
    assert "Copy or download it again" in told


def test_a_pickle_that_wants_to_run_code(here, fails):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(here / "ran"),)

    torch.save({"state_dict": Evil()}, "evil.pth")
    told = fails("init=evil.pth")
    assert "evil.pth holds a pickle that asks to run code" in told
    assert "Save it again as a plain state dict, or as .safetensors." in told
    assert not (here / "ran").exists()


def test_a_truncated_run(here, fails, run):
    path = run / "model.safetensors"
    path.write_bytes(path.read_bytes()[:500])
    for verb, arguments in (("evaluate", [str(run)]), ("predict", [str(run), "."]), ("info", [str(run)])):
        assert "model.safetensors (500 bytes) is truncated" in fails(*arguments, verb=verb)


@pytest.mark.parametrize("verb", ["evaluate", "predict", "fold", "figures", "info"])
def test_a_folder_that_is_no_run(here, fails, verb):
    Image.new("L", (8, 8)).save("a.png")
    (here / "photos").mkdir()
    arguments = ["photos", "a.png"] if verb == "predict" else ["photos"]
    told = fails(*arguments, verb=verb)
    assert "Wanted a run folder (with recipe.yaml or config.json); photos is a folder without either." in told


def test_figures_of_a_run_that_is_not_finished(fails, run):
    (run / "metrics.json").unlink()
    assert f"{run} has no metrics.json yet. Go on: allmlp train resume={run}" in fails(str(run), verb="figures")
