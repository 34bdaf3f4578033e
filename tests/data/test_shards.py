"""Tar shards are a source like any other: found by place, shuffled over all, resumed exactly."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from allmlp.data import (
    AugmentSettings,
    ClassificationDataset,
    EpochBatchSampler,
    ImageSpec,
    build_transform,
    make_loader,
    open_classification,
    open_evaluation,
)
from allmlp.data.shards import open_shards
from allmlp.errors import InputError
from digit_files import digits


def png(digit, number):
    file = io.BytesIO()
    Image.fromarray(digits()[digit][number]).save(file, "png")
    return file.getvalue()


def write(path, members):
    """A tar file of (name, bytes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def samples(numbers, label=str):
    """.png and .cls members of three digits each."""
    for number in numbers:
        for digit in range(3):
            yield f"{number:04d}_{digit}.png", png(digit, number)
            yield f"{number:04d}_{digit}.cls", label(digit).encode()


@pytest.fixture
def shards(tmp_path):
    """Two shards of 9 samples, one of 6 for validation."""
    write(tmp_path / "train-0000.tar", samples(range(3)))
    write(tmp_path / "train-0001.tar", samples(range(3, 6)))
    write(tmp_path / "val-0000.tar", samples(range(6, 8)))
    return tmp_path


def test_images_are_found_by_their_place(shards):
    data = open_classification(f"wds/{shards}")
    assert (data.kind, data.classes, len(data.train), len(data.val)) == ("shards", ["0", "1", "2"], 18, 6)
    for index in (17, 0, 9, 4):
        assert np.array_equal(data.train.load(index, channels=1), digits()[index % 3][index // 3])
        assert data.train.label(index) == index % 3
    assert data.train.path(10) == f"{shards}/train-0001.tar:0003_1.png"
    assert data.train.name_of(10) == "0003_1.png"


def test_every_way_to_name_them(shards):
    fingerprint = open_classification(f"wds/{shards}").fingerprint()
    assert open_classification("wds/name", root=shards).fingerprint() == fingerprint
    assert open_classification(f"WDS/{shards.name}", root=shards.parent).fingerprint() == fingerprint
    whole = open_classification(f"wds/{shards}/train-{{0000..0001}}.tar")
    assert (len(whole.train), len(whole.val)) == (15, 3)
    assert len(open_shards(f"{shards}/*.tar").source) == 24
    assert len(open_classification(shards / "train-0001.tar").train) == 6


def test_splits_by_folder_and_by_info_file(shards):
    folders = shards / "folders"
    write(folders / "train" / "a.tar", samples(range(3)))
    write(folders / "validation" / "a.tar", samples(range(3, 4)))
    assert len(open_classification(f"wds/{folders}").val) == 3
    splits = {"train": {"filenames": ["val-0000.tar"]}, "validation": {"filenames": ["train-0001.tar"]}}
    (shards / "_info.json").write_text(json.dumps({"splits": splits}))
    data = open_classification(f"wds/{shards}")
    assert (len(data.train), len(data.val)) == (6, 9)
    for wrong in ("{", "[]", '{"splits": {"train": 1}}', '{"splits": {"extra": {"filenames": []}}}'):
        (shards / "_info.json").write_text(wrong)
        with pytest.raises(InputError, match="Wanted"):
            open_classification(f"wds/{shards}")


def test_labels_in_json_and_names_of_classes(tmp_path):
    members = []
    for digit in range(3):
        for number in range(4):
            fields = json.dumps({"label": digit, "caption": "x"}).encode()
            members += [(f"a/{digit}{number}.json", fields), (f"a/{digit}{number}.PNG", png(digit, number))]
    write(tmp_path / "0.tar", members)
    (tmp_path / "classes.txt").write_text("ape\nbat\ncow\n")
    data = open_shards(str(tmp_path))
    assert data.classes == ["ape", "bat", "cow"]
    assert data.source.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    (tmp_path / "classes.txt").write_text("ape\nbat\n")
    with pytest.raises(InputError, match="Labels lie in 0 to 1; row 9 of"):
        open_shards(str(tmp_path))
    texts = write(tmp_path / "texts" / "0.tar", samples(range(3), label="zyx".__getitem__))
    assert open_shards(str(texts)).classes == ["x", "y", "z"]


def test_evaluation_takes_the_validation_shards(shards):
    data = open_evaluation(f"wds/{shards}", ["2", "1", "0"])
    assert data.val.labels.tolist() == [2, 1, 0] * 2


@pytest.mark.parametrize("stop", [0, 2])
def test_shuffled_batches_are_resumed_exactly(shards, stop):
    source = open_classification(f"wds/{shards}").train

    def loader(workers):
        transform = build_transform(ImageSpec(16, 16), AugmentSettings("small"), training=True)
        return make_loader(ClassificationDataset(source, transform), EpochBatchSampler(18, 4), workers)

    whole = list(loader(0))
    assert whole[0][2].tolist() != [0, 1, 2, 3]
    resumed = loader(2)
    resumed.load_state_dict({"epoch": 0, "batches": stop})
    rest = list(resumed)
    assert len(rest) == len(whole) - stop
    assert all(torch.equal(a, b) for old, new in zip(whole[stop:], rest) for a, b in zip(old, new))


def test_unreadable_members_are_listed(tmp_path):
    members = list(samples(range(4)))
    members[0] = (members[0][0], b"")
    members[2] = (members[2][0], members[2][1][:60])  # a sound header; only decoding shows that it is cut
    write(tmp_path / "0.tar", members)
    data = open_classification(f"wds/{tmp_path}")
    assert [(bad.path, bad.reason) for bad in data.skipped] == [
        (f"{tmp_path}/0.tar:0000_0.png", "the file is empty (0 bytes)")
    ]
    everything = open_evaluation(f"wds/{tmp_path}", data.classes)
    dataset = ClassificationDataset(everything.val, build_transform(ImageSpec(8, 8)))
    list(make_loader(dataset, EpochBatchSampler(len(dataset), 4), 0))
    assert [bad.path[-10:] for bad in everything.skipped] == ["0000_0.png", "0000_1.png"]


def refused(where):
    with pytest.raises(InputError) as caught:
        open_classification(f"wds/{where}")
    return str(caught.value)


def test_what_is_no_shard(tmp_path):
    assert refused(tmp_path) == f"Wanted tar shards in the folder {tmp_path}; it holds none."
    write(tmp_path / "shard.tar", samples(range(2)))
    assert refused(tmp_path / "shadr.tar").endswith(f"Did you mean {tmp_path}/shard.tar?")
    assert "Download them and type their folder" in refused("https://example.com/x.tar")
    (tmp_path / "bad").mkdir()
    with tarfile.open(tmp_path / "bad" / "0.tar", "w:gz"):
        pass
    assert refused(tmp_path / "bad").endswith("Wanted an uncompressed tar file.")
    (tmp_path / "bad" / "0.tar").write_bytes((tmp_path / "shard.tar").read_bytes()[:2000])
    assert refused(tmp_path / "bad").endswith("Wanted an uncompressed tar file.")


def test_samples_without_image_or_label(tmp_path):
    write(tmp_path / "0.tar", [("a.cls", b"0"), ("b.txt", b"x")])
    assert "Wanted images with labels (.jpg and .cls members)" in refused(tmp_path)
    write(tmp_path / "0.tar", [("a.cls", b"0"), ("b.png", png(0, 0))])
    assert "Wanted a label (.cls, or label in .json) for b.png in" in refused(tmp_path)
    write(tmp_path / "0.tar", [("a.png", png(0, 0)), ("a.json", b"{")])
    assert "Cannot read the shard" in refused(tmp_path)
