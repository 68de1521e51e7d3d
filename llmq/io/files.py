"""Files: text in (plain or gzip), text out in one piece.

A reader either gets the whole text or an error that names the file. A writer fills a temporary
file in the same folder and renames it, so that a crash, a full disk or Ctrl-C leaves either the old
file or the new one, never half of one.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from llmq.errors import FormatError, InputError

__all__ = ["PathLike", "read_text", "write_text"]

PathLike: TypeAlias = "str | os.PathLike[str]"


def read_text(path: PathLike) -> str:
    r"""Read a UTF-8 text file; gzip is recognised by its first bytes.

    Parameters
    ----------
    path : str or path
        The file.

    Returns
    -------
    str
        The text without a byte-order mark; line ends as they are.

    Raises
    ------
    InputError
        Not found, a folder, or not readable.
    FormatError
        Truncated or damaged gzip, or not UTF-8.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_text(f"{folder}/a.txt.gz", "one\n")
    ...     read_text(f"{folder}/a.txt.gz")
    'one\n'
    """
    raw = _read_bytes(path)
    if raw[:2] == b"\x1f\x8b":
        raw = _unzip(path, raw)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise FormatError(
            f"byte 0x{raw[error.start]:02x} is not UTF-8 text: save the file as UTF-8",
            path=path, line=line,
        ) from None  # fmt: skip


def _read_bytes(path: PathLike) -> bytes:
    file = Path(path)
    try:
        return file.read_bytes()
    except FileNotFoundError:
        known = [p.name for p in file.parent.iterdir()] if file.parent.is_dir() else []
        hint = _similar(file.name, known) if known else f"; there is no folder {file.parent}"
        raise InputError(f"no such file: {path}{hint}", path=str(path)) from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder: name a file in it", path=str(path)) from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", path=str(path)) from error


def _similar(name: str, known: list[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def _unzip(path: PathLike, raw: bytes) -> bytes:
    try:
        return gzip.decompress(raw)
    except EOFError:
        message = "the gzip data end too early (truncated): fetch or compress the file again"
    except (gzip.BadGzipFile, zlib.error) as error:
        message = f"damaged gzip data ({error}): fetch or compress the file again"
    raise FormatError(message, path=path)


def write_text(path: PathLike, text: str) -> None:
    """Write a UTF-8 text file in one piece; a name ending in ``.gz`` is compressed.

    Parameters
    ----------
    path : str or path
        The file; replaced if it exists.
    text : str
        What to write.

    Raises
    ------
    InputError
        The folder does not exist, the path is a folder, or it cannot be written. An existing file
        is then unchanged.

    Examples
    --------
    >>> write_text("no-such-folder/a.txt", "one")
    Traceback (most recent call last):
    ...
    llmq.errors.InputError: cannot write no-such-folder/a.txt: there is no folder no-such-folder
    """
    raw = text.encode("utf-8")
    if str(path).endswith(".gz"):
        raw = gzip.compress(raw, mtime=0)  # no clock inside: equal text gives equal bytes
    file = Path(path)
    if file.is_dir():
        raise InputError(f"cannot write {path}: it is a folder, name a file in it", path=str(path))
    if not file.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {file.parent}", path=str(path))
    try:
        if file.exists() and not file.is_file():
            file.write_bytes(raw)  # a device or pipe must not be renamed away
            return
        with _replacing(file.resolve()) as temporary:
            temporary.write_bytes(raw)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}", path=str(path)) from error


@contextlib.contextmanager
def _replacing(file: Path) -> Iterator[Path]:
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
