"""Write a network as an AOTInductor package."""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._higher_order_ops.while_loop import while_loop

from allmlp.backends.forms import Form
from allmlp.dense.postprocess import NMS_OPERATOR
from allmlp.export.program import Example, export_program


def write_pt2(
    network: nn.Module, example: Example, path: str | Path, dynamic_batch: bool = True, half: bool = False
) -> Path:
    """Compile a module in evaluation mode for this machine's processor; needs a C++ compiler.

    Arguments as of `write_onnx`; with `half` arithmetic is in half precision too, and the module has to be a `Form`.
    """
    if half:
        network = copy.deepcopy(network)
        for module in network.modules():
            if isinstance(module, Form):
                module.network.half()
    with torch.no_grad():
        program = export_program(network, example, dynamic_batch)
        if any(node.target is NMS_OPERATOR for node in program.graph.nodes):
            program = program.run_decompositions({NMS_OPERATOR: suppression})
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    return Path(path)


def suppression(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    """`nms_mask` in plain operations of fixed shapes, which need no library when the package runs.

    A box stays if no better one that stays overlaps it too much. Assume that all stay, and apply this rule to all at
    once until nothing changes: after each round the answer is final for one more link of every chain of overlaps.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    area = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1)
    low = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    better = (shared / (area[:, :, None] + area[:, None] - shared) > iou).float().tril(-1)

    def unsettled(stays: Tensor, changed: Tensor) -> Tensor:
        return changed.clone()

    def again(stays: Tensor, changed: Tensor) -> tuple[Tensor, Tensor]:
        now = ((better @ stays[..., None]).squeeze(-1) == 0).float()
        return now, (now != stays).any()

    start = torch.ones_like(scores), torch.ones((), dtype=torch.bool, device=scores.device)
    stays, _ = while_loop(unsettled, again, start)
    return torch.zeros_like(scores).scatter(1, order, stays) > 0
