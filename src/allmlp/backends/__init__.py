"""Run a network or an exported file: PyTorch eager and compiled, ONNX Runtime, OpenVINO, AOTInductor packages.

Every way is a `Runner`: NumPy arrays in, NumPy arrays out, on the CPU with a given number of threads. The libraries
load on first use.
"""

from allmlp.backends.runner import BACKENDS, FILE_BACKENDS, Runner, open_file, open_network, set_threads

__all__ = ["BACKENDS", "FILE_BACKENDS", "Runner", "open_file", "open_network", "set_threads"]
