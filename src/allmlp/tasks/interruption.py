"""SIGINT and SIGTERM as a request to save and stop, and a way out when asked twice."""

import os
import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopNow(BaseException):
    """Raised out of whatever runs: there is nothing to save yet, or the person asked twice."""


class Stopped(Exception):  # noqa: N818 - not an error: the state was saved on request
    """Raised out of training after its state was saved on request."""


class Interruption:
    """Turns SIGINT and SIGTERM into a flag while it is entered; the handlers before it come back afterwards.

    Outside `deferring` a signal ends the block at once by `StopNow`. Inside, the first one sets `signum` and training
    stops at the next safe place; a second SIGINT ends it at once. In a thread other than the main one, where Python
    takes no signals, this does nothing.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.deferring = False
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in SIGNALS}
            self.listen()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def listen(self) -> None:
        """Take the signals (again: Lightning puts its own handler for SIGTERM on top when training starts)."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._handle)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a forked data worker; the training process decides
        asked_before = self.signum is not None
        self.signum = signum
        if not self.deferring or (asked_before and signum == signal.SIGINT):
            raise StopNow
