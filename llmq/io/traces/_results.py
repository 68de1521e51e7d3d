"""Results of ``vllm bench serve`` and SGLang's ``bench_serving``: one JSON object of a run.

With ``--save-detailed`` it holds ``input_lens``, ``output_lens``, ``start_times`` (s, a clock that
starts anywhere) and ``errors``, one entry a request: the requests as they were sent. A request that
failed has an error or an output of 0 tokens. SGLang keeps no start times: lengths only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.cells import Cells
from llmq._input.config import decode_json
from llmq.errors import FormatError
from llmq.io.traces._clock import read_clock
from llmq.io.traces._format import TraceFormat
from llmq.io.traces._schema import PLAIN, Column, How, Rows

__all__ = ["FORMAT"]

Floats: TypeAlias = npt.NDArray[np.float64]

COLUMNS = (
    Column("input_lens", optional=True),
    Column("output_lens", optional=True),
    Column("start_times", optional=True),
    Column("request_rate", optional=True),
    Column("request_throughput", optional=True),
    Column("mean_ttft_ms", optional=True),
)


def read(text: str, path: str, how: How = PLAIN) -> Rows:
    """Read the requests of a benchmark run.

    Examples
    --------
    >>> run = '{"input_lens": [9, 8], "output_lens": [4, 0], "start_times": [7.5, 8.0]}'
    >>> read(run, "run.json").arrival
    array([0. , 0.5])
    """
    raw = _one(text, path)
    if "input_lens" not in raw or "output_lens" not in raw:
        raise FormatError(
            "this benchmark result holds averages and no requests: save the run with "
            "--save-result --save-detailed",
            path=path,
            line=1,
            column="input_lens",
        )
    prompt = _column(raw, "input_lens", path)
    output = _column(raw, "output_lens", path, len(prompt.values)).whole(1, or_zero=True)
    if how.output is not None:
        raise FormatError("the file has output lengths of its own: leave output= out", path=path)
    if "errors" in raw:
        output[
            [bool(words.strip()) for words in _column(raw, "errors", path, len(output)).values]
        ] = 0
    arrival: Floats | None = None
    notes: list[str] = ["a benchmark result"]
    if "start_times" in raw:
        starts = _column(raw, "start_times", path, len(output))
        clock = read_clock(starts, "s", how.unit, from_first=True)
        arrival, notes = clock.seconds, [*clock.notes, "a benchmark result"]
    elif str(raw.get("request_rate")) in ("Infinity", "inf") and how.unit is None:
        arrival = np.zeros(len(output))
        notes += ["request rate inf: all requests at once"]
    return Rows(
        arrival=arrival,
        prompt=prompt.whole(1, or_zero=True),
        output=output,
        lines=prompt.lines,
        clock="start_times",
        notes=tuple(notes),
    )


def _one(text: str, path: str) -> Mapping[str, Any]:
    try:
        raw = decode_json(text, path, as_text=True)
    except FormatError:
        runs = [line for line in text.split("\n") if line.strip()]
        if len(runs) > 1 and all(line.lstrip().startswith("{") for line in runs):
            raise FormatError(
                f"{len(runs)} runs in one file: keep the line of one", path=path
            ) from None
        raise
    if not isinstance(raw, dict):
        raise FormatError("expected one JSON object, the result of one run", path=path, line=1)
    return raw


def _column(raw: Mapping[str, Any], name: str, path: str, n: int | None = None) -> Cells:
    values = raw[name]
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise FormatError("expected a list, one entry a request", path=path, line=1, column=name)
    if not values or len(values) != (n or len(values)):
        raise FormatError(
            f"{len(values)} entries for {n or 0} requests: the result is not complete",
            path=path,
            line=1,
            column=name,
        )
    return Cells(path, name, values, [1] * len(values))


FORMAT = TraceFormat(
    name="vllm",
    known_by="JSON of `vllm bench serve --save-detailed`",
    columns=COLUMNS,
    read=read,
)
