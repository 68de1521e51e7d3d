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
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked
from llmq._input.files import PathLike, read_text, write_text
from llmq._limits import TOKENS
from llmq.errors import FormatError, InputError, TraceWarning, printable, shown
from llmq.io._formats import Formats
from llmq.io.traces import _azure, _burstgpt, _mooncake, _native, _results, _vidur
from llmq.io.traces._clock import check_unit
from llmq.io.traces._format import TraceFormat
from llmq.io.traces._records import first_record
from llmq.io.traces._schema import How, Rows
from llmq.io.traces._strangers import explain
from llmq.model.arrivals import Arrivals
from llmq.model.trace import Trace
from llmq.rng import RngLike, generator, seed_sequence

__all__ = ["read_trace", "register_trace_format", "trace_formats", "write_trace"]

Floats: TypeAlias = npt.NDArray[np.float64]

_TELLING = 65_536  # characters that tell the format of a JSON object over several lines

FORMATS = Formats(
    "trace",
    TraceFormat,
    Rows,
    (
        _azure.FORMAT,
        _burstgpt.FORMAT,
        _mooncake.FORMAT,
        _native.FORMAT,
        _vidur.FORMAT,
        _results.FORMAT,
    ),
)


def trace_formats() -> dict[str, TraceFormat]:
    """List the formats of traces.

    Returns
    -------
    dict of str to TraceFormat
        By name.

    Examples
    --------
    >>> trace_formats()["mooncake"].known_by
    'JSON lines, timestamp (ms), input_length, output_length'
    >>> [name for name, one in trace_formats().items() if one.write is None]
    ['burstgpt', 'vllm']
    """
    return FORMATS.all()


def register_trace_format(format: TraceFormat) -> None:  # noqa: A002 (the word users know)
    """Add a format of traces: ``read_trace``, ``write_trace`` and the command line then know it.

    Parameters
    ----------
    format : TraceFormat
        The format; the same record again changes nothing.

    Raises
    ------
    InputError
        Another format has this name, or this is no format.
    """
    FORMATS.register(format)


