"""Contestants: who agrees, who does not, and what becomes of what breaks."""

import copy

import pytest
import torch
from torch import nn

from allmlp.speed.contestants import TOLERANCE, prepare
from allmlp.speed.memory import Job, peak_memory
from allmlp.speed.subject import Form, open_subject
from allmlp.speed.training import training_call, training_outputs, training_step


class Broken(nn.Module):
    def forward(self, x):
        raise RuntimeError("out of cheese\nredo from start")


class HalfGradient(nn.Module):
    """Right outputs, wrong gradients."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x):
        y = self.network(x)
        return y.detach() + 0.5 * (y - y.detach())


def found(subject, tmp_path, backends=("eager",), train=False):
    return {c.name: c for c in prepare(subject, backends, 2, train, tmp_path, threads=1)}


def test_forms_of_one_model_agree_on_every_backend(tmp_path):
    subject = open_subject("resmlp_nano", None, ["timm"], train=False)
    backends = ("eager", "onnxruntime", "openvino")
    contestants = found(subject, tmp_path, backends)
    assert list(contestants) == [f"{form} {backend}" for form in ("ours", "timm") for backend in backends]
    for contestant in contestants.values():
        assert contestant.counts, contestant.problem
        assert contestant.difference < TOLERANCE / 10
        assert contestant.call()[0].shape == (2, 1000)
    assert subject.forms[0].network.folded
    assert not subject.network.folded


def test_a_wrong_form_is_named_and_does_not_count(tmp_path):
    subject = open_subject("mixer_nano", None, [], train=False)
    other = copy.deepcopy(subject.network)
    for module in other.modules():  # the smallest mistake that people make of a Mixer
        if isinstance(module, nn.GELU):
            module.approximate = "none"
    subject.forms.append(Form("erf", other, 1))
    contestants = found(subject, tmp_path)
    assert contestants["ours eager"].counts
    assert not contestants["erf eager"].counts
    assert contestants["erf eager"].problem.startswith("wrong: outputs differ by")


def test_what_one_raises_is_its_own_problem(tmp_path):
    subject = open_subject("mixer_nano", None, [], train=False)
    subject.forms.append(Form("broken", Broken(), 1))
    contestants = found(subject, tmp_path)
    assert contestants["broken eager"].problem.endswith("out of cheese")
    assert contestants["ours eager"].counts


def test_outputs_that_are_not_numbers_are_wrong(tmp_path):
    subject = open_subject("mixer_nano", None, [], train=False)
    broken = copy.deepcopy(subject.network)
    nn.init.constant_(broken.head.bias, float("nan"))
    subject.forms.append(Form("broken", broken, 1))
    assert not found(subject, tmp_path)["broken eager"].counts


def test_another_model_is_compared_with_itself(tmp_path):
    subject = open_subject("resmlp_nano", None, ["mixer_nano"], train=False)
    assert [(form.name, form.same) for form in subject.forms] == [("ours", True), ("mixer_nano", False)]
    assert subject.forms[1].macs != subject.forms[0].macs
    assert all(contestant.counts for contestant in found(subject, tmp_path).values())


def test_repmlpnet_is_measured_as_merged_and_as_trained(tmp_path):
    subject = open_subject("repmlpnet_nano", 64, None, train=False)
    assert [form.name for form in subject.forms] == ["ours", "authors", "authors_unmerged"]
    assert subject.input_size == (3, 64, 64)
    assert subject.network.partition_sizes[0] == (8, 8)  # those of 32 pixels
    assert all(contestant.counts for contestant in found(subject, tmp_path).values())


@pytest.mark.parametrize("name", ["mixer_nano", "eamlp_nano", "repmlpnet_nano"])
def test_training_forms_agree_in_logits_and_gradients(tmp_path, name):
    subject = open_subject(name, None, None, train=True)
    contestants = found(subject, tmp_path, train=True)
    assert len(contestants) == len(subject.forms) > 1
    for contestant in contestants.values():
        assert contestant.counts, contestant.problem
        contestant.call()


def test_a_wrong_gradient_is_seen(tmp_path):
    subject = open_subject("mixer_nano", None, [], train=True)
    subject.forms.append(Form("half", HalfGradient(copy.deepcopy(subject.network)), 1))
    assert found(subject, tmp_path, train=True)["half eager"].problem.startswith("wrong")


def test_a_step_changes_the_weights_and_dropout_comes_back():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Dropout(0.25), nn.Linear(8, 5)).train()
    images = torch.randn(4, 3, 2, 2)
    call = training_call(network, "eager")
    logits, norm = training_outputs(network, call, images)
    assert torch.equal(logits, network.eval()(images))
    assert norm > 0
    network.train()
    assert network[2].p == 0.25
    before = network[1].weight.clone()
    training_step(network, call, images)()
    assert not torch.equal(before, network[1].weight)


def test_peak_memory_sees_weights_and_survives_a_failure(tmp_path):
    mib = 2**20
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 64 * mib // 4 // (3 * 64 * 64))), tmp_path / "a.pt")
    jobs = [
        Job(str(tmp_path / "a.pt"), "eager", (2, 3, 64, 64), 1),
        Job(str(tmp_path / "missing.pt"), "eager", (2, 3, 64, 64), 1),
        Job(str(tmp_path / "a.pt"), "eager", (2, 3, 64, 64), 1, train=True),
    ]
    weights, failed, training = peak_memory(jobs, tmp_path)
    assert failed is None
    assert 64 <= weights < 64 + 100
    assert training > weights + 2.5 * 64  # gradients and two moments


def test_new_weights_are_the_same_for_the_same_seed():
    one, same, other = (open_subject("ff_nano", None, [], train=False, seed=seed) for seed in (0, 0, 1))
    key = "blocks.0.norm2.bias"
    assert torch.equal(one.network.state_dict()[key], same.network.state_dict()[key])
    assert not torch.equal(one.network.state_dict()[key], other.network.state_dict()[key])
