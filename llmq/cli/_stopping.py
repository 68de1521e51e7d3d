"""Ctrl-C ends a command at once: exit code 130, whatever it was doing.

The first interrupt unwinds, so that nothing half written stays behind. Some libraries turn it into
another error, or are long in code of theirs: after a moment, or at a second interrupt, the process
leaves.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from llmq._starting import leave

__all__ = ["Stop", "stoppable"]

_PATIENCE = 0.3


class Stop:
    """What is known of an interrupt."""

    def __init__(self, alone: bool) -> None:
        self.alone, self.fired = alone, False

    def __call__(self, signal: int, frame: FrameType | None) -> None:
        """Take an interrupt."""
        if self.fired and self.alone:
            leave()
        self.fired = True
        if self.alone:
            threading.Thread(target=self._wait, daemon=True).start()
        raise KeyboardInterrupt

    def _wait(self) -> None:
        time.sleep(_PATIENCE)
        leave()


@contextmanager
def stoppable(*, alone: bool) -> Iterator[Stop]:
    """Take interrupts while a command runs."""
    stop = Stop(alone)
    before = signal.getsignal(signal.SIGINT)
    if not _is_free():
        yield stop
        return
    signal.signal(signal.SIGINT, stop)
    try:
        yield stop
    finally:
        # What ends by an interrupt goes on ending: the next one must not show a traceback.
        if not (stop.fired and alone):
            signal.signal(signal.SIGINT, before)


def _is_free() -> bool:
    # Not in a thread, where no handler can be set, and not where somebody else has set one.
    main = threading.current_thread() is threading.main_thread()
    return main and signal.getsignal(signal.SIGINT) in (signal.default_int_handler, leave)
