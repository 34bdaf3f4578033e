"""Segmenting whole images: one scale, several with flips, windows, and photographs that are large."""

import resource

import pytest
import torch
from torch.nn import functional as F

from allmlp.dense import create_segmenter
from allmlp.dense.inference import (
    RATIOS,
    labels_at,
    multi_scale,
    resize_image,
    single_scale,
    sliding_window,
    whole_image,
)
from allmlp.errors import InputError


def blur(images):
    """Stands in for a network: logits (b, 4, h, w) that see each pixel's neighbours."""
    weight = torch.linspace(-1, 1, 4 * 3 * 9).reshape(4, 3, 3, 3).to(images)
    return F.conv2d(images, weight, padding=1)


def bilinear(x, size, align_corners=False):
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


def test_the_papers_ratios():
    assert RATIOS == (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


def test_one_scale_resizes_twice_then_takes_the_softmax():
    x = torch.randn(1, 3, 30, 45).double()
    seen = bilinear(x, (64, 96))  # short side 64, within the long side
    torch.testing.assert_close(single_scale(blur, x, (64, 256)), bilinear(blur(seen), (30, 45)).softmax(1))
    torch.testing.assert_close(
        single_scale(blur, x, (64, 60)), bilinear(blur(bilinear(x, (40, 60))), (30, 45)).softmax(1)
    )
    assert resize_image(x, (30, 45)) is x
    torch.testing.assert_close(whole_image(blur, x), blur(x))


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_several_scales_average_each_size_and_its_mirror_image(average):
    x, total = torch.randn(2, 3, 24, 36).double(), 0
    for ratio in (0.5, 1.5):
        seen = bilinear(x, (int(32 * ratio), int(32 * ratio * 1.5)))
        for turn in (lambda y: y, lambda y: y.flip(-1)):
            logits = turn(bilinear(blur(turn(seen)), (24, 36)))
            total = total + (logits.softmax(1) if average == "probabilities" else logits)
    mine = multi_scale(blur, x, (32, 1000), (0.5, 1.5), average=average)
    torch.testing.assert_close(mine, total / 4)
    alone = multi_scale(blur, x, (32, 1000), (1.0,), flip=False)
    torch.testing.assert_close(alone, single_scale(blur, x, (32, 1000)))


def test_eanets_rule_pads_to_one_more_than_a_multiple_of_8():
    seen = []

    def network(images):
        seen.append(tuple(images.shape[-2:]))
        return blur(images)

    x = torch.randn(1, 3, 20, 33).double()
    mine = multi_scale(network, x, None, (1.0, 2.0), average="logits", remainder=(8, 1), align_corners=True, flip=False)
    assert seen == [(25, 33), (41, 73)]
    first = blur(F.pad(x, (0, 0, 0, 5)))[..., :20, :]
    second = bilinear(blur(F.pad(bilinear(x, (40, 66)), (0, 7, 0, 1)))[..., :40, :66], (20, 33), True)
    torch.testing.assert_close(mine, (first + second) / 2)


def test_bad_settings_are_refused():
    x = torch.zeros(1, 3, 8, 8)
    for arguments, message in (({"average": "votes"}, "'probabilities' or 'logits'"), ({"ratios": ()}, "one ratio")):
        with pytest.raises(InputError, match=message):
            multi_scale(blur, x, (8, 8), **arguments)
    with pytest.raises(InputError, match="strides from 1"):
        sliding_window(blur, x, (4, 4), (5, 4))


@pytest.mark.parametrize(("height", "width"), [(50, 70), (20, 70), (10, 12), (16, 24)])
def test_windows_cover_every_pixel_and_average_where_they_overlap(height, width):
    x, window, stride = torch.randn(1, 3, height, width).double(), (16, 24), (10, 16)
    total, count = torch.zeros(1, 4, height, width).double(), torch.zeros(height, width)
    for y in range(max(0, -(-(height - 16) // 10)) + 1):
        for x0 in range(max(0, -(-(width - 24) // 16)) + 1):
            top, left = max(min(y * 10, height - 16), 0), max(min(x0 * 16, width - 24), 0)
            total[..., top : top + 16, left : left + 24] += blur(x[..., top : top + 16, left : left + 24])
            count[top : top + 16, left : left + 24] += 1
    assert count.min() >= 1
    torch.testing.assert_close(sliding_window(blur, x, window, stride), total / count)


def test_windows_of_a_pointwise_network_change_nothing():
    def pointwise(images):
        return torch.stack([images.sum(1), images.prod(1)], dim=1)

    x = torch.randn(2, 3, 61, 47).double()
    torch.testing.assert_close(sliding_window(pointwise, x, (20, 20)), pointwise(x))


@pytest.mark.parametrize("size", [(31, 47), (90, 64), (8, 200), (1, 1)])
def test_labels_band_by_band_are_the_argmax_of_resized_scores(size):
    scores = torch.randn(2, 5, 23, 29).double()
    wanted = bilinear(scores, size).argmax(1)
    assert torch.equal(labels_at(scores, size, rows=7), wanted)


def test_a_large_photograph_is_segmented_whole_within_memory():
    """4000 x 3000 pixels by 150 classes would be 7.2 GB of scores, by 30 they are 1.4 GB."""
    segmenter = create_segmenter("upernet", size="small", num_classes=30).eval()
    photo = torch.rand(1, 3, 3000, 4000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.inference_mode():
        seen = resize_image(photo, (384, 512))
        labels = labels_at(segmenter(seen), (3000, 4000))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert labels.shape == (1, 3000, 4000)
    assert grown < 700, f"{grown:.0f} MB"
