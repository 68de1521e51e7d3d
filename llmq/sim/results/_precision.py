"""Longer paths until a number may be printed: ``simulate(..., precision=)``.

A run that is too short for its load says how long its paths must be; one whose interval is too wide
is made longer by the square of that. For a relative width there are at least eight paths; more of
them are taken first, up to 64 (they run in lockstep), then longer ones. Each try starts anew from
the same seed, so that the result is that of a call with its final size; sizes grow so fast that all
tries together cost about twice the last one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from llmq.errors import InputError
from llmq.sim.results.run import Run
from llmq.sim.results.summary import Summary

__all__ = ["MOST", "Enough", "lengthened"]

# Requests of all paths of the last try.
MOST = 2**20
# Paths of the first try, and of the last at most.
LEAST, PATHS = 8, 64
# A step is at most this much longer: what a short run says of its own error is uncertain.
STEP = 8.0
MARGIN = 1.2

Enough = float | Callable[..., bool]


def lengthened(
    make: Callable[[int, int], Run | Summary],
    paths: int,
    requests: int,
    enough: Enough,
    maximum: int,
) -> Run | Summary:
    """Simulate longer and longer."""
    if not callable(enough) and not 0 < enough < math.inf:
        raise InputError(
            f"precision must be a relative half width > 0 such as 0.05, or a function of the run, "
            f"got {enough!r}",
            field="precision",
            value=enough,
        )
    if maximum < paths * requests:
        raise InputError(
            f"maximum={maximum} is less than {paths} x {requests} requests: raise it or ask for "
            "fewer",
            field="maximum",
            value=maximum,
        )
    if not callable(enough):
        paths = max(paths, min(LEAST, maximum // requests))
    while True:
        run = make(paths, requests)
        if run.verdict.status == "overloaded" or (callable(enough) and enough(run)):
            return run
        if run.verdict.short:
            lacks = f"{paths} x {run.verdict.needed} requests may decide"
            # A little more: the next try measures its own stays, and they may be longer.
            longer = paths, math.ceil(MARGIN * run.verdict.needed)
        else:
            factor, lacks = _factor(run, enough)
            if factor <= 1:
                return run
            more = min(max(paths, PATHS), math.ceil(paths * factor))
            longer = more, max(requests, math.ceil(requests * paths * factor / more))
        if longer[0] * longer[1] > maximum and not run.verdict.short:
            longer = longer[0], maximum // longer[0]
        if longer[0] * longer[1] > maximum or longer[0] * longer[1] < 1.1 * paths * requests:
            note = f"not decided or not precise within maximum={maximum} requests: {lacks}"
            return replace(run, assumptions=(*run.assumptions, note))
        paths, requests = longer


def _factor(run: Run | Summary, enough: Enough) -> tuple[float, str]:
    """By how much a run should be longer, at most 1 if it will do; and what is missing."""
    if callable(enough):
        return 2.0, "the function given as precision= says no"
    widths = {}
    for name in ("ttft", "tpot"):
        metric = run.metric(name)
        if metric.mean > 0:
            widths[name] = metric.half_width / metric.mean
    name, width = max(widths.items(), key=lambda item: item[1], default=("", 0.0))
    if width <= enough:
        return 1.0, ""
    lacks = f"the half width of the mean {name.upper()} is {100 * width:.2g} % of it"
    return min(STEP, MARGIN * (width / enough) ** 2), lacks
