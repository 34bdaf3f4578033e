"""The batched augmentation against the obvious one-image version, and against its own promises."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as V

from allmlp.data import AugmentSettings, sample_seed
from allmlp.data.small_augment import affine, augment_small, erase, jitter_color, uniforms
from allmlp.errors import InputError

SEEDS = [sample_seed(0, 0, index) for index in range(40)]


def images(batch=40, channels=3, height=12, width=20):
    return torch.rand(batch, channels, height, width) * 255


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("angle", "shift", "scale"), [(0, (0, 0), 1.0), (13, (2, -1), 1.1), (-30, (0.5, 3), 0.8)])
def test_affine_is_torchvisions(angle, shift, scale, flip):
    x = images(2)
    expected = V.affine(
        x.flip(3) if flip else x,
        angle=angle,
        translate=list(shift),
        scale=scale,
        shear=[0, 0],
        interpolation=v2.InterpolationMode.BILINEAR,
    )
    two = torch.ones(2)
    found = affine(x, angle * two, torch.tensor([shift, shift]).float(), scale * two, torch.tensor([flip, flip]))
    # torchvision measures in pixels, we in half sides: float32 rounding of coordinates times steps of up to 255
    assert (found - expected).abs().max() < 5e-3


def test_whole_pixel_shift_moves_pixels():
    x = images(1)
    moved = affine(x, torch.zeros(1), torch.tensor([[3.0, -2.0]]), torch.ones(1), torch.tensor([False]))
    assert torch.allclose(moved[:, :, :-2, 3:], x[:, :, 2:, :-3], atol=1e-2)
    assert moved[:, :, -2:].abs().max() < 1e-2
    kept = affine(x, torch.zeros(1), torch.tensor([[3.0, 0.0]]), torch.ones(1), torch.tensor([False]), fill="border")
    assert torch.allclose(kept[..., :3], x[..., :1].expand(-1, -1, -1, 3), atol=1e-2)


def test_color_jitter_is_torchvisions_in_this_order():
    x = images(3)
    factors = torch.tensor([[1.2, 0.7, 1.3], [0.8, 1.3, 0.6], [1.0, 1.0, 1.0]])
    found = jitter_color(x.clone(), factors)
    for image, row, result in zip(x, factors.tolist(), found):
        expected = V.adjust_brightness(image / 255, row[0])
        expected = V.adjust_saturation(V.adjust_contrast(expected, row[1]), row[2]) * 255
        assert torch.allclose(result, expected, atol=2e-2)
    grey = images(2, channels=1)
    assert jitter_color(grey.clone(), factors[:2]).shape == grey.shape


def test_erase_fills_one_rectangle_of_2_to_20_percent():
    x = images(200, 1, 32, 32)
    value = torch.tensor([-1.0])
    erased = erase(x, torch.arange(200) % 2 == 0, torch.rand(200, 4), value)
    assert torch.equal(erased[1::2], x[1::2])
    for image in erased[::2, 0]:
        rows, columns = torch.nonzero(image == -1, as_tuple=True)
        high, wide = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
        assert len(rows) == high * wide
        assert 0.01 <= len(rows) / 1024 <= 0.22
    assert len({int((image == -1).sum()) for image in erased[::2, 0]}) > 20


def test_each_image_depends_on_its_own_seed_only():
    settings = AugmentSettings("small", flip=0.5, color_jitter=0.3, erase=0.5)
    x, fill = images(), torch.full((3,), 99.0)
    together = augment_small(x.clone(), settings, SEEDS, fill)
    assert not torch.equal(together, x)
    assert torch.equal(augment_small(x.clone(), settings, SEEDS, fill), together)
    for place in (0, 7, 39):
        alone = augment_small(x[place : place + 1].clone(), settings, SEEDS[place : place + 1], fill)
        assert torch.equal(alone[0], together[place])
    backwards = augment_small(x.flip(0), settings, SEEDS[::-1], fill)
    assert torch.equal(backwards.flip(0), together)


def test_switching_one_effect_on_leaves_the_others_alone():
    x, fill = images(), torch.zeros(3)
    plain = augment_small(x.clone(), AugmentSettings("small"), SEEDS, fill)
    erased = augment_small(x.clone(), AugmentSettings("small", erase=1.0), SEEDS, fill)
    untouched = erased != 0
    assert torch.equal(erased[untouched], plain[untouched])


def test_no_mirroring_unless_asked_for():
    """A picture that is dark on the left stays so under the default settings."""
    x = torch.zeros(40, 1, 16, 16)
    x[..., 8:] = 255
    stays = augment_small(x.clone(), AugmentSettings("small"), SEEDS, torch.zeros(1))
    assert (stays[..., :4].mean((1, 2, 3)) < stays[..., -4:].mean((1, 2, 3))).all()
    flipped = augment_small(x.clone(), AugmentSettings("small", flip=0.5), SEEDS, torch.zeros(1))
    mirrored = flipped[..., :4].mean((1, 2, 3)) > flipped[..., -4:].mean((1, 2, 3))
    assert 8 < mirrored.sum() < 32


def test_effects_stay_within_their_limits():
    settings = AugmentSettings("small", shift=0.1, rotate=0, zoom=0, fill="zeros")
    x = torch.zeros(40, 1, 20, 20)
    x[:, :, 10, 10] = 255
    y, z = torch.meshgrid(torch.arange(20.0), torch.arange(20.0), indexing="ij")
    moved = augment_small(x, settings, SEEDS, torch.zeros(1))[:, 0]
    centres = torch.stack([(moved * axis).sum((1, 2)) / moved.sum((1, 2)) for axis in (y, z)]) - 10
    assert centres.abs().max() <= 2.001
    assert centres.std() > 0.8


def test_uniforms_are_uniform_and_independent():
    draws = uniforms([sample_seed(0, 0, index) for index in range(4000)], 13).numpy()
    assert draws.min() >= 0
    assert draws.max() < 1
    assert np.abs(draws.mean(0) - 0.5).max() < 0.02
    assert np.abs(draws.var(0) - 1 / 12).max() < 0.004
    correlations = np.corrcoef(draws.T) - np.eye(13)
    assert np.abs(correlations).max() < 0.07  # four standard deviations of 4000 draws


@pytest.mark.parametrize(
    "wrong", [{"recipe": "big"}, {"fill": "white"}, {"flip": 1.5}, {"shift": -0.1}, {"zoom": 1}, {"rotate": 200}]
)
def test_senseless_settings(wrong):
    with pytest.raises(InputError):
        AugmentSettings(**wrong)
