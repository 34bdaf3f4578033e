"""Mixed batches: targets say how much of which image is in each, for odd batches too."""

import numpy as np
import pytest
import torch

from allmlp.data import MixSettings, make_mixup
from allmlp.errors import InputError


def batch(size):
    """Image i is i everywhere and of class i, so that pixels tell what was mixed."""
    values = torch.arange(float(size))
    return values[:, None, None, None].expand(size, 3, 8, 8).clone(), torch.arange(size)


def test_off():
    assert make_mixup(MixSettings(), 10) is None


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("size", [1, 2, 5, 8])
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_targets_say_what_is_in_the_images(mode, size, mixup, cutmix):
    mix = make_mixup(MixSettings(mixup, cutmix, mode=mode), size)
    for _ in range(5):
        images, targets = mix(*batch(size))
        assert images.shape == (size, 3, 8, 8)
        assert torch.allclose(targets.sum(1), torch.ones(size))
        shares = targets @ torch.arange(float(size))
        assert torch.allclose(images.mean((1, 2, 3)), shares, atol=1e-5)
        if size % 2:
            assert torch.equal(images[-1], batch(size)[0][-1])
            assert targets[-1, -1] == 1


def test_numpys_generator_decides():
    mix = make_mixup(MixSettings(0.8, 1.0), 4)
    results = []
    for seed in (1, 1, 2):
        np.random.seed(seed)
        results.append(mix(*batch(4))[1])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_label_smoothing_spreads_over_all_classes():
    mix = make_mixup(MixSettings(0.8, probability=0.0, label_smoothing=0.1), 5)
    _, targets = mix(*batch(5))
    assert torch.allclose(targets, torch.eye(5) * 0.9 + 0.02)


@pytest.mark.parametrize("wrong", [{"mixup": -1}, {"mode": "all"}, {"probability": 2}, {"switch": -0.1}])
def test_senseless_settings(wrong):
    with pytest.raises(InputError):
        MixSettings(**wrong)
