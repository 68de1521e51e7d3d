"""The Azure LLM inference traces: ``TIMESTAMP,ContextTokens,GeneratedTokens``.

One row a request, time as UTC date and time with up to nine fractional digits (seven in 2023).
``datetime`` keeps six, so times are read as whole nanoseconds; the first one becomes 0. The
multimodal traces add ``NumImages``, which llmq does not model.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.cells import Cells
from llmq.errors import InputError
from llmq.io.traces._format import TraceFormat
from llmq.io.traces._records import read_csv
from llmq.io.traces._schema import PLAIN, Column, How, Rows, lengths

if TYPE_CHECKING:
    from llmq.model.trace import Trace

__all__ = ["FORMAT"]

COLUMNS = (
    Column("TIMESTAMP"),
    Column("ContextTokens"),
    Column("GeneratedTokens", output=True),
    Column("NumImages", optional=True),
)

_NANOSECONDS = 10**9
_CENTURY = 3.15e9  # seconds
_STAMP = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[ T]([0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?)"
    r"(?:Z|\+00(?::?00)?)?"
)
_EXPECTED = "a UTC time such as 2023-11-16 18:15:46.6805900"

Floats: TypeAlias = npt.NDArray[np.float64]


def read(text: str, path: str, how: How = PLAIN) -> Rows:
    r"""Read an Azure trace.

    Examples
    --------
    >>> head = "TIMESTAMP,ContextTokens,GeneratedTokens"
    >>> rows = [head, "2023-11-16 18:15:46.6805900,374,44", "2023-11-16 18:15:50.9951690,396,109"]
    >>> read("\n".join(rows), "azure.csv").arrival
    array([0. , 4.314579])
    """
    cells, extra = read_csv(text, path, COLUMNS, how)
    if how.unit is not None:
        raise InputError(
            f"{path}: the times of an Azure trace are dates: leave time_unit= out", value=how.unit
        )
    notes = [f"columns not used: {', '.join(extra)}"] if extra else []
    if "NumImages" in cells and (images := int(np.sum(cells["NumImages"].whole(0) > 0))):
        notes.append(f"NumImages not used: {images} requests have images")
    stamps = cells["TIMESTAMP"]
    prompt, output = lengths(cells, "ContextTokens", "GeneratedTokens", how)
    return Rows(
        arrival=_seconds(stamps),
        prompt=prompt,
        output=output,
        lines=stamps.lines,
        clock="TIMESTAMP",
        notes=("times are dates", *notes),
    )


def _seconds(cells: Cells) -> Floats:
    plain = []
    for row, value in enumerate(cells.values):
        match = _STAMP.fullmatch(value.strip())
        # 1678 to 2262 is what a nanosecond clock of 64 bits can hold.
        if match is None or not "1700" <= match[1][:4] < "2200":
            zone = re.search(r"[-+][0-9]{2}:?[0-9]{2}$", value.strip()[:64])
            where = f" (not in the zone {zone[0]}: write all times in UTC)" if zone else ""
            cells.fail(row, _EXPECTED + where)
        plain.append(f"{match[1]}T{match[2]}")
    try:
        clock = np.array(plain, dtype="datetime64[ns]")
    except ValueError:
        for row, value in enumerate(plain):
            try:
                np.datetime64(value, "ns")
            except ValueError:
                cells.fail(row, _EXPECTED)
        raise
    ticks = clock.astype(np.int64)
    return np.asarray((ticks - ticks.min()) / _NANOSECONDS)


def write(trace: Trace) -> str:
    """Write an Azure trace that starts on 2023-01-01; times to the nearest 100 ns.

    Examples
    --------
    >>> from llmq.model.trace import Trace
    >>> print(write(Trace([0.0, 0.5], [512, 64], [128, 16])))
    TIMESTAMP,ContextTokens,GeneratedTokens
    2023-01-01 00:00:00.0000000,512,128
    2023-01-01 00:00:00.5000000,64,16
    <BLANKLINE>
    """
    if trace.span > _CENTURY:
        raise InputError(f"an Azure trace cannot span {trace.span:.3g} s: dates end too soon")
    ticks = np.rint((trace.arrival - trace.arrival[0]) * 10**7).astype(np.int64)
    clock = np.datetime64("2023-01-01", "ns") + ticks * np.timedelta64(100, "ns")
    rows = [",".join(column.name for column in COLUMNS if not column.optional)]
    for stamp, p, o in zip(clock, trace.prompt.tolist(), trace.output.tolist(), strict=True):
        rows.append(f"{str(stamp)[:-2].replace('T', ' ')},{p},{o}")
    return "\n".join(rows) + "\n"


FORMAT = TraceFormat(
    name="azure",
    known_by="TIMESTAMP, ContextTokens, GeneratedTokens: UTC date and time",
    columns=COLUMNS,
    read=read,
    write=write,
    before_zero=True,
)
