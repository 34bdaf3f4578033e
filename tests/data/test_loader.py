"""Batches depend on nothing but seed, epoch and number: not on workers, on a stop between, or on what else draws."""

import multiprocessing
import pickle
import threading

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
)
from allmlp.data.loader import available_cpus, default_workers
from allmlp.data.source import ArraySource, FileSource
from allmlp.errors import InputError

SPEC = ImageSpec(16, 16)
SMALL = AugmentSettings("small", color_jitter=0.2, erase=0.3)


@pytest.fixture
def files(tmp_path):
    """23 PNG files of different sizes and a source of them; image i has label i % 3."""
    rng = np.random.default_rng(0)
    for number in range(23):
        height, width = rng.integers(16, 30, 2)
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    return FileSource(tmp_path, [f"{number}.png" for number in range(23)], [number % 3 for number in range(23)])


def loader_of(source, settings=SMALL, workers=0, seed=0, batch_size=4, training=True, **sampling):
    dataset = ClassificationDataset(source, build_transform(SPEC, settings, training), seed)
    sampler = EpochBatchSampler(len(dataset), batch_size, seed=seed, **sampling)
    return make_loader(dataset, sampler, workers)


def epoch_of(loader, epoch):
    loader.batch_sampler.set_epoch(epoch)
    return list(loader)


def assert_same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others):
        assert all(torch.equal(a, b) for a, b in zip(batch, other))


def test_what_a_batch_holds(files):
    images, labels, indices = next(iter(loader_of(files)))
    assert (images.shape, images.dtype) == ((4, 3, 16, 16), torch.float32)
    assert (labels.dtype, indices.dtype) == (torch.int64, torch.int64)
    assert torch.equal(labels, indices % 3)


def test_single_items_are_what_batches_hold(files):
    loader = loader_of(files)
    for images, labels, indices in epoch_of(loader, 2):
        for place, index in enumerate(indices.tolist()):
            image, label, same = loader.dataset[(2, index)]
            assert torch.equal(image, images[place])
            assert (label, same) == (labels[place], index)
    plain = loader.dataset[5]
    assert torch.equal(plain[0], loader.dataset[(0, 5)][0])


@pytest.mark.parametrize("settings", [SMALL, AugmentSettings("imagenet", erase=0.3)], ids=["small", "imagenet"])
def test_workers_change_nothing(files, settings):
    alone = loader_of(files, settings)
    shared = loader_of(files, settings, workers=2)
    for epoch in (0, 1):
        assert_same(epoch_of(alone, epoch), epoch_of(shared, epoch))


@pytest.mark.parametrize("start_method", ["forkserver"])
def test_any_start_method_gives_the_same(files, start_method):
    alone = loader_of(files)
    shared = make_loader(alone.dataset, EpochBatchSampler(23, 4), workers=1, start_method=start_method)
    assert_same(epoch_of(alone, 1), epoch_of(shared, 1))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [0, 1, 4, 6])
def test_resuming_gives_the_batches_that_were_left(files, stop, workers):
    """Stop after any number of batches, go on with another loader and another number of workers."""
    whole = [epoch_of(loader_of(files), epoch) for epoch in range(3)]
    first = loader_of(files, workers=workers)
    first.batch_sampler.set_epoch(1)
    running = iter(first)
    for _ in range(stop):
        next(running)
    if stop == 6:
        assert list(running) == []
    state = pickle.loads(pickle.dumps(first.state_dict()))
    assert state == {"epoch": 1 if stop else 0, "batches": stop}
    second = loader_of(files, workers=2 - workers)
    second.load_state_dict(state)
    assert second.state_dict() == state
    assert_same(epoch_of(second, 1), whole[1][stop:])
    assert second.state_dict() == {"epoch": 1, "batches": 6}
    assert_same(epoch_of(second, 2), whole[2])
    assert_same(epoch_of(second, 1), whole[1])


def test_a_state_of_a_finished_epoch_does_not_shorten_the_next(files):
    first = loader_of(files)
    epoch_of(first, 0)
    second = loader_of(files)
    second.load_state_dict(first.state_dict())
    assert len(epoch_of(second, 1)) == 6


def test_a_stopped_epoch_leaves_the_next_whole(files):
    loader = loader_of(files, workers=2)
    whole = epoch_of(loader_of(files), 1)
    running = iter(loader)
    next(running)
    running.close()
    assert_same(epoch_of(loader, 1), whole)


def test_global_generators_are_neither_read_nor_moved(files):
    for settings in (SMALL, AugmentSettings("imagenet")):
        for workers in (0, 1):
            loader = loader_of(files, settings, workers)
            torch.manual_seed(1)
            state = torch.get_rng_state()
            first = epoch_of(loader, 0)
            assert torch.equal(torch.get_rng_state(), state)
            torch.manual_seed(2)
            assert_same(epoch_of(loader_of(files, settings, workers), 0), first)


def test_epochs_seeds_and_repetitions_are_augmented_differently(files):
    def image_of(epoch, seed=0):
        loader = loader_of(files, seed=seed)
        return loader.dataset[(epoch, 3)][0]

    assert not torch.equal(image_of(0), image_of(1))
    assert not torch.equal(image_of(0), image_of(0, seed=1))
    batches = epoch_of(loader_of(files, shuffle=False, repeats=2, batch_size=2), 0)
    for images, _, indices in batches[:4]:
        assert indices[0] == indices[1]
        assert not torch.equal(images[0], images[1])


def test_evaluation_has_no_randomness(files):
    batches = epoch_of(loader_of(files, training=False, shuffle=False), 0)
    assert_same(batches, epoch_of(loader_of(files, training=False, shuffle=False, seed=9), 5))
    assert torch.cat([indices for _, _, indices in batches]).tolist() == list(range(23))


