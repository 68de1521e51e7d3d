"""``llmq region``."""

from __future__ import annotations

import argparse
import math
import sys

from llmq.cli.traffic import (
    add_engine,
    add_output,
    add_traffic,
    build_engine,
    build_policy,
    build_traffic,
    count,
    print_json,
)
from llmq.errors import InputError
from llmq.units import format_seconds

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Of the command.
    """
    add_traffic(parser)
    add_engine(parser)
    parser.add_argument(
        "--engines", type=count(1), default=1, metavar="N", help="how many of it (1)"
    )
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
    engine = build_engine(args.engine, args)
    budget = build_policy(args.policy).token_budget
    if budget is not None:
        engine = engine.with_(token_budget=budget)
    mix = traffic.mix() if isinstance(traffic, llmq.Trace) else traffic.mix
    rates = traffic.rates
    if not math.isfinite(traffic.rate):
        raise InputError("all requests come at one time, so the traffic has no rate: no region")
    region = llmq.stability_region(llmq.Fleet({"all": (engine, args.engines)}), mix)
    outer, inner = region.load_bracket(rates)
    resource, sentence = region.binding(rates)
    found = {
        "verdict": "unstable" if outer > 1 else "stable" if inner < 1 else "undecided",
        "load": outer,
        "load_inner": inner if math.isfinite(inner) else None,
        "margin": 1 / outer if outer > 0 else None,
        "rates": rates,
        "rates_unit": "requests/s",
        "boundary": region.boundary(rates),
        "prices": {name: args.engines * price for name, price in region.prices(rates).items()},
        "prices_unit": "engine-seconds/request",
        "binding": {"resource": resource, "sentence": sentence},
        "engine": engine.name,
        "engines": args.engines,
        "kind": str(region.kind),
        "assumptions": list(region.assumptions),
    }
    if args.json:
        print_json(found)
    else:
        sys.stdout.write(_text(found, engine.gpus))
    return 3 if outer > 1 else 0


def _text(found: dict[str, object], gpus: int) -> str:
    load, inner = found["load"], found["load_inner"]
    words = {
        "unstable": "UNSTABLE: no scheduler carries this load",
        "stable": "STABLE: a paced schedule carries this load",
        "undecided": "UNDECIDED: between the inner and the outer bound",
    }
    prices, boundary = found["prices"], found["boundary"]
    assert isinstance(prices, dict)
    assert isinstance(boundary, dict)
    lines = [
        words[str(found["verdict"])],
        f"load     {load:.4g} of the outer bound ({found['kind']}), "
        + ("inner bound empty" if inner is None else f"{inner:.4g} of the inner bound"),
        f"margin   {found['margin']:.4g}: all rates may be multiplied by this",
        f"binding  {found['binding']['sentence']}",  # type: ignore[index]
        "prices   "
        + ", ".join(f"{k} {format_seconds(gpus * v, 4)} of GPU time" for k, v in prices.items()),
        "boundary " + ", ".join(f"{k} {v:.4g} req/s" for k, v in boundary.items()),
        "assumes  " + "; ".join(found["assumptions"]),  # type: ignore[arg-type]
    ]
    return "\n".join(lines) + "\n"
