"""Quantise exported files to 8-bit integers, with ranges measured on real images.

Weights are rounded by output channel, activations by tensor. Each library has two ways, tried in this order:

- ONNX Runtime: ranges from the least to the greatest value seen; or without the outermost thousandth of a percent, the
  first and the last layer left as they are, which helps networks of narrow convolutions.
- NNCF: with SmoothQuant and a correction of biases, made for networks of linear maps with norms between them; or with
  ranges from the least to the greatest value and no correction, which helps the same networks.
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Batches = Sequence[tuple[np.ndarray, ...]]
WAYS = (0, 1)
_LAYERS = ("Conv", "MatMul", "Gemm")


def quantise_onnx(source: Path, path: Path, batches: Batches, way: int = 0, spared: int = 0) -> Path:
    """ONNX Runtime's static quantisation to QDQ nodes; only linear maps and convolutions leave single precision.

    Args:
        source: a float32 ONNX file.
        batches: inputs to measure ranges on, an array an input.
        way: one of `WAYS`.
        spared: the first so many products stay as they are: those that resize pictures.
    """
    import onnxruntime
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    names = [value.name for value in onnxruntime.InferenceSession(str(source)).get_inputs()]

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left: Iterator[tuple[np.ndarray, ...]] = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.left, None)
            return None if batch is None else dict(zip(names, batch))

    layers = _layers(source)
    with _quiet():
        quantize_static(
            str(source),
            str(path),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_LAYERS),
            nodes_to_exclude=[*layers[:spared], *((layers[spared], layers[-1]) if way == 1 else ())],
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=(CalibrationMethod.MinMax, CalibrationMethod.Percentile)[way],
        )
    return path


def _layers(path: Path) -> list[str]:
    """The names of an ONNX file's linear maps and convolutions, first to last."""
    import onnx

    nodes = onnx.load(str(path), load_external_data=False).graph.node
    return [node.name for node in nodes if node.op_type in _LAYERS]


def quantise_openvino(source: Path, path: Path, batches: Batches, way: int = 0, spared: int = 0) -> Path:
    """NNCF's post-training quantisation. Arguments as of `quantise_onnx`; `source` is an `.xml` file."""
    from allmlp.backends.open_vino import import_openvino

    openvino = import_openvino()
    with _quiet():
        import nncf

        model = openvino.Core().read_model(str(source))
        products = [node.get_friendly_name() for node in model.get_ordered_ops() if node.get_type_name() == "MatMul"]
        small = nncf.quantize(
            model,
            nncf.Dataset(batches, list),
            subset_size=len(batches),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=products[:spared]),
            model_type=(nncf.ModelType.TRANSFORMER, None)[way],
            advanced_parameters=_plain_ranges() if way == 1 else None,
        )
        openvino.save_model(small, str(path), compress_to_fp16=False)
    return path


def _plain_ranges() -> Any:
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    return AdvancedQuantizationParameters(
        disable_bias_correction=True, activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the log lines and progress bars that both libraries write to standard output."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    finally:
        logging.disable(before)
