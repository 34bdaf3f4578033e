"""Parameters and MACs against published and hand-computed numbers, and timing that leaves the network as it was."""

import pytest
import torch
from torch import nn

from allmlp.metrics.cost import cost_table, count_macs, count_parameters, measure_latency, measure_throughputs
from allmlp.models import create_model


def mixer_macs(patch, depth, width, tokens_mlp, channels_mlp, size=224, classes=1000):
    """Stem, linear maps and head, by the formula."""
    tokens = (size // patch) ** 2
    return tokens * 3 * patch**2 * width + 2 * depth * width * tokens * (tokens_mlp + channels_mlp) + classes * width


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [("mixer_s16", 18_528_264, mixer_macs(16, 8, 512, 256, 2048)), ("mixer_b32", 60_293_428, 3.238e9)],
)
def test_mixers_cost_what_the_formula_says(name, parameters, macs):
    network = create_model(name, device="meta")
    assert count_parameters(network) == parameters
    assert count_macs(network, (3, 224, 224)) == pytest.approx(macs, rel=2e-4)


def test_mixer_s16_to_the_last_multiplication():
    macs = mixer_macs(16, 8, 512, 256, 2048)
    assert count_macs(create_model("mixer_s16", device="meta"), (3, 224, 224)) == macs
    assert macs / 1e9 == pytest.approx(3.777, abs=5e-4)


class Toy(nn.Module):
    """A convolution, two linear blocks in a sequence, one of them used twice, and a batch norm."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 2, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.blocks = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        self.head = nn.Linear(4, 5)
        self.tied = self.head

    def forward(self, x):
        x = self.norm(self.stem(x)).mean((2, 3))
        return self.tied(self.blocks[0](self.blocks(x)))


def test_parameters_are_counted_once_and_buffers_not():
    toy = Toy()
    assert count_parameters(toy) == 3 * 4 * 4 + 8 + 2 * (16 + 4) + 25
    toy.blocks.requires_grad_(False)
    assert count_parameters(toy, trainable=True) == count_parameters(toy) - 40


def test_macs_of_a_toy():
    assert count_macs(Toy(), (3, 6, 8)) == 12 * 3 * 4 * 4 + 3 * 16 + 20


def test_parts_add_up_and_sequences_are_opened():
    network = create_model("mixer_nano")
    parts = cost_table(network, (3, 32, 32))
    names = [part.name for part in parts]
    assert names[:2] == ["stem", "blocks.0"]
    assert [name for name in names if name.startswith("blocks")] == [f"blocks.{index}" for index in range(8)]
    assert sum(part.parameters for part in parts) == count_parameters(network)
    assert sum(part.macs for part in parts) == count_macs(network, (3, 32, 32))
    block = next(part for part in parts if part.name == "blocks.3")
    assert block.kind == "MixerBlock"
    assert block.macs == 2 * 128 * 64 * (64 + 512)


def test_counting_and_timing_change_nothing():
    network = Toy().train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    count_macs(network, (3, 6, 8))
    assert measure_latency(network, (3, 6, 8), budget_seconds=0.01) > 0
    assert network.training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_latency_is_the_median_in_milliseconds(monkeypatch):
    runs = [(1.0, 1.007), (2.0, 2.001), (3.0, 3.002), (4.0, 4.9), (5.0, 5.003)]  # seconds of beginning and end
    clock = iter([0.0, *(moment for run in runs for moment in run), 6.0])
    monkeypatch.setattr("allmlp.metrics.cost.time.perf_counter", lambda: next(clock))
    assert measure_latency(nn.Linear(2, 2), (2,), budget_seconds=1) == pytest.approx(3)


def test_throughput_ranks_a_small_network_before_a_large_one():
    networks = {"small": (Toy(), (3, 6, 8)), "large": (create_model("mixer_nano"), (3, 32, 32))}
    found = measure_throughputs(networks, batch=4, rounds=3)
    assert found["small"] > found["large"] > 0
