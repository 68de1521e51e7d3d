"""What a candidate's engine must carry: bounds at its settings and of the hardware.

For a workload these are loads. A trace need not be stationary, so its bounds come from its busiest
window (:mod:`llmq.theory.region._busiest`), and so do load, headroom, prices and what binds. Where
the targets say how long a request may take, the bound holds for this very trace; where they do not
(no target of the time to the last token, and not both others), the window is taken for a piece of
endless traffic, and a request may take ten times what it takes alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from llmq.model.engine import Engine
from llmq.model.slo import SLO
from llmq.model.trace import Trace
from llmq.model.workload import Workload
from llmq.theory.needs._hardware import counted
from llmq.theory.region import Region, stability_region
from llmq.theory.region._busiest import Window, busiest, demanded, latest, usual

__all__ = ["Need", "need_of"]

# A window is named where it asks for so much more than the whole trace.
BUSIER = 1.05
# Loads are floats: one that is whole to so many digits is whole.
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Need:
    """Loads and bounds of one engine."""

    region: Region  # of one engine at its settings, for the lengths of the window
    rates: Mapping[str, float]  # requests per second by class, in the window
    # load, hardware_load: engines at these settings and at any
    load: float
    hardware_load: float
    # least, hardware_least: engines with fewer than which no policy does, at these settings
    # and at any
    least: int
    hardware_least: int
    window: str  # the window in words; empty where all the traffic counts
    notes: tuple[str, ...] = ()  # what the bounds rest on beside the region


def need_of(engine: Engine, traffic: Workload | Trace, slo: SLO, target: float) -> Need:
    """Bound the engines that the traffic takes."""
    if isinstance(traffic, Workload):
        region, rates = stability_region(engine, traffic.mix), traffic.rates
        load, hardware = _loads(engine, region, rates)
        return Need(region, rates, load, hardware, _whole(load), _whole(hardware), "")
    stay = latest(traffic, slo)
    known = bool(np.isfinite(stay).all())
    if not known:
        stay = np.where(np.isfinite(stay), stay, usual(traffic, engine))
    # With a quantile each metric may be missed by requests of its own.
    times = len(slo.targets) if slo.quantile is not None else 1
    misses = times * math.floor((1 - target) * len(traffic) + ROUNDING)
    found = busiest(traffic, engine, stay, misses)
    region, rates, words = _of_window(engine, traffic, found)
    load, hardware = _loads(engine, region, rates)
    if not known:
        note = (
            "the targets do not say when a request must end, so the lower bound takes the busiest "
            "window for a piece of endless traffic at its rates"
        )
        return Need(region, rates, load, hardware, _whole(load), _whole(hardware), words, (note,))
    note = (
        "load and headroom take the busiest window for a piece of endless traffic at its rates; "
        "the lower bounds hold for this trace: what arrives and is due in the window must be "
        f"computed in it, all but the {misses} dearest, which may miss their targets"
    )
    free = counted(engine, traffic.mix(), "hardware")
    least = demanded(traffic, free, stay, found, misses)
    return Need(region, rates, load, hardware, _whole(found.due), _whole(least), words, (note,))


def _loads(engine: Engine, region: Region, rates: Mapping[str, float]) -> tuple[float, float]:
    """Return the loads that no policy undercuts, at these settings and at any."""
    free = stability_region(engine, region.mix, limits="hardware")
    return _snapped(region.load_bracket(rates)[0]), _snapped(free.load_bracket(rates)[0])


def _snapped(load: float) -> float:
    near = round(load) if math.isfinite(load) else load
    return float(near) if abs(load - near) <= ROUNDING * near else load


def _whole(load: float) -> int:
    return max(1, math.ceil(_snapped(load))) if math.isfinite(load) else 1


def _of_window(
    engine: Engine, trace: Trace, window: Window
) -> tuple[Region, dict[str, float], str]:
    """Region and rates of the window, and its name; of the whole trace where it is no busier."""
    whole, rates = stability_region(engine, trace.mix()), trace.rates
    part, busy = window.cut(trace)
    region = stability_region(engine, part.mix())
    mean = {name: rates[name] for name in whole.mix}
    if region.load_bracket(busy)[0] <= BUSIER * whole.load_bracket(mean)[0]:
        return whole, mean, ""
    return region, busy, str(window)
