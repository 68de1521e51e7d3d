"""Ctrl-C while the command is still being imported: no traceback, exit code 130.

Imported first of all, so it imports next to nothing itself.
"""

import os
import signal
import sys

__all__ = ["INTERRUPTED", "early", "leave"]

INTERRUPTED = 130


def early() -> None:
    """Let an interrupt end the program, if the program is the command ``llmq``."""
    script = os.path.basename(sys.argv[0] if sys.argv else "")  # noqa: PTH119 (pathlib is slow)
    ours = script in ("llmq", "llmq.exe") or sys.orig_argv[1:3] == ["-m", "llmq"]
    if ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)


def leave(*_: object) -> None:
    """Say that it was interrupted, and end the process at once."""
    try:
        os.write(2, b"llmq: error: interrupted\n")
    finally:
        os._exit(INTERRUPTED)
