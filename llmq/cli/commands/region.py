"""``llmq region``."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmq.cli._fleet import add_fleet, build_fleet
from llmq.cli._traffic import add_output, add_traffic, build_policy, build_traffic, print_json
from llmq.errors import InputError
from llmq.units import format_seconds

if TYPE_CHECKING:
    from llmq.model.fleet import Fleet
    from llmq.model.trace import Trace
    from llmq.theory.region._gauge import StabilityRegion

__all__ = ["add_arguments", "run"]

# A window is named where its load is so many times that of the whole trace.
_BUSIER = 1.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Of the command.
    """
    add_traffic(parser)
    add_fleet(parser)
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Compute the load, the margin, the prices and what binds.

    Parameters
    ----------
    args : argparse.Namespace
        Parsed options.

    Returns
    -------
    int
        Exit code: 3 if no policy carries the load.
    """
    import llmq

    traffic = build_traffic(args)
    fleet = _fleet(args)
    mix = traffic.mix() if isinstance(traffic, llmq.Trace) else traffic.mix
    rates = traffic.rates
    if not math.isfinite(traffic.rate):
        raise InputError("all requests come at one time, so the traffic has no rate: no region")
    region = llmq.stability_region(fleet, mix)
    free = llmq.stability_region(fleet, mix, limits="hardware").load_bracket(rates)[0]
    outer, inner = region.load_bracket(rates)
    peak = _peak(traffic, fleet) if isinstance(traffic, llmq.Trace) else None
    resource, sentence = region.binding(rates)
    highest = max(outer, peak["load"] if peak else 0.0)
    most = max(free, peak["hardware_load"] if peak else 0.0)
    found = {
        "verdict": "unstable" if highest > 1 else "stable" if inner < 1 else "undecided",
        "load": outer,
        "load_inner": inner if math.isfinite(inner) else None,
        "carried_by": region.carried_by,
        "margin": 1 / highest if highest > 0 else None,
        "hardware": {"load": free, "margin": 1 / most if most > 0 else None},
        "busiest": peak,
        "rates": rates,
        "rates_unit": "requests/s",
        "boundary": region.boundary(rates),
        "prices": {name: region.engines * p for name, p in region.prices(rates).items()},
        "prices_unit": "engine-seconds/request",
        "binding": {"resource": resource, "sentence": sentence},
        "engine": " + ".join(one.name for one, _ in fleet.pools.values()),
        "engines": region.engines,
        "pools": {name: n for name, (_, n) in fleet.pools.items()},
        "routes": _routes(region, rates),
        "kind": str(region.kind),
        "assumptions": list(region.assumptions),
    }
    if args.json:
        print_json(found)
    else:
        sizes = {one.gpus for one, _ in fleet.pools.values()}
        sys.stdout.write(_text(found, sizes.pop() if len(sizes) == 1 else None))
    return 3 if highest > 1 else 0


def _peak(trace: Trace, fleet: Fleet) -> dict[str, Any] | None:
    """Load of the busiest window of a trace; none where it is no busier than the whole."""
    import llmq
    from llmq.theory.region._busiest import busiest, usual

    engine = fleet.engines[0]
    window = busiest(trace, engine, usual(trace, engine))
    part, rates = window.cut(trace)
    mix, whole = part.mix(), {name: trace.rates[name] for name in trace.mix()}
    load = llmq.stability_region(fleet, mix).load_bracket(rates)[0]
    free = llmq.stability_region(fleet, mix, limits="hardware").load_bracket(rates)[0]
    if load <= _BUSIER * llmq.stability_region(fleet, trace.mix()).load_bracket(whole)[0]:
        return None
    return {
        "start": window.start,
        "end": window.end,
        "text": str(window),
        "rates": rates,
        "load": load,
        "hardware_load": free,
    }


def _fleet(args: argparse.Namespace) -> Fleet:
    """Read the pools, as the policy runs them."""
    from llmq.policies.contract.settings import priced

    return priced(build_fleet(args), build_policy(args.policy))


def _routes(
    region: StabilityRegion, rates: Mapping[str, float]
) -> dict[str, dict[str, float]] | None:
    """Split each class over the pools, requests per second; none where there is one pool."""
    from llmq.theory.region.routing import FleetRegion

    if not isinstance(region, FleetRegion):
        return None
    flows = region.flows(rates)
    return {k: {" > ".join(r): v for r, v in split.items()} for k, split in flows.items()}


def _factor(margin: object) -> str:
    return f"{margin:.4g}" if isinstance(margin, float) else "any factor"


def _text(found: Mapping[str, object], gpus: int | None) -> str:
    load, inner, margin = found["load"], found["load_inner"], found["margin"]
    free, peak = found["hardware"], found["busiest"]
    assert isinstance(free, dict)
    assert isinstance(peak, dict | None)
    worst = max(free["load"], peak["hardware_load"] if peak else 0.0)
    who = "no policy carries this load at these settings"
    if worst > 1:
        who = "no scheduler carries this load, at any settings"
    words = {
        "unstable": f"UNSTABLE: {who}" + (" (in the busiest window)" if peak and load <= 1 else ""),  # type: ignore[operator]
        "stable": f"STABLE: this load is carried by {found['carried_by']}",
        "undecided": "UNDECIDED: between the inner and the outer bound",
    }
    prices, boundary, routes = found["prices"], found["boundary"], found["routes"]
    assert isinstance(prices, dict)
    assert isinstance(boundary, dict)
    assert isinstance(routes, dict | None)
    time = "GPU time" if gpus else "engine time"
    lines = [
        words[str(found["verdict"])],
        f"load     {load:.4g} of the outer bound at these settings ({found['kind']}), "
        + ("inner bound empty" if inner is None else f"{inner:.4g} of the inner bound")
        + f"; {free['load']:.4g} of the outer bound of the hardware (budget, slots, chunk free)",
        f"margin   {_factor(margin)} at these settings, {_factor(free['margin'])} of the hardware: "
        "all rates may be multiplied by this",
        *(
            [
                f"busiest  {peak['text']}: load {peak['load']:.4g} at these settings, "
                f"{peak['hardware_load']:.4g} of the hardware"
            ]
            if peak
            else []
        ),
        f"binding  {found['binding']['sentence']}",  # type: ignore[index]
        "prices   "
        + ", ".join(
            f"{k} {format_seconds((gpus or 1) * v, 4)} of {time}" for k, v in prices.items()
        ),
        "boundary " + ", ".join(f"{k} {v:.4g} req/s" for k, v in boundary.items()),
        *(
            f"route    {k}: " + ", ".join(f"{r} {v:.4g} req/s" for r, v in split.items())
            for k, split in (routes or {}).items()
        ),
        "assumes  " + "; ".join(found["assumptions"]),  # type: ignore[arg-type]
    ]
    return "\n".join(lines) + "\n"
