"""Run an OpenVINO or ONNX file by OpenVINO on the CPU."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from allmlp.backends.runner import Runner


def import_openvino() -> Any:
    """The library, without the statistics of use that it else sends to its makers when it is imported."""
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # OpenVINO then takes its own stub
    import openvino

    return openvino


class OpenVinoRunner(Runner):
    """One compiled model, one stream, float32 arithmetic.

    Left to itself OpenVINO computes in bfloat16 where the processor has it: errors of a hundredth.
    """

    name = "openvino"

    def __init__(self, path: Path, threads: int) -> None:
        openvino = import_openvino()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self.model: Any = openvino.Core().compile_model(str(path), "CPU", settings)
        self.request: Any = self.model.create_infer_request()
        self.inputs = [port.get_any_name() for port in self.model.inputs]
        self.outputs = [
            min(port.get_names(), default=f"output{place}") for place, port in enumerate(self.model.outputs)
        ]

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        found = self.request.infer(list(arrays), share_inputs=True)
        return [np.array(found[place]) for place in range(len(self.outputs))]
