"""What runs beside the training step, as Lightning callbacks. Importing this loads lightning."""

from allmlp.tasks.callbacks.display import Display
from allmlp.tasks.callbacks.keeper import Keeper
from allmlp.tasks.callbacks.track import Track, make_loggers

__all__ = ["Display", "Keeper", "Track", "make_loggers"]