@checked
def read_trace(
    path: PathLike,
    *,
    format: str | None = None,  # noqa: A002 (the word users know)
    jitter: str | None = None,
    rng: RngLike = None,
    klass: str | None = None,
    arrivals: Arrivals | None = None,
    time_unit: str | None = None,
    hash_block: int | None = None,
    output: int | None = None,
    failed: str | None = None,
) -> Trace:
    """Read a trace of requests.

    Parameters
    ----------
    path : str or path
        The file; ``.gz`` is accepted.
    format : {"azure", "burstgpt", "mooncake", "native", "vidur", "vllm"}, optional
        Insist on a format; recognised from the first record if not given.
    jitter : {"uniform"}, optional
        Spread requests with equal times uniformly until the next distinct time.
    rng : Generator, SeedSequence, int or None
        Source of randomness for ``jitter`` and ``arrivals``.
    klass : str, optional
        Class of all requests, where the file does not name classes.
    arrivals : Arrivals, optional
        Arrival process for a file that has lengths only, or one time for all requests.
    time_unit : {"s", "ms", "us", "ns"}, optional
        Unit of the times; that of the format if not given, or asked for where it cannot be right.
    hash_block : int, optional
        Prompt tokens behind one hash id; found from the file where it tells.
    output : int, optional
        Output tokens of every request, for a file without output lengths.
    failed : {"drop", "prefill"}, optional
        Leave out requests without output tokens, or keep their prompts with one output token.

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
    name = printable(path)
    if jitter not in (None, "uniform"):
        raise InputError(f"jitter must be 'uniform' or None, got {shown(jitter)}", value=jitter)
    if failed not in (None, "drop", "prefill"):
        raise InputError(f"failed must be 'drop' or 'prefill', got {shown(failed)}", value=failed)
    check_unit(time_unit)
    how = How(time_unit, _count("hash_block", hash_block), _count("output", output))
    kind = None if format is None else FORMATS.named(format)
    text = read_text(path)
    if not text.strip():
        raise FormatError("the file is empty", path=name)
    kind = kind or _recognise(text, name)
    rows = _served(FORMATS.read(kind, name, text, name, how), failed, name)
    read = f"read as {kind.name} trace{' (format recognised)' if format is None else ''}"
    timed = [note for note in rows.notes if note.startswith("times ")]
    notes = [", ".join([read, *timed]), *(note for note in rows.notes if note not in timed)]
    codes, classes = _klass(rows, klass, name)
    clock, order = seed_sequence(rng), np.arange(len(rows.lines))
    once = rows.arrival is not None and arrivals is not None and not np.ptp(rows.arrival)
    if once:
        rows = replace(rows, arrival=None)
    if arrivals is not None or rows.arrival is None:
        times = _drawn(rows, arrivals, clock, name, notes)
    else:
        times, order = _ordered(rows, name, notes)
        times = _spread(times, jitter, clock, name, rows.clock, notes)
    return Trace(
        times,
        rows.prompt[order],
        rows.output[order],
        None if rows.reasoning is None else rows.reasoning[order],
        None if codes is None else codes[order],
        classes,
        source=name,
        notes=tuple(notes),
        prefix=None if rows.prefix is None else rows.prefix.take(order),
    )


def _count(name: str, value: int | None) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= TOKENS:
        raise InputError(
            f"{name} must be a whole number of tokens from 1 to {TOKENS:,}, got {shown(value)}",
            value=value,
        )
    return value


def _served(rows: Rows, failed: str | None, path: str) -> Rows:
    """Treat requests without output tokens as the caller says; all of them, in one message."""
    empty = rows.output == 0
    if not empty.any():
        return rows
    said = f"{int(empty.sum()):,} of {len(empty):,} requests have no output tokens"
    if failed is None:
        raise FormatError(
            f"{said} (the first here): they failed or were cancelled; leave them out with "
            "failed='drop', or keep their prompts with failed='prefill' (one output token each)",
            path=path,
            line=rows.lines[int(np.argmax(empty))],
        )
    if failed == "prefill":
        if np.any(rows.prompt == 0):
            row = int(np.argmin(rows.prompt))
            raise FormatError(
                "a request without prompt tokens cannot be kept: use failed='drop'",
                path=path,
                line=rows.lines[row],
            )
        note = f"{said}: kept as prefills, with one output token"
        reasoning = rows.reasoning if rows.reasoning is None else np.where(empty, 0, rows.reasoning)
        one = np.maximum(rows.output, 1)
        return replace(rows, output=one, reasoning=reasoning, notes=(*rows.notes, note))
    keep = np.flatnonzero(~empty)
    if not len(keep):
        raise FormatError(f"{said}: nothing is left", path=path)
    return replace(
        rows,
        prompt=rows.prompt[keep],
        output=rows.output[keep],
        lines=[rows.lines[row] for row in keep.tolist()],
        arrival=None if rows.arrival is None else rows.arrival[keep],
        reasoning=None if rows.reasoning is None else rows.reasoning[keep],
        klass=None if rows.klass is None else [rows.klass[row] for row in keep.tolist()],
        prefix=None if rows.prefix is None else rows.prefix.take(keep),
        notes=(*rows.notes, f"{said}: left out"),
    )


def _recognise(text: str, path: str) -> TraceFormat:
    """Choose the format with most names in the first record, so that a typo names its column."""
    line, record = first_record(text)
    if record.startswith("{"):
        found = set(re.findall(r'"([^"]*)"\s*:', text[:_TELLING] if len(record) < 2 else record))
    else:
        found = {part.strip().strip('"') for part in record.split(",")}
    formats = FORMATS.all()
    score = {
        name: sum(column.among(found) is not None for column in one.columns)
        for name, one in formats.items()
    }
    best = max(score, key=score.__getitem__)
    stranger = explain(text) if score[best] < 2 else None
    if score[best] == 0 or stranger:
        known = f"expected a header or a JSON object of one of {', '.join(formats)}"
        raise FormatError(
            stranger
            or f"the trace format is not recognised from {shown(record)}: {known}; name it with "
            "format=",
            path=path,
            line=line,
        )
    return formats[best]


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
            path=path,
            line=1,
            column=rows.clock,
        )
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
    times: Floats,
    jitter: str | None,
    clock: np.random.SeedSequence,
    path: str,
    column: str,
    notes: list[str],
) -> Floats:
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
        raise InputError(f"{path} has a class column: leave klass={shown(klass)} out", value=klass)
    return np.asarray(rows.klass), None


@checked
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
    'read as mooncake trace (format recognised), times in ms'
    """
    kind = _by_suffix(path) if format is None else FORMATS.named(format)
    if kind.write is None:
        known = ", ".join(name for name, one in FORMATS.all().items() if one.write is not None)
        raise InputError(
            f"the format {kind.name} is read, not written: use one of {known}", value=kind.name
        )
    if trace.arrival[0] < 0 and not kind.before_zero:
        raise InputError(
            f"the first request comes at {trace.arrival[0]} s, but the {kind.name} format counts "
            "from 0: trace.scaled(factor=1) starts the clock at the first request"
        )
    text = kind.write(trace)
    lost = []
    if "reasoning" not in kind.keeps and (hidden := int(np.count_nonzero(trace.reasoning))):
        lost.append(f"the hidden reasoning tokens of {hidden:,} requests")
    if "classes" not in kind.keeps and len(trace.classes) > 1:
        lost.append(f"the classes ({', '.join(trace.classes)})")
    if trace.prefix is not None and trace.prefix.block != kind.block:
        lost.append(f"the names of the prefix blocks of {trace.prefix.block} tokens")
    write_text(path, text)
    if lost:
        warnings.warn(
            TraceWarning(
                f"{printable(path)}: the {kind.name} format cannot hold {' and '.join(lost)}; "
                "format='native' keeps everything but prefix blocks"
            ),
            stacklevel=2,
        )


def _by_suffix(path: PathLike) -> TraceFormat:
    """Format in which a file of this name is written: our own, unless its end means another."""
    name = str(path).removesuffix(".gz")
    ends = (one for one in FORMATS.all().values() if one.suffix and name.endswith(one.suffix))
    return next(ends, _native.FORMAT)
