"""What is there and what it costs: list, info, doctor; and models changed and taken in: fold, convert."""

import json
import re

import numpy as np
import pytest
import timm
import torch

import allmlp
import allmlp.models
from allmlp import verbs
from allmlp.errors import InputError
from allmlp.runs import load_model
from allmlp.verbs._run import run_verb
from digit_files import save_digits


def shown(capsys, verb, *words):
    """What a verb prints on standard output; it must succeed and say nothing else."""
    assert run_verb(verb, list(words)) == 0
    out, told = capsys.readouterr()
    assert told == ""
    return out


# ---- list


def test_list_names_every_model_with_its_size():
    found = verbs.list()
    assert [model.name for model in found] == allmlp.list_models()
    sizes = {model.name: model for model in found}
    s16 = sizes["mixer_s16"]
    assert (s16.parameters, s16.img_size, s16.family, s16.published) == (18_528_264, (224, 224), "MlpMixer", True)
    assert (sizes["mixer_nano"].img_size, sizes["mixer_nano"].published) == ((32, 32), False)


def test_list_takes_patterns(capsys):
    assert [model.name for model in verbs.list("mixer_b*")] == ["mixer_b32", "mixer_b16"]
    assert [model.name for model in verbs.list("ixer_b")] == ["mixer_b32", "mixer_b16"]
    lines = shown(capsys, "list", "mixer_s*").splitlines()
    assert len(lines) == 3
    assert re.match(r"mixer_s16 +MlpMixer +224 x 224 +18,528,264 +published", lines[2])
    with pytest.raises(InputError, match=r"a pattern that matches a model, such as 'mixer\*'; 'mixxer' matches none"):
        verbs.list("mixxer")


# ---- info


def test_info_of_a_name(capsys):
    out = shown(capsys, "info", "mixer_s16")
    assert re.search(r"parameters +18,528,264", out)
    assert re.search(r"MACs +3,776,\d{3},\d{3} an image", out)
    assert re.search(r"blocks\.7 +MixerBlock +[\d,]+ +[\d,]+ +[\d.]+ %", out)
    shares = [float(share) for share in re.findall(r"([\d.]+) %", out)]
    assert sum(shares) == pytest.approx(100, abs=0.6)


def test_info_takes_recipe_keys_and_constructor_arguments():
    found = verbs.info("mixer_nano", img_size="24x16", num_classes="3", depth="2")
    assert found.input_size == (3, 24, 16)
    assert (found.arguments["depth"], found.arguments["num_classes"]) == (2, 3)
    assert [part.name for part in found.parts if part.name.startswith("blocks")] == ["blocks.0", "blocks.1"]
    assert sum(part.parameters for part in found.parts) == found.parameters
    assert sum(part.macs for part in found.parts) == found.macs


def test_info_of_a_timm_model(capsys):
    found = verbs.info("timm/resnet10t", num_classes=10)
    assert found.parameters == sum(p.numel() for p in timm.create_model("resnet10t", num_classes=10).parameters())
    assert found.macs > 1e8
    assert "timm/resnet10t (ResNet)" in shown(capsys, "info", "timm/resnet10t")


def test_info_of_a_run(tiny_run):
    found = verbs.info(tiny_run)
    metrics = json.loads((tiny_run / "metrics.json").read_text())
    assert (found.parameters, found.macs, found.input_size) == (metrics["parameters"], metrics["macs"], (3, 16, 16))
    with pytest.raises(InputError, match="is a run, whose model is as it is; leave out img_size"):
        verbs.info(tiny_run, img_size=32)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mixer_s61"], "got 'mixer_s61'. Did you mean mixer_s16"),
        (["mixer_s16", "img_size=225"], "225"),
        (["mixer_s16", "img_size=big"], "model.img_size: wanted a side in pixels"),
        (["mixer_s16", "dept=2"], "unexpected keyword argument 'dept'"),
        (["timm/resnet1"], "Nearest: resnet1"),
        ([], "Wanted MODEL; got nothing for it."),
    ],
)
def test_info_of_what_is_not_there(words, message, capsys):
    assert run_verb("info", words) == 2
    assert message in capsys.readouterr().err


# ---- doctor


