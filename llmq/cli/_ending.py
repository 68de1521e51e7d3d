"""How a command ends: one line and an exit code for every error, foreseen or not."""

from __future__ import annotations

import os
import platform
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import llmq
from llmq._starting import INTERRUPTED
from llmq.errors import InfeasibleError, InputError, LlmqError, UnstableError, printable, shown

__all__ = ["BAD_INPUT", "INTERNAL", "NEGATIVE", "OK", "ended", "fail", "settle", "streams"]

OK, INTERNAL, BAD_INPUT, NEGATIVE = 0, 1, 2, 3

# What acts on a terminal or cannot be written: control characters but line break and tab, the marks
# that turn the direction of writing, lone surrogates.
_ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class _Escaped:
    """A stream that writes such characters as escapes that JSON knows, too."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        # argparse passes over an error of writing.
        self.failed: OSError | None = None

    def write(self, text: str) -> int:
        try:
            return self._stream.write(_ACTS.sub(lambda found: f"\\u{ord(found[0]):04x}", text))
        except OSError as error:
            self.failed = error
            raise

    def writelines(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def streams() -> Iterator[None]:
    """Let names from files reach the terminal only as text, and closed streams take what comes."""
    before = sys.stdout, sys.stderr
    nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 (closed below)
    sys.stdout = _Escaped(before[0] or nowhere)
    sys.stderr = before[1] or nowhere
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        nowhere.close()


def ended(error: BaseException, words: Sequence[str]) -> int:
    """Say in one line why a command ended."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else BAD_INPUT
    if isinstance(error, KeyboardInterrupt):
        return fail("interrupted", INTERRUPTED)
    if isinstance(error, InfeasibleError | UnstableError):
        return fail(error, NEGATIVE)
    if isinstance(error, InputError):
        return fail(error, BAD_INPUT)
    if isinstance(error, LlmqError):
        return fail(error, INTERNAL)
    if isinstance(error, BrokenPipeError):
        return OK  # who reads has had enough
    if isinstance(error, OSError) and error.filename is not None:
        return fail(f"{printable(error.filename)}: {error.strerror}", BAD_INPUT)
    if isinstance(error, OSError):
        return fail(f"cannot write the output: {error.strerror or error}", INTERNAL)
    if isinstance(error, MemoryError):
        return fail(
            "not enough memory: use fewer requests, replications or engines, or a shorter trace",
            INTERNAL,
        )
    if isinstance(error, ValueError) and "embedded null" in str(error):
        return fail("a file name holds a NUL character: no file has such a name", BAD_INPUT)
    place = _report(error, words)
    what = f"{type(error).__name__}: {shown(str(error), 120)}"
    return fail(f"unforeseen {what}. This is a fault of llmq; please report it{place}", INTERNAL)


def fail(error: object, code: int) -> int:
    """Write an error."""
    # Over a line of progress, if there is one.
    clear = "\r\x1b[2K" if sys.stderr.isatty() else ""
    try:
        sys.stderr.write(f"{clear}llmq: error: {printable(error)}\n")
        sys.stderr.flush()
    except OSError:
        pass  # nobody can be told
    return code


def settle() -> OSError | None:
    """Write what is still to be written."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _mute()
        return error
    except ValueError:  # closed
        _mute()
    return getattr(sys.stdout, "failed", None)


def _mute() -> None:
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        return


def _report(error: BaseException, words: Sequence[str]) -> str:
    lines = [
        f"llmq {llmq.__version__}, Python {platform.python_version()}, {platform.platform()}",
        f"arguments: {' '.join(shown(word, 200) for word in words)}",
        "",
        *traceback.format_exception(error, limit=-30),
    ]
    try:
        handle, name = tempfile.mkstemp(prefix="llmq-error-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write("\n".join(lines)[: 2**20])
    except OSError:
        return ""
    return f" with the file {name}"
