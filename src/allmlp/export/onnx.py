"""Write a network as ONNX."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from allmlp.dense.postprocess import NMS_OPERATOR
from allmlp.export.program import Example, export_program, names_of

_HALF_FROM = 256  # numbers; smaller weights stay in single precision


def write_onnx(
    network: nn.Module, example: Example, path: str | Path, dynamic_batch: bool = True, half: bool = False
) -> Path:
    """Write a module in evaluation mode as one ONNX file.

    Args:
        network: takes a tensor, or as many as the example has, and gives one, or a flat tuple of them; `input_names`
            and `output_names`, if it has them, name them.
        example: an input; its shape is what the file takes, but for the batch.
        dynamic_batch: whether any number of images fits, or only as many as in the example.
        half: keep weights in half precision, for half the size; arithmetic stays in single precision.
    """
    with torch.no_grad():
        program = export_program(network, example, dynamic_batch)
        written: Any = torch.onnx.export(
            program,
            input_names=names_of(network, "input") or ["images"],
            output_names=names_of(network, "output"),
            custom_translation_table={NMS_OPERATOR: _suppression},
            dynamo=True,
            verbose=False,
        )
    _reshape_weights(written.model)
    if half:
        _halve(written.model)
    written.save(str(path))
    return Path(path)


def _suppression(boxes: Any, scores: Any, iou: float) -> Any:
    """`nms_mask` as ONNX's own operator, which takes whole batches and lists (image, class, box) of what stays."""
    import onnx_ir
    from onnxscript import opset20

    op: Any = opset20
    most = op.Constant(value_int=2**40)
    kept = op.NonMaxSuppression(boxes, op.Unsqueeze(scores, [1]), most, op.Constant(value_float=iou))
    places = op.Gather(kept, op.Constant(value_ints=[0, 2]), axis=1)
    yes = op.Constant(value=onnx_ir.tensor(np.array(True)))
    nothing = op.ConstantOfShape(op.Shape(scores), value=onnx_ir.tensor(np.zeros(1, bool)))
    return op.ScatterND(nothing, places, op.Expand(yes, op.Shape(kept, start=0, end=1)))


def _reshape_weights(model: Any) -> None:
    """Carry out what only gives a weight another shape, so that quantisers find weights where they look for them."""
    from onnxscript import optimizer

    moves = {"Reshape", "Squeeze", "Transpose", "Unsqueeze"}
    anything = {"input_size_limit": 2**40, "output_size_limit": 2**40}
    optimizer.fold_constants(model, should_fold=lambda node: None if node.op_type in moves else False, **anything)
    optimizer.remove_unused_nodes(model)


def _halve(model: Any) -> None:
    """Store the large single-precision weights of a graph in half precision, each with a cast behind it."""
    import onnx_ir

    graph = model.graph
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != onnx_ir.DataType.FLOAT or tensor.size < _HALF_FROM:
            continue
        small = onnx_ir.Value(
            name=f"{value.name}_half",
            const_value=onnx_ir.tensor(tensor.numpy().astype(np.float16), name=f"{value.name}_half"),
            type=onnx_ir.TensorType(onnx_ir.DataType.FLOAT16),
            shape=value.shape,
        )
        cast = onnx_ir.Node("", "Cast", [small], [onnx_ir.AttrInt64("to", int(onnx_ir.DataType.FLOAT))])
        graph.insert_before(graph[0], cast)
        onnx_ir.convenience.replace_all_uses_with(value, cast.outputs[0])
        del graph.initializers[value.name]
        graph.initializers[small.name] = small
