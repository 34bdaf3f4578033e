"""UPerNet and EANet in the papers' sizes: counted sizes, the authors' checkpoints against slow heads, losses."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import allmlp
import dense_reference as slow
from allmlp.dense import create_segmenter
from allmlp.dense.pooling import average_pool
from allmlp.dense.segmenter import pixel_loss
from allmlp.errors import InputError
from allmlp.metrics.cost import count_parameters

CHANNELS = (96, 192, 384, 768)


def cost(name, backbone, classes, size):
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), torch.no_grad():
        segmenter = create_segmenter(name, backbone, classes).eval()
        with counter:
            segmenter(torch.zeros(1, 3, *size))
    return segmenter, counter.get_total_flops() / 2e9


@pytest.mark.parametrize(
    ("backbone", "parameters", "auxiliary", "giga_macs"),
    [
        ("as_mlp_t", 59_936_204, 923_798, 936.29),
        ("as_mlp_s", 81_248_204, 923_798, 1023.26),
        ("as_mlp_b", 121_264_300, 1_218_710, 1164.57),
    ],
)
def test_upernet_sizes_are_the_published_ones(backbone, parameters, auxiliary, giga_macs):
    """Parameters with the auxiliary head, multiply-adds without it, at 512 x 2048."""
    segmenter, found = cost("upernet", backbone, 150, (512, 2048))
    assert count_parameters(segmenter) == parameters
    assert count_parameters(segmenter.auxiliary_head) == auxiliary
    assert found == pytest.approx(giga_macs, rel=1e-3)


@pytest.mark.parametrize(
    ("backbone", "parameters"), [("resnet50", 34_846_933), ("resnet101", 53_839_061), ("resnet152", 69_482_709)]
)
def test_eanet_sizes_are_the_counted_ones(backbone, parameters):
    segmenter, found = cost("eanet", backbone, 21, (513, 513))
    assert count_parameters(segmenter) == parameters
    assert count_parameters(segmenter.head.attention) == 591_360
    if backbone == "resnet101":
        assert found == pytest.approx(237.3, rel=1e-3)


@pytest.fixture(scope="module")
def upernet(golden):
    case = golden("asmlp_backbone_seg_odd")
    state = {f"backbone.{key}": value for key, value in case.weights().items()}
    state |= slow.generate(case.rule, slow.upernet_entries(CHANNELS, 150))
    segmenter = create_segmenter("upernet", "as_mlp_t")
    report = allmlp.load_official(segmenter, {"state_dict": state, "meta": {"iter": 160_000}, "optimizer": {}})
    assert report.layout == "mmseg"
    assert not report.unexpected
    assert not report.reinitialised
    double = {key: value.double() if value.is_floating_point() else value for key, value in state.items()}
    return segmenter.double().eval(), case, double


def test_upernet_is_a_slow_upernet_at_odd_sizes(upernet):
    segmenter, case, state = upernet
    images = case.input().double()
    assert images.shape[-2:] == (100, 130)
    with torch.no_grad():
        maps = segmenter.backbone(images)
        coarse = slow.uper_head(state, maps)
        padded = (100, 130)  # no padding: any size goes through
        wanted = slow.resize(coarse, padded)
        mine = segmenter(images)
    assert mine.shape == (1, 150, 100, 130)
    assert (mine - wanted).abs().max() < 1e-9 * wanted.std()


def test_auxiliary_logits_are_those_of_a_slow_head(upernet):
    segmenter, case, state = upernet
    with torch.no_grad():
        maps = segmenter.backbone(case.input().double())
        wanted = slow.aux_head(state, maps)
        assert (segmenter.auxiliary_head(maps[2]) - wanted).abs().max() < 1e-9 * wanted.std()


def test_small_upernets_speak_for_each_pixel_of_a_cell():
    """Logits at the image's own resolution: channel 16 k + 4 i + j of a cell is class k at its row i, column j."""
    segmenter = create_segmenter("upernet", size="small", num_classes=3, img_size=64).eval()
    cells = []
    segmenter.decode_head.conv_seg.register_forward_hook(lambda _module, _inputs, output: cells.append(output))
    logits, *_ = segmenter.logits(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 3, 64, 64)
    assert cells[0].shape == (2, 48, 16, 16)
    for k, i, j in ((0, 0, 0), (1, 0, 3), (2, 3, 1)):
        assert torch.equal(logits[:, k, i::4, j::4], cells[0][:, 16 * k + 4 * i + j])
    assert create_segmenter("upernet", num_classes=3).decode_head.finer == 1


