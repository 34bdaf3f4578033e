"""Evaluation is timm's, training draws from its seed alone, pictures of many bands keep their numbers."""

import contextlib
import random
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from allmlp.data import AugmentSettings, ImageSpec, build_transform, seeded
from allmlp.errors import InputError


def picture(height=50, width=70, channels=3, seed=0):
    values = np.random.default_rng(seed).integers(0, 255, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(values[..., 0] if channels == 1 else values)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_evaluation_is_timms(channels, size, crop_mode, interpolation):
    spec = ImageSpec(*size, channels, (0.4,) * channels, (0.3,) * channels, interpolation, 0.9, crop_mode)
    expected = create_transform(
        input_size=(channels, *size),
        is_training=False,
        interpolation=interpolation,
        mean=spec.mean,
        std=spec.std,
        crop_pct=0.9,
        crop_mode=crop_mode,
    )(picture(channels=channels))
    found = build_transform(spec)(picture(channels=channels))
    assert found.dtype == torch.float32
    assert found.shape == (channels, *size)
    assert (found - expected).abs().max() < 1e-6


@pytest.mark.parametrize("recipe", ["none", "small"])
def test_training_begins_with_the_resizing_of_evaluation(recipe):
    spec = ImageSpec(32, 32)
    training = build_transform(spec, AugmentSettings(recipe), training=True)
    assert torch.equal(training.prepare(picture()), build_transform(spec).prepare(picture()))


def test_settings_do_nothing_when_evaluating():
    spec = ImageSpec(32, 32)
    settings = AugmentSettings("imagenet", erase=1.0)
    assert torch.equal(build_transform(spec, settings, training=False)(picture()), build_transform(spec)(picture()))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "settings",
    [
        AugmentSettings("small", flip=0.5, color_jitter=0.2, erase=0.5),
        AugmentSettings("imagenet", erase=0.5),
        AugmentSettings("imagenet", auto_augment=None, color_jitter=0.4),
    ],
    ids=["small", "randaugment", "jitter"],
)
def test_the_seed_alone_decides(settings, channels):
    transform = build_transform(ImageSpec(32, 32, channels), settings, training=True)
    source = picture(channels=transform.channels)

    def augmented(seed):
        return transform.finish(transform.prepare(source, seed)[None], [seed])[0]

    results = [augmented(seed) for seed in range(8)]
    assert all(result.shape == (channels, 32, 32) for result in results)
    assert len({result.numpy().tobytes() for result in results}) > 6
    for generator in (random.seed, np.random.seed, torch.manual_seed):
        generator(1234)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert all(torch.equal(augmented(seed), result) for seed, result in zip(range(8), results))
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


def test_the_generator_decides_for_single_pictures():
    transform = build_transform(ImageSpec(32, 32), AugmentSettings("small"), training=True)
    first, second = (transform(picture(), torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, transform(picture(), torch.Generator().manual_seed(4)))


def test_seeded_restores_after_an_error():
    states = random.getstate(), torch.get_rng_state()
    with contextlib.suppress(ZeroDivisionError), seeded(7):
        assert random.random() == random.Random(7).random()
        assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(7)))
        raise ZeroDivisionError
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])


def test_imagenet_flips_by_default_and_only_if_it_may():
    half = np.zeros((40, 40, 3), dtype=np.uint8)
    half[:, 20:] = 255
    for flip, most in ((None, 30), (0.0, 0)):
        settings = AugmentSettings("imagenet", auto_augment=None, flip=flip, crop_area=(0.9, 1.0))
        transform = build_transform(ImageSpec(16, 16), settings, training=True)
        prepared = [transform.prepare(Image.fromarray(half), seed) for seed in range(40)]
        flipped = sum(int(image[..., :4].float().mean() > 128) for image in prepared)
        assert (10 <= flipped <= most) if most else flipped == 0


