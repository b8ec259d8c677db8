"""SIGTERM and SIGINT, as a scheduler or a person sends them before the plug is pulled.

In a training the step is finished and a checkpoint saved; elsewhere the run stops where it is, because finished phases
are on disk already. Either way it ends with exit code 75, and the same command goes on. A second signal ends it at
once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from bench.errors import InterruptedRunError


class StopRequest:
    """Whether a signal has come; `deferred` holds it back until the holder looks at `is_set`."""

    def __init__(self) -> None:
        self.is_set = False
        self._is_deferred = False

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside the block a signal only sets the flag."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take a signal, as Python calls it."""
        del frame
        if self.is_set:
            os._exit(InterruptedRunError.exit_code)
        self.is_set = True
        if not self._is_deferred:
            name = signal.Signals(number).name
            raise InterruptedRunError(f"Stopped by {name}; finished phases are kept, and the same command goes on.")


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Catch both signals for a `with` block; outside the main thread, where Python cannot, nothing is caught."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
