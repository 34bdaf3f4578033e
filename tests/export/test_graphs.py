"""What a block costs besides its products, counted: no clock is needed to see that a copy has crept in."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import allmlp
from allmlp.export import count_nodes, write_onnx
from allmlp.metrics.cost import count_macs
from allmlp.models import create_model

SIZES = {
    "mixer_b16": {"embed_dim": 32, "tokens_mlp_dim": 16, "channels_mlp_dim": 64},
    "resmlp_s24": {"embed_dim": 32},
    "ff_base": {"embed_dim": 32},
    "eamlp_14": {"embed_dim": 384},  # narrower heads are not merged
    "as_mlp_t": {"embed_dim": 20},
    "repmlpnet_t224": {"channels": (8, 8, 16, 128), "num_sharesets": (1, 4, 16, 128)},
}
# A softmax over tokens, which are not the last axis, and a division by the sum over the memory.
DOUBLE_NORM = {"ReduceMax": 1, "Sub": 1, "Exp": 1, "ReduceSum": 2, "Div": 2}
# Nodes of one more block in an exported graph. Constants' Unsqueeze and Reshape are left out: runtimes fold them.
NODES = {
    "mixer_b16": {"MatMul": 4, "Add": 6, "LayerNormalization": 2, "Gelu": 2},
    "resmlp_s24": {"MatMul": 3, "Add": 5, "Mul": 1, "Gelu": 1},
    "ff_base": {"MatMul": 4, "Add": 6, "LayerNormalization": 2, "Gelu": 2, "Transpose": 2},
    "eamlp_14": {"MatMul": 4, "Add": 5, "LayerNormalization": 2, "Gelu": 1} | DOUBLE_NORM,
    # Six products and two shifts; the mean and spread of whole maps.
    "as_mlp_t": {"Conv": 8, "Add": 4, "LayerNormalization": 4, "Gelu": 4, "Mul": 1},
    # Two products over channels, one over cells, two small ones of the gate.
    "repmlpnet_t224": {"Conv": 2, "MatMul": 1, "Gemm": 2, "ReduceMean": 1, "Relu": 1, "Sigmoid": 1, "Gelu": 1},
}
# Whole tensors written again without arithmetic, by one more block, when PyTorch runs it on a CPU.
# (The norm along tokens in ff_base and the batched product of repmlpnet_t224 copy inside one operation.)
COPIES = dict.fromkeys(SIZES, 0)


def folded(name: str, depth: int) -> torch.nn.Module:
    depths = {"depths": (1, 1, 1, depth)} if name in ("as_mlp_t", "repmlpnet_t224") else {"depth": depth}
    return allmlp.fold(create_model(name, num_classes=10, img_size=64, **SIZES[name], **depths))


class Copies(TorchDispatchMode):
    """Counts operations that write a tensor of at least 1,000 numbers without computing anything."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name in ("clone", "copy_", "cat", "constant_pad_nd", "roll", "_to_copy"):
            self.count += result.numel() >= 1000
        return result


def copies(network: torch.nn.Module) -> int:
    counter = Copies()
    with torch.no_grad(), counter:
        network(torch.randn(2, 3, 64, 64))
    return counter.count


@pytest.mark.parametrize("name", SIZES)
def test_nodes_of_a_block(name, tmp_path):
    one, two = (
        count_nodes(write_onnx(folded(name, depth), torch.randn(1, 3, 64, 64), tmp_path / f"{depth}.onnx", False))
        for depth in (1, 2)
    )
    more = Counter({key: two[key] - one[key] for key in two if two[key] > one[key]})
    ignored = {"Unsqueeze", "Reshape"} | ({"Transpose", "Mul", "Add"} if name == "repmlpnet_t224" else set())
    assert {key: count for key, count in more.items() if key not in ignored} == NODES[name]


@pytest.mark.parametrize("name", SIZES)
def test_copies_of_a_block(name):
    assert copies(folded(name, 2)) - copies(folded(name, 1)) == COPIES[name]


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        ("mixer_b16", 12_601_767_936),
        ("resmlp_s24", 5_846_277_120),
        ("ff_base", 14_013_818_880),
        ("eamlp_14", 5_603_036_160),
        ("as_mlp_t", 4_350_425_088),
        ("repmlpnet_t224", 2_798_453_760),
    ],
)
def test_multiply_adds_of_folded_models(name, macs):
    with torch.device("meta"):
        model = create_model(name)
    assert count_macs(allmlp.fold(model), (3, 224, 224)) == macs