def test_doctor(capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("allmlp.runs.environment.available_cores", lambda: 4)
    out = shown(capsys, "doctor")
    for word in ("torch", "cores", "GFLOP/s with 1 thread", "CUDA", "train"):
        assert word in out
    assert "torch uses 1 of 4 cores because of OMP_NUM_THREADS=1; unset it for speed." in out


def test_doctor_names_what_is_missing(monkeypatch):
    doctor = verbs.verb_module("doctor")
    monkeypatch.setitem(doctor._EXTRAS, "train", ("torch", "nosuchmodule"))
    found = verbs.doctor()
    assert found.facts["extras"]["train"] == "missing nosuchmodule"
    assert "the extra train is not complete: pip install 'allmlp[train]'" in found.advice


# ---- figures


def test_figures_names_the_page(tiny_run, capsys, no_report):
    assert shown(capsys, "figures", str(tiny_run)) == f"{tiny_run}/report.html\n"


# ---- fold


def test_a_folded_run_says_the_same(run, tmp_path, capsys):
    out = shown(capsys, "fold", str(run))
    folded = tmp_path / "run-folded"
    assert out.rstrip().endswith(str(folded))
    one, other = load_model(run), load_model(folded)
    assert other.network.folded
    assert (other.spec, other.classes) == (one.spec, one.classes)
    images = torch.randn(4, 3, 16, 16)
    with torch.inference_mode():
        wanted, got = one.network(images), other.network(images)
        assert torch.equal(timm.create_model(f"local-dir:{folded}", pretrained=True).eval()(images), got)
    assert (got - wanted).abs().max() < 1e-5 * wanted.std()
    before, after = (verbs.info(folder) for folder in (run, folded))
    assert after.parameters < before.parameters
    assert after.macs <= before.macs
    assert (
        allmlp.evaluate(folded, progress="none").metrics["top1"]
        == allmlp.evaluate(run, progress="none").metrics["top1"]
    )
    with pytest.raises(InputError, match="is folded already"):
        verbs.fold(folded)
    with pytest.raises(InputError, match=r"Wanted a new folder for the folded run; .*run-folded exists"):
        verbs.fold(run)


def test_a_folded_run_cannot_be_trained_on(run, tmp_path):
    folded = verbs.fold(run, out=tmp_path / "small").run
    with pytest.raises(InputError, match="inference form"):
        allmlp.train(run / "recipe.yaml", init=folded, out=tmp_path / "more", progress="none")


# ---- convert


@pytest.fixture
def file(tmp_path):
    """A Mixer's weights of this package, as a file from somewhere."""
    network = allmlp.create_model(
        "mixer_nano", img_size=16, num_classes=3, **{key.removeprefix("args."): value for key, value in WIDTHS.items()}
    )
    torch.nn.init.normal_(network.head.weight)
    torch.save({"model": network.state_dict(), "epoch": 3}, tmp_path / "w.pth")
    return network.eval(), tmp_path / "w.pth"


WIDTHS = {"args.embed_dim": 16, "args.depth": 1, "args.tokens_mlp_dim": 8, "args.channels_mlp_dim": 16}


def test_a_file_becomes_a_run(file, tmp_path, capsys):
    network, path = file
    (tmp_path / "names.txt").write_text("zero\none\n\ntwo\n")
    words = [f"{key}={value}" for key, value in WIDTHS.items()]
    out = shown(
        capsys, "convert", str(path), "model=mixer_nano", f"out={tmp_path}/run", f"classes={tmp_path}/names.txt", *words
    )
    assert f"copied: {len(network.state_dict())}" in out
    assert out.rstrip().endswith(f"{tmp_path}/run")
    saved = load_model(tmp_path / "run")
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(saved.network(images), network(images))
    assert saved.classes == ["zero", "one", "two"]
    assert json.loads((tmp_path / "run" / "init.json").read_text())["source"] == str(path)
    photos = save_digits(tmp_path / "photos")
    assert allmlp.predict(tmp_path / "run", photos, progress="none")[0].label in saved.classes
    for digit, name in enumerate(saved.classes):
        (photos / str(digit)).rename(photos / name)
    assert allmlp.evaluate(tmp_path / "run", data=photos, progress="none").metrics["images"] == 18


def test_size_channels_and_classes_are_found_in_the_file(tmp_path):
    network = allmlp.create_model(
        "mixer_nano",
        img_size=24,
        num_classes=1000,
        in_chans=1,
        embed_dim=16,
        depth=1,
        tokens_mlp_dim=8,
        channels_mlp_dim=16,
    )
    torch.save(network.state_dict(), tmp_path / "w.pth")
    found = verbs.convert(tmp_path / "w.pth", "mixer_nano", out=tmp_path / "run", **WIDTHS)
    saved = load_model(found.run)
    assert (saved.spec.size, saved.spec.channels, len(saved.classes)) == ((24, 24), 1, 1000)
    assert saved.classes[0].startswith("tench")
    assert "taken to be ImageNet-1k's, in order" in str(found.report)
    resized = verbs.convert(tmp_path / "w.pth", "mixer_nano", out=tmp_path / "large", img_size=48, **WIDTHS).run
    assert load_model(resized).spec.size == (48, 48)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "mixer_naon"}, "Did you mean mixer_nano"),
        ({"out": "there"}, "there exists"),
        ({"classes": "two.txt"}, r"Wanted 3 class names, one a line; .*two\.txt has 2"),
        ({"classes": "nowhere.txt"}, r"nowhere\.txt"),
        ({"file": "nowhere.pth"}, "there is none at nowhere.pth"),
        ({"args.depth": 2}, r"blocks\.1"),
    ],
    ids=str,
)
def test_convert_what_cannot_be(file, tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "two.txt").write_text("a\nb")
    with pytest.raises(InputError, match=message):
        verbs.convert(**{"file": file[1], "model": "mixer_nano", "out": "new", **WIDTHS, **changes})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("resmlp_nano", "Wanted a checkpoint of ResMlp"),
        ("timm/resnet10t", "one of this package's architectures; timm/resnet10t is not"),
    ],
)
def test_convert_for_another_model(file, tmp_path, model, message):
    with pytest.raises(InputError, match=message):
        verbs.convert(file[1], model, out=tmp_path / "new")


def test_convert_an_array_file(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.zeros(3))
    with pytest.raises(InputError, match="layout"):
        verbs.convert(tmp_path / "w.npz", "mixer_nano", out=tmp_path / "new")