@pytest.mark.parametrize("policy", ["rand-m10-inc1", "rand-m0", "v0", "augmix-m10", "original", "3a"])
def test_policies_work_at_their_limits(policy):
    """Some keep 0 bits of a value, which Pillow no longer does; the result is black, as it always was."""
    settings = AugmentSettings("imagenet", auto_augment=policy)
    transform = build_transform(ImageSpec(16, 16), settings, training=True)
    prepared = [transform.prepare(picture(), seed) for seed in range(150)]
    assert all(image.shape == (3, 16, 16) for image in prepared)
    operations = [
        operation
        for step in transform._pictures.transforms
        for operation in (*getattr(step, "ops", ()), *chain(*getattr(step, "policy", ())))
        if operation.name.startswith("Posterize")
    ]
    for operation in operations:
        for bits in range(9):
            kept = operation.aug_fn(picture(), bits, fillcolor=0, resample=0)
            assert np.array_equal(kept, np.asarray(picture()) & (0xFF00 >> bits & 0xFF))


def test_erasing_is_noise_where_timm_erases():
    settings = AugmentSettings("imagenet", auto_augment=None, erase=1.0)
    transform = build_transform(ImageSpec(32, 32), settings, training=True)
    white = Image.new("RGB", (40, 40), "white")
    erased = transform.finish(transform.prepare(white, 5)[None], [5])[0]
    share = (erased != 1).any(0).float().mean()
    assert 0.015 < share < 0.4
    assert 0.7 < erased[erased != 1].std() < 1.3


def test_digits_are_upsampled_whole():
    digit = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4)
    upsampled = build_transform(ImageSpec(32, 32, 1, crop_pct=1.0)).prepare(digit)
    expected = np.asarray(digit.resize((32, 32), Image.Resampling.BICUBIC))
    assert np.array_equal(upsampled[0], expected)


def test_large_pictures_are_decoded_small_only_where_bits_do_not_count():
    spec = ImageSpec(28, 28)
    assert build_transform(spec).at_least is None
    assert build_transform(spec, AugmentSettings("small"), training=True).at_least == (32, 32)
    # The least crop, 8 % of the area, of a picture decoded at twice 50 pixels still has 28 x 28 pixels.
    assert build_transform(spec, AugmentSettings("imagenet"), training=True).at_least == (50, 50)
    assert 0.08 * (2 * 50) ** 2 >= 28**2


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_bands_are_resized_as_pictures_are(crop_mode):
    """A smooth picture in many bands, against Pillow's resizing of the picture, which rounds to whole numbers."""
    y, x = np.mgrid[:60, :90]
    smooth = (2 * x + y).astype(np.uint8)
    spec = ImageSpec(32, 32, 5, crop_mode=crop_mode)
    found = build_transform(spec).prepare(np.repeat(smooth[..., None], 5, axis=2))
    expected = build_transform(spec.replace(channels=1)).prepare(Image.fromarray(smooth))
    assert found.shape == (5, 32, 32)
    inside = (slice(None), slice(8, 24), slice(2, 30))  # "border": where a fill of 127.5 meets one of 128
    assert (found - expected.float())[inside].abs().max() < 1.5
    if crop_mode != "border":
        assert (found - expected.float()).abs().max() < 1.5


def test_bands_keep_their_range():
    spec = ImageSpec(8, 8, 4, mean=0.0, std=1.0, crop_pct=1.0)
    transform = build_transform(spec, AugmentSettings("small", shift=0, rotate=0, zoom=0), training=True)
    for values in (np.uint8([0, 51, 102, 255]), np.uint16([0, 13107, 26214, 65535]), np.float32([0, 0.2, 0.4, 1])):
        assert torch.allclose(transform(np.broadcast_to(values, (8, 8, 4)))[:, 4, 4], torch.tensor([0, 0.2, 0.4, 1]))
    holes = np.full((8, 8, 4), np.nan, dtype=np.float32)
    assert torch.equal(transform(holes), torch.zeros(4, 8, 8))
    with pytest.raises(InputError, match="hold uint8, uint16 or fractions; got int32"):
        transform(np.zeros((8, 8, 4), dtype=np.int32))


def test_randaugment_knows_no_bands():
    with pytest.raises(InputError, match=r'wants grey or RGB images; got 4 channels.*"small"'):
        build_transform(ImageSpec(8, 8, 4), AugmentSettings("imagenet"), training=True)
