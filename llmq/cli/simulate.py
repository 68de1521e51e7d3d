"""``llmq simulate``."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from typing import TYPE_CHECKING, Any

from llmq.cli.traffic import (
    add_engine,
    add_output,
    add_slo,
    add_traffic,
    build_engine,
    build_policy,
    build_slo,
    build_traffic,
    count,
    interval,
    print_json,
    teller,
)

if TYPE_CHECKING:
    from llmq.result import Estimate
    from llmq.sim.record import Run

__all__ = ["add_arguments", "run"]

_QUANTILES = (0.5, 0.9, 0.99)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Of the command.
    """
    add_traffic(parser)
    add_engine(parser, cache=True)
    add_slo(parser)
    parser.add_argument(
        "--engines", type=count(1), default=1, metavar="N", help="how many of it (1)"
    )
    parser.add_argument("--requests", type=count(1), default=2000, help="requests of a path (2000)")
    parser.add_argument("--replications", type=count(1), help="paths (8; a trace is one path)")
    parser.add_argument("--workers", type=count(1), default=1, help="processes")
    parser.add_argument(
        "--simulator", choices=["auto", "vector", "calendar", "reference"], default="auto"
    )
    parser.add_argument("--dialect", help="also print the summary of vllm, guidellm, ...")
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Simulate and print.

    Parameters
    ----------
    args : argparse.Namespace
        Parsed options.

    Returns
    -------
    int
        Exit code: 3 if the system is overloaded.
    """
    import llmq
    from llmq import policies

    traffic = build_traffic(args)
    engine, policy, slo = (
        build_engine(args.engine, args),
        build_policy(args.policy),
        build_slo(args),
    )
    finite = isinstance(traffic, llmq.Trace)
    tell = teller(args)
    result = llmq.simulate(
        llmq.Fleet({"all": (engine, args.engines)}), traffic, policy,
        replications=args.replications or (1 if finite else 8), requests=args.requests,
        rng=args.seed, engine=args.simulator, workers=args.workers,
        progress=None if tell is None else lambda done, n: tell(f"replication {done} of {n}"),
    )  # fmt: skip
    if tell is not None:
        sys.stderr.write("\r\x1b[2K")
    result.check()
    found: dict[str, Any] = _facts(result) | {"policy": policies.text(policy)}
    if slo is not None:
        share = result.attainment(slo)
        found["attainment"] = {
            "value": share.value, "low": share.low, "high": share.high, "n": share.n,
            "by_metric": dict(share.by_metric),
        }  # fmt: skip
        found["goodput"] = _json(result.goodput(slo))
    if args.dialect:
        found["dialect"] = {args.dialect: result.summary(dialect=args.dialect)}
    if args.json:
        print_json(found)
    else:
        sys.stdout.write(_text(result, found, str(slo) if slo else ""))
    return 3 if result.verdict.status == "overloaded" else 0


def _facts(run: Run) -> dict[str, Any]:
    verdict = run.verdict
    shown = run.finite or verdict.status != "overloaded"
    metrics = {}
    for name in ("ttft", "tpot", "e2e"):
        metric = run.metric(name, anyway=True)
        metrics[name] = {"unit": "s", "mean": _json(metric.estimate)} | {
            f"p{100 * q:g}": _json(metric.quantile(q)) for q in _QUANTILES
        }
    r, n = run.requests.arrival.shape
    return {
        "verdict": verdict.status,
        "sentence": verdict.sentence,
        "load": _number(verdict.load),
        "load_inner": _number(verdict.load_inner),
        **(metrics if shown else {}),
        "requests": {
            "arrived": r * n,
            "completed": r * n,
            "running": 0,
            "waiting": 0,
            "dropped": 0,
        },
        "measured": list(run.measured),
        "iterations": int(run.n_iterations.sum()),
        "utilisation": run.utilisation,
        "evictions": run.evictions,
        "hit_rate": None if math.isnan(run.hit_rate) else run.hit_rate,
        "policy": run.policy,
        "engines": len(run.engines),
        "kind": str(run.kind),
        "assumptions": list(run.assumptions),
        "provenance": dataclasses.asdict(run.provenance),
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _json(estimate: Estimate) -> dict[str, Any]:
    low, high = _number(estimate.low), _number(estimate.high)
    return {"value": _number(estimate.mean), "low": low, "high": high, "n": estimate.n}


def _text(run: Run, found: dict[str, Any], slo: str) -> str:
    lines = [f"{run.verdict.status.upper()}: {run.verdict.sentence}"]
    if "ttft" in found:
        if run.verdict.status == "overloaded":
            lines.append("the figures below are facts of this trace; a longer one would be worse")
        for name in ("ttft", "tpot", "e2e"):
            metric = run.metric(name, anyway=True)
            parts = [f"mean {interval(metric.estimate)}"]
            parts += [f"p{100 * q:g} {interval(metric.quantile(q))}" for q in _QUANTILES]
            lines.append(f"{name.upper():6s} " + ", ".join(parts))
    else:
        lines.append("no stationary mean exists: no latency is printed")
    if "attainment" in found:
        share = found["attainment"]
        lines.append(
            f"{100 * share['value']:.2f} % [{100 * share['low']:.2f}, {100 * share['high']:.2f}] "
            f"of {share['n']} requests meet {slo}"
        )
    for name, summary in found.get("dialect", {}).items():
        lines += [f"{name}: {key} = {value:.6g}" for key, value in summary.items()]
    lines.append(
        f"{found['requests']['arrived']} requests, all completed; {found['iterations']} "
        f"iterations, utilisation {found['utilisation']:.2f}, {found['evictions']} evictions"
    )
    if found["hit_rate"] is not None:
        lines.append(f"{100 * found['hit_rate']:.1f} % of the prompt tokens found in the cache")
    lines.append("assumes  " + "; ".join(found["assumptions"]))
    return "\n".join(lines) + "\n"
