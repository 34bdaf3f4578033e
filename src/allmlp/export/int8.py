"""Quantise exported files to 8-bit integers, with ranges measured on real images.

Weights are rounded by output channel, activations by tensor; what is not a linear map or a convolution stays in single
precision.
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

Batches = Sequence[tuple[np.ndarray, ...]]


def quantise_onnx(source: Path, path: Path, batches: Batches) -> Path:
    """ONNX Runtime's static quantisation to QDQ nodes.

    Args:
        source: a float32 ONNX file.
        batches: inputs to measure ranges on, an array an input.
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

    with _quiet():
        quantize_static(
            str(source),
            str(path),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
    return path


def quantise_openvino(source: Path, path: Path, batches: Batches) -> Path:
    """NNCF's post-training quantisation. Arguments as of `quantise_onnx`; `source` is an `.xml` file."""
    from allmlp.backends.open_vino import import_openvino

    openvino = import_openvino()
    with _quiet():
        import nncf

        model = openvino.Core().read_model(str(source))
        small = nncf.quantize(
            model,
            nncf.Dataset(batches, list),
            subset_size=len(batches),
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER,
        )
        openvino.save_model(small, str(path), compress_to_fp16=False)
    return path


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