def test_small_images_are_kept_and_large_sets_are_not(files, monkeypatch):
    loader = loader_of(files)
    assert loader.dataset.keeps_images
    assert default_workers(loader.dataset) == 0
    assert make_loader(loader.dataset, loader.batch_sampler).num_workers == 0
    first = epoch_of(loader, 0)
    monkeypatch.setattr(FileSource, "load", lambda *_: pytest.fail("an image was read twice"))
    assert_same(epoch_of(loader, 0), first)
    assert not loader_of(files, AugmentSettings("imagenet")).dataset.keeps_images
    large = ClassificationDataset(files, build_transform(ImageSpec(224, 224)))
    assert not large.keeps_images
    assert default_workers(large) == max(1, min(8, available_cpus()))
    monkeypatch.setattr("allmlp.data.loader.CACHE_BYTES", 23 * 768 - 1)
    assert not loader_of(files).dataset.keeps_images


def test_kept_images_do_not_travel_to_workers(files):
    loader = loader_of(files)
    before = len(pickle.dumps(loader.dataset))
    epoch_of(loader, 0)
    assert len(pickle.dumps(loader.dataset)) == before


@pytest.mark.parametrize("settings", [SMALL, AugmentSettings("imagenet", erase=0.5)], ids=["small", "imagenet"])
def test_a_data_set_that_was_sent_gives_the_same(files, settings):
    dataset = loader_of(files, settings).dataset
    sent = pickle.loads(pickle.dumps(dataset))
    for index in range(23):
        assert torch.equal(sent[(1, index)][0], dataset[(1, index)][0])


def truncate(source, *numbers):
    for number in numbers:
        path = source.path(number)
        with open(path, "r+b") as file:
            file.truncate(60)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_replaced_by_the_next_and_listed(files, workers):
    truncate(files, 4, 5, 22)
    loader = loader_of(files, workers=workers, shuffle=False)
    batches = epoch_of(loader, 0)
    indices = torch.cat([batch[2] for batch in batches]).tolist()
    assert indices == [0, 1, 2, 3, 6, 6, *range(6, 22), 0]
    labels = torch.cat([batch[1] for batch in batches])
    assert labels.tolist() == [index % 3 for index in indices]
    assert sorted(bad.path for bad in files.bad) == sorted(files.path(number) for number in (4, 5, 22))
    assert all(bad.reason for bad in files.bad)
    epoch_of(loader, 1)
    assert len(files.bad) == 3
    assert_same(epoch_of(loader, 0), batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_stop_raises_at_the_first_unreadable_image(files, workers):
    truncate(files, 4)
    files.on_bad_image = "stop"
    with pytest.raises(InputError, match=r"^Cannot read the image .*4\.png: the file is truncated[^\n]*$"):
        epoch_of(loader_of(files, workers=workers), 0)


def test_nothing_readable(files):
    truncate(files, *range(23))
    with pytest.raises(InputError, match="None of the 23 images can be read"):
        epoch_of(loader_of(files), 0)


def test_a_file_that_vanishes_is_a_bad_image(files, tmp_path):
    (tmp_path / "7.png").unlink()
    epoch_of(loader_of(files), 0)
    assert [bad.reason for bad in files.bad] == ["no such file"]


def test_workers_start_while_threads_hold_locks(files):
    """A worker forked from a busy process must not wait for threads that it does not have."""
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            torch.mm(torch.ones(64, 64), torch.ones(64, 64))

    threads = [threading.Thread(target=busy) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        batches = epoch_of(loader_of(files, AugmentSettings("imagenet"), workers=2), 0)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert len(batches) == 6


def test_sources_are_light_to_send():
    source = FileSource(
        "/images", [f"class_{n % 10}/image_{n}.jpg" for n in range(10_000)], [n % 10 for n in range(10_000)]
    )
    assert len(pickle.dumps(source)) < 500_000
    assert source.path(1234) == "/images/class_4/image_1234.jpg"
    again = pickle.loads(pickle.dumps(source))
    assert again.path(9_999) == source.path(9_999)
    assert again.label(9_999) == 9
    odd = FileSource("", ["caf\u00e9.png", "\udcff.png", ""])  # also names that are not UTF-8
    assert [odd.path(number) for number in range(3)] == ["caf\u00e9.png", "\udcff.png", ""]


def test_grey_and_rgb_of_arrays():
    source = ArraySource("x", np.arange(2 * 64, dtype=np.uint8).reshape(2, 8, 8), [0, 1])
    assert (source.load(1, 1).mode, source.load(1, 3).mode) == ("L", "RGB")
    with pytest.raises(InputError, match="got a wish for 4 channels"):
        source.load(0, 4)


def test_digits_pass_through_grey_and_rgb_models():
    data = open_classification("digits")
    for channels in (1, 3):
        dataset = ClassificationDataset(data.val, build_transform(ImageSpec(16, 16, channels, crop_pct=1.0)))
        images = torch.cat([batch[0] for batch in make_loader(dataset, EpochBatchSampler(360, 100, shuffle=False))])
        assert images.shape == (360, channels, 16, 16)
        assert images.min() >= -1
        assert images.max() <= 1
        assert images.std() > 0.5


def test_wrong_settings(files):
    loader = loader_of(files)
    with pytest.raises(InputError, match="workers is at least 0; got -1"):
        make_loader(loader.dataset, loader.batch_sampler, workers=-1)
    with pytest.raises(InputError, match='"skip" or "stop"; got \'ignore\''):
        FileSource("", [], on_bad_image="ignore")
    assert "forkserver" in multiprocessing.get_all_start_methods()
