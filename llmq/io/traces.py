"""Traces of requests from and to files of other tools.

The format is recognised from the first record (a CSV header or a JSON object) and noted on the
trace. Rows out of time order are sorted with a warning. Recorders with a coarse clock give many
requests the same time, which a queue sees as a burst that never happened: the Mooncake conversation
trace has 12,031 requests at 1,180 times, 3 s apart. Such times are kept, with a warning, unless
``jitter="uniform"`` spreads each group over the time until the next one.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.errors import FormatError, InputError, TraceWarning, nearest
from llmq.io import azure, mooncake, native, vidur
from llmq.io.files import PathLike, read_text, write_text
from llmq.io.schema import Column, Rows, first_record
from llmq.model.arrivals import Arrivals
from llmq.model.trace import Trace
from llmq.rng import RngLike, generator, seed_sequence

__all__ = ["TRACE_FORMATS", "read_trace", "write_trace"]

Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Format:
    columns: tuple[Column, ...]
    read: Callable[[str, str], Rows]
    write: Callable[[Trace], str]


_FORMATS = {
    module.__name__.rsplit(".", 1)[1]: _Format(module.COLUMNS, module.read, module.write)
    for module in (azure, mooncake, native, vidur)
}

TRACE_FORMATS = tuple(_FORMATS)


def read_trace(
    path: PathLike,
    *,
    format: str | None = None,  # noqa: A002 (the word users know)
    jitter: str | None = None,
    rng: RngLike = None,
    klass: str | None = None,
    arrivals: Arrivals | None = None,
) -> Trace:
    """Read a trace of requests.

    Parameters
    ----------
    path : str or path
        The file; ``.gz`` is accepted.
    format : {"azure", "mooncake", "native", "vidur"}, optional
        Insist on a format; recognised from the first record if not given.
    jitter : {"uniform"}, optional
        Spread requests with equal times uniformly until the next distinct time.
    rng : Generator, SeedSequence, int or None
        Source of randomness for ``jitter`` and ``arrivals``.
    klass : str, optional
        Class of all requests, where the file does not name classes.
    arrivals : Arrivals, optional
        Arrival process for a file that has lengths only.

    Returns
    -------
    Trace
        In time order; ``source`` is the path, ``notes`` say how it was read.

    Raises
    ------
    InputError
        The file cannot be read, or an option does not fit it.
    FormatError
        Unknown format or a bad row; names file, line and column.

    Warns
    -----
    TraceWarning
        Rows were out of order, or several requests have the same time.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_trace(Trace([0.0, 0.4], [512, 2048], [128, 256]), f"{folder}/t.csv")
    ...     read_trace(f"{folder}/t.csv").prompt
    array([ 512, 2048])
    """
    name = str(path)
    if jitter not in (None, "uniform"):
        raise InputError(f"jitter must be 'uniform' or None, got {jitter!r}", value=jitter)
    text = read_text(path)
    if not text.strip():
        raise FormatError("the file is empty", path=name)
    kind = _named(format) if format is not None else _recognise(text, name)
    rows = _FORMATS[kind].read(text, name)
    notes = [f"read as {kind} trace{' (format recognised)' if format is None else ''}", *rows.notes]
    codes, classes = _klass(rows, klass, name)
    clock, order = seed_sequence(rng), np.arange(len(rows.lines))
    if arrivals is not None or rows.arrival is None:
        times = _drawn(rows, arrivals, clock, name, notes)
    else:
        times, order = _ordered(rows, name, notes)
        times = _spread(times, jitter, clock, name, rows.clock, notes)
    return Trace(
        times, rows.prompt[order], rows.output[order],
        None if rows.reasoning is None else rows.reasoning[order],
        None if codes is None else codes[order], classes, source=name, notes=tuple(notes),
        prefix=None if rows.prefix is None else rows.prefix.take(order),
    )  # fmt: skip


def _named(name: str) -> str:
    if name not in _FORMATS:
        raise InputError(f"unknown trace format {name!r}{nearest(name, _FORMATS)}", value=name)
    return name


def _recognise(text: str, path: str) -> str:
    """Choose the format with most names in the first record, so that a typo names its column."""
    line, record = first_record(text)
    if record.startswith("{"):
        found = set(re.findall(r'"([^"]*)"\s*:', record))
    else:
        found = {part.strip().strip('"') for part in record.split(",")}
    score = {
        kind: sum(column.name in found for column in entry.columns)
        for kind, entry in _FORMATS.items()
    }
    best = max(score, key=score.__getitem__)
    if score[best] == 0:
        shown = record if len(record) <= 60 else f"{record[:60]}..."
        raise FormatError(
            f"the trace format is not recognised from {shown!r}: expected a header or a JSON "
            f"object of one of {', '.join(_FORMATS)}; name it with format=",
            path=path, line=line,
        )  # fmt: skip
    return best


def _drawn(
    rows: Rows, arrivals: Arrivals | None, clock: RngLike, path: str, notes: list[str]
) -> Floats:
    if rows.arrival is not None:
        raise InputError(
            f"{path} has arrival times ({rows.clock}): leave arrivals= out, "
            "or change the rate with Trace.scaled(rate=...)"
        )
    if arrivals is None:
        raise FormatError(
            f"the file has lengths but no arrival times (no column {rows.clock}): give an arrival "
            "process, e.g. read_trace(path, arrivals=llmq.Poisson(6.0), rng=7)",
            path=path, line=1, column=rows.clock,
        )  # fmt: skip
    notes.append(f"arrival times drawn from {arrivals}, lengths in the order of the file")
    return arrivals.times(len(rows.lines), generator(clock))


def _ordered(rows: Rows, path: str, notes: list[str]) -> tuple[Floats, npt.NDArray[np.int64]]:
    times = np.asarray(rows.arrival)
    late = np.flatnonzero(times < np.maximum.accumulate(times))
    order = np.argsort(times, kind="stable")
    if len(late):
        note = (
            f"{len(late)} of {len(times)} requests were out of time order (the first on line "
            f"{rows.lines[int(late[0])]}): sorted by {rows.clock}"
        )
        notes.append(note)
        warnings.warn(TraceWarning(f"{path}: {note}"), stacklevel=3)
    return times[order], order


def _spread(
    times: Floats, jitter: str | None, clock: np.random.SeedSequence, path: str, column: str,
    notes: list[str],
) -> Floats:  # fmt: skip
    distinct, group, sizes = np.unique(times, return_inverse=True, return_counts=True)
    if len(distinct) == len(times):
        return times
    said = f"{len(times):,} requests have only {len(distinct):,} distinct times"
    if jitter is None:
        notes.append(said)
        warnings.warn(
            TraceWarning(
                f"{path}, column {column}: {said}, which acts like bursts; "
                "jitter='uniform' spreads equal times until the next one"
            ),
            stacklevel=3,
        )
        return times
    if len(distinct) == 1:
        raise InputError(
            f"{path}: all {len(times):,} requests have the same time, so there is no next one to "
            "spread them to; leave jitter out, or keep the lengths and give an arrival process"
        )
    # Nothing follows the last group: it gets the mean gap.
    gaps = np.append(np.diff(distinct), np.diff(distinct).mean())
    shifts = np.where(sizes[group] > 1, generator(clock).random(len(times)), 0.0) * gaps[group]
    notes.append(f"{said}: equal times spread uniformly until the next (seed {clock.entropy})")
    return np.sort(times + shifts)


def _klass(
    rows: Rows, klass: str | None, path: str
) -> tuple[npt.NDArray[np.str_] | None, tuple[str, ...] | None]:
    if rows.klass is None:
        return None, None if klass is None else (klass,)
    if klass is not None:
        raise InputError(f"{path} has a class column: leave klass={klass!r} out", value=klass)
    return np.asarray(rows.klass), None


def write_trace(trace: Trace, path: PathLike, *, format: str | None = None) -> None:  # noqa: A002
    """Write a trace of requests; the file appears whole or not at all.

    Parameters
    ----------
    trace : Trace
        The requests.
    path : str or path
        The file; compressed if the name ends in ``.gz``.
    format : {"azure", "mooncake", "native", "vidur"}, optional
        Mooncake for names in ``.jsonl``, native CSV for others if not given.

    Raises
    ------
    InputError
        Unknown format, times before 0, or the path cannot be written.

    Warns
    -----
    TraceWarning
        The format cannot hold hidden reasoning tokens, classes or names of prefix blocks and the
        trace has some.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_trace(Trace([0.0], [512], [128]), f"{folder}/t.jsonl")
    ...     read_trace(f"{folder}/t.jsonl").notes[0]
    'read as mooncake trace (format recognised)'
    """
    if format is None:
        format = "mooncake" if str(path).removesuffix(".gz").endswith(".jsonl") else "native"  # noqa: A001
    kind = _named(format)
    if kind != "azure" and trace.arrival[0] < 0:
        raise InputError(
            f"the first request comes at {trace.arrival[0]} s, but the {kind} format counts from "
            "0: trace.scaled(factor=1) starts the clock at the first request"
        )
    text = _FORMATS[kind].write(trace)
    lost = []
    if kind != "native" and (hidden := int(np.count_nonzero(trace.reasoning))):
        lost.append(f"the hidden reasoning tokens of {hidden:,} requests")
    if kind != "native" and len(trace.classes) > 1:
        lost.append(f"the classes ({', '.join(trace.classes)})")
    if trace.prefix is not None and (kind != "mooncake" or trace.prefix.block != mooncake.BLOCK):
        lost.append(f"the names of the prefix blocks of {trace.prefix.block} tokens")
    write_text(path, text)
    if lost:
        warnings.warn(
            TraceWarning(
                f"{path}: the {kind} format cannot hold {' and '.join(lost)}; "
                "format='native' keeps everything but prefix blocks"
            ),
            stacklevel=2,
        )
