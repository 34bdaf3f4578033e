"""The spec of a model's images survives the trip into a configuration and back, and refuses nonsense."""

import json

import pytest
import timm

from allmlp.data import ImageSpec
from allmlp.errors import InputError


@pytest.mark.parametrize(
    "spec",
    [
        ImageSpec(32, 32),
        ImageSpec(16, 24, 1, (0.3,), (0.2,), "bilinear", 1.0, "squash"),
        ImageSpec(224, 224, 13, (0.1,) * 13, (0.2,) * 13, crop_mode="border"),
    ],
)
def test_round_trip_through_json(spec):
    assert ImageSpec.from_pretrained_cfg(json.loads(json.dumps(spec.to_dict()))) == spec


def test_reads_timms_configurations():
    cfg = timm.get_pretrained_cfg("mixer_b16_224.goog_in21k_ft_in1k").to_dict()
    assert ImageSpec.from_pretrained_cfg(cfg) == ImageSpec(224, 224, interpolation="bicubic", crop_pct=0.875)
    larger = ImageSpec.from_pretrained_cfg(cfg, height=384, width=320, crop_pct=1.0)
    assert (larger.size, larger.crop_pct) == ((384, 320), 1.0)
    assert (
        ImageSpec.from_pretrained_cfg({"input_size": (3, 8, 8), "mean": None, "interpolation": "random"}).mean
        == (0.5,) * 3
    )


def test_normalisation_follows_the_channels():
    assert ImageSpec(8, 8, 13).mean == (0.5,) * 13
    assert ImageSpec(8, 8, 4, mean=0.2, std=(0.1,)).std == (0.1,) * 4
    grey = ImageSpec(8, 8, 3, mean=(0.3, 0.4, 0.5)).replace(channels=1)
    assert grey.mean == pytest.approx((0.4,))
    with pytest.raises(InputError, match="one number for each of 4 channels; got 3"):
        ImageSpec(8, 8, 4, mean=(0.3, 0.4, 0.5))


@pytest.mark.parametrize(
    "wrong",
    [
        {"height": 0},
        {"width": 2.5},
        {"channels": 0},
        {"std": (0.5, 0.0, 0.5)},
        {"interpolation": "cubic"},
        {"crop_mode": "middle"},
        {"crop_pct": 0},
        {"crop_pct": 1.2},
    ],
)
def test_nonsense(wrong):
    with pytest.raises(InputError):
        ImageSpec(**{"height": 8, "width": 8, **wrong})


def test_a_configuration_without_size():
    with pytest.raises(InputError, match="input_size"):
        ImageSpec.from_pretrained_cfg({"mean": (0.5,) * 3})
