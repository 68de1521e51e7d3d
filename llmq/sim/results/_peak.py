"""The verdict on a trace, window by window: a day may be stable on average and overloaded at noon.

The busiest window (:mod:`llmq.theory.region._busiest`) is the one whose requests take the most
engines if each may take ten times what it takes alone. Where the load there is above 1 the backlog
grows all through the window under every policy at these settings, whatever the mean load of the
trace.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llmq.model.engine import Engine
from llmq.model.trace import Trace
from llmq.sim.results._stability import Verdict, offered_load
from llmq.theory.region._busiest import busiest, usual

__all__ = ["by_window"]

# The window is named where its load is so many times that of the whole trace.
BUSIER = 1.05


def by_window(
    verdict: Verdict,
    trace: Trace,
    engines: tuple[Engine, ...],
    eligible: Sequence[npt.NDArray[np.bool_]] | None = None,
) -> Verdict:
    """Look at the busiest window of a trace."""
    if not trace.span > 0 or any(one.prefix_cache for one in engines):
        return verdict
    window = busiest(trace, engines[0], usual(trace, engines[0]))
    part, rates = window.cut(trace)
    mix = part.mix()
    allowed = eligible
    if eligible is not None:
        allowed = [eligible[trace.classes.index(name)] for name in mix]
    load, inner = offered_load(engines, mix, {name: rates[name] for name in mix}, allowed)
    if load <= BUSIER * verdict.load:
        return verdict
    where = f"in the busiest window ({window})"
    if load > 1:
        words = f"load {load:.3g} > 1 under any policy at these settings {where}"
        return dataclasses.replace(
            verdict,
            status="overloaded",
            load=load,
            load_inner=inner,
            sentence=f"{words}; {verdict.load:.3g} over the whole trace",
        )
    return dataclasses.replace(verdict, sentence=f"{verdict.sentence}; load {load:.3g} {where}")
