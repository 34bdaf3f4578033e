"""Compare a model with a golden case: outputs, probes of inner tensors, gradients; in float64 and float32."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def load_case(model: nn.Module, case) -> object:
    """Put the case's official weights into the model; returns the load report. Warm-free: rates must be 0."""
    import allmlp

    report = allmlp.load_official(model, case.weights())
    assert not report.unexpected
    assert not report.reinitialised
    return report


def assert_close(mine: Tensor, truth: np.ndarray, tolerance: float, scale: float | None = None, what: str = "") -> None:
    """abs(mine - truth).max() < tolerance * std of the truth."""
    mine_array = mine.detach().double().numpy()
    assert mine_array.shape == truth.shape, (what, mine_array.shape, truth.shape)
    error = np.abs(mine_array - truth).max() / (truth.std() if scale is None else scale)
    assert error < tolerance, f"{what}: {error:.3g} of the standard deviation, wanted < {tolerance}"


def check_outputs(model: nn.Module, case) -> None:
    """Evaluation-mode logits in float64 and float32, and the same from the folded form if the case has logits."""
    truth = case.arrays["logits"]
    tolerance = case.manifest["tolerance"]
    model.eval()
    with torch.no_grad():
        assert_close(model.float()(case.input()), truth, tolerance["float32"], what="float32 logits")
        load_case(model.double(), case)
        assert_close(model(case.input().double()), truth, tolerance["float64"], what="float64 logits")


def check_folded(model: nn.Module, case) -> nn.Module:
    """The folded form: float64 to 1e-10 of the logits' std, float32 within max(1e-5, 5 x float32_error)."""
    import allmlp

    truth = case.arrays["logits"]
    load_case(model.double().eval(), case)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = allmlp.fold(model)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    x = case.input()
    with torch.no_grad():
        mine = model(x.double())
        assert_close(folded(x.double()), mine.numpy(), 1e-10, what="folded, float64, against the model")
        assert_close(folded(x.double()), truth, 1e-9, what="folded, float64, against the truth")
        bound = max(1e-5, 5 * case.manifest["float32_error"])
        folded32 = allmlp.fold(model.float())
        assert_close(folded32(x), model(x).double().numpy(), bound, truth.std(), "folded, float32")
    return folded


def classification_loss(logits: Tensor) -> Tensor:
    """Cross entropy with labels arange(B) % num_classes."""
    return F.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[1])


def outputs_loss(case, outputs: list[Tensor]) -> Tensor:
    """The loss of parts and backbones: sum over outputs k of mean(output_k * normal(1000 + k, shape))."""
    return sum((y * case.normal(1000 + k, tuple(y.shape)).to(y.dtype)).mean() for k, y in enumerate(outputs))


def check_gradients(
    model: nn.Module,
    case,
    origin: Mapping[str, str],
    forward: Callable[[nn.Module, Tensor], Tensor] | None = None,
    train: bool = False,
    dtypes: tuple[str, ...] = ("float64", "float32"),
) -> None:
    """Loss and every stored gradient norm, against freshly loaded weights.

    origin: official key -> our parameter name. forward: (model, x) -> loss; classification by default.
    """
    forward = forward or (lambda m, x: classification_loss(m(x)))
    keys = case.manifest["grad_keys"]
    truth = case.arrays["grad_norm"]
    for dtype in dtypes:
        kind = getattr(torch, dtype)
        model = model.to(kind).train(train)
        load_case(model, case)
        model.zero_grad()
        loss = forward(model, case.input().to(kind))
        loss.backward()
        wanted = float(case.arrays["loss"])
        relative = 1e-9 if dtype == "float64" else 2e-4
        assert abs(loss.item() - wanted) <= relative * abs(wanted), (dtype, loss.item(), wanted)
        parameters = dict(model.named_parameters())
        tolerance = case.manifest["tolerance"][f"grad_{dtype}"]
        for key, norm in zip(keys, truth):
            gradient = parameters[origin[key]].grad
            mine = 0.0 if gradient is None else gradient.double().norm().item()
            assert abs(mine - norm) <= tolerance * truth.max(), f"{dtype} gradient of {key}: {mine} instead of {norm}"


def origin_of(model: nn.Module, case) -> dict[str, str]:
    """Official key -> our key, from the loader's own record."""
    from allmlp.models._loading import match_checkpoint

    return {source: key for key, (source, _) in match_checkpoint(model, case.weights()).origin.items()}


def check_stages(model: nn.Module, case, modules: Mapping[str, tuple[str, Callable[[Tensor], Tensor]]]) -> None:
    """Probes of inner tensors. modules: official stage name -> (our submodule, map to the official axis order).

    Every stage of the manifest must be named.
    """
    load_case(model.double().eval(), case)
    seen: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(path).register_forward_hook(
            lambda module, args, output, name=name: seen.__setitem__(name, output)
        )
        for name, (path, _) in modules.items()
    ]
    with torch.no_grad():
        model(case.input().double())
    for hook in hooks:
        hook.remove()
    for row, stage in enumerate(case.manifest["stages"]):
        name = stage["name"]
        value = modules[name][1](seen[name])
        assert list(value.shape) == stage["shape"], (name, value.shape, stage)
        mean, std, values = case.rule.probe(value.numpy())
        scale = case.arrays["stage_std"][row]
        assert abs(mean - case.arrays["stage_mean"][row]) < 1e-9 * scale, name
        assert abs(std - scale) < 1e-9 * scale, name
        assert np.abs(values - case.arrays["stage_values"][row]).max() < 1e-9 * scale, name
