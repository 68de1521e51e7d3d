r"""How the load generators summarise a run, on llmq's request times.

With ``a, f, l, n`` as in :mod:`llmq.model.metrics`, over finished requests:

========================== ============ ======================== ================================
tool                       TTFT         "TPOT"                   "ITL"
========================== ============ ======================== ================================
llmq                       f - a        (l - f)/(n - 1), n > 1   every gap
vLLM ``bench serve``       f - a        (l - f)/(n - 1), n > 1   every gap
guidellm                   f - a        (l - a)/n, weight n      (l - f)/(n - 1), weight n - 1
inference-perf             f - a, n > 1 (l - f)/(n - 1), n > 1   every gap
aiperf                     f - a        has none                 (l - f)/(n - 1), n > 1
========================== ============ ======================== ================================

Percentiles interpolate linearly, but guidellm takes the first value whose cumulative weight reaches
the level. Durations run from the first arrival to the last token; over several replications they
add up. Read from the tools' sources (vLLM ``benchmarks/serve.py``, guidellm
``schemas/request_stats.py`` and ``schemas/statistics.py``, inference-perf ``reportgen/base.py``,
aiperf ``metrics/types``), in 2026. Not covered: warm-up windows, failed requests, rates over time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.errors import InputError, nearest
from llmq.model.metrics import RequestTimes, e2e, itl, tpot, ttft
from llmq.units import MILLISECOND

__all__ = ["DIALECTS", "summary"]

Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Log:
    """Columns of the finished requests."""

    ttft: Floats
    e2e: Floats
    tokens: Floats
    gaps: Floats | None
    seconds: float
    arrived: int

    @property
    def mean_gap(self) -> Floats:
        """(l - f)/(n - 1) of each request, whatever n."""
        return (self.e2e - self.ttft) / np.maximum(self.tokens - 1, 1)

    @property
    def long(self) -> npt.NDArray[np.bool_]:
        return self.tokens > 1


def _log(times: RequestTimes) -> _Log:
    done = times.finished
    span = np.nanmax(np.where(done, times.finish, -np.inf), axis=-1) - times.arrival.min(axis=-1)
    return _Log(
        ttft=ttft(times)[done],
        e2e=e2e(times)[done],
        tokens=times.visible[done].astype(np.float64),
        gaps=None if times.token_times is None else itl(times),
        seconds=float(np.sum(np.maximum(span, 0.0))),
        arrived=times.arrival.size,
    )


def _native(times: RequestTimes) -> dict[str, float]:
    log = _log(times)
    slow = tpot(times)[times.finished]
    columns = {"ttft": log.ttft, "tpot": slow[np.isfinite(slow)], "e2e": log.e2e}
    if log.gaps is not None:
        columns["itl"] = log.gaps
    found: dict[str, float] = {"arrived": log.arrived, "completed": len(log.e2e)}
    for name, values in columns.items():
        found[f"{name}_n"] = len(values)
        if len(values):
            found[f"{name}_mean_s"] = values.mean()
            for level in (50, 90, 99):
                found[f"{name}_p{level}_s"] = np.quantile(values, level / 100)
    found["duration_s"] = log.seconds
    found["throughput_requests_per_s"] = _per(len(log.e2e), log.seconds)
    found["throughput_tokens_per_s"] = _per(log.tokens.sum(), log.seconds)
    return found


def _vllm(times: RequestTimes) -> dict[str, float]:
    log = _log(times)
    found: dict[str, float] = {
        "completed": len(log.e2e),
        "duration_s": log.seconds,
        "total_output_tokens": log.tokens.sum(),
        "request_throughput_per_s": _per(len(log.e2e), log.seconds),
        "output_throughput_tokens_per_s": _per(log.tokens.sum(), log.seconds),
    }
    columns = {"ttft": log.ttft, "tpot": log.mean_gap[log.long], "e2el": log.e2e}
    if log.gaps is not None:
        columns["itl"] = log.gaps
    for name, values in columns.items():
        # It reports 0 where there is nothing to average.
        numbers = (values if len(values) else np.zeros(1)) / MILLISECOND
        found[f"mean_{name}_ms"] = numbers.mean()
        found[f"median_{name}_ms"] = np.median(numbers)
        found[f"std_{name}_ms"] = numbers.std()
        for level in (50, 90, 95, 99):
            found[f"p{level}_{name}_ms"] = np.percentile(numbers, level)
    return found


_GUIDE = {
    "p01": 0.01,
    "p05": 0.05,
    "p10": 0.1,
    "p25": 0.25,
    "p50": 0.5,
    "p75": 0.75,
    "p90": 0.9,
    "p95": 0.95,
    "p99": 0.99,
    "p999": 0.999,
}


def _guidellm(times: RequestTimes) -> dict[str, float]:
    log = _log(times)
    one = np.ones_like(log.tokens)
    columns = {
        "request_latency_s": (log.e2e, one),
        "time_to_first_token_ms": (log.ttft / MILLISECOND, one),
        "time_per_output_token_ms": (log.e2e / log.tokens / MILLISECOND, log.tokens),
        "inter_token_latency_ms": (log.mean_gap / MILLISECOND, log.tokens - 1),
    }
    found: dict[str, float] = {"request_totals.successful": len(log.e2e)}
    for name, (values, weights) in columns.items():
        if not weights.sum():
            weights = one  # one-token requests alone: it reports their zero gaps
        order = np.argsort(values, kind="stable")
        values, share = values[order], weights[order] / weights.sum()
        values, share = values[share > 0], share[share > 0]
        mean = float(values @ share)
        found[f"{name}.mean"] = mean
        found[f"{name}.std_dev"] = float(np.sqrt((values - mean) ** 2 @ share))
        reached = np.cumsum(share)
        for key, level in _GUIDE.items():
            index = min(int(np.searchsorted(reached, level)), len(values) - 1)
            found[f"{name}.percentiles.{key}"] = values[index]
        found[f"{name}.median"] = found[f"{name}.percentiles.p50"]
    return found


def _inference_perf(times: RequestTimes) -> dict[str, float]:
    log = _log(times)
    columns = {
        "request_latency": log.e2e,
        "normalized_time_per_output_token": log.e2e / log.tokens,
        "time_per_output_token": log.mean_gap[log.long],
        # One token is "not streamable": such requests have no TTFT either.
        "time_to_first_token": log.ttft[log.long],
    }
    if log.gaps is not None:
        columns["inter_token_latency"] = log.gaps
    found: dict[str, float] = {"count": len(log.e2e), "benchmark_time_s": log.seconds}
    for name, values in columns.items():
        if len(values):
            found |= _stats(values, f"{name}_s", {"mean": np.mean, "min": np.min, "max": np.max})
            for level in (1, 5, 10, 25, 50, 75, 90, 95, 99):
                key = "median" if level == 50 else f"p{level}"
                found[f"{name}_s.{key}"] = np.percentile(values, level)
    found["requests_per_sec"] = _per(len(log.e2e), log.seconds)
    found["output_tokens_per_sec"] = _per(log.tokens.sum(), log.seconds)
    return found


def _aiperf(times: RequestTimes) -> dict[str, float]:
    log = _log(times)
    columns = {
        "request_latency": log.e2e,
        "time_to_first_token": log.ttft,
        "inter_token_latency": log.mean_gap[log.long],
    }
    if log.gaps is not None:
        columns["inter_chunk_latency"] = log.gaps
    found: dict[str, float] = {"request_count": len(log.e2e)}
    every: Mapping[str, Callable[[Floats], float]]
    every = {"avg": np.mean, "min": np.min, "max": np.max, "std": np.std}
    for name, values in columns.items():
        if len(values):
            found |= _stats(values / MILLISECOND, f"{name}_ms", every)
            for level in (1, 5, 10, 25, 50, 75, 90, 95, 99):
                found[f"{name}_ms.p{level}"] = np.percentile(values / MILLISECOND, level)
    return found


def _stats(
    values: Floats, name: str, functions: Mapping[str, Callable[[Floats], float]]
) -> dict[str, float]:
    return {f"{name}.{key}": function(values) for key, function in functions.items()}


def _per(count: float, seconds: float) -> float:
    return float(count) / seconds if seconds > 0 else 0.0


DIALECTS: Mapping[str, Callable[[RequestTimes], dict[str, float]]] = {
    "llmq": _native,
    "vllm": _vllm,
    "guidellm": _guidellm,
    "inference-perf": _inference_perf,
    "aiperf": _aiperf,
}


def summary(times: RequestTimes, dialect: str = "llmq") -> dict[str, float]:
    """Summarise a run in the words and the arithmetic of a tool.

    Parameters
    ----------
    times : RequestTimes
        When things happened; requests that have not finished are counted, not averaged.
    dialect : {"llmq", "vllm", "guidellm", "inference-perf", "aiperf"}
        Whose definitions.

    Returns
    -------
    dict of str to float
        Keys as the tool names them, with the unit appended where its name has none (``_s``,
        ``_ms``). Statistics of gaps between tokens are there only if token times are.

    Raises
    ------
    InputError
        Unknown dialect, or no request has finished.

    Examples
    --------
    >>> times = RequestTimes.from_tokens(arrival=[0.0], token_times=[[0.2, 0.3, 0.5]])
    >>> summary(times)["tpot_mean_s"], summary(times, "guidellm")["time_per_output_token_ms.mean"]
    (0.15, 166.667)
    """
    if dialect not in DIALECTS:
        raise InputError(f"unknown dialect {dialect!r}{nearest(dialect, DIALECTS)}", value=dialect)
    if not times.finished.any():
        raise InputError("no request has finished: there is nothing to summarise")
    return {name: float(value) for name, value in DIALECTS[dialect](times).items()}
