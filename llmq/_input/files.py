"""Files: text in (plain or gzip, bounded), text out in one piece.

A reader either gets the whole text or an error that names the file. It is read in pieces, so that
a file without end (a device, a gzip bomb) is refused at the limit and not when memory is gone. A
writer fills a temporary file in the same folder and renames it, so that a crash, a full disk or
Ctrl-C leaves either the old file or the new one, never half of one.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from llmq._limits import TEXT_BYTES
from llmq.errors import FormatError, InputError, printable

__all__ = ["PathLike", "read_text", "write_text"]

PathLike: TypeAlias = "str | os.PathLike[str]"

_PIECE = 2**20
# What a file begins with, and what to say of it.
_MARKS = (
    (b"\x1f\x8b", "the file was compressed twice: unpack it once, e.g. with gzip -d"),
    (b"PK\x03\x04", "this is a zip archive, not text: unpack it and name the file in it"),
    (b"\xff\xfe", "this is UTF-16 text: save the file as UTF-8"),
    (b"\xfe\xff", "this is UTF-16 text: save the file as UTF-8"),
    (b"PAR1", "this is a parquet file, not text: write it as CSV"),
    (b"BZh", "this is bzip2 data: unpack it, or compress with gzip"),
    (b"\xfd7zXZ", "these are xz data: unpack them, or compress with gzip"),
    (b"\x28\xb5\x2f\xfd", "these are zstd data: unpack them, or compress with gzip"),
)


def read_text(path: PathLike, most: int = TEXT_BYTES) -> str:
    r"""Read a UTF-8 text file; gzip is recognised by its first bytes.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_text(f"{folder}/a.txt.gz", "one\n")
    ...     read_text(f"{folder}/a.txt.gz")
    'one\n'
    """
    name = _named(path)
    raw = bytearray()
    try:
        with _opened(path) as file:
            for piece in _unzipped(file, name):
                raw += piece
                _check_piece(raw, len(piece), name, most)
    except FileNotFoundError:
        parent = Path(path).parent
        known = [p.name for p in parent.iterdir()] if parent.is_dir() else []
        hint = _similar(Path(path).name, known) if known else f"; there is no folder {parent}"
        raise InputError(f"no such file: {name}{printable(hint)}", path=str(path)) from None
    except IsADirectoryError:
        raise InputError(f"{name} is a folder: name a file in it", path=str(path)) from None
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}", path=str(path)) from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise FormatError(
            f"byte 0x{raw[error.start]:02x} is not UTF-8 text: save the file as UTF-8",
            path=name,
            line=line,
        ) from None


def _named(path: PathLike) -> str:
    name = printable(path)
    if "\0" in str(path):
        raise InputError(f"the file name {name} holds a NUL character: correct it", path=name)
    if not str(path):
        raise InputError("a file name is empty: name a file", path=name)
    return name


@contextlib.contextmanager
def _opened(path: PathLike) -> Iterator[int]:
    # Without O_NONBLOCK the open of a pipe waits for a writer that may never come.
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        os.set_blocking(file, True)
        yield file
    finally:
        os.close(file)


def _unzipped(file: int, path: str) -> Iterator[bytes]:
    """Pieces of the text, unpacked where the first bytes say gzip."""
    piece = os.read(file, _PIECE)
    if piece[:2] != b"\x1f\x8b":
        while piece:
            yield piece
            piece = os.read(file, _PIECE)
        return
    try:
        while piece:
            member = zlib.decompressobj(wbits=31)
            while not member.eof:
                if not piece and not (piece := os.read(file, _PIECE)):
                    message = "the gzip data end too early (truncated)"
                    raise FormatError(f"{message}: fetch or compress the file again", path=path)
                yield member.decompress(piece, _PIECE)
                piece = member.unconsumed_tail
            piece = (member.unused_data or os.read(file, _PIECE)).lstrip(b"\0")  # padding
    except zlib.error as error:
        message = f"damaged gzip data ({error}): fetch or compress the file again"
        raise FormatError(message, path=path) from None


def _check_piece(raw: bytearray, fresh: int, path: str, most: int) -> None:
    if len(raw) > most:
        raise FormatError(
            f"more than {most:,} bytes of text, the most that is read: split the file", path=path
        )
    if fresh == len(raw):
        for mark, message in _MARKS:
            if raw.startswith(mark):
                raise FormatError(message, path=path)
    if (place := raw.find(b"\0", len(raw) - fresh)) >= 0:
        line = raw.count(b"\n", 0, place) + 1
        raise FormatError(
            "a NUL byte: this is binary data or UTF-16, not UTF-8 text; save the file as UTF-8",
            path=path,
            line=line,
        )


def _similar(name: str, known: list[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name[:200], known, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def write_text(path: PathLike, text: str) -> None:
    """Write a UTF-8 text file in one piece; a name ending in ``.gz`` is compressed.

    Examples
    --------
    >>> write_text("no-such-folder/a.txt", "one")
    Traceback (most recent call last):
    ...
    llmq.errors.InputError: cannot write no-such-folder/a.txt: there is no folder no-such-folder
    """
    # A lone surrogate is no character: it is written as its escape.
    raw = text.encode("utf-8", "backslashreplace")
    if str(path).endswith(".gz"):
        raw = gzip.compress(raw, mtime=0)  # no clock inside: equal text gives equal bytes
    name, file = _named(path), Path(path)
    try:
        if file.is_dir():
            raise InputError(f"cannot write {name}: it is a folder, name a file in it", path=name)
        if not file.parent.is_dir():
            place = printable(file.parent)
            raise InputError(f"cannot write {name}: there is no folder {place}", path=name)
        if file.exists() and not file.is_file():
            file.write_bytes(raw)  # a device or pipe must not be renamed away
            return
        with _replacing(file.resolve()) as temporary:
            temporary.write_bytes(raw)
    except OSError as error:
        raise InputError(f"cannot write {name}: {error.strerror}", path=name) from error
    except RuntimeError:  # Path.resolve before Python 3.13
        raise InputError(
            f"cannot write {name}: its symbolic links lead in a circle; name another file",
            path=name,
        ) from None


@contextlib.contextmanager
def _replacing(file: Path) -> Iterator[Path]:
    # Not longer than the name itself need be: file systems end names at 255 bytes.
    mark = zlib.crc32(os.fsencode(file.name))
    temporary = file.with_name(f".llmq-{mark:08x}-{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
