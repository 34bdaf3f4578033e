"""External attention alone: the authors' numbers, initialisation, the double normalisation, folding."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import allmlp
from allmlp.errors import InputError
from allmlp.models import ExternalAttention, MultiHeadExternalAttention
from golden_check import assert_close, check_gradients, check_stages, load_case, origin_of, outputs_loss


def build(case):
    classes = {"ExternalAttention": ExternalAttention, "MultiHeadExternalAttention": MultiHeadExternalAttention}
    return classes[case.manifest["allmlp"]["class"]](**case.manifest["allmlp"]["arguments"])


def check_part(case, y, tolerance):
    """256 values of the output and its means over channels and over positions."""
    axes = {"channel": tuple(range(2, y.ndim)) if y.ndim == 4 else 1, "position": 1 if y.ndim == 4 else 2}
    scale = case.arrays["output_mean_std"][1]
    _, _, values = case.rule.probe(y.numpy(), 256)
    assert_close(torch.from_numpy(values), case.arrays["output_values"], tolerance, scale, "values")
    for name, axis in axes.items():
        assert_close(y.double().mean(axis), case.arrays[f"output_{name}_mean"], tolerance, scale, f"{name} means")


@pytest.mark.parametrize(("name", "layout"), [("ea_seg", "EANet block"), ("eamlp_block", "EAMLP attention")])
def test_golden(golden, name, layout):
    case = golden(name)
    model = build(case).eval()
    assert sum(p.numel() for p in model.parameters()) == case.manifest["parameters"]
    for dtype in ("float32", "float64"):
        kind = getattr(torch, dtype)
        assert load_case(model.to(kind), case).layout == layout
        with torch.no_grad():
            check_part(case, model(case.input().to(kind)), case.manifest["tolerance"][dtype])


@pytest.mark.parametrize("name", ["ea_seg", "eamlp_block"])
def test_golden_gradients(golden, name):
    case = golden(name)
    model = build(case)
    train = case.manifest["training"]["mode"] == "train"
    check_gradients(model, case, origin_of(model, case), lambda m, x: outputs_loss(case, [m(x)]), train=train)


def test_golden_train_mode(golden):
    case = golden("ea_seg")
    model = build(case).double().train()
    load_case(model, case)
    with torch.no_grad():
        y = model(case.input().double())
    assert_close(torch.from_numpy(case.rule.probe(y.numpy())[2]), case.arrays["train_output_values"], 1e-9)
    for buffer, norm in zip((model.norm.running_mean, model.norm.running_var), case.arrays["buffer_norm_after"]):
        assert buffer.norm().item() == pytest.approx(norm, rel=1e-9)
    assert model.norm.num_batches_tracked == 1


def test_golden_stages(golden):
    same = lambda x: x  # noqa: E731
    modules = {
        "conv1": ("project_in", same),
        "linear_0": ("memory_key", same),
        "linear_1": ("memory_value", same),
        "conv2": ("norm", same),
    }
    case = golden("ea_seg")
    check_stages(build(case), case, modules)
    heads_first = lambda x: x.transpose(1, 2)  # noqa: E731
    modules = {
        "trans_dims": ("expand", same),
        "linear_0": ("memory_key", heads_first),
        "linear_1": ("memory_value", heads_first),
        "proj": ("project", same),
    }
    case = golden("eamlp_block")
    check_stages(build(case), case, modules)


@pytest.mark.parametrize("name", ["ea_seg", "eamlp_block"])
def test_golden_folded(golden, name):
    case = golden(name)
    model = build(case).eval().double()
    load_case(model, case)
    folded = allmlp.fold(model)
    x = case.input()
    bound = max(1e-5, 5 * case.manifest["float32_error"])
    with torch.no_grad():
        wanted = model(x.double())
        assert_close(folded(x.double()), wanted.numpy(), 1e-10)
        check_part(case, folded(x.double()), 1e-9)
        assert_close(allmlp.fold(model.float())(x), wanted.numpy(), bound)
    with pytest.raises(InputError, match="folded"):
        folded.train()
    with pytest.raises(InputError, match="fold"):
        allmlp.load_official(folded, case.weights())
    again = type(model)(**folded.arguments).double()
    assert not allmlp.load_official(again, folded.state_dict()).unexpected


def shaken(model):
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith("running_var"):
            torch.nn.init.uniform_(tensor, 0.5, 2)
        elif tensor.is_floating_point():
            torch.nn.init.normal_(tensor, std=0.3)
    return model.double().eval()


@pytest.mark.parametrize(("dim", "heads", "memory"), [(96, 3, 64), (64, 1, 64), (128, 2, 64), (30, 5, 4), (24, 6, 32)])
def test_multi_head_folds_without_more_work(dim, heads, memory):
    model = shaken(MultiHeadExternalAttention(dim, heads, memory))
    folded = allmlp.fold(model)
    x = torch.randn(2, 7, dim, dtype=torch.double)
    counts = []
    for m in (model, folded):
        with torch.no_grad(), FlopCounterMode(display=False) as flops:
            m(x)
        counts.append(flops.get_total_flops() // (2 * 14))
    whole = 2 * (4 * dim * dim + 4 * dim * memory)
    assert counts[0] == whole
    assert counts[1] == min(whole, 2 * 4 * heads * memory * dim)
    with torch.no_grad():
        wanted = model(x)
        assert (folded(x) - wanted).abs().max() < 1e-10 * wanted.std()
        for m in (model, folded):
            assert (m.first_token(x) - wanted[:, :1]).abs().max() < 1e-10 * wanted.std()


def test_multi_head_folded_work_at_published_width():
    model = MultiHeadExternalAttention(384, 6, device="meta")
    x = torch.empty(1, 197, 384, device="meta")
    macs = []
    for m in (model, MultiHeadExternalAttention(384, 6, folded=True, device="meta")):
        with FlopCounterMode(display=False) as flops:
            m(x)
        macs.append(flops.get_total_flops() // 2)
    assert sum(p.numel() for p in model.parameters()) == 1_189_888
    assert macs[0] == 197 * 2 * (4 * 384 * 384 + 4 * 384 * 64) == 271_122_432
    assert macs[1] / macs[0] == pytest.approx(6 / 7)  # one seventh less


def test_block_folds_without_more_work():
    model = shaken(ExternalAttention(48, 16))
    folded = allmlp.fold(model)
    x = torch.randn(2, 48, 5, 1, dtype=torch.double)
    with torch.no_grad():
        wanted = model(x)
        assert (folded(x) - wanted).abs().max() < 1e-10 * wanted.std()
        with FlopCounterMode(display=False) as flops:
            folded(x)
    assert flops.get_total_flops() == 2 * 10 * 2 * 48 * 16
    inside = allmlp.fold(torch.nn.Sequential(model, torch.nn.ReLU(), model))
    assert inside[0].folded
    assert inside[2].folded
    assert not model.folded


def test_initialisation():
    block = ExternalAttention(256, 64)
    assert sum(p.numel() for p in ExternalAttention(512, 64, device="meta").parameters()) == 591_360
    assert torch.equal(block.memory_key.weight, block.memory_value.weight.transpose(0, 1))
    assert block.memory_key.weight.data_ptr() != block.memory_value.weight.data_ptr()
    for module in (block.project_in, block.memory_key, block.memory_value, block.project_out):
        assert module.weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.03)
    assert block.project_in.bias.abs().max() <= 1 / 16
    assert block.project_in.bias.std().item() == pytest.approx(1 / 16 / math.sqrt(3), rel=0.2)
    heads = MultiHeadExternalAttention(128, 2)
    for module in (heads.expand, heads.memory_key, heads.memory_value, heads.project):
        assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert not module.bias.any()
    assert not torch.equal(heads.memory_key.weight, heads.memory_value.weight.T)


def test_one_step_moves_each_memory_by_its_own_gradient():
    block = ExternalAttention(8, 4).double()
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    block(torch.randn(2, 8, 3, 3, dtype=torch.double)).square().sum().backward()
    key, value = block.memory_key.weight, block.memory_value.weight
    wanted = [(p - 0.1 * p.grad).detach() for p in (key, value)]
    optimizer.step()
    assert torch.allclose(key, wanted[0], rtol=0, atol=1e-14)
    assert torch.allclose(value, wanted[1], rtol=0, atol=1e-14)
    assert not torch.equal(key, value.transpose(0, 1))


def test_dropouts():
    x = torch.randn(1, 5, 16)
    model = MultiHeadExternalAttention(16, 2, 8, drop_rate=0.5).train()
    dropped = (model(x) == 0).float().mean().item()
    assert 0.3 < dropped < 0.7
    model = MultiHeadExternalAttention(16, 2, 8, attn_drop_rate=0.5).train()
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


def test_bad_heads_and_layouts():
    with pytest.raises(InputError, match="divides dim 10"):
        MultiHeadExternalAttention(10, 3)
    block = MultiHeadExternalAttention(12, 3)
    with pytest.raises(InputError, match="EAMLP attention"):
        allmlp.load_official(block, {"weight": torch.zeros(3)})
    narrow = {key: value for key, value in block.state_dict().items() if key != "project.bias"}
    with pytest.raises(InputError, match=r"project\.bias"):
        allmlp.load_official(block, narrow)
