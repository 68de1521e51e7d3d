"""``llmq simulate``."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from typing import TYPE_CHECKING, Any

from llmq._limits import REPLICATIONS, REQUESTS, WORKERS
from llmq.cli._fleet import add_fleet, build_fleet, override_engine
from llmq.cli._traffic import (
    add_output,
    add_slo,
    add_traffic,
    build_policy,
    build_slo,
    build_traffic,
    count,
    interval,
    print_json,
    teller,
)
from llmq.errors import InputError

if TYPE_CHECKING:
    from llmq.model.fleet import Fleet
    from llmq.model.slo import SLO
    from llmq.model.trace import Trace
    from llmq.model.workload import Workload
    from llmq.policies import Policy
    from llmq.result import Estimate
    from llmq.sim.results.run import Run

__all__ = ["add_arguments", "run"]

_QUANTILES = (0.5, 0.9, 0.99)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Of the command.
    """
    parser.add_argument(
        "config", nargs="?", help="TOML or JSON file; options beside it replace what it says"
    )
    parser.add_argument(
        "--candidate", type=count(1), metavar="N", help="which of the candidates of the file"
    )
    add_traffic(parser)
    add_fleet(parser, cache=True)
    add_slo(parser)
    parser.add_argument("--requests", type=count(1, REQUESTS), help="requests of a path (2000)")
    parser.add_argument(
        "--replications", type=count(1, REPLICATIONS), help="paths (8; a trace is one path)"
    )
    parser.add_argument("--workers", type=count(1, WORKERS), default=1, help="processes")
    parser.add_argument(
        "--simulator", choices=["auto", "vector", "calendar", "reference"], default="auto"
    )
    parser.add_argument("--dialect", help="also print the summary of vllm, guidellm, ...")
    add_output(parser)
    parser.set_defaults(seed=None)  # not given: that of the file, or 0


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

    fleet, traffic, policy, slo, notes = _asked(args)
    finite = isinstance(traffic, llmq.Trace)
    tell = teller(args)
    result = llmq.simulate(
        fleet,
        traffic,
        policy,
        replications=(1 if finite else args.replications or 8)
        if args.config
        else args.replications or (1 if finite else 8),
        requests=args.requests or 2000,
        rng=args.seed,
        simulator=args.simulator,
        workers=args.workers,
        progress=None if tell is None else lambda done, n: tell(f"replication {done} of {n}"),
    )
    if tell is not None:
        sys.stderr.write("\r\x1b[2K")
    result.check()
    result = dataclasses.replace(result, assumptions=(*notes, *result.assumptions))
    found: dict[str, Any] = _facts(result) | {"policy": policies.text(policy)}
    if slo is not None:
        share = result.attainment(slo)
        found["attainment"] = {
            "value": share.value,
            "low": share.low,
            "high": share.high,
            "n": share.n,
            "by_metric": dict(share.by_metric),
        }
        found["goodput"] = _json(result.goodput(slo))
    if args.dialect:
        found["dialect"] = {args.dialect: result.summary(dialect=args.dialect)}
    if args.json:
        print_json(found)
    else:
        sys.stdout.write("".join(f"option {note}\n" for note in notes))
        sys.stdout.write(_text(result, found, str(slo) if slo else ""))
    return 3 if result.verdict.status == "overloaded" else 0


def _asked(
    args: argparse.Namespace,
) -> tuple[Fleet, Trace | Workload, Policy, SLO | None, tuple[str, ...]]:
    """Read what the options ask for, or the file and what they replace in it."""
    from llmq.cli._configured import pick, read_asked
    from llmq.model.fleet import Fleet

    if not args.config:
        args.seed = args.seed or 0
        if args.candidate is not None:
            raise InputError("--candidate picks one of a configuration file: name the file")
        return (
            build_fleet(args),
            build_traffic(args),
            build_policy(args.policy),
            build_slo(args),
            (),
        )
    many, counts = args.engine or [], args.engines or []
    asked = read_asked(args)
    chosen = pick(asked, args.candidate, args.config)
    one = asked.candidates[chosen]
    if len(many) > 1:
        raise InputError(
            "several --engine beside a file: a file has one kind of engine. Leave the file out"
        )
    if len(counts) > 1:
        raise InputError("--engines is given twice: the candidate has one kind of engine")
    count = (counts or [asked.engines[chosen] or 1])[0]
    cached = override_engine(one.engine, args)
    return Fleet({"all": (cached, count)}), asked.traffic, one.policy, asked.slo, asked.notes


def _facts(run: Run) -> dict[str, Any]:
    verdict = run.verdict
    shown = run.finite or verdict.status != "overloaded"
    metrics = {}
    for name in ("ttft", "tpot", "e2e"):
        metric = run.metric(name, allow_unstable=True)
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
            metric = run.metric(name, allow_unstable=True)
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
