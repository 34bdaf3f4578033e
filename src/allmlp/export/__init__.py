"""Write a network as a file that other programs run: ONNX, OpenVINO, AOTInductor.

Names load on first use: importing this package loads no exporter.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from allmlp.export.graph import count_nodes
    from allmlp.export.onnx import write_onnx
    from allmlp.export.openvino import write_openvino
    from allmlp.export.pt2 import write_pt2

_WHERE = {"count_nodes": "graph", "write_onnx": "onnx", "write_openvino": "openvino", "write_pt2": "pt2"}

__all__ = ["count_nodes", "write_onnx", "write_openvino", "write_pt2"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'allmlp.export' has no attribute {name!r}")
    return getattr(importlib.import_module(f"allmlp.export.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
