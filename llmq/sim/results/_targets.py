"""Targets for each class, and the rate of the requests that meet theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.errors import InputError, nearest
from llmq.model.slo import SLO
from llmq.result import Estimate
from llmq.sim.results._stats import BATCHES, half_width

__all__ = ["Targets", "by_class", "quantile_of", "rate_of", "run_rate"]

Targets: TypeAlias = SLO | Mapping[str, SLO]


def by_class(
    slo: Targets, names: Sequence[str], classes: Sequence[str]
) -> Mapping[str | None, SLO]:
    """Spread targets over classes.

    Examples
    --------
    >>> by_class({"chat": SLO(ttft=1.0)}, ["chat", "code"], ["chat", "code"])
    Traceback (most recent call last):
    llmq.errors.InputError: no SLO for class 'code': ...
    """
    if unknown := sorted(set(names) - set(classes)):
        raise InputError(f"no class {unknown[0]!r}{nearest(unknown[0], classes)}", value=unknown[0])
    if isinstance(slo, SLO):
        return {None if len(names) == len(classes) else name: slo for name in names}
    if strange := sorted(set(slo) - set(classes)):
        raise InputError(
            f"an SLO for class {strange[0]!r}{nearest(strange[0], classes)}", value=strange[0]
        )
    if missing := tuple(name for name in names if name not in slo):
        which = ", ".join(map(repr, missing))
        raise InputError(
            f"no SLO for class {which}: a mapping needs one for each of {', '.join(names)}; "
            "give a single SLO to hold all to the same targets",
            missing=missing,
        )
    quantile_of(slo)
    return {name: slo[name] for name in names}


def quantile_of(slo: Targets) -> float | None:
    """Return the share of requests that the targets are for.

    Examples
    --------
    >>> quantile_of(SLO(ttft=1.0, quantile=0.9))
    0.9
    """
    found = {slo.quantile} if isinstance(slo, SLO) else {one.quantile for one in slo.values()}
    if len(found) > 1:
        raise InputError(
            "the SLOs of the classes have different quantiles "
            f"({', '.join(sorted(map(str, found)))}): ask for one class at a time with klass=",
            field="quantile",
            value=tuple(found),
        )
    return next(iter(found), None)


def rate_of(
    good: npt.NDArray[np.bool_], arrival: npt.NDArray[np.float64], finish: npt.NDArray[np.float64]
) -> Estimate:
    """Rate of some of the arrivals.

    Examples
    --------
    >>> import numpy as np
    >>> came = np.arange(101.0)[None] / 4
    >>> rate_of(np.ones((1, 101), dtype=bool), came, came + 1.0).mean
    4.0
    """
    if np.all(arrival[:, -1] == arrival[:, 0]):
        return run_rate(good, arrival, finish)
    size, n = good.shape
    pieces = 1 if size > 1 else max(1, min(BATCHES, (n - 1) // 2))
    marks = np.linspace(0, n - 1, pieces + 1).astype(int)
    # Whoever comes at the first mark was counted before it.
    counts = np.diff(np.cumsum(good, axis=1)[:, marks], axis=1).ravel().astype(np.float64)
    spans = np.diff(arrival[:, marks], axis=1).ravel()
    rates = np.divide(counts, spans, out=np.full(len(spans), np.nan), where=spans > 0)
    rates = rates[~np.isnan(rates)]
    whole = float(spans.sum())
    if size > 1:
        mean = float(rates.mean()) if len(rates) else float("nan")
    else:
        mean = float(counts.sum()) / whole if whole > 0 else float("nan")
    method = "replications" if size > 1 else "batch means"
    return Estimate(mean, half_width(rates, path=size == 1), len(rates), method, good.size)


def run_rate(
    good: npt.NDArray[np.bool_], arrival: npt.NDArray[np.float64], finish: npt.NDArray[np.float64]
) -> Estimate:
    """Rate of some requests over the whole run, as vLLM's benchmark has it.

    Examples
    --------
    >>> import numpy as np
    >>> ends = np.array([[1.0, 2.0, 3.0, 4.0]])
    >>> run_rate(np.ones((1, 4), dtype=bool), np.zeros((1, 4)), ends).mean
    1.0
    """
    spans = np.nanmax(finish, axis=1) - arrival.min(axis=1)
    rates = good.sum(axis=1) / spans
    return Estimate(
        float(rates.mean()), half_width(rates, path=False), len(rates), "whole runs", good.size
    )