def test_only_small_upernets_lack_batch_norm():
    for size, count in (("paper", 13), ("small", 0)):
        with torch.device("meta"):
            segmenter = create_segmenter("upernet", "as_mlp_t", size=size)
        assert sum(isinstance(module, torch.nn.BatchNorm2d) for module in segmenter.modules()) == count


def test_training_adds_up_both_heads():
    segmenter = create_segmenter("upernet", size="small", num_classes=4).train()
    for module in segmenter.modules():
        if isinstance(module, torch.nn.Dropout2d):
            module.p = 0.0
    images, targets = torch.randn(2, 3, 60, 44), torch.randint(4, (2, 60, 44))
    targets[:, :9] = 255
    losses = segmenter(images, targets)
    wanted = {}
    for (name, weight), logits in zip((("loss_decode", 1.0), ("loss_aux", 0.4)), segmenter.logits(images)):
        scores = slow.resize(logits.detach().double(), (60, 44)).log_softmax(1)
        total = sum(
            -scores[b, targets[b, y, x], y, x] for b in range(2) for y in range(9, 60) for x in range(44)
        )  # the ignored rows count as 0 in the mean
        wanted[name] = weight * float(total) / (2 * 60 * 44)
    assert losses.keys() == wanted.keys()
    for name, value in wanted.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-4)
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in segmenter.parameters())


