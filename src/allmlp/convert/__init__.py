"""Reading foreign checkpoint files, and renaming their tensors to this package's keys: one file an official layout."""

from allmlp.convert.checkpoint import read_checkpoint
from allmlp.convert.layout import Conversion, Layout

__all__ = ["Conversion", "Layout", "read_checkpoint"]
