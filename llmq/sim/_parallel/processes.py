"""Processes that end with the one that started them.

Killed or not, the starter leaves none behind: on Linux the kernel ends them with it, and everywhere
they look for themselves. The keyboard's interrupt goes to the starter alone, which ends its
processes at once; what they had in hand does not come back as if it were done.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from llmq.errors import LlmqError

__all__ = ["by_processes"]

_A = TypeVar("_A")
_B = TypeVar("_B")

# Seconds between two looks at the parent, where the kernel does not tell of its end.
_LOOK = 0.5
_PR_SET_PDEATHSIG = 1


def by_processes(
    processes: int, function: Callable[[_A], _B], tasks: Sequence[_A]
) -> Iterator[tuple[int, _B]]:
    """Apply a function to tasks in processes of their own."""
    with _pool(processes) as pool:
        try:
            left: dict[Future[_B], int] = {
                pool.submit(function, task): place for place, task in enumerate(tasks)
            }
            while left:
                for future in wait(left, return_when=FIRST_COMPLETED).done:
                    yield left.pop(future), future.result()
        except BrokenProcessPool as error:
            raise LlmqError(
                f"one of {processes} worker processes was ended from outside (killed, or out of "
                "memory): run again with fewer workers or a smaller task",
                workers=processes,
            ) from error


@contextmanager
def _pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    # The kernel's word of the parent's end goes by threads: only the main one lasts.
    tied = threading.current_thread() is threading.main_thread()
    pool = ProcessPoolExecutor(processes, initializer=_begin, initargs=(os.getpid(), tied))
    try:
        yield pool
        pool.shutdown()
    except BaseException:
        # Whoever has a task in hand would finish it first, and the caller would wait.
        for process in list((getattr(pool, "_processes", None) or {}).values()):
            process.kill()
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _begin(starter: int, tied: bool) -> None:
    """Make a worker end with its parent, and leave interrupts to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = os.getppid()
    if tied and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if multiprocessing.get_start_method() == "fork" and os.getppid() != starter:
        os._exit(1)  # the starter ended before this process could ask to be told
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os._exit(1)