def test_pixels_that_are_ignored_leave_no_gradient():
    logits = torch.randn(1, 3, 4, 5, requires_grad=True)
    targets = torch.zeros(1, 4, 5, dtype=torch.long)
    targets[0, 2] = 255
    pixel_loss(logits, targets).backward()
    assert logits.grad[0, :, 2].abs().max() == 0
    assert logits.grad[0, :, 1].abs().min() > 0
    assert pixel_loss(logits, torch.full((1, 4, 5), 255)).item() == 0


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (5, 7), (16, 64), (13, 6)])
def test_pooling_is_pytorchs_adaptive_pooling(height, width):
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    for count in (1, 2, 3, 6):
        wanted = F.adaptive_avg_pool2d(x, count)
        torch.testing.assert_close(average_pool(x, count), wanted, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(slow.adaptive_pool(x, count), wanted, rtol=1e-12, atol=1e-12)


# ---- EANet


def eanet_entries(depths, classes):
    """(key, shape, kind) of EANet's file, as its authors name it."""
    entries = []

    def norm(prefix, width):
        for name, kind in (("weight", "scale"), ("bias", "bias"), ("running_mean", "mean"), ("running_var", "var")):
            entries.append((f"{prefix}.{name}", (width,), kind))
        entries.append((f"{prefix}.num_batches_tracked", (), "counter"))

    for place, (out, inn) in ((0, (64, 3)), (3, (64, 64)), (6, (128, 64))):
        entries.append((f"extractor.0.{place}.weight", (out, inn, 3, 3), "matrix"))
        if place < 6:
            norm(f"extractor.0.{place + 1}", out)
    norm("extractor.1", 128)
    inn = 128
    for stage, depth in enumerate(depths):
        width = 64 * 2**stage
        for block in range(depth):
            prefix = f"extractor.{4 + stage}.{block}"
            for number, shape in ((1, (width, inn, 1, 1)), (2, (width, width, 3, 3)), (3, (4 * width, width, 1, 1))):
                entries.append((f"{prefix}.conv{number}.weight", shape, "matrix"))
                norm(f"{prefix}.bn{number}", shape[0])
            if block == 0:
                entries.append((f"{prefix}.downsample.0.weight", (4 * width, inn, 1, 1), "matrix"))
                norm(f"{prefix}.downsample.1", 4 * width)
            inn = 4 * width
    entries += slow.conv_bn("fc0", 512, 2048, 3)
    entries += slow.conv("linu.conv1", 512, 512, 1) + slow.conv("linu.conv2.0", 512, 512, 1, bias=False)
    entries += [("linu.linear_0.weight", (64, 512, 1), "matrix"), ("linu.linear_1.weight", (512, 64, 1), "matrix")]
    norm("linu.conv2.1", 512)
    return entries + slow.conv_bn("fc1.0", 256, 512, 3) + slow.conv("fc2", classes, 256, 1)


def slow_eanet(state, x, depths):
    """Logits at stride 8."""

    def norm(y, prefix):
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(y, *[state[f"{prefix}.{name}"] for name in names], training=False, eps=1e-5)

    for place, stride in ((0, 2), (3, 1), (6, 1)):
        x = F.conv2d(x, state[f"extractor.0.{place}.weight"], stride=stride, padding=1)
        x = norm(x, f"extractor.0.{place + 1}" if place < 6 else "extractor.1").relu()
    x = F.max_pool2d(x, 3, 2, 1)
    for stage, depth in enumerate(depths):
        for block in range(depth):
            prefix = f"extractor.{4 + stage}.{block}"
            stride = 2 if stage == 1 and block == 0 else 1
            dilation = (1, 1, 2, 4)[stage] * (1 if stage < 3 else (1, 2, 4)[block])
            dilation = dilation // 2 if block == 0 and stage > 1 else dilation
            y = norm(F.conv2d(x, state[f"{prefix}.conv1.weight"]), f"{prefix}.bn1").relu()
            y = F.conv2d(y, state[f"{prefix}.conv2.weight"], stride=stride, padding=dilation, dilation=dilation)
            y = norm(y, f"{prefix}.bn2").relu()
            y = norm(F.conv2d(y, state[f"{prefix}.conv3.weight"]), f"{prefix}.bn3")
            if block == 0:
                x = norm(F.conv2d(x, state[f"{prefix}.downsample.0.weight"], stride=stride), f"{prefix}.downsample.1")
            x = (x + y).relu()
    x = slow.relu_conv_bn(x, state, "fc0", 1)
    tokens = slow.apply_conv(x, state, "linu.conv1").flatten(2)  # (b, c, n)
    weights = (state["linu.linear_0.weight"][:, :, 0] @ tokens).softmax(-1)
    weights = weights / (1e-9 + weights.sum(1, keepdim=True))
    y = (state["linu.linear_1.weight"][:, :, 0] @ weights).reshape(x.shape)
    y = norm(F.conv2d(y, state["linu.conv2.0.weight"]), "linu.conv2.1")
    x = slow.relu_conv_bn((x + y).relu(), state, "fc1.0", 1)
    return slow.apply_conv(x, state, "fc2")


def test_eanet_file_gives_the_numbers_of_a_slow_eanet(golden):
    rule, depths = golden("ea_seg").rule, (3, 4, 6, 3)
    # Residual sums of random blocks grow; small last norms keep the numbers within reach of one another.
    state = slow.generate(rule, eanet_entries(depths, 21), gains=[("bn3.weight", 0.3)])
    segmenter = create_segmenter("eanet", "resnet50", 21)
    report = allmlp.load_official(segmenter, {"net": {f"module.{k}": v for k, v in state.items()}, "step": 45_000})
    assert report.layout == "eanet"
    assert not report.unexpected
    state = {key: value.double() if value.is_floating_point() else value for key, value in state.items()}
    x = torch.randn(1, 3, 65, 49, dtype=torch.float64)
    with torch.no_grad():
        coarse = slow_eanet(state, x, depths)
        assert coarse.shape[-2:] == (9, 7)
        segmenter.double().eval()
        (mine,) = segmenter.logits(x)
        assert (mine - coarse).abs().max() < 1e-9 * coarse.std()
        fine = segmenter(x)
    assert fine.shape[-2:] == (65, 49)
    torch.testing.assert_close(fine[..., ::8, ::8], coarse, rtol=1e-9, atol=1e-9)  # corners lie on corners


def test_eanet_takes_other_backbones_at_stride_8():
    segmenter = create_segmenter("eanet", size="small", num_classes=3).train()
    losses = segmenter(torch.randn(2, 3, 64, 96), torch.randint(3, (2, 64, 96)))
    assert losses.keys() == {"loss_decode"}
    losses["loss_decode"].backward()
    assert segmenter.logits(torch.randn(2, 3, 64, 96))[0].shape == (2, 3, 8, 12)


# ---- what both refuse


def test_bad_calls_are_refused():
    segmenter = create_segmenter("upernet", size="small", num_classes=4)
    with pytest.raises(InputError, match=r"\.eval\(\)"):
        segmenter.train()(torch.zeros(2, 3, 32, 32))
    with pytest.raises(InputError, match=r"one label a pixel, \(2, 32, 32\)"):
        segmenter(torch.zeros(2, 3, 32, 32), torch.zeros(2, 32, 30))
    for arguments, message in (
        ({"name": "fcn"}, "upernet, eanet"),
        ({"name": "upernet", "size": "tiny"}, "'paper' or 'small'"),
        ({"name": "upernet", "num_classes": 0}, "at least one class"),
        ({"name": "upernet", "backbone": "as_mlp_x"}, "as_mlp"),
    ):
        with pytest.raises(InputError, match=message):
            create_segmenter(**arguments)
    canvas = create_segmenter("upernet", "mixer_nano", 4, "small", img_size=64).eval()
    with pytest.raises(InputError, match="at most 64 x 64"):
        canvas(torch.zeros(1, 3, 65, 64))
    assert canvas(torch.zeros(1, 3, 50, 64)).shape == (1, 4, 50, 64)
