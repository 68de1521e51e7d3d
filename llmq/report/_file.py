"""Where a report goes: asked before the long work, not after."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from llmq._input.files import PathLike
from llmq.errors import InputError

__all__ = ["check_writable"]


def check_writable(path: PathLike) -> None:
    """Make sure that a file can be written, and leave no trace.

    Parameters
    ----------
    path : str or path
        The file; it may exist.

    Raises
    ------
    InputError
        The folder does not exist or does not take a file of that name, or the path is a folder.

    Examples
    --------
    >>> check_writable("no-such-folder/plan.html")
    Traceback (most recent call last):
    ...
    llmq.errors.InputError: cannot write no-such-folder/plan.html: there is no folder no-such-folder
    """
    file = Path(path)
    try:
        if reason := _obstacle(file):
            raise InputError(f"cannot write {path}: {reason}", path=str(path))
        if file.exists() and not file.is_file():
            # A device or pipe is written in place; opening a pipe here would wait for its reader.
            if not os.access(file, os.W_OK):
                raise InputError(f"cannot write {path}: permission denied", path=str(path))
            return
        # As write_text does it: a temporary file beside the target, then a rename.
        place = file.resolve()
        with tempfile.NamedTemporaryFile(dir=place.parent, prefix=".llmq-"):
            pass
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot write {path}: {reason}", path=str(path)) from error


def _obstacle(file: Path) -> str:
    if file.is_dir():
        return "it is a folder, name a file in it"
    return "" if file.parent.is_dir() else f"there is no folder {file.parent}"
